"""What stands where: devices, datasets, models, releases and turns, read from the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fleetmill import due, lines
from fleetmill.core.custody import LIVED
from fleetmill.home import Home
from fleetmill.receive import roll
from fleetmill.seams.books import day_name


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceStatus:
    """One device: what it runs, signed by itself."""

    name: str
    number: int
    line: str
    hardware: str
    sessions: int
    lived_seconds: float
    running: str  # digest of the model file that its last report names; "": never reported
    release: int  # counter of the last confirmed release
    last_report: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """A home at a glance."""

    facts: int
    waiting: Mapping[str, due.Waiting]  # by line: what its next turn still wants
    devices: tuple[DeviceStatus, ...]
    datasets: tuple[dict[str, Any], ...]
    models: tuple[dict[str, Any], ...]
    releases: tuple[dict[str, Any], ...]
    turns: tuple[dict[str, Any], ...]


def status(home: Home) -> Status:
    """Everything at a glance."""
    ledger = home.ledger
    reports: dict[str, list[dict[str, Any]]] = {}
    for fact in ledger.read(kind="deployment"):
        reports.setdefault(fact.record["report"]["device"], []).append(fact.record["report"])
    sessions = [f.record["manifest"]["device"] for f in ledger.read(kind="session")]
    lived: Counter[int] = Counter()
    for b in home.books.balances():
        if b.account == LIVED:
            lived[b.device] -= b.ns
    return Status(
        facts=ledger.head()[0],
        waiting={name: due.waiting(home, lines.find(name)) for name in due.lines_in_use(home) if name in lines.names()},
        devices=tuple(
            _device(d.name, d.number, d.line, d.hardware, sessions.count(d.name), lived, reports.get(d.name, []))
            for d in roll.devices(ledger)
        ),
        datasets=tuple(
            {
                "digest": f.key,
                "line": f.record["manifest"]["line"],
                "sessions": len(f.record["manifest"]["parts"]),
                "frames": sum(p["rows"] for p in f.record["manifest"]["parts"]),
            }
            for f in ledger.read(kind="dataset")
        ),
        models=tuple({"digest": f.key, **f.record} for f in ledger.read(kind="model")),
        releases=tuple(dict(f.record) for f in ledger.read(kind="release")),
        turns=tuple(dict(f.record) for f in ledger.read(kind="turn_ended")),
    )


def accounts(home: Home) -> list[dict[str, Any]]:
    """The books as rows: device, day, account, reason, seconds, bytes."""
    names = {d.number: d.name for d in roll.devices(home.ledger)}
    return [
        {
            "device": names.get(b.device, str(b.device)),
            "day": day_name(b.day),
            "account": b.account,
            "reason": b.reason,
            "seconds": b.ns / 1e9,
            "ns": b.ns,
            "bytes": b.bytes,
        }
        for b in home.books.balances()
        if b.account != LIVED
    ]


def unreported(home: Home) -> list[dict[str, Any]]:
    """Devices with a journal: until when their lived time is accounted for, and how long ago they said so."""
    heard: dict[int, int] = {f.record["device"]: f.time_ns for f in home.ledger.read(kind="journal")}
    names = {d.number: d.name for d in roll.devices(home.ledger)}
    return [
        {
            "device": names.get(j.device, str(j.device)),
            "lived_until_ns": j.lived_until_ns,
            "heard_seconds_ago": (home.clock() - heard[j.device]) / 1e9,
        }
        for j in home.books.journals()
    ]


def _device(
    name: str,
    number: int,
    line: str,
    hardware: str,
    sessions: int,
    lived: dict[int, int],
    reports: list[dict[str, Any]],
) -> DeviceStatus:
    confirmed = [r["release_counter"] for r in reports if r["state"] == "confirmed"]
    last = reports[-1] if reports else {}
    return DeviceStatus(
        name=name,
        number=number,
        line=line,
        hardware=hardware,
        sessions=sessions,
        lived_seconds=lived.get(number, 0) / 1e9,
        running=str(last.get("running", "")),
        release=max(confirmed, default=0),
        last_report=f"{last.get('state', '')}: {last.get('reason', '')}" if last else "",
    )
