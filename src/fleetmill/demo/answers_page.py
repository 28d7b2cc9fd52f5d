"""The part of a demo's report that tells who answers: shares by generation, each number from a fact by a rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fleetmill.core.line import Line
from fleetmill.demo import answers, measure
from fleetmill.demo.numbers import Source
from fleetmill.seams.ledger import Fact
from fleetmill.web.chart import Band, Chart, Point, Series
from fleetmill.web.number import Number, Piece, Text
from fleetmill.web.report import Column, Drawing, Section, Table

_N = True
_SHARES = ("handed_on_share", "kept_right_share", "right_share", "together_share")
_COLUMNS = ("handed on, %", "right of those kept, %", "right if it kept all, %", "right in the end, %")


def sections(source: Source, line: Line) -> Iterator[Section]:
    """Nothing where nobody asked."""
    fixed = [f for f in source.facts if (f.kind, f.key) == ("calibrated", line.name)]
    if fixed:
        yield _curve(source, line)
        yield _table(source, line, fixed[0])


def told(source: Source, line: Line) -> dict[str, Any]:
    """The same as plain values, for report.json; empty where nobody asked."""
    fixed = [f for f in source.facts if (f.kind, f.key) == ("calibrated", line.name)]
    if not fixed:
        return {}
    return {
        "fixed": dict(fixed[0].record),
        **{
            what: {**answers.metrics(source.home.blobs, fact), "lived": dict(fact.record["lived"])}
            for what, fact in _audited(source, line).items()
        },
    }


def _audited(source: Source, line: Line) -> Mapping[str, Fact]:
    found = [f for f in source.facts if f.kind == "audited" and f.record["line"] == line.name]
    return {f.record["what"]: f for f in found}


def _share(source: Source, fact: Fact, name: str, form: str = ".1f") -> Number:
    return source.number(fact, "audit", form, name=name, scale=100)


def _interval(source: Source, fact: Fact, name: str) -> list[Piece]:
    value, low, high = (_share(source, fact, f"{name}{end}") for end in ("", "_low", "_high"))
    return [value, " [", low, ", ", high, "]"]


def _curve(source: Source, line: Line) -> Drawing:
    found = _audited(source, line)
    control = found[measure.CONTROL]
    points = []
    for what, fact in found.items():
        ended = next((f for f in _ended(source, line) if f"generation {f.record['turn']}" == what), None)
        if ended is not None:
            value, low, high = (_share(source, fact, f"handed_on_share{end}") for end in ("", "_low", "_high"))
            points.append(
                Point(
                    x=float(ended.record["turn"]),
                    y=value.value,
                    low=low.value,
                    high=high.value,
                    note="",
                    said=_interval(source, fact, "handed_on_share"),
                    at=source.number(ended, "record", "d", path=["turn"]),
                )
            )
    level, low, high = (_share(source, control, f"handed_on_share{end}") for end in ("", "_low", "_high"))
    return Drawing(
        id="handed-on",
        title="What the devices hand on",
        chart=Chart(
            id="handed-on-chart",
            title="share of the report's questions that each generation's model hands on",
            description="share handed on by generation, lower is better, with the control as a level",
            x_label="generation",
            y_label="handed on, %",
            series=(Series(name="model that the fleet runs", points=tuple(points)),),
            bands=(
                Band(
                    name="control: same steps, first data only",
                    y=level.value,
                    low=low.value,
                    high=high.value,
                    said=_interval(source, control, "handed_on_share"),
                ),
            ),
        ),
        caption=["Questions of ", _people(source, control), " people whom no device knows. Bootstrap over people."],
    )


def _table(source: Source, line: Line, fixed: Fact) -> Table:
    columns = [Column(label="model"), *(Column(label=name, is_number=_N) for name in _COLUMNS)]
    columns += [Column(label=name, is_number=_N) for name in ("never asked before, %", "of these handed on, %")]
    columns += [Column(label=name, is_number=_N) for name in ("of these right of those kept, %", "handed on as lived")]
    rows: list[tuple[Text, ...]] = []
    for what, fact in _audited(source, line).items():
        ended = next((f for f in _ended(source, line) if f"generation {f.record['turn']}" == what), None)
        name: Text = ["generation ", source.number(ended, "record", "d", path=["turn"])] if ended else what
        lived: Text = ""
        if fact.record["lived"]:
            one, of = (source.number(fact, "record", "d", path=["lived", n]) for n in ("handed_on", "answers"))
            lived = [one, " of ", of]
        rows.append(
            (
                name,
                *(_interval(source, fact, share) for share in _SHARES),
                _share(source, fact, "new_share"),
                _share(source, fact, "new_handed_on_share"),
                _interval(source, fact, "new_kept_right_share"),
                lived,
            )
        )
    return Table(
        id="answers", title="Who answers", columns=tuple(columns), rows=tuple(rows), note=_note(source, line, fixed)
    )


def _note(source: Source, line: Line, fixed: Fact) -> list[Piece]:
    """How the threshold was fixed, and what the columns mean."""

    def said(name: str, form: str = "d", scale: float = 1) -> Number:
        return source.number(fixed, "record", form, path=[name], scale=scale)

    control = _audited(source, line)[measure.CONTROL]
    return [
        "An answer is kept from a sureness of ",
        said("sure", ".4f"),
        " on: fixed before the first generation on ",
        said("asked"),
        " questions to a model like its, that had learned from ",
        said("pilot_questions"),
        "; of ",
        said("kept"),
        " kept answers ",
        said("wrong"),
        " were wrong, so at most ",
        said("bound", ".1f", 100),
        " % are, with ",
        said("confidence", ".0f", 100),
        " % confidence, for that model. Never moved since: how it holds for each stands above. Right is what "
        "the rule of sums says; in the end: with the larger model's answers, which learned from ",
        said("school_questions"),
        " questions. Each time ",
        source.number(control, "audit", ".0f", name="asked"),
        " questions. Lived: before that generation's turn, by the model of the one before. Brackets: ",
        said("confidence", ".0f", 100),
        " % intervals, of those kept exact (Clopper and Pearson), else bootstrap over people.",
    ]


def _people(source: Source, fact: Fact) -> Number:
    return source.number(fact, "record", "d", path=["people"])


def _ended(source: Source, line: Line) -> list[Fact]:
    found = [f for f in source.facts if f.kind == "turn_ended" and f.record["line"] == line.name]
    return sorted(found, key=lambda f: int(f.record["turn"]))
