"""What a new line observes, and what it says: chosen by name from what was found. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.line import Feature
from fleetmill.scaffold.found import Found, Source

LABEL = "label."


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """One thing that the model says, and the column that tells what was right."""

    found: Found
    says: Feature
    right: Feature  # the same as `says` where a recording holds the action itself


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """What the line is about."""

    observed: tuple[Found, ...]
    targets: tuple[Target, ...]


def choose(source: Source, *, observe: Sequence[str], act: Sequence[str], label: Sequence[str]) -> Chosen:
    """The features of a line that observes and acts on, or predicts, these columns.

    Raises:
        InvalidInputError: nothing to observe or nothing to say, an unknown column, or one that is chosen twice.
    """
    if not observe or not (act or label):
        lacking = "--observe" if not observe else "--act or --label"
        raise InvalidInputError(
            f"{source.where}: say with --observe what is observed and with --act or --label what is acted or "
            f"predicted; {lacking} is missing. Found: {source.listed()}"
        )
    observed = tuple(source.get(name) for name in observe)
    targets = tuple(_target(source, source.get(n), is_act=n in act) for n in (*act, *label))
    privileged = [f.name for f in observed if f.feature.kind == "label"]
    if privileged:
        raise InvalidInputError(f"{source.where}: {', '.join(privileged)} is a label, which no model may observe")
    names = [f.name for f in (*observed, *(t.found for t in targets))]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise InvalidInputError(f"{source.where}: {', '.join(doubled)} is chosen twice. A column is observed or said")
    taken = {f.feature.name for f in observed} & {t.says.name for t in targets}
    if taken:
        raise InvalidInputError(f"{source.where}: {', '.join(sorted(taken))} cannot be both observed and said")
    seen = tuple(replace(f, feature=replace(f.feature, kind="observation")) for f in observed)
    return Chosen(observed=seen, targets=targets)


def _target(source: Source, found: Found, *, is_act: bool) -> Target:
    """A table's column is what was right; a recording's channel is that already, or the action itself."""
    there = found.feature
    says = replace(there, kind="action", dtype="float32")
    if source.clock is not None:
        return Target(found=found, says=says, right=replace(there, name=LABEL + there.name, kind="label"))
    if there.name.startswith(LABEL):
        return Target(
            found=found, says=replace(says, name=there.name.removeprefix(LABEL)), right=replace(there, kind="label")
        )
    if is_act or there.kind == "action":
        acts = replace(there, kind="action")
        return Target(found=found, says=acts, right=acts)
    return Target(found=found, says=replace(says, name=f"estimate.{there.name}"), right=replace(there, kind="label"))
