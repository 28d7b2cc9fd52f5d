"""Fit a torch module in steps that can be stopped anywhere and go on to the same bytes.

A line gives a module and a loss; this file owns everything that makes a training repeatable: one thread, chance as a
function of (seed, step), so that no generator's state has to be saved, an optimiser whose state is tensors, and a
checkpoint in safetensors. Loads torch: lines import it inside `train`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from safetensors.torch import load, save

from fleetmill.core.errors import LineError
from fleetmill.core.line import Metrics, Tracker, TrainJob

Loss = Callable[[np.random.Generator], torch.Tensor]  # draws a batch with this chance, gives its mean loss
Tensors = dict[str, torch.Tensor]

_WEIGHT, _AVERAGE, _OPTIMISER = "weight/", "average/", "optimiser/"


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How long and how fast. Part of what decides the bytes of a model."""

    steps: int
    rate: float  # peak of the learning rate: reached after a tenth of the steps, then a cosine down to nothing
    decay: float = 0.0  # weight decay of AdamW
    average: float = 0.0  # decay of the running mean of the weights that is handed back; 0: the last weights
    clip: float = 0.0  # largest norm of a gradient; 0: not clipped
    report: int = 25  # steps between two reports: how late a stop is noticed
    keep: int = 200  # steps between two saved states: how much a crash costs


@contextmanager
def steady(seed: int) -> Iterator[None]:
    """One thread and a seeded torch, both as they were before when it ends."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


def fit(
    module: torch.nn.Module,
    loss: Loss,
    plan: Plan,
    job: TrainJob,
    tracker: Tracker,
    rows: Metrics,
    *,
    optimiser: torch.optim.Optimizer | None = None,
) -> None:
    """Train `module` in place; what `tracker` saved of the same job before is gone on from, to the same bytes.

    `rows` rides along in every report: the label rows by source, as ``rows.oracle``. `optimiser`: of the module's
    parameters, its state tensors; AdamW by the plan where none is given.

    Raises:
        Stopped: the run was cancelled; the state of the last multiple of `plan.keep` is with the tracker.
        LineError: the saved state belongs to another module, or the job asks for several machines.
    """
    if job.world_size != 1:
        raise LineError(f"this line trains on one machine, the job asks for {job.world_size}")
    module.to(job.accelerator).train()
    optimiser = optimiser or torch.optim.AdamW(module.parameters(), lr=plan.rate, weight_decay=plan.decay)
    average = {name: value.clone() for name, value in module.state_dict().items()} if plan.average else {}
    for step in range(_resume(module, optimiser, average, tracker), plan.steps):
        value = _one(module, optimiser, loss, plan, seed=job.seed, step=step)
        _blend(average, module, plan.average, step)
        done = step + 1
        if done % plan.keep == 0 and done < plan.steps:
            tracker.save(done, _state(module, optimiser, average))
        if done % plan.report == 0 or done == plan.steps:
            tracker.step(done, plan.steps, {"loss": float(value.item()), **rows})
    if average:
        module.load_state_dict(average)
    module.to("cpu").eval()


def weights(module: torch.nn.Module) -> bytes:
    """Parameters and buffers (the normalisation too) as safetensors."""
    return save({name: value.detach().contiguous() for name, value in module.state_dict().items()})


def take_over(module: torch.nn.Module, parent: Mapping[str, bytes] | None) -> None:
    """Put the parent's ``weights.safetensors`` into `module`; nothing without a parent.

    Raises:
        LineError: the parent is of another shape.
    """
    if parent is None:
        return
    try:
        module.load_state_dict(load(parent["weights.safetensors"]))
    except (KeyError, RuntimeError) as error:
        raise LineError(f"the parent's weights.safetensors do not fit {type(module).__name__}: {error}") from error


def _one(
    module: torch.nn.Module, optimiser: torch.optim.Optimizer, loss: Loss, plan: Plan, *, seed: int, step: int
) -> torch.Tensor:
    chance = np.random.default_rng((seed, step))
    torch.manual_seed(int(chance.integers(2**31)))  # dropout and the like: also a function of (seed, step)
    for group in optimiser.param_groups:
        group["lr"] = plan.rate * _pace(step, plan.steps)
    optimiser.zero_grad()
    value = loss(chance)
    value.backward()  # type: ignore[no-untyped-call]
    if plan.clip:
        torch.nn.utils.clip_grad_norm_(module.parameters(), plan.clip)
    optimiser.step()
    return value.detach()


def _pace(step: int, of: int) -> float:
    """Share of the peak rate at a step: a line up over the first tenth, a cosine down to 1 % over the rest."""
    up = max(of // 10, 1)
    if step < up:
        return (step + 1) / up
    return 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * (step - up) / max(of - up, 1)))


def _blend(average: Tensors, module: torch.nn.Module, decay: float, step: int) -> None:
    keep = min(decay, (1 + step) / (10 + step))  # the first weights are noise: forget them faster
    for name, value in module.state_dict().items() if average else ():
        if value.is_floating_point():
            average[name].lerp_(value, 1.0 - keep)
        else:
            average[name].copy_(value)


def _state(module: torch.nn.Module, optimiser: torch.optim.Optimizer, average: Tensors) -> bytes:
    tensors = {_WEIGHT + name: value for name, value in module.state_dict().items()}
    tensors |= {_AVERAGE + name: value for name, value in average.items()}
    for index, slots in optimiser.state_dict()["state"].items():
        tensors |= {f"{_OPTIMISER}{index}/{name}": value for name, value in slots.items()}
    return save({name: value.detach().cpu().contiguous() for name, value in tensors.items()})


def _resume(module: torch.nn.Module, optimiser: torch.optim.Optimizer, average: Tensors, tracker: Tracker) -> int:
    """Steps that are done already, with everything put back as it was after them."""
    saved = tracker.saved()
    if saved is None:
        return 0
    step, state = saved
    tensors = load(state)
    slots: dict[int, Tensors] = {}
    for name in (name for name in tensors if name.startswith(_OPTIMISER)):
        index, slot = name.removeprefix(_OPTIMISER).split("/")
        slots.setdefault(int(index), {})[slot] = tensors[name]
    try:
        module.load_state_dict(_under(_WEIGHT, tensors))
        optimiser.load_state_dict({"state": slots, "param_groups": optimiser.state_dict()["param_groups"]})
    except (ValueError, RuntimeError) as error:
        raise LineError(f"the saved state of step {step} does not fit {type(module).__name__}: {error}") from error
    average.update(_under(_AVERAGE, tensors))
    return step


def _under(prefix: str, tensors: Tensors) -> Tensors:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
