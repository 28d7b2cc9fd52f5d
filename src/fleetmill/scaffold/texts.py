"""The files of a new line's package as text. Pure."""

from __future__ import annotations

import json
from pathlib import PurePath
from string import Template

from fleetmill.core.line import Feature
from fleetmill.scaffold.chosen import Chosen
from fleetmill.scaffold.found import Source

FASTEST_NS = 50_000_000  # what a linear model may take at most, on slow lines too

_LINE = Template('''\
"""The line `$name`: linear least squares. Made from $what by `fleetmill line new`; change what you like."""

import math

import numpy as np

from fleetmill import Check, Feature, Judging, Line, ModelSpec, Port
from fleetmill.core.errors import InvalidInputError
$imports
PERIOD_NS = $period


def feature(name, kind, unit="1", shape=(), dtype="float32"):
    """What a channel records and a column holds."""
    return Feature(name=name, kind=kind, dtype=dtype, shape=shape, unit=unit, hold_ns=PERIOD_NS)


def port(of):
    """The model's input or output that is this feature."""
    return Port(name=of.name, dtype="float32", shape=of.shape, feature=of.name)


OBSERVED = (
$observed
)
SAYS = (  # what the model says
$says
)
RIGHT = (  # what was right, in the same order
$right
)
$reads
model = ModelSpec(
    inputs=tuple(port(f) for f in OBSERVED),
    outputs=tuple(port(f) for f in SAYS),
    rate_hz=1e9 / PERIOD_NS,
    latency_ns=$latency,
    tolerance=$tolerance,
)


def train(job, tracker):
    """Least squares on numbers that were brought to one size; the same data give the same bytes."""
    if job.parent and job.settings.get("steps") == 0:
        return job.parent
    import torch

    from fleetmill.engines.export_onnx import export

    seen, right = whole_rows(job.data.split("train").column, OBSERVED, RIGHT)
    if not len(seen):
        raise InvalidInputError("$name: not one whole row to learn from; import more")
    mean, spread = seen.mean(axis=0), seen.std(axis=0)
    spread = np.where(spread > 1e-9, spread, 1.0)
    normal = np.column_stack([(seen - mean) / spread, np.ones(len(seen))])
    found = np.linalg.lstsq(normal, right, rcond=None)[0]
    mean, spread, weights, bias = (torch.tensor(a, dtype=torch.float32) for a in (mean, spread, found[:-1], found[-1]))

    class Linear(torch.nn.Module):
        def forward(self, *inputs):
            row = torch.cat([i.reshape(-1, math.prod(f.shape)) for i, f in zip(inputs, OBSERVED)], dim=1)
            said = torch.split((row - mean) / spread @ weights + bias, [math.prod(f.shape) for f in SAYS], dim=1)
            return tuple(s.reshape(-1, *f.shape) for s, f in zip(said, SAYS))

    tracker.step(1, 1, {"mae": float(np.abs(normal @ found - right).mean()), "rows.recorded": float(len(seen))})
    return {"model.onnx": export(Linear(), model)}


def score(policy, episode):
    """Sums, never means: trials are pooled. An instant of which a number is missing counts nowhere."""
    seen, right = whole_rows(episode.columns.get, OBSERVED, RIGHT)
    parts = np.split(seen.astype(np.float32), np.cumsum([math.prod(f.shape) for f in OBSERVED])[:-1], axis=1)
    said = policy.ask({f.name: part.reshape(-1, *f.shape) for f, part in zip(OBSERVED, parts)})
    wrong = np.abs(side_by_side(said.get, SAYS) - right)
    return {"wrong": wrong.sum(), "numbers": np.float64(wrong.size)}


def metrics(tallies):
    """The mean absolute error of everything that was said; NaN of nothing."""
    numbers = sum(t["numbers"] for t in tallies)
    return {"mae": float(sum(t["wrong"] for t in tallies) / numbers) if numbers else math.nan}


line = Line(
    name="$name",
    features=tuple({f.name: f for f in (*OBSERVED, *SAYS, *RIGHT)}.values()),
    model=model,
    cut=$cut,
    train=train,
    judging=Judging(
        score=score,
        metrics=metrics,
        baseline=steady(model, {s.name: r.name for s, r in zip(SAYS, RIGHT)}),  # always the median of what was right
    ),
    checks=(
        Check(metric="mae", better="lower", against="baseline", limit=1.0),
        Check(metric="mae", better="lower", against="champion", limit=1.02, first=False),
    ),
    split="$split",
$importers)
''')

TEST = Template('''"""The line keeps the contract: each breach would be one sentence."""

from fleetmill.testing import check_line

from ${name}_line import line


def test_the_line_keeps_the_contract():
    assert check_line(line) == []
''')

_PROJECT = Template("""[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "$project-line"
version = "0.1.0"
description = "The production line $name for Fleetmill$what."
requires-python = ">=3.10"
dependencies = ["fleetmill"]

[project.optional-dependencies]
test = ["fleetmill[$extras]"]

[project.entry-points."fleetmill.lines"]
$name = "${name}_line:line"

[tool.setuptools]
$holds
""")

_README = Template("""# The line `$name`

It observes $observed and says $said, by linear least squares. `${name}_line.py` is all of it: change what you like.

```
pip install -e '.[test]'
pytest
fleetmill lines
fleetmill init --home my-home
fleetmill import $file --line $name --device $name-0 --home my-home
fleetmill turn --line $name --home my-home
fleetmill score champion $file --line $name --home my-home
```

Some of the sessions are held out to judge with: begin with a dozen or more. Then `import` what is new and `turn`
again: a candidate that is not better than its baseline, or worse than the champion, stays at home and says why.
$note
The guard sends what the model says: before it moves a machine, give the line a `guard` with limits.
""")

_NOTES = {
    "a table": (
        "`import` reads each CSV file with these columns, in any order. `CLOCK` says where sessions\n"
        "end; a session comes in once, so give files that end where a session ends."
    ),
    "a recording": "`import` reads each MCAP file with these channels.",
    "a line": "`import` reads each MCAP file with these channels.",
}


def project(name: str, *, holds: str, what: str = "", extras: str = "testing") -> str:
    """A package's pyproject.toml: `holds` are setuptools' own settings, `what` ends the description."""
    return _PROJECT.substitute(name=name, project=name.replace("_", "-"), holds=holds, what=what, extras=extras)


def files(name: str, source: Source, chosen: Chosen) -> dict[str, str]:
    """Every file of the package by its name."""
    said = ", ".join(t.says.name for t in chosen.targets)
    return {
        f"{name}_line.py": _line(name, source, chosen),
        f"test_{name}_line.py": TEST.substitute(name=name),
        "pyproject.toml": project(name, holds=f'py-modules = ["{name}_line"]'),
        "README.md": _README.substitute(
            name=name,
            observed=", ".join(f.feature.name for f in chosen.observed),
            said=said,
            file=PurePath(source.where).name if source.what != "a line" else "FILE.mcap",
            note=_NOTES[source.what],
        ),
    }


def _line(name: str, source: Source, chosen: Chosen) -> str:
    ready = "from fleetmill.lines.ready import rows_of\n" if source.alike else ""
    tabular = sorted([*(["Clock", "csv_rows"] if source.clock else []), *([] if source.alike else ["latest_of"])])
    tabular += ["side_by_side", "steady", "whole_rows"]
    return _LINE.substitute(
        name=name,
        what=source.what,
        imports=f"{ready}from fleetmill.lines.tabular import {', '.join(tabular)}\n",
        period=f"{source.period_ns:_}",
        observed="\n".join(_feature(f.feature) for f in chosen.observed),
        says="\n".join(_feature(t.says) for t in chosen.targets),
        right="\n".join(_feature(t.right) for t in chosen.targets),
        reads=_reads(source, chosen),
        latency=f"{min(source.period_ns, FASTEST_NS):_}",
        tolerance=f"{source.tolerance:g}",
        cut=_cut(source),
        split="time" if source.clock and source.dated else "session",
        importers="    importers=(csv_rows(COLUMNS, CLOCK),),\n" if source.clock else "",
    )


def _feature(f: Feature) -> str:
    parts = [_text(f.name), _text(f.kind)]
    parts += [_text(f.unit)] if f.unit != "1" else []
    parts += [f"shape={f.shape}"] if f.shape else []
    parts += [f"dtype={_text(f.dtype)}"] if f.dtype != "float32" else []
    return f"    feature({', '.join(parts)}),"


def _cut(source: Source) -> str:
    names = "*(f.name for f in (*RIGHT, *OBSERVED))"
    if source.alike:
        return f"rows_of({names}, period_ns=PERIOD_NS)"
    return f"latest_of({names}, period_ns=PERIOD_NS, within_ns=2 * PERIOD_NS)"


def _reads(source: Source, chosen: Chosen) -> str:
    """How a table is read: its columns, and its clock."""
    clock = source.clock
    if clock is None:
        return ""
    pairs = [(f.name, f.feature.name) for f in chosen.observed]
    pairs += [(t.found.name, t.right.name) for t in chosen.targets]
    columns = "\n".join(f"    {_text(column)}: {_text(feature)}," for column, feature in pairs)
    return f"""COLUMNS = {{  # of the CSV file, in any order -> the feature that each becomes
{columns}
}}
CLOCK = Clock(
    column={_text(clock.column)},
    tick_ns={clock.tick_ns:_},  # one unit of a time that is a number; 0: dates and times
    period_ns=PERIOD_NS,
    gap_ns={clock.gap_ns:_},  # a longer silence ends a session
    session_ns={clock.session_ns:_},  # so does the end of each such span of the clock
)
"""


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)
