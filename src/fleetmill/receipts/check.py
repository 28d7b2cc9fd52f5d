"""Do the two paths agree? For each interval in the books and each model: `why` lists it just when `fate` names it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from fleetmill.core.fleet import Device
from fleetmill.home import Home
from fleetmill.receipts.fate import Fate, Forward, Reached
from fleetmill.receipts.why import Backward, Owed, Why
from fleetmill.receive import roll

_EVER = (0, 2**63 - 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """How much was compared, and where the paths part."""

    devices: int
    intervals: int
    models: int
    links: int  # (interval, model, role) on which both agree
    disagreements: tuple[str, ...]


def cross_check(home: Home) -> list[str]:
    """Where `why` and `fate` disagree; none when every interval and every model agree. Each names both."""
    return list(check_all(home).disagreements)


def check_all(home: Home) -> Checked:
    """Every span of every device against every model, in both directions.

    Raises:
        NotFoundError: a manifest that a model rests on is missing.
    """
    back, forward = Backward(home.ledger), Forward(home.ledger, home.books)
    found = [back.why(f.key) for f in home.ledger.read(kind="model")]
    devices = roll.devices(home.ledger)
    intervals = links = 0
    faults: list[str] = []
    for device in devices:
        mine = {w.model: _Owes(w, device.number) for w in found}
        for holding in home.books.holdings(device.number, *_EVER):
            intervals += 1
            fate = forward.fate(device, holding.span.start_ns, holding.span.end_ns)
            agreed, parted = _compare(fate, mine)
            links, faults = links + agreed, faults + parted
        faults += [line for owes in mine.values() for line in owes.never_lived(device)]
    return Checked(
        devices=len(devices), intervals=intervals, models=len(found), links=links, disagreements=tuple(faults)
    )


class _Owes:
    """What one model owes to one device, by time, and how much of it has been met in the books."""

    def __init__(self, why: Why, device: int) -> None:
        pieces = (*why.learned_from, *why.judged_on)
        self._model = why.model
        self._pieces = sorted((p for p in pieces if p.number == device), key=lambda p: p.start_ns)
        self._met = [0] * len(self._pieces)
        self._ends = list(accumulate((p.end_ns for p in self._pieces), max))  # rising, also where episodes overlap

    def over(self, start_ns: int, end_ns: int) -> set[tuple[str, str]]:
        """(role, episode) of each piece that touches the interval."""
        found = set()
        for index in range(bisect_right(self._ends, start_ns), len(self._pieces)):
            piece = self._pieces[index]
            if piece.start_ns >= end_ns:
                break
            shared_ns = min(piece.end_ns, end_ns) - max(piece.start_ns, start_ns)
            if shared_ns > 0:
                self._met[index] += shared_ns
                found.add((piece.role, piece.episode))
        return found

    def never_lived(self, device: Device) -> Iterator[str]:
        """Pieces that the books hold no span for, or not one for every instant."""
        for piece, met_ns in zip(self._pieces, self._met, strict=True):
            if met_ns != piece.end_ns - piece.start_ns:
                yield f"{_name(device.name, piece)}: why {self._model[:12]} lists it, the books hold {met_ns} ns of it"


def _compare(fate: Fate, owes: dict[str, _Owes]) -> tuple[int, list[str]]:
    """(on how many links both agree, a line for each on which they do not)."""
    named: dict[str, set[tuple[str, str]]] = {model: set() for model in owes}
    for reached in (*fate.taught, *fate.judged):
        named.setdefault(reached.model, set()).update(_links(reached))
    agreed, faults = 0, []
    where = f"{fate.device} [{fate.start_ns}, {fate.end_ns})"
    for model, forward in named.items():
        back = owes[model].over(fate.start_ns, fate.end_ns) if model in owes else set()
        agreed += len(back & forward)
        faults += [
            f"{where}: why {model[:12]} lists it ({role}, episode {episode[:12]}), its fate does not name the model"
            for role, episode in sorted(back - forward)
        ]
        faults += [
            f"{where}: its fate names model {model[:12]} ({role}, episode {episode[:12]}), why does not list it"
            for role, episode in sorted(forward - back)
        ]
    return agreed, faults


def _links(reached: Reached) -> Iterator[tuple[str, str]]:
    return ((reached.how, episode) for episode in reached.episodes)


def _name(device: str, piece: Owed) -> str:
    return f"{device} [{piece.start_ns}, {piece.end_ns})"
