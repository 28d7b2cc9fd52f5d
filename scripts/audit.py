"""Count what was lived without the product's help, and compare it with the books that it keeps.

Usage: python scripts/audit.py DEMO_FOLDER --period-ns N

Imports nothing of the product: it reads the simulators' own logs, opens every recording with the reference MCAP
library, reads the ledger's table of facts, and prints the same balance as `fleetmill books`. Exit code 1 when they do
not agree. After a crash a device may be wrong by at most 100 ms about what it lived last, and says so; of an instant
that had begun and was not durable yet the books hold these 100 ms, and a simulator counts the whole.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sqlite3
import sys
from collections import defaultdict
from pathlib import Path

from mcap.reader import make_reader

CRASH_NS = 100_000_000


def simulator_ns(log: Path, period_ns: int) -> int:
    """What the simulated machine itself says it lived: every instant that it began lasts one period."""
    lines = log.read_text().splitlines() if log.exists() else []
    return period_ns * sum(not line.startswith("begin") for line in lines)


def may_differ_ns(crashes: int, period_ns: int) -> int:
    """By how much books and simulator may differ: per crash 100 ms, or what is left of an instant that lasts long."""
    return crashes * max(CRASH_NS, period_ns - CRASH_NS)


def facts(home: Path) -> list[tuple[str, dict]]:
    """(kind, record) of every fact, its chain of digests walked."""
    table = sqlite3.connect(f"file:{home / 'ledger.db'}?mode=ro", uri=True)
    found, prev = [], bytes(32)
    for seq, time_ns, kind, key, record, before, digest in table.execute(
        "SELECT seq, time_ns, kind, key, record, prev, digest FROM fact ORDER BY seq"
    ):
        head = json.dumps([seq, time_ns, kind, key, prev.hex()], separators=(",", ":"), ensure_ascii=False).encode()
        if bytes(before) != prev or hashlib.sha256(head + b"\n" + record.encode()).digest() != bytes(digest):
            sys.exit(f"audit: fact {seq} does not follow from the one before")
        prev = bytes(digest)
        found.append((kind, json.loads(record)))
    return found


def balance(moved: list[dict]) -> dict[tuple[int, str, str], int]:
    """ns by device, account and reason: each posting moves an interval; what it moves is found by its edges."""
    where: dict[int, list[tuple[int, int, str, str]]] = defaultdict(list)
    for p in moved:
        a, b, pieces = p["start_ns"], p["end_ns"], []
        for start, end, account, reason in where[p["device"]]:
            for x, y in ((start, min(end, a)), (max(start, b), end)):
                if x < y:
                    pieces.append((x, y, account, reason))
        where[p["device"]] = [*pieces, (a, b, p["to"], p["reason"])]
    found: dict[tuple[int, str, str], int] = defaultdict(int)
    for device, pieces in where.items():
        for start, end, account, reason in pieces:
            found[device, account, reason] += end - start
    return found


def recorded_ns(home: Path, digest: str) -> int:
    """Length of a recording by its own metadata, after reading every message of it with the reference library."""
    path = home / "blobs" / digest[:2] / digest
    if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        sys.exit(f"audit: {path} is not what its name says")
    with path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        meta = next(m.metadata for m in reader.iter_metadata() if m.name == "fleet")
        start, end = int(meta["start_ns"]), int(meta["end_ns"])
        for _, _, message in reader.iter_messages():
            if not start <= message.log_time < end:
                sys.exit(f"audit: {path} holds a message outside its interval")
    return end - start


def main() -> int:
    """Print the balance and the verdict."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--period-ns", type=int, required=True)
    asked = parser.parse_args()
    found = facts(asked.folder / "home")
    moved = [record for kind, record in found if kind == "moved"]
    names = {r["number"]: r["name"] for kind, r in found if kind == "device"}
    rows = balance(moved)
    faults, lived_ns, crashes = [], 0, 0
    for number, name in sorted(names.items()):
        books = sum(ns for (device, _, _), ns in rows.items() if device == number)
        crashed = sum(p["device"] == number and p["reason"] == "crash" for p in moved)
        meter = simulator_ns(asked.folder / "devices" / name / "simulator.log", asked.period_ns)
        if abs(books - meter) > may_differ_ns(crashed, asked.period_ns):
            faults.append(f"{name}: the simulator lived {meter / 1e9:.3f} s, the books hold {books / 1e9:.3f} s")
        lived_ns, crashes = lived_ns + meter, crashes + crashed
    factory = sum(ns for (_, account, _), ns in rows.items() if account in ("landed", "refined", "left_out"))
    files = sum(recorded_ns(asked.folder / "home", r["digest"]) for kind, r in found if kind == "recording")
    if factory != files:
        faults.append(f"the factory's accounts hold {factory / 1e9:.3f} s, its recordings {files / 1e9:.3f} s")
    for (number, account, reason), ns in sorted(rows.items()):
        print(f"{names.get(number, number)}  {account:10} {reason:14} {ns / 1e9:10.3f} s")
    for fault in faults:
        print(f"audit: DISAGREES: {fault}")
    if not faults:
        print(
            f"audit: agrees: {lived_ns / 1e9:.3f} s lived by {len(names)} simulators, {crashes} crashes, "
            f"{files / 1e9:.3f} s in recordings, {len(found)} facts in one chain"
        )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
