"""The purse: requests pay from leases in memory, and no budget is overspent, whoever is killed."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from fleetmill.core.errors import UnavailableError
from fleetmill.serve.accounts.book import Accounts, open_accounts
from fleetmill.serve.accounts.keys import set_tenant
from fleetmill.serve.accounts.page import period_start
from fleetmill.serve.accounts.purse import AccountPurse
from fleetmill.serve.words import Tenant

ONE = {"requests": 1, "tokens": 10, "money": 5, "energy": 2}
FOUR = {"requests": 1, "tokens": 4, "money": 2, "energy": 0}
SECOND, DAY = 10**9, 86_400 * 10**9


class Clock:
    def __init__(self) -> None:
        self.now = 1_770_000_000 * SECOND

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def books(tmp_path: Path, clock: Clock) -> Iterator[Accounts]:
    accounts = open_accounts(tmp_path, clock=clock)
    set_tenant(accounts, Tenant(name="t"))
    yield accounts
    accounts.close()


def stands(accounts: Accounts, period: str = "none") -> dict[str, int]:
    found = accounts.balances(tenant="t", key="", period=period)
    kinds = ("spent", "reserved", "overrun", "presumed")
    return {kind: getattr(found[0], kind)["tokens"] if found else 0 for kind in kinds}


def purse(accounts: Accounts, **more) -> AccountPurse:
    return AccountPurse(accounts, turn_seconds=0.02, **more)


def test_what_is_reserved_is_granted_while_the_budget_reaches_and_after_closing_spent_is_what_was_used(books):
    books.set_budget("t", "", "tokens", "none", 100)

    async def run():
        mine = purse(books)
        held = [await mine.reserve("t", "k", ONE) for _ in range(12)]
        assert [h is not None for h in held] == [True] * 10 + [False] * 2
        for name in held[:10]:
            mine.settle(name, FOUR)
            mine.settle(name, ONE)  # a second time changes nothing
        assert await mine.reserve("t", "k", {"tokens": 60}) is not None
        await mine.close()

    asyncio.run(run())
    assert stands(books) == {"spent": 40, "reserved": 60, "overrun": 0, "presumed": 0}  # one request is still under way


def test_two_gateways_on_one_budget_give_out_all_of_it_and_no_more(books):
    books.set_budget("t", "", "tokens", "none", 3_000)

    async def run():
        purses = [purse(books), purse(books)]

        async def client(mine) -> int:
            done = 0
            for _ in range(100):
                name = await mine.reserve("t", "k", ONE)
                if name is not None:
                    await asyncio.sleep(0.001)
                    mine.settle(name, ONE)
                    done += 1
                now = stands(books)
                assert now["spent"] + now["reserved"] <= 3_000
            return done

        done = await asyncio.gather(*(client(mine) for mine in purses for _ in range(2)))
        while stands(books)["reserved"]:  # what lies unused in one goes back, and serves the other
            await asyncio.sleep(0.05)
        last = [await mine.reserve("t", "k", ONE) for mine in purses for _ in range(5)]
        for mine in purses:
            await mine.close()
        return sum(done) + sum(name is not None for name in last)

    assert asyncio.run(run()) == 300
    assert stands(books)["spent"] + stands(books)["reserved"] == 3_000


words = st.sampled_from(["reserve", "settle", "turn", "wait", "sleep"])
ops = st.lists(st.tuples(words, st.integers(0, 2), st.integers(0, 30)), max_size=60)


@settings(max_examples=25, deadline=None)
@given(ops=ops, most=st.integers(0, 200), used=st.integers(0, 30))
def test_in_any_order_of_anything_leases_and_spending_stay_within_the_budget(tmp_path_factory, ops, most, used):
    clock = Clock()
    accounts = open_accounts(tmp_path_factory.mktemp("purse"), clock=clock)
    set_tenant(accounts, Tenant(name="t"))
    accounts.set_budget("t", "", "tokens", "none", most)
    charged = 0

    async def run() -> None:
        nonlocal charged
        purses = [purse(accounts, lease_seconds=5.0) for _ in range(3)]
        open_ones: list[tuple[int, str, int]] = []
        for what, which, amount in ops:
            if what == "reserve":
                name = await purses[which].reserve("t", "k", {"tokens": amount})
                open_ones += [] if name is None else [(which, name, amount)]
            elif what == "settle" and open_ones:
                owner, name, worst = open_ones.pop(amount % len(open_ones))
                purses[owner].settle(name, {"tokens": used})
                charged += min(used, worst)
            elif what == "turn":
                await asyncio.sleep(0.03)
            elif what == "wait":
                clock.now += amount * SECOND
            elif what == "sleep":
                clock.now += amount * SECOND
                accounts.expire()
            now = stands(accounts)
            assert now["spent"] + now["reserved"] <= most
        for owner, name, worst in open_ones:
            purses[owner].settle(name, {"tokens": used})
            charged += min(used, worst)
        for mine in purses:
            await mine.close()

    asyncio.run(run())
    now = stands(accounts)
    accounts.close()
    assert (now["spent"], now["reserved"], now["presumed"]) == (charged, 0, 0)


def test_a_tenant_without_a_budget_asks_without_the_accounts_and_is_booked_later(books):
    statements = []
    event.listen(books.engine, "before_cursor_execute", lambda *given: statements.append(given[2]))

    async def run():
        mine = AccountPurse(books, turn_seconds=60)
        statements.clear()
        for _ in range(100):
            mine.settle(await mine.reserve("t", "k", ONE), FOUR)
        assert mine.left("t", "k") is None
        assert statements == []
        await mine.close()

    asyncio.run(run())
    assert stands(books) == {"spent": 400, "reserved": 0, "overrun": 0, "presumed": 0}


def test_most_requests_of_a_limited_tenant_wait_for_nothing(books):
    books.set_budget("t", "", "tokens", "none", 10**9)
    begun = []
    event.listen(books.engine, "before_cursor_execute", lambda *given: begun.append(given[2]))

    async def run():
        mine = AccountPurse(books, turn_seconds=60)
        for _ in range(2_000):
            mine.settle(await mine.reserve("t", "k", ONE), ONE)
        assert sum(statement.startswith("BEGIN") for statement in begun) < 40
        await mine.close()

    asyncio.run(run())
    assert stands(books)["spent"] == 20_000


def test_what_a_request_used_beyond_its_reservation_is_overrun_and_told(books, caplog):
    books.set_budget("t", "", "tokens", "none", 100)

    async def run():
        mine = purse(books)
        mine.settle(await mine.reserve("t", "secret-key-digest", FOUR), ONE)
        assert mine.overruns == 1
        await mine.close()

    asyncio.run(run())
    assert stands(books) == {"spent": 4, "reserved": 0, "overrun": 6, "presumed": 0}
    assert "used more than it had reserved" in caplog.text


def test_a_running_gateway_knows_a_new_budget_within_a_second_or_so(books):
    async def run():
        mine = purse(books)
        mine.settle(await mine.reserve("t", "k", ONE), ONE)
        books.set_budget("t", "", "tokens", "none", 5)
        for _ in range(100):
            await asyncio.sleep(0.05)
            if mine.left("t", "k") is not None:
                break
        assert await mine.reserve("t", "k", ONE) is None
        assert mine.left("t", "k")["tokens"] == 0
        await mine.close()

    asyncio.run(run())


def test_what_is_left_is_the_budget_until_it_was_looked_up_and_then_what_there_is(books):
    books.set_budget("t", "", "tokens", "none", 100)
    books.set_budget("t", "", "money", "none", 1_000)

    async def run():
        mine = purse(books)
        assert (mine.left("t", "k")["tokens"], mine.left("t", "k")["requests"]) == (100, 2**62)
        name = await mine.reserve("t", "k", {"tokens": 70})
        left = mine.left("t", "k")["tokens"]
        assert left == 30
        mine.settle(name, {"tokens": 0})
        assert mine.left("t", "k")["tokens"] == 100
        await mine.close()

    asyncio.run(run())


def test_a_request_that_is_given_up_while_it_waits_gives_back(books):
    books.set_budget("t", "", "tokens", "none", 10)

    async def run():
        mine = purse(books)
        waiting = asyncio.create_task(mine.reserve("t", "k", ONE))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await asyncio.sleep(0.1)
        assert await mine.reserve("t", "k", ONE) is not None
        await mine.close()

    asyncio.run(run())


def test_a_request_that_is_given_up_just_when_it_was_granted_gives_back(books, monkeypatch):
    books.set_budget("t", "", "tokens", "none", 10)

    async def run():
        mine = purse(books)
        waiting = asyncio.create_task(mine.reserve("t", "k", ONE))
        serve = mine._serve

        def serve_and_give_up(account) -> None:
            serve(account)
            waiting.cancel()

        monkeypatch.setattr(mine, "_serve", serve_and_give_up)
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await mine.reserve("t", "k", ONE) is not None
        await mine.close()

    asyncio.run(run())


def test_a_lease_pays_for_its_day_alone(books, clock):
    books.set_budget("t", "", "tokens", "day", 100)
    clock.now = period_start("day", clock.now) + DAY - SECOND

    async def run():
        mine = purse(books)
        late = await mine.reserve("t", "k", ONE)
        clock.now += 2 * SECOND
        for _ in range(10):
            mine.settle(await mine.reserve("t", "k", ONE), ONE)
        assert await mine.reserve("t", "k", ONE) is None
        mine.settle(late, FOUR)
        await mine.close()

    asyncio.run(run())
    assert stands(books, "day")["spent"] == 100
    assert stands(books, "none")["spent"] == 104


def test_a_gateway_that_slept_too_long_is_booked_with_the_worst_and_corrected_when_it_wakes(books, clock):
    books.set_budget("t", "", "tokens", "none", 100)

    async def run():
        mine = AccountPurse(books, turn_seconds=60, lease_seconds=5.0)
        one, two = await mine.reserve("t", "k", ONE), await mine.reserve("t", "k", ONE)
        mine.settle(one, FOUR)
        clock.now += 6 * SECOND
        books.expire()
        assert stands(books) == {"spent": 14, "reserved": 0, "overrun": 0, "presumed": 10}
        three = await mine.reserve("t", "k", ONE)
        assert three is not None
        mine.settle(two, FOUR)
        mine.settle(three, FOUR)
        await mine.close()

    asyncio.run(run())
    assert stands(books) == {"spent": 12, "reserved": 0, "overrun": 0, "presumed": 0}


def test_while_the_accounts_do_not_answer_who_has_no_lease_is_refused_and_what_was_used_is_told_later(
    books, monkeypatch, caplog
):
    books.set_budget("t", "", "tokens", "none", 100)

    def down(*_):
        raise UnavailableError("accounts: disk full")

    async def run():
        mine = purse(books)
        first = await mine.reserve("t", "k", ONE)
        free = await mine.reserve("free", "k", ONE)
        with monkeypatch.context() as patch:
            patch.setattr(books, "turn", down)
            mine.settle(first, FOUR)
            mine.settle(free, FOUR)
            assert await mine.reserve("t", "k", {"tokens": 90}) is None
            assert mine.fault == "accounts: disk full"
        assert await mine.reserve("t", "k", {"tokens": 90}) is not None
        assert mine.fault == ""
        await mine.close()

    asyncio.run(run())
    assert stands(books)["spent"] == 4
    assert books.balances(tenant="free", key="k", period="none")[0].spent["tokens"] == 4
    assert "accounts: disk full" in caplog.text


# -- kill -9 ----------------------------------------------------------------------------------------------------------

DYING = """
import asyncio, os, signal, sys
from pathlib import Path
from fleetmill.serve.accounts.book import open_accounts
from fleetmill.serve.accounts.purse import AccountPurse

async def main():
    mine = AccountPurse(open_accounts(Path(sys.argv[1])), turn_seconds=float(sys.argv[2]), lease_seconds=1000.0)
    held = [await mine.reserve("t", "k", {"requests": 1, "tokens": 10}) for _ in range(20)]
    for name in held[:15]:
        mine.settle(name, {"requests": 1, "tokens": 4})
    await asyncio.sleep(float(sys.argv[3]))
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def dies(folder: Path, *, turn_seconds: float, after: float) -> None:
    words = [sys.executable, "-c", DYING, folder, str(turn_seconds), str(after)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def after_the_lease(folder: Path, clock: Clock) -> dict[str, int]:

    clock.now = time.time_ns() + 2_000 * SECOND
    accounts = open_accounts(folder, clock=clock)
    accounts.expire()
    found = stands(accounts)
    accounts.close()
    return found


@pytest.mark.parametrize(("turn_seconds", "after"), [(60.0, 0.0), (0.02, 0.3)])
def test_kill_9_charges_what_was_used_and_the_worst_of_what_was_under_way(tmp_path, books, clock, turn_seconds, after):
    books.set_budget("t", "", "tokens", "none", 1_000)
    dies(tmp_path, turn_seconds=turn_seconds, after=after)
    before = stands(books)
    assert before["spent"] + before["reserved"] >= 15 * 4 + 5 * 10
    assert after_the_lease(tmp_path, clock) == {"spent": 110, "reserved": 0, "overrun": 0, "presumed": 50}


@pytest.mark.parametrize("what", ["gone", "of another boot"])
def test_where_marks_cannot_be_believed_all_of_a_dead_lease_is_charged(tmp_path, books, clock, what):
    books.set_budget("t", "", "tokens", "none", 1_000)
    dies(tmp_path, turn_seconds=60.0, after=0.0)
    held = stands(books)["reserved"]
    (marks,) = (tmp_path / "leases").iterdir()
    if what == "gone":
        marks.unlink()
    else:
        boot = marks.read_bytes()[len(b"fleetmill leases 1\n") :][:1]
        other = b"0" if boot != b"0" else b"1"
        marks.write_bytes(marks.read_bytes().replace(b"leases 1\n" + boot, b"leases 1\n" + other, 1))
    found = after_the_lease(tmp_path, clock)
    assert found == {"spent": held, "reserved": 0, "overrun": 0, "presumed": held}


def test_the_next_gateway_uses_what_a_killed_one_left(tmp_path, books, clock):
    books.set_budget("t", "", "tokens", "none", 210)
    dies(tmp_path, turn_seconds=60.0, after=0.0)
    after_the_lease(tmp_path, clock)

    async def run() -> int:
        mine = purse(books)
        names = [await mine.reserve("t", "k", ONE) for _ in range(12)]
        await mine.close()
        return sum(name is not None for name in names)

    assert asyncio.run(run()) == 10
