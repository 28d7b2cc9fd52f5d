"""The report as a page: sections in which every number comes from a fact by a rule (`numbers`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fleetmill.core.line import Line
from fleetmill.demo import answers_page, measure, report, timing
from fleetmill.demo.life import Life
from fleetmill.demo.numbers import Source
from fleetmill.seams.ledger import Fact
from fleetmill.web.chart import Band, Chart, Point, Series
from fleetmill.web.number import Link, Piece, Text, code, mark
from fleetmill.web.page import render_report
from fleetmill.web.report import Column, Drawing, Listing, Opening, Picture, Section, Table

MEDIAN, WORST = "report-median.gif", "report-worst.gif"
_N, _LONG = True, True


def page(source: Source, line: Line, *, film: tuple[bytes, bytes], life: Life | None) -> str:
    """The self-contained page; `film`: a GIF and its first picture. The films of two other worlds lie beside it."""
    sections: list[Section] = [
        _curve(source, line),
        _generations(source, line),
        *answers_page.sections(source, line),
        *_replayed(source, line),
        *_accidents(source, line),
        *_film(source, line, film),
        *_life(source, life),
        _verdicts(source, line),
        *_findings(source, line),
        _stages(source, line),
        _books(source, line),
        Listing(id="not", title="What this does not show", items=report.shows_not(_demo(source, line))),
    ]
    return render_report(_opening(source, line), sections)


def _opening(source: Source, line: Line) -> Opening:
    demo, last, control = source.one("demo", line.name), _measured(source, line)[-1], _control(source, line)
    name = measure.headline(line).replace("_", " ")
    first = _measured(source, line)[0]
    return Opening(
        title=f"{line.name}: what the fleet's own experience was worth",
        facts=(
            ("seed", _said(source, demo, "seed")),
            ("devices", _said(source, demo, "devices")),
            ("generations", _said(source, demo, "generations")),
            ("facts", source.number(demo, "seq", "d")),
            ("head of the ledger", code(demo.digest[:12])),
        ),
        headline=[
            f"{name}: ",
            *_ratio(source, last, control.key, "fleet"),
            " against ",
            *_ratio(source, last, control.key, "other"),
            " for a control with the same trainer, steps and augmentation on the first data alone: ratio ",
            *_interval(source, last, control.key),
        ],
        lead=(
            ["Against the first generation's own model: ratio ", *_interval(source, last, first.key), "."],
            ["Each number carries the digest of its fact. To make them all again: ",
             code("fleetmill report --verify report.html")],
        ),
        footer=["Made from the facts of one home. Books and ", source.said(demo, "audit", "line")],
    )  # fmt: skip


def _curve(source: Source, line: Line) -> Drawing:
    control, pooled = _control(source, line), {}
    for fact in (*_measured(source, line), control):
        pooled[fact.digest] = {n: source.number(fact, "metric", ".3g", name=n) for n in _names(line)}
    points = []
    for fact, ended in zip(_measured(source, line), _ended(source, line), strict=True):
        found = pooled[fact.digest]
        held = "" if ended.record["release"] else ended.record["decision"].replace("_", " ")
        points.append(
            Point(
                x=float(ended.record["turn"]),
                y=found[measure.headline(line)].value,
                low=found["ci_low"].value,
                high=found["ci_high"].value,
                note=held,
                said=_with_interval(found, line),
                at=source.number(ended, "record", "d", path=["turn"]),
            )
        )
    level = pooled[control.digest]
    name = measure.headline(line).replace("_", " ")
    return Drawing(
        id="curve",
        title="The growing curve",
        chart=Chart(
            id="curve-chart",
            title=f"{name} of the model that the fleet runs after each generation",
            description=f"{name} by generation, {report.better(line)} is better, with the control as a level",
            x_label="generation",
            y_label=name,
            series=(Series(name="model that the fleet runs", points=tuple(points)),),
            bands=(
                Band(
                    name="control: same steps, first data only",
                    y=level[measure.headline(line)].value,
                    low=level["ci_low"].value,
                    high=level["ci_high"].value,
                    said=_with_interval(level, line),
                ),
            ),
        ),
        caption=[
            "On ",
            source.number(control, "record", "d", path=["worlds"]),
            " recorded sessions" if _is_replayed(source, line) else " worlds",
            " that nothing else uses. Bars and band: bootstrap interval over them.",
        ],
    )


def _generations(source: Source, line: Line) -> Table:
    first = measure.headline(line)
    metrics = [first, *(n for n in source.metrics(_control(source, line)) if n not in (first, "ci_low", "ci_high"))]
    columns = [
        Column(label="generation"),
        *(Column(label=_called(m), is_number=_N, is_name=_has_digits(m)) for m in metrics),
        Column(label="gate"),
        *(Column(label=n, is_number=_N) for n in ("release", "sessions", "recorded MB", "kept %")),
        Column(label="label rows", is_long=_LONG),
    ]
    rows: list[tuple[Text, ...]] = []
    for fact, ended in zip(_measured(source, line), _ended(source, line), strict=True):
        accepted = bool(ended.record["release"])
        rows.append(
            (
                source.number(ended, "record", "d", path=["turn"]),
                *(source.number(fact, "metric", ".3g", name=m) for m in metrics),
                mark(ended.record["decision"].replace("_", " "), "good" if accepted else "open"),
                source.number(ended, "record", "d", path=["release"]) if accepted else "",
                source.number(ended, "generation", "d", name="sessions"),
                source.number(ended, "generation", ".1f", name="recorded_bytes", scale=1e-6),
                source.number(ended, "generation", ".0f", name="kept_ratio", scale=100),
                _label_rows(source, source.one("model", ended.record["candidate"])),
            )
        )
    control = _control(source, line)
    alone = [source.number(control, "metric", ".3g", name=m) for m in metrics]
    rows.append(("control", *alone, "", "", "", "", "", "as many trainings, on the first data alone"))
    for naive in (f for f in source.facts if (f.kind, f.key) == ("measured", f"{line.name}/{measure.BASELINE}")):
        simple = [source.number(naive, "metric", ".3g", name=m) for m in metrics]
        rows.append(("baseline", *simple, "", "", "", "", "", "the line's own, fitted on the last data"))
    return Table(id="generations", title="Generations", columns=tuple(columns), rows=tuple(rows))


def _replayed(source: Source, line: Line) -> Iterator[Section]:
    demo, told = source.one("demo", line.name), _demo(source, line).get("replayed", {})
    if not told:
        return

    def said(name: str) -> Piece:
        return source.number(demo, "record", "d", path=["replayed", name])

    asked = "what comes later at the same machines" if told["held_out"] == "time" else "machines that no device gets"
    yield Table(
        id="replayed",
        title="The recordings",
        columns=(
            Column(label="whose"),
            Column(label="sessions", is_number=_N),
            Column(label="instants", is_number=_N),
        ),
        rows=(
            ("replayed by the fleet", said("fleet_sessions"), said("fleet_instants")),
            (f"asked about by the report: {asked}", said("report_sessions"), said("report_instants")),
            ("not needed", said("spare_sessions"), ""),
            ("left out: too short", said("short_sessions"), ""),
        ),
        note=["Made up by the line. " if told["made_up"] else "", "Of ", said("machines"), " recorded machines."],
    )


def _label_rows(source: Source, model: Fact) -> list[Piece]:
    found: list[Piece] = []
    for name in report.label_rows(model):
        found += [f"{name} ", source.number(model, "record", ".0f", path=["metrics", f"rows.{name}"]), " "]
    return found


def _accidents(source: Source, line: Line) -> Iterator[Section]:
    done = [f for f in source.facts if f.kind == "accident" and f.record["line"] == line.name]
    rows = tuple(_accident(source, fact) for fact in sorted(done, key=lambda f: f.seq))
    if rows:
        names = ("what was done", "what is promised", "what happened", "facts", "checked")
        yield Table(
            id="accidents",
            title="Accidents and attacks",
            columns=tuple(Column(label=n, is_long=n.startswith("what")) for n in names),
            rows=rows,
            note="At moments that follow from the seed. Chain and books are checked at the end of each.",
        )


def _accident(source: Source, fact: Fact) -> tuple[Text, ...]:
    end = source.one("accident_ended", fact.key)
    marks = {None: mark("never came up", "open"), True: mark("as promised", "good")}
    where = source.said(fact, "device") if fact.record["device"] else "the factory"
    turn = source.number(fact, "record", "d", path=["generation"])
    cited: list[Piece] = [source.number(fact, "seq", "d")]
    for at in range(len(end.record["facts"])):
        cited += [", ", source.number(end, "record", "d", path=["facts", at])]
    chain, faults = (
        source.number(end, rule, "d", path=[name]) for rule, name in (("record", "chain"), ("length", "faults"))
    )
    return (
        [f"{fact.record['what']}, ", where, ", generation ", turn, ": ", source.said(fact, "done")],
        source.said(fact, "promise"),
        [marks.get(end.record["kept"], mark("NOT AS PROMISED", "bad")), ": ", source.said(end, "sentence")],
        cited,
        [chain, " facts in the chain, ", faults, " faults in the books"],
    )


def _film(source: Source, line: Line, film: tuple[bytes, bytes]) -> Iterator[Section]:
    if not film[0]:
        return
    last = _measured(source, line)[-1]
    seed = source.number(last, "record", "d", path=["first_seed"])
    yield Picture(
        id="film",
        title="The first report world, twice",
        data=film[0],
        still=film[1],
        alt="Left: the first generation's model. Right: the one that the fleet runs. In a red frame a person holds it.",
        caption=[
            "World ",
            seed,
            ": the first by number, not by its looks. By the same rule: ",
            Link(text="the median world", href=MEDIAN),
            " (",
            source.number(last, "world", "d", which="median"),
            ") and ",
            Link(text="the worst", href=WORST),
            " (",
            source.number(last, "world", "d", which="worst"),
            "), by the fielded model's own figure, beside this file.",
        ],
    )


def _life(source: Source, life: Life | None) -> Iterator[Section]:
    if life is None:
        return
    recording = life.stations[0].fact
    learned = {
        "train": "It was learned from.",
        "validation": "It helped to choose the weights.",
        "held_out": "It was held out: models are judged on it, none learns from it.",
    }[life.role]
    yield Picture(
        id="failure",
        title="One failure's life: the first takeover of the first device",
        data=life.sheet,
        alt=f"Pictures around the first takeover of {life.device}",
        caption=[
            "Device ",
            source.said(recording, "device"),
            ", session ",
            source.said(recording, "session"),
            ". ",
            learned,
        ],
    )
    rows: list[tuple[Text, ...]] = []
    before: Fact | None = None
    for station in life.stations:
        passed = source.number(station.fact, "seconds_between", ".2f", since=before.digest) if before else ""
        what: Text = [f"{station.what} ", code(station.subject)]
        rows.append((what, source.number(station.fact, "seq", "d"), passed, code(station.fact.digest[:12])))
        before = station.fact
    yield Table(
        id="life",
        title="From that moment to every device",
        columns=(
            Column(label="station"),
            Column(label="ledger number", is_number=_N),
            Column(label="seconds since the one before", is_number=_N),
            Column(label="digest"),
        ),
        rows=tuple(rows),
        note="Confirmations are in the order in which they came; the device's own clock plays no part.",
    )


def _verdicts(source: Source, line: Line) -> Table:
    rows: list[tuple[Text, ...]] = []
    for fact in (f for f in source.facts if f.kind == "verdict" and f.record["line"] == line.name):
        good = fact.record["decision"] == "accepted"
        for at, reason in enumerate(fact.record["reasons"]):
            path: list[Any] = ["reasons", at]
            number = {
                n: source.number(fact, "record", ".3g", path=[*path, n])
                for n in ("candidate", "other", "ratio", "low", "high", "limit", "pairs")
            }
            alone = reason["rule"] == "limit"  # what the other side has is beside the point
            ratio: Text = "" if alone else [number["ratio"], " [", number["low"], ", ", number["high"], "]"]
            rows.append(
                (
                    source.number(fact, "seq", "d"),
                    code(fact.record["candidate"][:8]),
                    mark(fact.record["decision"].replace("_", " "), "good" if good else "open"),
                    mark("met" if reason["met"] else "not met", "good" if reason["met"] else "bad"),
                    code(reason["metric"]) if _has_digits(reason["metric"]) else _called(reason["metric"]),
                    number["candidate"],
                    ["its limit"] if alone else [f"{reason['against']} ", number["other"]],
                    ratio,
                    [number["limit"], " on the value" if alone else f" on the {reason['rule']}"],
                    number["pairs"],
                )
            )
    names = ("candidate", "decision", "check", "metric", "value", "against", "ratio", "limit", "pairs")
    return Table(
        id="verdicts",
        title="Verdicts",
        columns=(
            Column(label="fact", is_number=_N),
            *(Column(label=n, is_number=n in ("value", "against", "ratio", "limit", "pairs")) for n in names),
        ),
        rows=tuple(rows),
        note="The gate errs at times; how often, simulated, stands in docs/gate.md.",
    )


def _findings(source: Source, line: Line) -> Iterator[Section]:
    kept = [f for f in source.facts if f.kind == "findings" and f.record["line"] == line.name]
    if kept:
        last = kept[-1]
        items = tuple(source.finding(last, at) for at in range(len(source.findings(last))))
        yield Listing(id="findings", title="What the factory learned about the fleet in the last turn", items=items)


def _stages(source: Source, line: Line) -> Table:
    demo, rows = source.one("demo", line.name), []
    for ended in _ended(source, line):
        stages = [source.number(ended, "stage", ".1f", stage=s) for s in timing.STAGES]
        rows.append((source.number(ended, "record", "d", path=["turn"]), *stages, source.number(ended, "stage", ".1f")))
    return Table(
        id="time",
        title="Where the time went",
        columns=tuple(Column(label=n, is_number=_N) for n in ("generation", *timing.STAGES, "sum")),
        rows=tuple(rows),
        note=[
            "Seconds, from fact times alone. The loop took ",
            source.number(demo, "loop_seconds", ".1f"),
            " s; all processes together used ",
            source.number(demo, "record", ".0f", path=["cpu_seconds"]),
            " CPU-seconds in ",
            source.number(demo, "record", ".0f", path=["wall_seconds"]),
            " s.",
        ],
    )


def _books(source: Source, line: Line) -> Table:
    demo = source.one("demo", line.name)
    held = sorted({(b.account, b.reason) for b in source.balances(demo.seq) if b.account != "lived"})
    rows: list[tuple[Text, ...]] = [
        (
            account + (f" ({reason.replace('_', ' ')})" if reason else ""),
            source.number(demo, "balance", ".2f", account=account, reason=reason, what="ns", scale=1e-9),
            source.number(demo, "balance", ".2f", account=account, reason=reason, what="bytes", scale=1e-6),
        )
        for account, reason in held
    ]
    return Table(
        id="books",
        title="Books",
        columns=(Column(label="account"), Column(label="seconds", is_number=_N), Column(label="MB", is_number=_N)),
        rows=tuple(rows),
        note=["Every lived second is in exactly one account. ", source.said(demo, "audit", "line")],
    )


def _is_replayed(source: Source, line: Line) -> bool:
    return bool(_demo(source, line).get("replayed"))


def _demo(source: Source, line: Line) -> Mapping[str, Any]:
    return source.one("demo", line.name).record


def _called(metric: str) -> str:
    return metric if _has_digits(metric) else metric.replace("_", " ")


def _has_digits(metric: str) -> bool:
    """Such a metric stands as code, as the line calls it: every other digit of a report has its source."""
    return any(c.isdigit() for c in metric)


def _names(line: Line) -> list[str]:
    return [measure.headline(line), "ci_low", "ci_high"]


def _with_interval(found: dict[str, Any], line: Line) -> list[Piece]:
    return [found[measure.headline(line)], " [", found["ci_low"], ", ", found["ci_high"], "]"]


def _ratio(source: Source, fact: Fact, other: str, name: str) -> list[Piece]:
    return [source.number(fact, "ratio", ".3g", other=other, name=name)]


def _interval(source: Source, fact: Fact, other: str) -> list[Piece]:
    ratio, low, high = (
        source.number(fact, "ratio", ".2f", other=other, name=n) for n in ("ratio", "ci_low", "ci_high")
    )
    return [ratio, " [", low, ", ", high, "]"]


def _said(source: Source, fact: Fact, name: str) -> Piece:
    return source.number(fact, "record", "d", path=[name])


def _ended(source: Source, line: Line) -> Sequence[Fact]:
    found = [f for f in source.facts if f.kind == "turn_ended" and f.record["line"] == line.name]
    return sorted(found, key=lambda f: int(f.record["turn"]))


def _measured(source: Source, line: Line) -> list[Fact]:
    return [source.one("measured", f"{line.name}/generation {f.record['turn']}") for f in _ended(source, line)]


def _control(source: Source, line: Line) -> Fact:
    return source.one("measured", f"{line.name}/{measure.CONTROL}")
