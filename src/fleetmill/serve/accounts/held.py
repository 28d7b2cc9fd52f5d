"""A lease as its owner has it in memory: what is free of it is handed out in microseconds, and marked before."""

from __future__ import annotations

import uuid

from fleetmill.serve.accounts.leases import Turn, Turned
from fleetmill.serve.accounts.marks import Marks
from fleetmill.serve.accounts.page import DAY_NS, NOTHING, Amounts, added, lesser, without


class Held:
    """total = used + held + free; what the accounts were told last may be more, never less."""

    __slots__ = (
        "_marks",
        "_place",
        "_told",
        "at_ns",
        "free",
        "granted_ns",
        "held",
        "id",
        "is_lost",
        "until_ns",
        "used",
    )

    def __init__(self, marks: Marks | None, now_ns: int) -> None:
        self.id = uuid.uuid4().hex
        self.at_ns, self.granted_ns = now_ns, now_ns
        self.until_ns = now_ns  # nothing is handed out from then on: the lease's end, or its day's
        self.used = self.held = self.free = NOTHING
        self.is_lost = False  # its time ran out and it was settled without us
        self._told: tuple[Amounts, Amounts] = (NOTHING, NOTHING)
        self._marks = marks
        self._place = None if marks is None else marks.open(self.id)

    @property
    def day_end_ns(self) -> int:
        """A lease pays for the day in which it was made."""
        return self.at_ns - self.at_ns % DAY_NS + DAY_NS

    def hold(self, wanted: Amounts) -> bool:
        """Hand out from what is free, if it reaches. Whether the lease still runs is asked after this."""
        f, h = self.free, self.held
        w0, w1, w2, w3 = wanted
        if w0 > f[0] or w1 > f[1] or w2 > f[2] or w3 > f[3]:
            return False
        self.free = (f[0] - w0, f[1] - w1, f[2] - w2, f[3] - w3)
        self.held = (h[0] + w0, h[1] + w1, h[2] + w2, h[3] + w3)
        if self._marks is not None and self._place is not None:
            self._marks.hold(self._place, self.held)
        return True

    def let_go(self, charged: Amounts, worst: Amounts) -> None:
        """A request is over: `charged` of its `worst` was used."""
        u, h, f = self.used, self.held, self.free
        c0, c1, c2, c3 = charged
        w0, w1, w2, w3 = worst
        self.used = (u[0] + c0, u[1] + c1, u[2] + c2, u[3] + c3)
        self.held = (h[0] - w0, h[1] - w1, h[2] - w2, h[3] - w3)
        self.free = (f[0] + w0 - c0, f[1] + w1 - c1, f[2] + w2 - c2, f[3] + w3 - c3)
        if self._marks is not None and self._place is not None:
            self._marks.use(self._place, self.used, self.held)

    def shrink(self, keep: Amounts) -> None:
        """Keep no more than that free; the next turn gives the rest back."""
        self.free = lesser(self.free, keep)

    @property
    def is_told(self) -> bool:
        """Whether the accounts know all of it."""
        return self._told == (self.used, added(self.used, added(self.held, self.free)))

    def turn(
        self,
        pair: tuple[str, str],
        until_ns: int,
        *,
        need: Amounts = NOTHING,
        wish: Amounts = NOTHING,
        last: bool = False,
    ) -> Turn:
        """What is to be said of it now."""
        return Turn(
            id=self.id,
            tenant=pair[0],
            key=pair[1],
            at_ns=self.at_ns,
            until_ns=until_ns,
            used=self.used,
            total=added(self.used, added(self.held, self.free)),
            need=need,
            wish=wish,
            is_last=last,
        )

    def turned(self, said: Turn, answer: Turned) -> None:
        """The accounts have booked what was said."""
        self.free = added(self.free, answer.grown)
        self._told = (said.used, added(said.total, answer.grown))
        self.granted_ns = said.until_ns
        self.until_ns = min(said.until_ns, self.day_end_ns)

    def lose(self) -> None:
        """It was settled without us: nothing of it is free any more."""
        self.is_lost, self.free, self.until_ns = True, NOTHING, 0

    def close(self) -> None:
        """It is closed in the accounts: its marks are not needed any more."""
        if self._marks is not None and self._place is not None:
            self._marks.close_one(self._place)
            self._place = None


def likely(asked: list[Amounts]) -> Amounts:
    """What may be asked soon: twice the most that was, measure by measure."""
    return (
        2 * max(a[0] for a in asked),
        2 * max(a[1] for a in asked),
        2 * max(a[2] for a in asked),
        2 * max(a[3] for a in asked),
    )


def beyond(wanted: Amounts, free: Amounts) -> Amounts:
    """What is wanted and not there."""
    return without(wanted, lesser(wanted, free))
