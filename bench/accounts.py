"""Do accounts hold when processes die at random commits, and what do reserving, settling and proving cost?

    python bench/accounts.py [--reservations 1000000] [--folder DIR] [--json]

`crash`: several processes reserve and settle in group commits out of shared budgets, of which some run out. They are
killed (SIGKILL) at random times, and they kill themselves just before or after a COMMIT; each is started again. Another
process looks on all the time. Then everything runs out, and the books are compared with the rows, with what each
process wrote down as answered, and with what each reservation should have cost (its number says that).
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import multiprocessing
import os
import random
import signal
import struct
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from sqlalchemy import event, select
from sqlalchemy.dialects import sqlite  # noqa: F401 - otherwise each process that is started again loads it
from table import table

from fleetmill.core.serve import MEASURES, Label, Tier
from fleetmill.seams.processes import cpu_seconds_here
from fleetmill.serve.accounts.book import Accounts, Want, open_accounts
from fleetmill.serve.accounts.journal import Journal
from fleetmill.serve.accounts.keys import keys, new_key, set_tenant
from fleetmill.serve.accounts.page import Amounts, added, named, period_start
from fleetmill.serve.accounts.proof import prove
from fleetmill.serve.accounts.purse import AccountPurse
from fleetmill.serve.accounts.schema import reading, reservation
from fleetmill.serve.words import Sent, Tenant

SEED = 50_000_000
TENANTS, KEYS = 8, 32
_SECOND = 10**9


@dataclass(frozen=True, kw_only=True)
class Crashed:
    """What a run of `crash` came to."""

    reservations: int
    granted: int
    refused: int
    kills: int  # processes that died before they were done
    looks: int  # of the one that looks on
    overspent: int  # balances that were seen above their budget, at any look or at the end
    lost: int  # reservations or bills that were answered and are not in the books
    unbalanced: int  # balances that are not the sum of their rows, or still hold something after the drain
    wrong: int  # rows that cost something else than their number says
    wall_seconds: float
    cpu_microseconds: float  # per reservation, settled, all processes


def worth(number: int) -> Amounts:
    """What reservation `number` asks for."""
    tokens, money, energy, _, _, _ = _chance(number)
    return 1, 1 + tokens % 2_000, money % 500, energy % 50


def fate(number: int) -> tuple[str, Amounts]:
    """What becomes of it, and what it uses: some more than they asked for."""
    _, _, _, used, energy, what = _chance(number)
    _, tokens, money, most = worth(number)
    kind = "settled" if what % 20 < 18 else "released" if what % 20 == 18 else "forgotten"
    return kind, (1, tokens * (used % 110) // 100, money * (used % 100) // 100, energy % (most + 1))


def _chance(number: int) -> tuple[int, ...]:
    return struct.unpack_from("<6H", hashlib.sha256(b"%d %d" % (SEED, number)).digest())


def work(folder: str, name: int, first: int, last: int, group: int, deaths: float, seed: int) -> None:
    """One process: reservations [first, last) in groups, each answer written down when it has come."""
    accounts, draw = open_accounts(Path(folder)), random.Random(seed)
    pairs = [(key.tenant, key.digest) for key in keys(accounts)]
    notes = os.open(f"{folder}/{name}.notes", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def die(*given: Any) -> None:
        if given[2] == "COMMIT" and draw.random() < deaths:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(accounts.engine, "before_cursor_execute", die)
    event.listen(accounts.engine, "after_cursor_execute", die)
    for start in range(first, last, group):
        numbers = range(start, min(last, start + group))
        until = accounts.clock() + 20 * _SECOND
        wants = [
            Want(id=str(n), tenant=pairs[n % KEYS][0], key=pairs[n % KEYS][1], worst=named(worth(n)), until_ns=until)
            for n in numbers
        ]
        granted = [n for n, is_granted in zip(numbers, accounts.reserve(wants)) if is_granted]
        os.write(notes, json.dumps({"next": start + len(numbers), "granted": granted}).encode() + b"\n")
        fates = {n: fate(n) for n in granted}
        bills = accounts.settle({str(n): named(used) for n, (what, used) in fates.items() if what == "settled"})
        accounts.release([str(n) for n, (what, _) in fates.items() if what == "released"])
        os.write(notes, json.dumps({"settled": [int(n) for n in bills]}).encode() + b"\n")
    accounts.close()


def crash(folder: Path, *, reservations: int, processes: int, group: int, seed: int, groups_to_live: float) -> Crashed:
    """See the module. `groups_to_live`: of a process, on average, until it is killed from outside."""
    began, before = time.monotonic(), cpu_seconds_here()
    accounts = _set_up(folder, reservations)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__"])  # this file: a process is up in milliseconds
    draw, kills = random.Random(seed), 0
    share = -(-reservations // processes)
    ends = [(p * share, min(reservations, (p + 1) * share)) for p in range(processes)]
    deaths = 0.005 if reservations <= 100_000 else 0.002
    running: dict[int, tuple[BaseProcess, int]] = {}

    def start(p: int, first: int) -> None:
        notes = _size(folder / f"{p}.notes")
        args = (str(folder), p, first, ends[p][1], group, deaths, draw.randrange(2**32))
        process = context.Process(target=work, args=args)
        process.start()
        running[p] = (process, notes + int(draw.expovariate(1 / groups_to_live) * group * 12))

    for p in range(processes):
        start(p, ends[p][0])
    overspent = looks = 0
    while running:
        time.sleep(draw.uniform(0.0, 0.3))
        looks, overspent = looks + 1, overspent + _overspent(accounts)
        for p, (process, most_notes) in list(running.items()):
            if process.is_alive() and _size(folder / f"{p}.notes") > most_notes:
                process.kill()
                process.join()
            if not process.is_alive():
                process.join()
                del running[p]
                if process.exitcode != 0:
                    kills += 1
                    start(p, _next(folder / f"{p}.notes", ends[p][0]))
    return _judged(folder, accounts, reservations, kills, looks, overspent, began, before)


def _set_up(folder: Path, reservations: int) -> Accounts:
    """Tenants and keys of which a half is limited so tightly that budgets run out."""
    accounts = open_accounts(folder)
    for t in range(TENANTS):
        set_tenant(accounts, Tenant(name=f"t{t}"))
        for _ in range(KEYS // TENANTS):
            new_key(accounts, f"t{t}")
        wide = 10**12 if t % 2 else reservations * 700 // TENANTS
        accounts.set_budget(f"t{t}", "", "tokens", "day", wide)
    for n, key in enumerate(keys(accounts)):
        accounts.set_budget(key.tenant, key.digest, MEASURES[n % 4], ("none", "day", "month")[n % 3], 10**12)
        if n % 8 == 0:
            accounts.set_budget(key.tenant, key.digest, "requests", "month", reservations // KEYS // 2)
    return accounts


def _next(notes: Path, first: int) -> int:
    """Where a process goes on that died: behind the last group whose reservations were answered."""
    found = [json.loads(line) for line in _lines(notes)]
    return max([first, *(one["next"] for one in found if "next" in one)])


def _size(notes: Path) -> int:
    return notes.stat().st_size if notes.exists() else 0


def _lines(notes: Path) -> list[bytes]:
    return (
        [line for line in notes.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        if notes.exists()
        else []
    )


def _overspent(accounts: Accounts) -> int:
    budgets = {(b.tenant, b.key, b.period, b.measure): b.most for b in accounts.budgets()}
    return sum(
        b.spent[m] + b.reserved[m] > budgets.get((b.tenant, b.key, b.period, m), 2**62)
        for b in accounts.balances(since_ns=0)
        for m in MEASURES
    )


def _judged(
    folder: Path,
    accounts: Accounts,
    reservations: int,
    kills: int,
    looks: int,
    overspent: int,
    began: float,
    before: float,
) -> Crashed:
    wall, cpu = time.monotonic() - began, cpu_seconds_here() - before
    books = Accounts(accounts.engine, clock=lambda: time.time_ns() + 60 * _SECOND)  # everything has run out
    books.expire()
    lost = wrong = 0
    sums: dict[tuple[str, str, str, int], list[Amounts]] = {}
    with reading(accounts.engine) as connection:
        rows = {int(row.id): row for row in connection.execute(select(reservation))}
    for number, row in rows.items():
        spent = (row.spent_requests, row.spent_tokens, row.spent_money, row.spent_energy)
        over = (row.overrun_requests, row.overrun_tokens, row.overrun_money, row.overrun_energy)
        what, used = fate(number)
        wrong += row.state == "settled" and (what != "settled" or added(spent, over) != used)
        wrong += row.state != "settled" and any(spent)
        for key in ("", row.key):
            for period in ("none", "day", "month"):
                place = (row.tenant, key, period, period_start(period, row.at_ns))
                found = sums.setdefault(place, [(0, 0, 0, 0), (0, 0, 0, 0)])
                found[:] = added(found[0], spent), added(found[1], over)
    granted: set[int] = set()
    for notes in folder.glob("*.notes"):
        for one in map(json.loads, _lines(notes)):
            granted.update(one.get("granted", ()))
            lost += sum(number not in rows for number in one.get("granted", ()))
            lost += sum(rows[number].state != "settled" for number in one.get("settled", ()))
    balances = {(b.tenant, b.key, b.period, b.start_ns): b for b in accounts.balances(since_ns=0)}
    zero = [(0, 0, 0, 0), (0, 0, 0, 0)]
    unbalanced = sum(
        [named(one) for one in sums.get(place, zero)] != [b.spent, b.overrun] or any(b.reserved.values())
        for place, b in balances.items()
    ) + len(sums.keys() - balances.keys())
    overspent += _overspent(accounts)
    books.close()
    accounts.close()
    return Crashed(
        reservations=reservations,
        granted=len(rows),
        refused=reservations - len(rows),
        kills=kills,
        looks=looks,
        overspent=overspent,
        lost=lost,
        unbalanced=unbalanced,
        wrong=wrong,
        wall_seconds=wall,
        cpu_microseconds=cpu / reservations * 1e6,
    )


def purse(folder: Path, requests: int) -> dict[str, float]:
    """CPU microseconds per request, in one process: reserve and settle in memory, turns with the accounts included."""
    accounts = open_accounts(folder)
    for name in ("limited", "free"):
        set_tenant(accounts, Tenant(name=name))
    accounts.set_budget("limited", "", "tokens", "day", 10**15)
    worst, used = named((1, 1_000, 50, 3)), named((1, 700, 30, 2))

    async def run(tenant: str) -> float:
        mine = AccountPurse(accounts)
        began = time.process_time()
        for n in range(requests):
            name = await mine.reserve(tenant, "key", worst)
            assert name is not None
            mine.settle(name, used)
            if n % 100 == 0:
                await asyncio.sleep(0)
        took = time.process_time() - began
        await mine.close()
        return took / requests * 1e6

    found = {f"{tenant} tenant": asyncio.run(run(tenant)) for tenant in ("limited", "free")}
    spent = accounts.balances(tenant="limited", key="", period="day")[0].spent["tokens"]
    assert spent == requests * 700, spent
    accounts.close()
    return found


def proof(folder: Path, records: int) -> dict[str, float]:
    """Microseconds per record kept, and seconds to prove over all of them."""
    journal = Journal(folder)
    tiers: Callable[[int], Tier] = lambda n: Tier.PREMISES if n % 3 else Tier.DEVICE  # noqa: E731
    began = time.process_time()
    for n in range(records):
        sent = Sent(
            **{"time_ns": time.time_ns(), "request": f"{n:016x}", "tenant": "t", "key": "0" * 64, "tier": tiers(n)},
            **{"label": Label.PREMISES, "server": "box", "model": "1" * 64, "consent": False, "resumed": 0},
            **{"tokens_in": 100, "tokens_out": 50, "used": named((1, 150, 3, 9)), "outcome": "whole"},
        )
        journal.saw(sent)
        if n % 10_000 == 0:
            time.sleep(0.02)
    journal.close()
    kept = (time.process_time() - began) / records * 1e6
    began = time.monotonic()
    found = prove(folder, label=Label.PREMISES, tier=Tier.PREMISES)
    assert found.holds, found.faults
    assert found.records == records
    return {"cpu microseconds per record kept": kept, f"seconds to prove {records}": time.monotonic() - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reservations", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--folder", type=Path, help="on the disk that is asked about [a temporary one]")
    parser.add_argument("--group", type=int, default=500, help="reservations in one transaction")
    parser.add_argument("--groups-to-live", type=float, default=40.0, help="of a process, on average")
    parser.add_argument("--only", choices=("crash", "purse", "proof"))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        place = Path(name)
        if given.only in (None, "crash"):
            report["crash"] = asdict(
                crash(
                    place / "crash",
                    reservations=given.reservations,
                    processes=given.processes,
                    group=given.group,
                    seed=SEED,
                    groups_to_live=given.groups_to_live,
                )
            )
        if given.only in (None, "purse"):
            report["purse, cpu microseconds per reserve and settle"] = purse(place / "purse", 200_000)
        if given.only in (None, "proof"):
            report["proof"] = proof(place / "proof", 100_000)
    report["cpu seconds of all"] = cpu_seconds_here()
    print(json.dumps(report) if given.json else table(report))


if __name__ == "__main__":
    main()
