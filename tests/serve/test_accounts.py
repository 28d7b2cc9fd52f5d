"""Accounts: nothing is ever overspent, nothing that was reserved is lost, whoever dies when."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fleetmill.core.errors import ConflictError, InvalidInputError, NotFoundError, TooNewError, UnavailableError
from fleetmill.core.serve import MEASURES
from fleetmill.serve.accounts.book import Accounts, Use, Want, fake_accounts, open_accounts
from fleetmill.serve.accounts.keys import keys, new_key, set_tenant
from fleetmill.serve.accounts.leases import Turn
from fleetmill.serve.accounts.page import (
    ENDLESS,
    NOTHING,
    RESERVED,
    Page,
    added,
    amounts,
    lesser,
    period_start,
    without,
)
from fleetmill.serve.accounts.schema import about, writing
from fleetmill.serve.words import Tenant

BENCH = Path(__file__).parents[2] / "bench" / "accounts.py"
NOON = 1_770_000_000 * 10**9  # 2026-02-02 02:40 UTC
HOUR, DAY = 3600 * 10**9, 86_400 * 10**9
ONE = {"requests": 1, "tokens": 10, "money": 5, "energy": 2}


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def books(clock: Clock) -> Iterator[Accounts]:
    accounts = fake_accounts(clock)
    set_tenant(accounts, Tenant(name="t"))
    new_key(accounts, "t")
    yield accounts
    accounts.close()


def key(accounts: Accounts) -> str:
    return keys(accounts)[0].digest


def want(accounts: Accounts, name: str, worst=ONE, *, seconds: int = 60) -> Want:
    return Want(id=name, tenant="t", key=key(accounts), worst=worst, until_ns=accounts.clock() + seconds * 10**9)


def stands(accounts: Accounts, measure: str = "tokens", *, of: str = "", period: str = "none") -> tuple[int, int, int]:
    """(spent, reserved, overrun)"""
    found = accounts.balances(tenant="t", key=of, period=period)
    return (
        (0, 0, 0) if not found else tuple(getattr(found[0], kind)[measure] for kind in ("spent", "reserved", "overrun"))
    )


def test_each_of_many_is_granted_on_its_own_as_far_as_the_budget_reaches(books):
    books.set_budget("t", "", "tokens", "none", 25)
    wants = [want(books, "a"), want(books, "big", {"tokens": 16}), want(books, "b"), want(books, "c")]
    assert books.reserve(wants) == [True, False, True, False]
    assert stands(books) == (0, 20, 0)


def test_tenant_and_key_both_must_have_enough_and_what_is_refused_leaves_no_trace(books):
    books.set_budget("t", "", "money", "none", 100)
    books.set_budget("t", key(books), "requests", "none", 1)
    assert books.reserve([want(books, "a"), want(books, "b")]) == [True, False]
    assert (stands(books, "money"), stands(books, "requests", of=key(books))) == ((0, 5, 0), (0, 1, 0))


def test_settling_charges_what_was_used_at_most_what_was_reserved(books):
    books.reserve([want(books, "a"), want(books, "b")])
    found = books.settle({"a": {"requests": 1, "tokens": 7}, "b": {"requests": 1, "tokens": 13}, "nobody": ONE})
    assert found.keys() == {"a", "b"}
    assert (found["b"].charged["tokens"], found["b"].overrun["tokens"]) == (10, 3)
    assert stands(books) == (17, 0, 3)


def test_settling_twice_changes_nothing_and_says_the_same(books):
    books.reserve([want(books, "a")])
    first = books.settle({"a": {"tokens": 4}})
    assert books.settle({"a": {"tokens": 9}}) == first
    assert stands(books) == (4, 0, 0)


def test_reserving_again_with_the_same_id_is_the_same_reservation(books):
    assert books.reserve([want(books, "a"), want(books, "a")]) == [True, True]
    assert books.reserve([want(books, "a")]) == [True]
    assert stands(books) == (0, 10, 0)
    with pytest.raises(ConflictError, match="a: is there with other values"):
        books.reserve([want(books, "x"), want(books, "a", {"tokens": 1})])
    assert books.settle({"x": ONE}) == {}


def test_what_is_released_or_runs_out_comes_back(books, clock):
    books.set_budget("t", "", "tokens", "none", 20)
    books.reserve([want(books, "a"), want(books, "b", seconds=1)])
    assert (books.release(["a"]), books.release(["a"]), books.release(["nobody"])) == (1, 0, 0)
    assert books.reserve([want(books, "c"), want(books, "d")]) == [True, False]
    clock.now += 10**9
    assert books.reserve([want(books, "d"), want(books, "b")]) == [True, False]


def test_what_is_settled_after_it_ran_out_is_overrun_and_nobodys_spending(books, clock):
    books.set_budget("t", "", "tokens", "none", 10)
    books.reserve([want(books, "slow", seconds=1)])
    clock.now += 2 * 10**9
    assert books.reserve([want(books, "next")]) == [True]
    assert books.settle({"slow": ONE})["slow"].overrun["tokens"] == 10
    assert stands(books) == (0, 10, 10)


def test_a_day_and_a_month_begin_anew_in_utc(books, clock):
    books.set_budget("t", "", "tokens", "day", 10)
    books.set_budget("t", "", "tokens", "month", 20)
    for days, grants in ((0, True), (0, False), (1, True), (2, False), (31, True)):
        clock.now = NOON + days * DAY
        name = f"{days}-{grants}"
        assert books.reserve([want(books, name)]) == [grants], name
        books.settle({name: ONE})


def test_what_is_settled_after_midnight_counts_in_the_day_in_which_it_was_reserved(books, clock):
    clock.now = period_start("day", NOON) + DAY - 10**9
    books.reserve([want(books, "a")])
    clock.now += 2 * 10**9
    books.settle({"a": ONE})
    assert stands(books, period="day") == (0, 0, 0)
    yesterday = books.balances(tenant="t", key="", period="day", since_ns=0, until_ns=clock.now - DAY)
    assert [b.spent["tokens"] for b in yesterday] == [10]


def test_a_month_begins_on_its_first_day():
    at = int(datetime(2028, 2, 29, 23, 59, tzinfo=timezone.utc).timestamp()) * 10**9
    assert period_start("month", at) == int(datetime(2028, 2, 1, tzinfo=timezone.utc).timestamp()) * 10**9
    assert period_start("day", at) == at - (24 * 3600 - 60) * 10**9


def test_a_budget_that_is_set_today_counts_what_was_used_before_and_gives_nothing_out_when_that_is_more(books):
    books.reserve([want(books, "a"), want(books, "b")])
    books.settle({"a": ONE})
    books.set_budget("t", "", "tokens", "month", 15)
    assert books.reserve([want(books, "c", {"tokens": 1})]) == [False]
    books.settle({"b": ONE})
    assert stands(books, period="month") == (20, 0, 0)
    books.set_budget("t", "", "tokens", "month", None)
    assert books.reserve([want(books, "c")]) == [True]


def test_use_without_a_reservation_is_charged_as_far_as_budgets_reach_and_the_rest_is_overrun(books):
    books.set_budget("t", "", "tokens", "none", 12)
    books.turn("p", [], [Use(tenant="t", key=key(books), used=amounts({"tokens": 20}))])
    assert stands(books) == (12, 0, 8)


def test_the_table_itself_refuses_what_a_mistake_in_the_page_would_overspend(books):
    books.set_budget("t", "", "tokens", "none", 10)
    with writing(books.engine) as connection:
        page = Page(connection)
        page.load([("t", "k", NOON)])
        page.book("t", "k", NOON, (RESERVED, amounts({"tokens": 11})))
        with pytest.raises(UnavailableError, match="another writer"):
            page.write()
    assert stands(books) == (0, 0, 0)


@pytest.mark.parametrize("worst", [{"tokens": -1}, {"tokens": 1.0}, {"tokens": 10**16}, {"coins": 1}, {"tokens": True}])
def test_amounts_that_are_none_are_refused(books, worst):
    with pytest.raises(InvalidInputError):
        books.reserve([want(books, "a", worst)])


def test_a_budget_of_nobody_or_in_nothing_is_refused(books):
    with pytest.raises(NotFoundError, match="serve tenant set nobody"):
        books.set_budget("nobody", "", "tokens", "none", 1)
    with pytest.raises(NotFoundError, match="has none such"):
        books.set_budget("t", "0" * 64, "tokens", "none", 1)
    with pytest.raises(InvalidInputError, match="periods none, day, month"):
        books.set_budget("t", "", "tokens", "week", 1)
    with pytest.raises(InvalidInputError, match="10\\^15"):
        books.set_budget("t", "", "tokens", "none", -1)


def test_what_a_newer_version_made_is_not_opened(tmp_path):
    first = open_accounts(tmp_path)
    with writing(first.engine) as connection:
        connection.execute(about.update().where(about.c.what == "format").values(number=99))
    first.close()
    with pytest.raises(TooNewError, match="format 99"):
        open_accounts(tmp_path)


def test_long_settled_reservations_are_forgotten_and_the_balances_stay(books, clock):
    books.reserve([want(books, "a")])
    books.settle({"a": ONE})
    clock.now += 2 * DAY
    books.expire()
    assert books.settle({"a": ONE}) == {}
    assert stands(books) == (10, 0, 0)


def test_reservations_survive_the_death_of_processes_at_random_commits(tmp_path):
    sizes = ["--reservations", "9000", "--processes", "3", "--group", "100", "--groups-to-live", "20"]
    words = [sys.executable, BENCH, "--only", "crash", *sizes, "--folder", tmp_path, "--json"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["crash"]
    assert found["kills"] >= 2
    assert [found[what] for what in ("overspent", "lost", "unbalanced", "wrong")] == [0, 0, 0, 0]
    assert found["granted"] > 4_000
    assert found["refused"] > 100


# -- any order of anything --------------------------------------------------------------------------------------------

small = st.integers(0, 12)
four = st.tuples(st.integers(0, 2), small, small, small)
PAIRS = [("t", "t0"), ("t", "t1"), ("u", "u0")]
pairs = st.sampled_from(PAIRS)


def as_map(values) -> dict[str, int]:
    return dict(zip(MEASURES, values))


class Books(RuleBasedStateMachine):
    """The accounts beside a model of them: one list of all that was ever reserved or used."""

    @initialize(
        most=st.lists(
            st.tuples(
                st.sampled_from([*PAIRS, ("t", ""), ("u", "")]),
                st.sampled_from(MEASURES),
                st.sampled_from(["none", "day", "month"]),
                st.integers(0, 40),
            ),
            min_size=1,
            max_size=6,
        )
    )
    def begin(self, most) -> None:
        self.clock = Clock()
        self.accounts = fake_accounts(self.clock)
        self.digests: dict[tuple[str, str], str] = {}
        for name in ("t", "u"):
            set_tenant(self.accounts, Tenant(name=name))
        for tenant, short in PAIRS:
            new = new_key(self.accounts, tenant, note=short)
            self.digests[tenant, short] = next(k.digest for k in keys(self.accounts) if k.note == short)
            assert new.startswith("fm-")
        self.budgets: dict[tuple[str, str, str, str], int] = {}
        self.raised: dict[tuple[str, str, str, str, int], int] = {}  # what was gone already when a budget was lowered
        self.entries: list[dict] = []
        self.leases: dict[str, dict] = {}
        self.number = 0
        for (tenant, short), measure, period, value in most:
            self._limit(tenant, short, measure, period, value)

    # what a use counts in, by the model

    def _digest(self, tenant: str, short: str) -> str:
        return self.digests[tenant, short] if short else ""

    def _sum(self, tenant: str, key: str, period: str, start: int, kind: str) -> tuple[int, ...]:
        found = NOTHING
        for e in self.entries:
            if e["tenant"] == tenant and key in ("", e["key"]) and period_start(period, e["at"]) == start:
                found = added(found, e[kind])
        return found

    def _room(self, tenant: str, key: str, at: int) -> tuple[int, ...]:
        room = [ENDLESS] * 4
        for (t, k, measure, period), most in self.budgets.items():
            if t == tenant and k in ("", key):
                start, i = period_start(period, at), MEASURES.index(measure)
                gone = self._sum(t, k, period, start, "spent")[i] + self._sum(t, k, period, start, "reserved")[i]
                room[i] = min(room[i], max(0, most - gone))
        return tuple(room)

    def _run_out(self) -> None:
        for e in self.entries:
            if e["state"] == "open" and e["until"] <= self.clock.now:
                if e["id"] in self.leases:  # no marks can be had: all of it counts as used
                    e["spent"], e["presumed"] = added(e["spent"], e["reserved"]), e["reserved"]
                e["state"], e["reserved"] = "gone", NOTHING

    def _entry(self, name: str, pair: tuple[str, str], until: int, **kinds) -> dict:
        nothing = dict.fromkeys(("spent", "reserved", "overrun", "presumed"), NOTHING)
        entry = {"id": name, "tenant": pair[0], "key": self.digests[pair], "at": self.clock.now, "until": until}
        return {**entry, "state": "open", **nothing, **kinds}

    # what is done

    @rule(pair=st.sampled_from([*PAIRS, ("t", ""), ("u", "")]), measure=st.sampled_from(MEASURES),
          period=st.sampled_from(["none", "day", "month"]), most=st.integers(0, 40))  # fmt: skip
    def limit(self, pair, measure, period, most) -> None:
        self._limit(*pair, measure, period, most)

    def _limit(self, tenant: str, short: str, measure: str, period: str, most: int) -> None:
        digest, start = self._digest(tenant, short), period_start(period, self.clock.now)
        self.accounts.set_budget(tenant, digest, measure, period, most)
        self.budgets[tenant, digest, measure, period] = most
        i = MEASURES.index(measure)
        for at in {start, *(period_start(period, e["at"]) for e in self.entries)}:
            gone = (
                self._sum(tenant, digest, period, at, "spent")[i] + self._sum(tenant, digest, period, at, "reserved")[i]
            )
            self.raised[tenant, digest, measure, period, at] = gone

    @rule(wants=st.lists(st.tuples(pairs, four, st.integers(1, 100)), min_size=1, max_size=4))
    def reserve(self, wants) -> None:
        self._run_out()
        asked, expected = [], []
        for pair, worst, seconds in wants:
            self.number += 1
            until = self.clock.now + seconds * 10**9
            name, digest = f"r{self.number}", self.digests[pair]
            asked.append(Want(id=name, tenant=pair[0], key=digest, worst=as_map(worst), until_ns=until))
            reaches = all(w <= r for w, r in zip(worst, self._room(pair[0], digest, self.clock.now)))
            expected.append(reaches)
            if reaches:
                self.entries.append(self._entry(name, pair, until, reserved=worst, worst=worst))
        assert self.accounts.reserve(asked) == expected

    @precondition(lambda self: self._reservations())
    @rule(data=st.data(), used=four, is_said_twice=st.booleans())
    def settle(self, data, used, is_said_twice) -> None:
        entry = data.draw(st.sampled_from(self._reservations()))
        self._run_out()
        if entry["state"] == "open":
            entry["spent"], entry["reserved"] = lesser(used, entry["worst"]), NOTHING
            entry["overrun"], entry["state"] = without(used, entry["spent"]), "settled"
        elif entry["state"] == "gone":
            entry["overrun"], entry["state"] = used, "settled"
        for _ in range(1 + is_said_twice):
            bill = self.accounts.settle({entry["id"]: as_map(used)})[entry["id"]]
            assert (bill.charged, bill.overrun) == (as_map(entry["spent"]), as_map(entry["overrun"]))

    @precondition(lambda self: self._reservations())
    @rule(data=st.data())
    def release(self, data) -> None:
        entry = data.draw(st.sampled_from(self._reservations()))
        self._run_out()
        assert self.accounts.release([entry["id"]]) == (entry["state"] == "open")
        if entry["state"] == "open":
            entry["state"], entry["reserved"] = "gone", NOTHING

    @rule(pair=pairs, need=four, wish=four)
    def lease(self, pair, need, wish) -> None:
        self.number += 1
        name = f"{self.number:032x}"
        self.leases[name] = {"pair": pair, "used": NOTHING, "total": NOTHING}
        entry = self._entry(name, pair, self.clock.now + 50 * 10**9)
        self.entries.append(entry)
        self._turn(name, entry, need=need, wish=wish)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), part=st.floats(0, 1), keep=st.floats(0, 1), need=four, last=st.booleans())
    def turn(self, data, part, keep, need, last) -> None:
        """Some of what is free was used; some is kept; some more is wanted; or it is the end."""
        name = data.draw(st.sampled_from(sorted(self.leases)))
        lease, entry = self.leases[name], next(e for e in self.entries if e["id"] == name)
        if entry["state"] == "closed" or entry["until"] < self.clock.now - DAY:  # or forgotten
            return
        free = without(lease["total"], lease["used"])
        lease["used"] = added(lease["used"], tuple(int(f * part) for f in free))
        kept = tuple(int(f * keep) for f in without(lease["total"], lease["used"]))
        lease["total"] = lease["used"] if last else added(lease["used"], kept)
        self._turn(name, entry, need=need, wish=NOTHING, last=last)

    def _turn(self, name, entry, *, need, wish, last=False) -> None:
        self._run_out()
        lease, until = self.leases[name], self.clock.now + 50 * 10**9
        said = Turn(
            id=name, tenant=entry["tenant"], key=entry["key"], at_ns=entry["at"], until_ns=until,
            used=lease["used"], total=lease["total"], need=need, wish=wish, is_last=last,
        )  # fmt: skip
        found = self.accounts.turn("owner", [said])[0]
        if entry["state"] == "gone":
            assert (found.state, found.grown) == ("reaped", NOTHING)
            if last:  # the owner lives after all: what it really used counts
                entry["spent"], entry["presumed"], entry["state"] = lease["used"], NOTHING, "closed"
            return
        entry["spent"], entry["reserved"] = lease["used"], without(lease["total"], lease["used"])
        room = self._room(entry["tenant"], entry["key"], entry["at"])
        if last:
            need = wish = NOTHING
        grown = lesser(need, room)
        assert all(g <= n <= g + w or n == g for g, n, w in zip(grown, found.grown, wish)), (grown, found.grown, wish)
        lease["total"], entry["reserved"] = added(lease["total"], found.grown), added(entry["reserved"], found.grown)
        entry["state"], entry["until"] = found.state if found.state == "closed" else "open", until
        if found.state == "closed":
            assert last or entry["reserved"] == NOTHING

    @rule(seconds=st.integers(1, 200))
    def wait(self, seconds) -> None:
        self.clock.now += seconds * 10**9

    @rule(days=st.integers(1, 31))
    def sleep(self, days) -> None:
        self.clock.now += days * DAY

    @rule()
    def die(self) -> None:
        """All processes are gone, and nothing is known but what is in the tables."""
        self.accounts = Accounts(self.accounts.engine, clock=self.clock)

    # what always holds

    @invariant()
    def nothing_is_overspent(self) -> None:
        if not hasattr(self, "accounts"):
            return
        for b in self.accounts.balances(since_ns=0):
            for i, measure in enumerate(MEASURES):
                most = self.budgets.get((b.tenant, b.key, measure, b.period))
                gone = b.spent[measure] + b.reserved[measure]
                before = self.raised.get((b.tenant, b.key, measure, b.period, b.start_ns), 0)
                assert most is None or gone <= max(most, before), (b, measure, i)

    @invariant()
    def the_books_are_the_models(self) -> None:
        if not hasattr(self, "accounts"):
            return
        self._run_out()
        self.accounts.expire()
        for b in self.accounts.balances(since_ns=0):
            for kind in ("spent", "reserved", "overrun", "presumed"):
                expected = as_map(self._sum(b.tenant, b.key, b.period, b.start_ns, kind))
                assert getattr(b, kind) == expected, (kind, b)

    def _reservations(self) -> list[dict]:
        known = self.clock.now - DAY  # later ones are forgotten
        return [e for e in self.entries if e["id"] not in self.leases and e["until"] > known]

    def teardown(self) -> None:
        """After a drain nothing is reserved, and what is spent is what was used."""
        if not hasattr(self, "accounts"):
            return
        self.clock.now += 300 * 10**9
        self._run_out()
        self.accounts.expire()
        for b in self.accounts.balances(since_ns=0):
            assert not any(b.reserved.values())
            assert b.spent == as_map(self._sum(b.tenant, b.key, b.period, b.start_ns, "spent"))
        self.accounts.close()


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
