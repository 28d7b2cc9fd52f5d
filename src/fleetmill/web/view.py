"""What a page shows of a home: a fold over its facts, each given once and in order. It reads nothing itself."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from fleetmill.core import canonical
from fleetmill.seams.ledger import Fact
from fleetmill.web.state import Answer, Asked, Clip, Compared, DeviceSeen, FactSeen, LineSeen, Lived, Open, Out

LAST_FACTS = 15
_MANY = ("moved", "refined")  # kinds of which many come in a row


class View:
    """The fold. `take` facts as they come; then read `lines`, `devices`, `facts`, `seq` and `head`."""

    def __init__(self) -> None:
        self.seq, self.head = 0, "0" * 64
        self.lines: dict[str, LineSeen] = {}
        self.devices: dict[str, DeviceSeen] = {}
        self.facts: deque[FactSeen] = deque(maxlen=LAST_FACTS)
        self._numbers: dict[int, str] = {}
        self._cards: dict[str, dict[str, Mapping[str, float]]] = {}  # verdict to be -> model -> metrics

    def take(self, facts: Iterable[Fact]) -> None:
        """Fold facts in."""
        for fact in facts:
            fold = _FOLDS.get(fact.kind)
            if fold is not None:
                fold(self, fact)
            self.seq, self.head = fact.seq, fact.digest
            self._remember(fact)

    def line(self, name: str) -> LineSeen:
        """The line of that name, from now on at least."""
        return self.lines.setdefault(name, LineSeen(name=name))

    def devices_of(self, line: str) -> list[DeviceSeen]:
        """The line's devices, by number."""
        return sorted((d for d in self.devices.values() if d.line == line), key=lambda d: d.number)

    def _remember(self, fact: Fact) -> None:
        """The tail. Postings of a device and cuts of its sessions come by the dozen, and stand on one row."""
        key, first = fact.key, fact.seq
        if fact.kind == "moved":
            key = self._numbers.get(int(fact.record["device"]), fact.key)
        before = self.facts[-1] if self.facts else None
        if before and fact.kind in _MANY and (before.kind, _group(before.key)) == (fact.kind, _group(key)):
            first = self.facts.pop().first
        self.facts.append(
            FactSeen(first=first, last=fact.seq, time_ns=fact.time_ns, kind=fact.kind, key=key, digest=fact.digest)
        )

    def _heard(self, name: str, time_ns: int) -> None:
        if name in self.devices:
            self.devices[name].heard_ns = time_ns

    # -- the fleet --------------------------------------------------------------------------------------------------

    def _invited(self, fact: Fact) -> None:
        r = fact.record
        self.devices[r["name"]] = DeviceSeen(name=r["name"], number=r["number"], line=r["line"])
        self._numbers[r["number"]] = r["name"]
        self.line(r["line"])

    def _device(self, fact: Fact) -> None:
        r = fact.record
        known = self.devices.setdefault(r["name"], DeviceSeen(name=r["name"], number=r["number"], line=r["line"]))
        known.has_key, known.enrolled = bool(r["public_key"]), True
        self._numbers[r["number"]] = r["name"]
        self.line(r["line"])
        self._heard(r["name"], fact.time_ns)

    def _journal(self, fact: Fact) -> None:
        r = fact.record
        self._heard(self._numbers.get(r["device"], ""), fact.time_ns)

    def _recording(self, fact: Fact) -> None:
        r = fact.record
        self._heard(r["device"], fact.time_ns)
        self.line(r["line"]).arriving[f"{r['device']}/{r['session']}"] += 1

    def _session(self, fact: Fact) -> None:
        r = fact.record
        m, line = r["manifest"], self.line(r["manifest"]["line"])
        line.arriving.pop(fact.key, None)
        line.closed += 1
        line.fresh[fact.key] = False
        if m.get("campaign"):
            line.arrived.setdefault(m["campaign"], Counter())[m["device"]] += 1
        self._heard(m["device"], fact.time_ns)
        if (device := self.devices.get(m["device"])) is not None:
            device.sessions += 1
            clips = (Clip(digest=c["digest"], start_ns=c["start_ns"], end_ns=c["end_ns"]) for c in m["recordings"])
            device.lived.append(Lived(key=fact.key, clips=tuple(clips)))

    def _deployment(self, fact: Fact) -> None:
        r = fact.record
        said = r["report"]
        self._heard(said["device"], fact.time_ns)
        if (device := self.devices.get(said["device"])) is not None:
            device.answer = Answer(
                state=said["state"],
                release=said["release_counter"],
                running=said["running"],
                reason=said.get("reason", ""),
                seq=fact.seq,
            )
            device.answers[device.answer.release] = device.answer.state
            if device.answer.state == "confirmed":
                device.confirmed = device.answer

    # -- the loop ---------------------------------------------------------------------------------------------------

    def _campaign(self, fact: Fact) -> None:
        r = fact.record
        line = self.line(r["line"])
        if line.campaign is None or r["number"] >= line.campaign.number:
            digest = canonical.digest(dict(r))
            line.campaign = Asked(number=r["number"], digest=digest, sessions=r["sessions"])
            line.arrived = {digest: line.arrived.get(digest, Counter())}

    def _refined(self, fact: Fact) -> None:
        r = fact.record
        fresh = self.line(r["line"]).fresh
        if r["session"] in fresh:
            fresh[r["session"]] = True

    def _turn_begun(self, fact: Fact) -> None:
        r = fact.record
        self.line(r["line"]).turn = Open(number=r["turn"], sessions=frozenset(r["sessions"]), champion=r["champion"])

    def _dataset(self, fact: Fact) -> None:
        r = fact.record
        line, parts = self.line(r["manifest"]["line"]), r["manifest"]["parts"]
        members, rows = {p["session"] for p in parts}, sum(p["rows"] for p in parts)
        for session in members:
            line.fresh.pop(session, None)
        line.dataset, line.dataset_rows = fact.key, rows
        if line.turn is not None and not line.turn.dataset and members == line.turn.sessions:
            line.turn.dataset, line.turn.rows = fact.key, rows

    def _run(self, fact: Fact) -> None:
        r = fact.record
        line = self.line(r["line"])
        line.model = r["model"]
        if line.turn is not None and r["dataset"] == line.turn.dataset:
            line.turn.model = r["model"]

    def _scorecard(self, fact: Fact) -> None:
        r = fact.record
        self._cards.setdefault(fact.key.rpartition("/")[0], {})[r["model"]] = r["metrics"]

    def _verdict(self, fact: Fact) -> None:
        r = fact.record
        line, number = self.line(r["line"]), int(fact.key.split("/")[-2])
        is_turn = line.turn is not None and line.turn.number == number
        line.compared.append(_compared(fact, line, self._cards.pop(fact.key, {}), number=number, is_turn=is_turn))
        if line.turn is not None and is_turn:
            line.turn.model, line.turn.verdict = r["candidate"], fact.key
        if r["decision"] == "accepted":
            line.accepted[fact.key] = r["candidate"]

    def _decided(self, fact: Fact) -> None:
        r = fact.record
        line = self.line(r["line"])
        if r["word"] == "refused":
            line.accepted.pop(fact.key, None)
            line.compared = [replace(c, decision="refused") if c.key == fact.key else c for c in line.compared]
        else:
            line.approved.add(fact.key)

    def _release(self, fact: Fact) -> None:
        r = fact.record
        line = self.line(r["line"])
        line.accepted.pop(r["verdict"], None)
        line.approved.discard(r["verdict"])
        line.release = Out(number=r["counter"], model=r["model"])

    def _turn_ended(self, fact: Fact) -> None:
        r = fact.record
        line = self.line(r["line"])
        line.turn, line.turns = None, line.turns + 1

    def _entered(self, fact: Fact) -> None:
        r = fact.record
        self.line(r["line"]).entered[fact.key] = r["model"]

    def _examination(self, fact: Fact) -> None:
        r = fact.record
        line = self.line(r["line"])
        line.examined = line.entered.get(fact.key, "")

    def _examined(self, fact: Fact) -> None:
        r = fact.record
        line = self.line(r["line"])
        line.examined = ""
        line.entered.pop(fact.key, None)

    def _findings(self, fact: Fact) -> None:
        r = fact.record
        name, _, turn = fact.key.rpartition("/")
        if turn.isdigit() and isinstance(r.get("document"), str):
            self.line(name).findings[int(turn)] = (r["document"], fact.seq)


def _compared(
    fact: Fact,
    line: LineSeen,
    cards: Mapping[str, Mapping[str, float]],
    *,
    number: int,
    is_turn: bool,
) -> Compared:
    """The headline is the metric of the line's first check; a verdict without reasons still has its scorecards."""
    r = fact.record
    first = next((x for x in r["reasons"] if x["slice"] == "all"), None)
    metric = first["metric"] if first else line.compared[-1].metric if line.compared else ""
    mine, theirs = cards.get(r["candidate"], {}), cards.get(r["champion"] or "baseline", {})
    other = _measured(first["other"] if first else theirs.get(metric))
    return Compared(
        key=fact.key,
        number=number,
        is_turn=is_turn,
        after_turn=line.turns,
        candidate=r["candidate"],
        champion=r["champion"],
        metric=metric,
        better=first["better"] if first else "",
        value=_measured(first["candidate"] if first else mine.get(metric)),
        other=other,
        against="champion" if r["champion"] else "baseline",
        low=_times(first and first["low"], other),
        high=_times(first and first["high"], other),
        decision=r["decision"],
        pairs=r["pairs"],
        seq=fact.seq,
        fact=fact.digest,
    )


def _group(key: str) -> str:
    return key.rpartition("/")[0] or key


def _measured(value: float | None) -> float | None:
    """None for what a verdict calls not measurable (-1) or beyond all bounds."""
    return float(value) if value is not None and value != -1.0 and abs(value) < 1e300 else None


def _times(ratio: float | None, other: float | None) -> float | None:
    found = _measured(ratio)
    return found * other if found is not None and other else None


_FOLDS: Mapping[str, Callable[[View, Fact], None]] = {
    name: getattr(View, f"_{name}")
    for name in (
        "invited",
        "device",
        "journal",
        "recording",
        "session",
        "deployment",
        "campaign",
        "refined",
        "turn_begun",
        "dataset",
        "run",
        "scorecard",
        "verdict",
        "decided",
        "release",
        "turn_ended",
        "entered",
        "examination",
        "examined",
        "findings",
    )
}
