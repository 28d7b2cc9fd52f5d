"""The report's template: every number carries its source, and the page stands for itself. The values are made up."""

from __future__ import annotations

import json
import re

import numpy as np
import simplejpeg

from fleetmill.web.chart import Band, Chart, Point, Series
from fleetmill.web.number import Code, Link, Mark, Number
from fleetmill.web.page import render_report
from fleetmill.web.report import Column, Drawing, Listing, Opening, Picture, Table

EVIL = "<script>alert(1)</script>"


def n(text, rule="metric"):
    """A number with a source."""
    return Number(text=text, value=float(text), fact="ab" * 32, rule=rule, args=json.dumps({"form": '"<'}))


def made_up():
    """(opening, sections): everything that a report of a demo shows."""
    opening = Opening(
        title="driving: what the fleet's own experience was worth",
        facts=(("seed", n("0")), ("devices", n("12")), ("head of the ledger", Code(text="936ff56a0d42"))),
        headline=["takeovers per km: ", n("1.28"), " against ", n("13.2"), ": ratio ", n("0.10"), " [", n("0.05"), "]"],
        lead=(["Against the first generation's own model: ratio ", n("0.11"), "."],),
        footer=["Made from the facts of one home. ", EVIL],
    )
    points = tuple(
        Point(
            x=x,
            y=y,
            low=y * 0.8,
            high=y * 1.2,
            note=note,
            said=[n(f"{y}"), " [", n(f"{y * 0.8:.2f}"), "]"],
            at=n(f"{x}"),
        )
        for x, y, note in ((0, 13.4, ""), (1, 1.9, ""), (2, 1.9, "not enough evidence"), (3, 1.28, "held"))
    )
    chart = Chart(
        id="curve-chart",
        title="takeovers per km by generation",
        description="takeovers per km of the model that the fleet runs, lower is better",
        x_label="generation",
        y_label="takeovers per km",
        series=(Series(name="model that the fleet runs", points=points),),
        bands=(Band(name="control: same steps, first data only", y=13.2, low=10.1, high=16.3, said=n("13.2")),),
    )
    generations = Table(
        id="generations",
        title="Generations",
        columns=(Column(label="generation"), *(Column(label=f"metric {i}", is_number=True) for i in range(9))),
        rows=tuple((n(str(g)), *(n(f"{g}.{i}") for i in range(9))) for g in range(4)),
        note=["On ", n("20"), " worlds that nothing else uses."],
    )
    verdicts = Table(
        id="verdicts",
        title="Verdicts",
        columns=(Column(label="fact", is_number=True), Column(label="decision"), Column(label="reasons", is_long=True)),
        rows=(
            (
                n("152"),
                Mark(text="accepted", tone="good"),
                "met: takeovers per km 13.5 against the baseline 23.3, " * 3,
            ),
            (n("1222"), Mark(text="not enough evidence", tone="open"), [Mark(text="not met", tone="bad"), EVIL]),
        ),
    )
    picture = Picture(
        id="film",
        title="The first report world, twice",
        data=simplejpeg.encode_jpeg(np.full((90, 700, 3), 120, np.uint8)),
        alt="Left: the first generation's model. Right: the one that the fleet runs.",
        caption=["By the same rule: ", Link(text="the worst world", href="report-worst.gif")],
    )
    nots = Listing(id="not", title="What this does not show", items=("One simulated world.", "Other seeds differ."))
    return opening, [Drawing(id="curve", title="The growing curve", chart=chart), generations, verdicts, picture, nots]


def test_every_number_carries_its_value_its_fact_and_its_rule():
    text = render_report(*made_up())

    data = re.findall(r"<data ([^>]*)>([^<]*)</data>", text)
    assert ('class="num" value="1.28" data-fact="' + "ab" * 32) in data[2][0]
    assert len(data) == 63
    assert all('data-rule="metric"' in attributes and "data-args=" in attributes for attributes, _ in data)
    assert "{&#34;form&#34;: &#34;\\&#34;&lt;&#34;}" in text


def test_the_report_has_no_script_and_refers_to_nothing_but_files_beside_it():
    text = render_report(*made_up())

    assert "<script" not in text
    assert EVIL.replace("<", "&lt;").replace(">", "&gt;") in text
    assert {r for r in re.findall(r'(?:src|href)="([^"]*)"', text) if not r.startswith(("data:", "#"))} == {
        "report-worst.gif"
    }
    assert re.search(r"Content-Security-Policy\" content=\"default-src &#39;none&#39;; img-src data:", text)


def test_page_and_report_have_one_base_and_one_style(finished):
    from finished import settings
    from fleetmill.home import open_home
    from fleetmill.web import page
    from fleetmill.web.look import Eye

    with open_home(settings(finished.parent), own=False) as home:
        seen = Eye(home).look(budget_seconds=5.0)
    parts = page.Parts().render(seen)
    live = page.live(seen, parts, page.frame(seen, parts), since="x.1")
    report = render_report(*made_up())

    def style(text):
        return text.partition("<style>")[2].partition("</style>")[0]

    assert style(live) == style(report) != ""
    assert live.partition("<title>")[0].replace("\n", "") in report.replace("\n", "").replace(
        re.search(r"<meta http-equiv[^>]*>", report)[0], ""
    )


def test_a_part_whose_value_did_not_change_is_not_rendered_again(finished):
    from finished import settings
    from fleetmill.home import open_home
    from fleetmill.web import page
    from fleetmill.web.look import Eye

    with open_home(settings(finished.parent), own=False) as home:
        eye, parts = Eye(home), page.Parts()
        first = parts.render(eye.look(budget_seconds=5.0))
        second = parts.render(eye.look(budget_seconds=5.0))

    assert all(second[id] is html for id, html in first.items())
