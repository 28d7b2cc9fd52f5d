"""What a gateway process pays from: slices of budgets, handed out in memory and settled in batches.

A tenant without a budget costs no access to the accounts while it asks; what it used is brought there in batches. One
with a budget pays from a lease (`leases`): small reservations come out of it without waiting, and only when it is empty
a request waits for the next turn with the accounts, which all that wait share (one transaction in a thread, at most one
at a time). A lease grows with what was asked of it lately, by at most a quarter of what is left of the budget; what was
not asked for lately goes back, so that the last of a budget lies unused in no gateway for long.

The rule: leases + spent <= budget, always. A process that is killed forgets nothing that it had used: that stands in
its marks and is charged when its leases run out, requests under way with their worst (`presumed`); the rest comes back
then. Of tenants without a budget, kill -9 loses what they used since the last turn (`TURN_SECONDS`). What a request
used beyond its reservation is `overrun`: told in the log and in the accounts, and charged to no budget.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from fleetmill.core.errors import FleetmillError
from fleetmill.core.serve import Measure
from fleetmill.serve.accounts.book import Accounts, Use
from fleetmill.serve.accounts.held import Held, beyond, likely
from fleetmill.serve.accounts.leases import CLOSED, REAPED, Turn, Turned
from fleetmill.serve.accounts.marks import Marks
from fleetmill.serve.accounts.page import ENDLESS, NOTHING, Amounts, added, amounts, lesser, named, without
from fleetmill.serve.accounts.schema import ALL_KEYS

TURN_SECONDS = 0.2  # between turns with the accounts, unless a request waits
LEASE_SECONDS = 15.0
_RULES_SECONDS = 1.0  # after which a changed budget is known at the latest
_FRESH_SECONDS = 1.0  # for so long it is believed what a budget had left
_SWEEP_SECONDS = 3600.0
_LATELY = 3  # pieces of `turn_seconds` whose demand decides how much a lease keeps
_NO_LIMIT: Amounts = (ENDLESS, ENDLESS, ENDLESS, ENDLESS)
_log = logging.getLogger(__name__)
Pair = tuple[str, str]  # tenant, key
_Waiting = list[tuple[Amounts, "asyncio.Future[Held | None]"]]


@dataclass(slots=True)
class _Account:
    """A tenant's key that a budget limits."""

    pair: Pair
    lease: Held | None = None
    old: list[Held] = field(default_factory=list)  # nothing more comes out of them; they end when nothing is under way
    waiting: _Waiting = field(default_factory=list)  # for the next turn
    served: _Waiting = field(default_factory=list)  # for the turn that runs
    asked: list[Amounts] = field(default_factory=lambda: [NOTHING] * _LATELY)  # newest first
    asked_at: float = 0.0
    room: Amounts = NOTHING
    room_at: float = 0.0

    @property
    def is_idle(self) -> bool:
        return self.lease is None and not self.old and not self.waiting


class AccountPurse:
    """`words.Purse` over the accounts. One per process, used from one event loop; close it.

    Raises:
        UnavailableError: the accounts cannot be read, or marks cannot be written.
    """

    def __init__(
        self,
        accounts: Accounts,
        *,
        owner: str | None = None,
        lease_seconds: float = LEASE_SECONDS,
        turn_seconds: float = TURN_SECONDS,
    ) -> None:
        self.owner = owner or f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.overruns = 0  # requests that used more than they had reserved
        self.fault = ""  # why the last turn with the accounts failed; "": it did not
        self._accounts, self._clock = accounts, accounts.clock
        self._lease_ns, self._turn_seconds = int(lease_seconds * 1e9), turn_seconds
        self._open: dict[str, tuple[Pair, Held | None, Amounts]] = {}
        self._number = 0
        self._by_pair: dict[Pair, _Account] = {}
        self._uses: dict[Pair, tuple[Amounts, Amounts]] = {}  # (used without a lease, overrun), not told yet
        self._rules, self._rules_at, self._swept_at = -1, 0.0, time.monotonic()
        self._most: dict[Pair, Amounts] = {}
        self._read_rules()
        self._marks = None if accounts.marks is None else Marks(accounts.marks, self.owner)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="accounts")
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_closing = False

    # what a request needs

    def left(self, tenant: str, key: str) -> Mapping[Measure, int] | None:
        """About what may still be reserved; None: no budget stands on it.

        Where it was not looked up lately, the budget; 2^62 in a measure without one.
        """
        most = self._limit(tenant, key)
        if most is None:
            return None
        account = self._by_pair.get((tenant, key))
        if account is None or time.monotonic() - account.room_at > _FRESH_SECONDS:
            return named(most)
        return named(account.room if account.lease is None else added(account.room, account.lease.free))

    async def reserve(self, tenant: str, key: str, worst: Mapping[Measure, int]) -> str | None:
        """Reserve; None: the budget does not reach, or the accounts do not answer."""
        pair, wanted = (tenant, key), amounts(worst)
        if self._task is None:
            self._task = asyncio.create_task(self._turn_forever())
            self._task.add_done_callback(self._refuse_all)
        if self._limit(tenant, key) is None:
            return self._granted(pair, None, wanted)
        account = self._by_pair.get(pair)
        if account is None:
            account = self._by_pair[pair] = _Account(pair)
        account.asked[0] = added(account.asked[0], wanted)
        lease: Held | None = account.lease
        if lease is None or not self._hold(lease, wanted):
            lease = await self._waited(account, wanted)
        return None if lease is None else self._granted(pair, lease, wanted)

    def settle(self, reservation: str, used: Mapping[Measure, int]) -> None:
        """Charge what was used, at most what was reserved; a second time changes nothing."""
        found = self._open.pop(reservation, None)
        if found is None:
            return
        pair, lease, worst = found
        whole = amounts(used)
        if lease is None:
            self._use(pair, whole, NOTHING)
            return
        charged = lesser(whole, worst)
        lease.let_go(charged, worst)
        if charged != whole:
            self.overruns += 1
            self._use(pair, NOTHING, without(whole, charged))
            _log.warning("tenant %s, key %s: a request used more than it had reserved", pair[0], pair[1][:12])

    async def close(self) -> None:
        """Tell the accounts what they do not know yet, and give back what no request under way holds."""
        if self._is_closing:
            return
        self._is_closing = True
        self._wake.set()
        if self._task is not None:
            await self._task
        await self._turn()
        self._thread.shutdown(wait=True)
        if self._marks is not None:
            self._marks.close(remove=all(a.is_idle for a in self._by_pair.values()))

    # in memory

    def _limit(self, tenant: str, key: str) -> Amounts | None:
        """The lowest budget of each measure that stands on a pair; None: none does."""
        mine, whole = self._most.get((tenant, key)), self._most.get((tenant, ALL_KEYS))
        return mine or whole if mine is None or whole is None else lesser(mine, whole)

    def _granted(self, pair: Pair, lease: Held | None, worst: Amounts) -> str:
        self._number += 1
        name = f"{self._number:x}"
        self._open[name] = (pair, lease, worst)
        return name

    def _hold(self, lease: Held, wanted: Amounts) -> bool:
        """Hand out. The clock is read after the mark is made: who finds the lease run out finds the mark too."""
        if not lease.hold(wanted):
            return False
        if self._clock() >= lease.until_ns:
            lease.let_go(NOTHING, wanted)
            return False
        return True

    def _use(self, pair: Pair, used: Amounts, over: Amounts) -> None:
        before = self._uses.get(pair, (NOTHING, NOTHING))
        self._uses[pair] = (added(before[0], used), added(before[1], over))

    async def _waited(self, account: _Account, wanted: Amounts) -> Held | None:
        if self._is_closing or self._task is None:
            return None
        if self._task.done():
            self._task.result()  # raises what ended it
        found: asyncio.Future[Held | None] = asyncio.get_running_loop().create_future()
        account.waiting.append((wanted, found))
        self._wake.set()
        try:
            return await found
        except asyncio.CancelledError:
            given = None if found.cancelled() or not found.done() else found.result()
            if given is not None:
                given.let_go(NOTHING, wanted)
            raise

    # turns with the accounts

    async def _turn_forever(self) -> None:
        while not self._is_closing:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._turn_seconds)
            self._wake.clear()
            await self._turn()

    async def _turn(self) -> None:
        """Say everything that is new, in one transaction; hand what came of it to those who wait."""
        now = self._clock()
        said = [(account, *one) for account in list(self._by_pair.values()) for one in self._said(account, now)]
        uses, self._uses = self._uses, {}
        told = [Use(tenant=t, key=k, used=used, overrun=over) for (t, k), (used, over) in uses.items()]
        answers: list[Turned | None] = [None] * len(said)
        try:
            loop = asyncio.get_running_loop()
            done = await loop.run_in_executor(self._thread, self._with_accounts, [t for _, _, t in said], told)
            answers, self.fault = [*done], ""
        except FleetmillError as error:
            self.fault = str(error)
            _log.warning("%s. What waits is refused, what was used is told later", error)
            for pair, (used, over) in uses.items():
                self._use(pair, used, over)
        for (account, lease, turn), answer in zip(said, answers):
            if answer is not None:
                self._heard(account, lease, turn, answer)
        for account in {id(a): a for a, _, _ in said}.values():
            self._serve(account)

    def _with_accounts(self, turns: list[Turn], told: list[Use]) -> list[Turned]:
        """In the thread."""
        self._read_rules()
        if time.monotonic() - self._swept_at > _SWEEP_SECONDS:
            self._swept_at = time.monotonic()
            self._accounts.expire()
        return self._accounts.turn(self.owner, turns, told) if turns or told else []

    def _read_rules(self) -> None:
        if self._rules >= 0 and time.monotonic() - self._rules_at < _RULES_SECONDS:
            return
        self._rules_at, number = time.monotonic(), self._accounts.rules()
        if number != self._rules:
            most: dict[Pair, Amounts] = {}
            for budget in self._accounts.budgets():
                place = (budget.tenant, budget.key)
                one, two, three, four = {**named(_NO_LIMIT), budget.measure: budget.most}.values()
                most[place] = lesser(most.get(place, _NO_LIMIT), (one, two, three, four))
            self._most, self._rules = most, number

    def _said(self, account: _Account, now: int) -> list[tuple[Held, Turn]]:
        """What is to be said of an account's leases. What is given back is taken out of them before it is said."""
        lease = account.lease
        if lease is not None and (lease.is_lost or now >= lease.day_end_ns or self._is_unwanted(account, lease)):
            account.old.append(lease)
            account.lease = lease = None
        found = [one for old in account.old if (one := self._said_of_old(account, old, now))]
        account.served, account.waiting = [*account.served, *account.waiting], []
        if account.served and lease is None:
            lease = account.lease = Held(self._marks, now)
        if lease is None:
            if account.is_idle and time.monotonic() - account.room_at > _FRESH_SECONDS:
                del self._by_pair[account.pair]
            return found
        soon = likely(account.asked)
        if any(free > 2 * want for free, want in zip(lease.free, soon)):
            lease.shrink(soon)
        self._age(account)
        need = NOTHING
        for wanted, _ in account.served:
            need = added(need, wanted)
        wish = beyond(soon, lease.free)
        if need != NOTHING or not lease.is_told or now > lease.granted_ns - self._lease_ns // 2:
            found.append((lease, lease.turn(account.pair, now + self._lease_ns, need=need, wish=wish)))
        return found

    def _said_of_old(self, account: _Account, old: Held, now: int) -> tuple[Held, Turn] | None:
        old.shrink(NOTHING)
        is_last = old.held == NOTHING
        if not is_last and (old.is_lost or (old.is_told and now <= old.granted_ns - self._lease_ns // 2)):
            return None
        return old, old.turn(account.pair, now + self._lease_ns, last=is_last)

    def _is_unwanted(self, account: _Account, lease: Held) -> bool:
        if self._is_closing:
            return True
        is_quiet = all(a == NOTHING for a in account.asked) and not account.waiting
        return is_quiet and lease.held == NOTHING

    def _age(self, account: _Account) -> None:
        """Begin a new piece of time, so that what was asked long ago is forgotten."""
        if time.monotonic() - account.asked_at >= self._turn_seconds:
            account.asked = [NOTHING, *account.asked[: _LATELY - 1]]
            account.asked_at = time.monotonic()

    def _heard(self, account: _Account, lease: Held, turn: Turn, answer: Turned) -> None:
        account.room, account.room_at = answer.room, time.monotonic()
        if answer.state == REAPED and not turn.is_last:
            lease.lose()
            _log.warning("tenant %s: a lease had run out; a new one is asked for", turn.tenant)
            return
        lease.turned(turn, answer)
        if answer.state in (CLOSED, REAPED):
            lease.close()
            account.old = [one for one in account.old if one is not lease]
            account.lease = None if account.lease is lease else account.lease

    def _serve(self, account: _Account) -> None:
        """Those who wait, in order; for whom there is not enough is refused. Where the lease was lost: again."""
        lease = account.lease
        if lease is not None and lease.is_lost:
            self._wake.set()
            return
        for wanted, found in account.served:
            if not found.done():
                found.set_result(lease if lease is not None and self._hold(lease, wanted) else None)
        account.served = []

    def _refuse_all(self, _: asyncio.Task[None]) -> None:
        """Turning has ended: nobody may wait for ever."""
        for account in self._by_pair.values():
            for _wanted, found in [*account.served, *account.waiting]:
                if not found.done():
                    found.set_result(None)
            account.served, account.waiting = [], []
