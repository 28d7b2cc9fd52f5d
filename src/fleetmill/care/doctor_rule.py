"""What is wrong with a home, told from what was looked at. Pure: the hand beside it is `doctor`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]
Port = Literal["free", "ours", "silent", "taken"]
_DAY_NS = 86_400 * 10**9
FULL_BYTES, TIGHT_BYTES = 500 * 10**6, 2 * 10**9
SKEW_NS = 60 * 10**9
ROOT_SOON_NS = 60 * _DAY_NS
SILENT_NS = _DAY_NS


@dataclass(frozen=True, kw_only=True, slots=True)
class Symptom:
    """One thing that is not as it should be: how bad, what, where, and what to do."""

    severity: Severity  # error: something does not work; warning: it soon will not; note: good to know
    what: str
    where: str
    do: str


def is_well(symptoms: Sequence[Symptom]) -> bool:
    """Whether nothing has to be done."""
    return all(s.severity == "note" for s in symptoms)


def disk(where: str, *, free_bytes: int) -> list[Symptom]:
    """Is there room for what devices send?"""
    if free_bytes >= TIGHT_BYTES:
        return []
    full = free_bytes < FULL_BYTES
    return [
        Symptom(
            severity="error" if full else "warning",
            what=f"{free_bytes / 10**6:.0f} MB are free" + ("; uploads and turns will be refused" if full else ""),
            where=where,
            do="Free some space, or move the home to a larger disk. fleetmill gc shows what nobody needs",
        )
    ]


def clock(now_ns: int, *, fact_ns: int, file_ns: int, synchronised: bool | None) -> list[Symptom]:
    """Can this host's time be believed? `fact_ns`, `file_ns`: times of the newest fact and of the newest file."""
    found = []
    for severity, what, then_ns in (("error", "fact", fact_ns), ("warning", "file", file_ns)):
        if then_ns - now_ns > SKEW_NS:
            found.append(
                Symptom(
                    severity=severity,  # type: ignore[arg-type]
                    what=f"the clock is {(then_ns - now_ns) / 1e9:.0f} s behind the newest {what}",
                    where="clock",
                    do="Set it, and let NTP keep it: devices refuse requests and lists that are off by minutes",
                )
            )
    if synchronised is False:
        found.append(
            Symptom(
                severity="warning",
                what="the clock is not kept by NTP",
                where="clock",
                do="Switch time synchronisation on, e.g. timedatectl set-ntp true",
            )
        )
    return found


def port(state: Port, *, address: str, owner: str) -> list[Symptom]:
    """Is the address free, or ours? `owner`: the process that holds the home, "": none."""
    if state == "taken":
        return [
            Symptom(
                severity="error",
                what="something else listens there",
                where=address,
                do="Stop it, or choose another port in fleetmill.toml",
            )
        ]
    if owner and state in ("free", "silent"):
        return [
            Symptom(
                severity="warning",
                what=f"process {owner} holds the home, and no factory answers",
                where=address,
                do="If it serves at another address or is an import or a turn by hand, all is well. Else end it",
            )
        ]
    return []


def keys(faults: Mapping[str, str], *, open_to_others: Sequence[str], root_inside: str) -> list[Symptom]:
    """Keys that are lost, are others than root names, that others can read, or that lie where they must not."""
    found = [
        Symptom(
            severity="error",
            what=f"the {role} key that root names is lost or another: nothing can be signed",
            where=why.partition(": ")[0],
            do=f"Bring it back from a copy, or run: fleetmill renew --root-key PATH --replace {role}",
        )
        for role, why in sorted(faults.items())
    ]
    found += [
        Symptom(severity="warning", what="others on this machine can read it", where=path, do=f"Run: chmod go= {path}")
        for path in open_to_others
    ]
    if root_inside:
        found.append(
            Symptom(
                severity="warning",
                what="the root key lies inside the home: who reads the home owns the fleet",
                where=root_inside,
                do="Move it to a medium that you lock away; renew with: fleetmill renew --root-key PATH",
            )
        )
    return found


def expiries(until_ns: Mapping[str, int], *, now_ns: int, is_up: bool) -> list[Symptom]:
    """Signatures that are over, or soon will be. All but root's are renewed by a running factory."""
    found = []
    for role, end_ns in until_ns.items():
        days = (end_ns - now_ns) / _DAY_NS
        if role == "root" and days * _DAY_NS < ROOT_SOON_NS:
            found.append(
                Symptom(
                    severity="error" if days < 0 else "warning",
                    what=f"root expired {-days:.0f} days ago: devices take nothing new"
                    if days < 0
                    else f"root expires in {days:.0f} days; after that devices take nothing new",
                    where="root",
                    do="Bring the root key and run: fleetmill renew --root-key PATH",
                )
            )
        elif days < 0:
            found.append(
                Symptom(
                    severity="error" if is_up else "warning",
                    what=f"the signature of {role} expired {-days:.1f} days ago: devices take nothing new",
                    where=role,
                    do="Look for errors in the factory's log"
                    if is_up
                    else "Start the factory: it signs anew by itself",
                )
            )
    return found


def offers(unknown: Sequence[str], *, turning: bool) -> list[Symptom]:
    """Models in the signed list that no fact knows: a turn was killed between the two, or somebody has the keys."""
    return [
        Symptom(
            severity="warning" if turning else "error",
            what="the signed list offers a model that no release in the ledger knows",
            where=path,
            do="The turn that is in progress enters it: start the factory"
            if turning
            else "If nobody can explain it, keys were stolen: fleetmill renew --root-key PATH --replace targets "
            "--replace snapshot --replace timestamp, then turn or release again",
        )
        for path in unknown
    ]


def lines(unknown: Sequence[str], missing: Mapping[str, Sequence[str]]) -> list[Symptom]:
    """Lines in use that are not installed, and extras (name -> libraries) that those in use lack."""
    found = [
        Symptom(
            severity="error",
            what="a line in use is not installed",
            where=name,
            do="Install the package that brings it, or correct its name in fleetmill.toml",
        )
        for name in unknown
    ]
    return found + [
        Symptom(
            severity="error",
            what=f"not installed: {', '.join(libraries)}",
            where=f"extra {extra}",
            do=f"Run: pip install 'fleetmill[{extra}]'",
        )
        for extra, libraries in sorted(missing.items())
    ]


def ledger(broken: str, faults: Sequence[str], lost: Sequence[str]) -> list[Symptom]:
    """A chain that does not hold, books that do not balance, blobs that facts name and nobody has."""
    restore = "Restore the home from a copy"
    found = [Symptom(severity="error", what=broken, where="ledger.db", do=restore)] if broken else []
    found += [Symptom(severity="error", what=fault, where="books", do=restore) for fault in faults[:20]]
    return found + [
        Symptom(severity="error", what="a blob that a fact names is gone", where=name, do=restore) for name in lost[:20]
    ]


def form(found: int, newest: int, tables: tuple[str, str]) -> list[Symptom]:
    """A home of an older format, or an upgrade that was cut short."""
    if (found, tables[0]) == (newest, tables[1]):
        return []
    what = f"format {found}, tables at revision {tables[0]}; today's are {newest} and {tables[1]}"
    return [Symptom(severity="warning", what=what, where="home.json", do="Stop the factory and run: fleetmill upgrade")]


def remains(leftovers: Sequence[str], turns: Sequence[str], *, is_up: bool) -> list[Symptom]:
    """What was interrupted: half-written files, and turns that began and did not end."""
    found = []
    if leftovers:
        found.append(
            Symptom(
                severity="note",
                what=f"{len(leftovers)} half-written files of something that was killed",
                where=leftovers[0],
                do="Run: fleetmill gc --delete",
            )
        )
    if not is_up:
        found += [
            Symptom(
                severity="note",
                what="this turn was interrupted",
                where=turn,
                do="It goes on where it was when the factory runs: fleetmill up",
            )
            for turn in turns
        ]
    return found


def silence(heard_ns: Mapping[str, int], *, now_ns: int) -> list[Symptom]:
    """Devices that have not said for a day what they lived. `heard_ns`: when each last did, or was enrolled."""
    return [
        Symptom(
            severity="warning",
            what=f"has not reported for {(now_ns - then) / 3.6e12:.0f} hours: what it lived since is in no account",
            where=f"device {name}",
            do="Is it on, and does it reach the factory? Its own log says why not",
        )
        for name, then in sorted(heard_ns.items())
        if now_ns - then > SILENT_NS
    ]
