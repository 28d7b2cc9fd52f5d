"""Every number of a report: made from a fact by a named rule, so that anybody can make it again.

A rule is given what the home holds, the fact and its arguments; nothing that it gives depends on facts that came later.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from fleetmill import lines
from fleetmill.core import canonical
from fleetmill.core.errors import FleetmillError, InvalidInputError, NotFoundError
from fleetmill.core.line import Line
from fleetmill.demo import answers, measure, timing
from fleetmill.home import Home
from fleetmill.judge.gate import written
from fleetmill.seams.books import Balance
from fleetmill.seams.ledger import Fact
from fleetmill.web.number import Number

Value = float | int
Args = Mapping[str, Any]


@dataclass(kw_only=True)
class Source:
    """A home as the rules see it: all its facts, read once, and its blobs."""

    home: Home
    facts: list[Fact] = field(default_factory=list)
    _balances: dict[int, list[Balance]] = field(default_factory=dict)
    _pooled: dict[str, Mapping[str, float]] = field(default_factory=dict)

    @cached_property
    def by_digest(self) -> dict[str, Fact]:
        """Facts by their digest."""
        return {f.digest: f for f in self.facts}

    def one(self, kind: str, key: str) -> Fact:
        """A fact by its name."""
        found = next((f for f in self.facts if (f.kind, f.key) == (kind, key)), None)
        if found is None:
            raise InvalidInputError(f"no fact {kind} {key}: the report is of another home")
        return found

    def balances(self, seq: int) -> list[Balance]:
        """The books as they stood at a fact."""
        if seq not in self._balances:
            self._balances[seq] = self.home.books.balances_at(seq)
        return self._balances[seq]

    def once(self, name: str, make: Callable[[], Mapping[str, float]]) -> Mapping[str, float]:
        """What `make` gives: it is made once, since a bootstrap takes its time."""
        if name not in self._pooled:
            self._pooled[name] = make()
        return self._pooled[name]

    def number(self, fact: Fact, rule: str, form: str, **args: Any) -> Number:
        """The number that `rule` makes of `fact`, as text in `form` (a format specification, e.g. ``.3g``)."""
        return self.again(fact.digest, rule, json.dumps({"form": form, **args}, sort_keys=True))

    def said(self, fact: Fact, *path: str | int) -> Number:
        """Words that stand in the fact; as a number they are the fact's own."""
        return self.number(fact, "said", "", path=list(path))

    def finding(self, fact: Fact, at: int) -> Number:
        """A finding's sentence."""
        return self.number(fact, "finding", "", at=at)

    def findings(self, fact: Fact) -> list[Mapping[str, Any]]:
        """What the document says that a `findings` fact names."""
        found: list[Mapping[str, Any]] = canonical.loads(self.home.blobs.get(fact.record["document"]))["findings"]
        return found

    def metrics(self, fact: Fact) -> Mapping[str, float]:
        """All metrics of a `measured` fact, pooled from its tallies."""
        blobs = self.home.blobs
        return self.once(fact.digest, lambda: measure.metrics(_line(fact), measure.side(blobs, fact)))

    def again(self, fact: str, rule: str, args: str) -> Number:
        """Make a number by what a page says of it.

        Raises:
            InvalidInputError: no such fact or rule here.
        """
        if fact not in self.by_digest:
            raise InvalidInputError(
                f"no fact has the digest {fact[:16]}: the report is of another home, or was changed"
            )
        if rule not in RULES:
            raise InvalidInputError(f"no rule is called {rule!r}: the report is of another version, or was changed")
        asked = json.loads(args)
        found = RULES[rule](self, self.by_digest[fact], asked)
        value, text = (
            (self.by_digest[fact].seq, found) if isinstance(found, str) else (found, written(found, asked["form"]))
        )
        return Number(text=text, value=value, fact=fact, rule=rule, args=args)


def open_source(home: Home) -> Source:
    """The home's facts, its chain walked first.

    Raises:
        IntegrityError: the chain is broken.
    """
    home.ledger.verify()
    return Source(home=home, facts=list(home.ledger.read()))


def _line(fact: Fact) -> Line:
    return lines.find(fact.record["line"])


def _scaled(value: Value, args: Args) -> Value:
    scale: Value = args.get("scale", 1)
    return value * scale


def _at(fact: Fact, args: Args) -> Any:
    """What stands at `path` in the fact's record."""
    found: Any = fact.record
    for step in args["path"]:
        found = found[step]
    return found


def _seq(source: Source, fact: Fact, args: Args) -> Value:  # noqa: ARG001
    return fact.seq


def _record(source: Source, fact: Fact, args: Args) -> Value:  # noqa: ARG001
    """A number that stands in the fact, `path` into its record, times `scale`."""
    return _scaled(_at(fact, args), args)


def _said(source: Source, fact: Fact, args: Args) -> str:  # noqa: ARG001
    return str(_at(fact, args))


def _finding(source: Source, fact: Fact, args: Args) -> str:
    return str(source.findings(fact)[args["at"]]["sentence"])


def _world(source: Source, fact: Fact, args: Args) -> Value:
    """Seed of the median or the worst world by the model's own headline there; ties go to the lower seed."""
    return measure.world(_line(fact), measure.side(source.home.blobs, fact), fact.record["first_seed"], args["which"])


def _length(source: Source, fact: Fact, args: Args) -> Value:  # noqa: ARG001
    return len(_at(fact, args))


def _metric(source: Source, fact: Fact, args: Args) -> Value:
    """Pooled again from the tallies that the fact names."""
    return source.metrics(fact).get(args["name"], 0.0)


def _audit(source: Source, fact: Fact, args: Args) -> Value:
    """A share of an `audited` fact, or an end of its interval, from the tallies that it names."""
    made = source.once(f"audit/{fact.digest}", lambda: answers.metrics(source.home.blobs, fact))
    return _scaled(made.get(args["name"], 0.0), args)


def _ratio(source: Source, fact: Fact, args: Args) -> Value:
    """The fleet's headline over another's, the bootstrap done again; `other`: key of that measurement."""
    other = source.one("measured", args["other"])
    blobs = source.home.blobs

    def compared() -> Mapping[str, float]:
        return measure.compare(_line(fact), measure.side(blobs, fact), measure.side(blobs, other))

    return source.once(f"{fact.digest}/{other.digest}", compared)[args["name"]]


def _generation(source: Source, fact: Fact, args: Args) -> Value:
    """Bytes and sessions that were new in the turn that `fact` ended."""
    manifests = new_manifests(source.facts, fact)
    found = {
        "sessions": len(manifests),
        "recorded_bytes": sum(m["recorded_bytes"] for m in manifests),
        "uploaded_bytes": sum(r["bytes"] for m in manifests for r in m["recordings"]),
        "kept_ratio": sum(r["bytes"] for m in manifests for r in m["recordings"])
        / max(sum(m["recorded_bytes"] for m in manifests), 1),
    }
    return _scaled(found[args["name"]], args)


def _stage(source: Source, fact: Fact, args: Args) -> Value:
    """Seconds of a stage of the turn that `fact` ended; without a stage: of all."""
    found = timing.stages(source.facts, fact.record["line"], fact.record["turn"])
    return found[args["stage"]] if "stage" in args else sum(found.values())


def _loop_seconds(source: Source, fact: Fact, args: Args) -> Value:  # noqa: ARG001
    return timing.total([f for f in source.facts if f.seq <= fact.seq], fact.record["line"])


def _balance(source: Source, fact: Fact, args: Args) -> Value:
    """What an account held when `fact` was the ledger's last: its postings summed up again."""
    rows = source.balances(fact.seq)
    held = sum(getattr(r, args["what"]) for r in rows if (r.account, r.reason) == (args["account"], args["reason"]))
    return _scaled(held, args)


def _seconds_between(source: Source, fact: Fact, args: Args) -> Value:
    """From the fact with the digest `since` to this one."""
    return (fact.time_ns - source.by_digest[args["since"]].time_ns) / 1e9


RULES: dict[str, Callable[[Source, Fact, Args], Value | str]] = {
    "seq": _seq,
    "record": _record,
    "said": _said,
    "finding": _finding,
    "world": _world,
    "length": _length,
    "metric": _metric,
    "ratio": _ratio,
    "audit": _audit,
    "generation": _generation,
    "stage": _stage,
    "loop_seconds": _loop_seconds,
    "balance": _balance,
    "seconds_between": _seconds_between,
}


def new_manifests(facts: Sequence[Fact], ended: Fact) -> list[Mapping[str, Any]]:
    """Manifests of the sessions that a turn took and the turn before had not."""
    line, number = ended.record["line"], ended.record["turn"]
    taken: dict[int, set[str]] = {
        f.record["turn"]: set(f.record["sessions"])
        for f in facts
        if f.kind == "turn_begun" and f.record["line"] == line
    }
    new = taken.get(number, set()) - taken.get(number - 1, set())
    return [f.record["manifest"] for f in facts if f.kind == "session" and f.key in new]


class _Reader(HTMLParser):
    """Collects a page's numbers, and words with digits that have no source."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[tuple[dict[str, str], str]] = []
        self.unsourced: list[str] = []
        self._open: list[str] = []
        self._number: dict[str, str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A number begins, or a part in which digits are no figures."""
        if tag not in _VOID:
            self._open.append(tag)
        if tag == "data":
            self._number = {k: v or "" for k, v in attrs}
            self.numbers.append((self._number, ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element without content holds no number."""

    def handle_endtag(self, tag: str) -> None:
        """It ends."""
        if tag in self._open:
            while self._open.pop() != tag:
                pass
        if tag == "data":
            self._number = None

    def handle_data(self, data: str) -> None:
        """Words."""
        if self._number is not None:
            self.numbers[-1] = (self._number, self.numbers[-1][1] + data)
        elif any(c.isdigit() for c in data) and not set(self._open) & _NO_FIGURES:
            self.unsourced.append(data.strip())


_VOID = {"meta", "link", "img", "br", "hr", "input"}
_NO_FIGURES = {"code", "style", "svg", "title"}  # digests and commands; a chart's scale, whose points stand in a table


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """What became of a page's numbers."""

    numbers: int
    facts: int  # different facts that they cite
    faults: tuple[str, ...]


def read_page(file: Path) -> str:
    """A page's text.

    Raises:
        NotFoundError: no such file.
        InvalidInputError: it is no text.
    """
    try:
        return file.read_text()
    except FileNotFoundError as error:
        raise NotFoundError(f"{file}: no such file. Give the report.html that a demo wrote") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{file}: cannot be read as a page. Give the report.html of a demo") from error


def verify(html: str, home: Home) -> Checked:
    """Make every number of a page again from the home's facts.

    Raises:
        IntegrityError: the home's own chain is broken.
    """
    source, reader, faults = open_source(home), _Reader(), []
    reader.feed(html)
    for words in reader.unsourced:
        faults.append(f"{words[:80]!r}: digits without a source")
    for said, text in reader.numbers:
        try:
            made = source.again(said.get("data-fact", ""), said.get("data-rule", ""), said.get("data-args", "{}"))
        except (FleetmillError, KeyError, IndexError, TypeError, ValueError) as error:
            faults.append(f"{text!r}: {error}")
            continue
        if (made.text, str(made.value)) != (text, said.get("value", "")):
            faults.append(
                f"{text!r} ({said.get('data-rule')} of fact {said.get('data-fact', '')[:12]}): is {made.text!r}"
            )
    if not reader.numbers:
        faults.append("there is no number in it: this is no report of a demo")
    cited = {said.get("data-fact", "") for said, _ in reader.numbers}
    return Checked(numbers=len(reader.numbers), facts=len(cited), faults=tuple(faults))
