"""Live in a world with a policy: the one loop that device and judge share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fleetmill.core.line import Frame, Policy, Step, World


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """One lived instant: what was seen, what the model wanted, what was sent."""

    step: Step
    proposed: Frame | None  # None: no model is installed
    sent: Frame


def drive(world: World, policy: Policy | None, *, steps: int) -> Iterator[Moment]:
    """Live until the world is done, at most `steps` instants.

    A moment is given *before* it is acted on: the caller may make it durable first. The safety driver's action wins
    over the model's; without a model the expert (`Step.label`) drives, or nobody where nothing is acted on.
    """
    if policy is not None:
        policy.reset()
    step = world.begin()
    for left in range(steps, 0, -1):
        proposed = policy.step(step.observation) if policy is not None else None
        sent = step.takeover if step.takeover is not None else proposed if proposed is not None else expert(step)
        yield Moment(step=step, proposed=proposed, sent=sent)
        if step.done or left == 1:
            return
        step = world.act(sent)


def expert(step: Step) -> Frame:
    """The expert's action under the action's own names: ``label.steer`` becomes ``steer``. None in a replay."""
    return {} if not step.acts else {name.removeprefix("label."): value for name, value in step.label.items()}
