"""Ready-made parts for a line that needs nothing special: a cut by whole rows, and a baseline that does nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fleetmill.core.line import Array, Data, Episode, Frame, ModelSpec, Policy, Stretch


def rows_of(*names: str, period_ns: int) -> Callable[[Stretch], Iterator[Episode]]:
    """A `cut`: a stretch is one episode, with a row for each instant at which all of `names` were recorded.

    Nothing comes of a stretch without such an instant. `period_ns`: how long the last row lasts.
    """

    def cut(stretch: Stretch) -> Iterator[Episode]:
        rows: dict[int, dict[str, Array]] = {}
        for message in stretch.messages:
            if message.topic in names:
                rows.setdefault(message.log_time_ns, {})[message.topic] = np.asarray(message.value["data"])
        whole = {at: row for at, row in rows.items() if len(row) == len(names)}
        yield from episode_of(stretch, whole, names, period_ns=period_ns)

    return cut


def episode_of(
    stretch: Stretch, rows: Mapping[int, Mapping[str, Array]], names: Sequence[str], *, period_ns: int
) -> Iterator[Episode]:
    """One episode of rows by their instant, each whole; none where there are no rows."""
    times = sorted(rows)
    if times:
        yield Episode(
            device=stretch.device,
            session=stretch.session,
            start_ns=times[0],
            end_ns=times[-1] + period_ns,
            times_ns=np.array(times, np.int64),
            columns={name: np.stack([rows[t][name] for t in times]) for name in names},
            tags=dict(stretch.tags),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Still:
    """Answers zeros, whatever it sees; `core.line.Policy`."""

    model: ModelSpec

    def reset(self) -> None:
        """It has no memory."""

    def step(self, observation: Frame) -> Frame:  # noqa: ARG002
        """Zeros by feature."""
        return {p.feature: np.zeros(p.shape, p.dtype) for p in self.model.outputs if p.feature is not None}

    def ask(self, inputs: Frame) -> Frame:
        """Zeros by port for each of the batch."""
        number = len(next(iter(inputs.values())))
        return {p.name: np.zeros((number, *p.shape), p.dtype) for p in self.model.outputs}


def still(model: ModelSpec) -> Callable[[Data], Policy]:
    """A `baseline` that does nothing: the least that a first model must beat."""
    return lambda data: Still(model=model)
