"""Every line keeps the contract, ours and a third party's, and `check_line` notices when one does not."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_tub import a_record, a_tub, at

from fleetmill import lines
from fleetmill.core.errors import EngineMissingError, InvalidInputError
from fleetmill.core.line import Check, Feature, Importer, Port, Trigger
from fleetmill.lines.tabular import steady
from fleetmill.testing import Rows, check_line, tiny_line
from fleetmill.testing.foreign import Garbage

EXAMPLES = Path(__file__).parents[2] / "examples"
EXAMPLE = "coldstore"  # a third party's: its package is not installed, its folder is in the way of imports
TABLE = b"time,room,outside,door,frost,draught,label.power\n2025-01-01 00:00,-20,5,0,0,0,0.2\n"
FILES = {
    "rccar": a_tub(at(0, 50, 100, 150, 400, 9000)).files,
    EXAMPLE: {"a.csv": TABLE},
}  # good ones, where a line itself brings no sample


@pytest.fixture
def line_of(monkeypatch):
    """A line by its name, as an installed package brings it."""

    def found(name):
        if name == EXAMPLE:
            monkeypatch.syspath_prepend(str(EXAMPLES / EXAMPLE))
            return __import__(f"{EXAMPLE}_line").line
        return tiny_line if name == tiny_line.name else lines.find(name)

    yield found
    sys.modules.pop(f"{EXAMPLE}_line", None)


@pytest.mark.parametrize("name", [*lines.names(), EXAMPLE, tiny_line.name])
def test_the_line_keeps_the_contract(name, line_of):
    assert check_line(line_of(name), files=FILES.get(name)) == []


def flaky(make):
    """A planted bug: every second call gives something else."""
    calls = iter(range(10**6))
    return lambda *args: make(next(calls) % 2, *args)


def noisy_world(odd, scenario, seed):
    return tiny_line.world(scenario, seed + odd)


def noisy_cut(odd, stretch):
    for e in tiny_line.cut(stretch):
        yield replace(e, columns={**e.columns, "x": e.columns["x"] + odd})


def noisy_train(odd, job, tracker):
    files = tiny_line.train(job, tracker)
    return {**files, "weights.bin": bytes([odd])}


def noisy_score(odd, policy, episode):
    return {**tiny_line.judging.score(policy, episode), "wrong": np.asarray(float(odd))}


def forgetful_train(job, tracker):
    return (
        tiny_line.train(replace(job, parent=None, settings={}), tracker)
        if job.parent is None
        else {"model.onnx": __import__("fleetmill.testing", fromlist=["x"]).tiny_model(np.ones(3))}
    )


def last_one(tallies):
    return {"error": float(tallies[-1]["wrong"])}


def sends_more(action, observation, memory):
    return {**action, "brake": np.zeros(())}, memory


def noisy_guard(odd, action, observation, memory):
    return {"y": action["y"] + odd}, memory


def outside(stretch):
    for e in tiny_line.cut(stretch):
        yield replace(e, end_ns=e.end_ns + 10**12)


def breaks_on_one_row(stretch):
    for e in tiny_line.cut(stretch):
        np.diff(e.times_ns)[0]  # as if there were always two
        yield e


def keeps_doubles(stretch):
    """A row for each message, also where an instant was recorded twice."""
    rows = [m for m in stretch.messages if m.topic == "x"]
    labels = [m for m in stretch.messages if m.topic == "label.y"]
    for e in tiny_line.cut(stretch):
        n = min(len(rows), len(labels))
        columns = {
            "x": np.stack([m.value["data"] for m in rows[:n]]),
            "label.y": np.stack([m.value["data"] for m in labels[:n]]),
        }
        yield replace(e, times_ns=np.array([m.log_time_ns for m in rows[:n]]), columns=columns)


def doubles_dtype(stretch):
    for e in tiny_line.cut(stretch):
        yield replace(e, columns={name: column.astype(np.float64) for name, column in e.columns.items()})


def makes_up_a_column(stretch):
    for e in tiny_line.cut(stretch):
        yield replace(e, columns={**e.columns, "weather": e.columns["label.y"]})


def stumbles_over_nan(policy, episode):
    if np.isnan(episode.columns["label.y"]).any():
        raise ArithmeticError("no label")
    return tiny_line.judging.score(policy, episode)


def names_by_length(policy, episode):
    tally = tiny_line.judging.score(policy, episode)
    return {**tally, "short": np.ones(())} if len(episode.times_ns) < 3 else tally


def means(tallies):
    """Each tally's mean after the first: the order decides."""
    first = tallies[0]["wrong"]
    return {"error": float(first + sum(abs(t["wrong"] - first) for t in tallies[1:]))}


def learns_only_from_many(job, tracker):
    if len(job.data.column("x")) < 5:
        raise IndexError("no batch")
    return tiny_line.train(job, tracker)


def refuses_few(job, tracker):
    if len(job.data.column("x")) < 5:
        raise InvalidInputError("tiny: fewer than 5 rows; record more")
    return tiny_line.train(job, tracker)


def sends_nan(action, observation, memory):
    """Beyond 100,000 it is NaN."""
    return {"y": np.where(np.abs(action["y"]) < 1e5, action["y"], np.nan).astype(np.float32)}, memory


def passes_on(action, observation, memory):
    return dict(action), memory


def documented(action, observation, memory):
    """NaN: the machine stays as it is."""
    return dict(action), memory


def sends_doubles(action, observation, memory):
    return {"y": np.asarray(np.nan_to_num(action["y"]), np.float64)}, memory


def divides(action, observation, memory):
    return {"y": np.asarray(1.0 / int(np.nan_to_num(action["y"])), np.float32)}, memory


def writes_into(action, observation, memory):
    action["y"][...] = 0.0
    return action, memory


def remembers_wrongly(action, observation, memory):
    y = np.nan_to_num(action["y"], posinf=0.0, neginf=0.0) if not memory else np.zeros((1,), np.float32)
    return {"y": np.asarray(y, np.float32)}, {"there": np.ones(())}


def reads_anything(files):
    for name in files.names():
        int(files.read(name))  # bare
        yield from ()


def importer(read, detects=lambda files: True):
    return (Importer(name="bare", detects=detects, read=read),)


JUDGING = tiny_line.judging
MODEL = tiny_line.model
BUGS = {
    "a feature twice": (replace(tiny_line, features=tiny_line.features * 2), "stands twice"),
    "a dtype nobody records": (
        replace(tiny_line, features=(Feature(name="c", kind="extra", dtype="complex64", shape=(), unit="1"),)),
        "cannot be recorded",
    ),
    "a port without feature": (
        replace(tiny_line, model=replace(MODEL, inputs=(Port(name="x", dtype="float32", shape=(3,), feature="z"),))),
        "not among",
    ),
    "a label as input": (
        replace(
            tiny_line, model=replace(MODEL, inputs=(Port(name="x", dtype="float32", shape=(), feature="label.y"),))
        ),
        "a label is never",
    ),
    "a trigger on nothing": (replace(tiny_line, triggers=(Trigger(when="fog > 1", before_ns=0, after_ns=0),)), "fog"),
    "no baseline": (replace(tiny_line, judging=replace(JUDGING, baseline=None)), "baseline"),
    "a world with dice": (replace(tiny_line, world=flaky(noisy_world)), "two lives of one seed differ"),
    "a cut with dice": (replace(tiny_line, cut=flaky(noisy_cut)), "two cuts"),
    "a cut beyond its stretch": (replace(tiny_line, cut=outside), "within its stretch"),
    "a cut of nothing": (replace(tiny_line, cut=lambda stretch: iter(())), "nothing was cut"),
    "a training with dice": (replace(tiny_line, train=flaky(noisy_train)), "different bytes"),
    "a training that forgets its parent": (replace(tiny_line, train=forgetful_train), "0 steps"),
    "a model of another name": (
        replace(tiny_line, model=replace(MODEL, outputs=(Port(name="z", dtype="float32", shape=(), feature="y"),))),
        "lacks: z",
    ),
    "a score with dice": (replace(tiny_line, judging=replace(JUDGING, score=flaky(noisy_score))), "two scores"),
    "metrics that depend on order": (replace(tiny_line, judging=replace(JUDGING, metrics=last_one)), "the order"),
    "a check on nothing": (
        replace(tiny_line, checks=(Check(metric="joy", better="higher", against="limit", limit=1.0),)),
        "joy",
    ),
    "a guard that adds": (replace(tiny_line, guard=sends_more), "brake"),
    "a guard with dice": (replace(tiny_line, guard=flaky(noisy_guard)), "answered alike"),
    "a cut that wants two rows": (
        replace(tiny_line, cut=breaks_on_one_row),
        ("cut: raises IndexError", "Smallest case: a session of 1 instant"),
    ),
    "a cut that keeps doubles": (replace(tiny_line, cut=keeps_doubles), ("times do not rise", "recorded twice")),
    "a cut of another dtype": (replace(tiny_line, cut=doubles_dtype), "is float64(3,), the feature is float32(3,)"),
    "a cut with a column nobody declared": (replace(tiny_line, cut=makes_up_a_column), "weather is not among"),
    "a training that wants many rows": (
        replace(tiny_line, train=learns_only_from_many),
        ("train: raises IndexError (no batch) at test_contract.py line", "Smallest case: a session of"),
    ),
    "a score that stumbles over NaN": (
        replace(tiny_line, judging=replace(JUDGING, score=stumbles_over_nan)),
        ("judging.score: raises ArithmeticError (no label)", "Smallest case", "NaN in label.y"),
    ),
    "a tally with changing names": (
        replace(tiny_line, judging=replace(JUDGING, score=names_by_length)),
        "tally must have the same names",
    ),
    "metrics by the first tally": (replace(tiny_line, judging=replace(JUDGING, metrics=means)), "the order"),
    "a baseline that fails": (
        replace(tiny_line, judging=replace(JUDGING, baseline=lambda data: 1 / 0)),
        "judging.baseline: raises ZeroDivisionError",
    ),
    "a slice with a number": (replace(tiny_line, slices={"long": lambda e: len(e.times_ns)}), "True or False"),
    "a guard that loses a number": (replace(tiny_line, guard=sends_nan), ("makes of finite numbers a y", "large")),
    "a guard that passes NaN on": (replace(tiny_line, guard=passes_on), ("say in its docstring", "an action with")),
    "a guard of another dtype": (replace(tiny_line, guard=sends_doubles), "sends y as float64(), the feature is"),
    "a guard that divides": (replace(tiny_line, guard=divides), "guard: raises ZeroDivisionError"),
    "a guard that writes": (replace(tiny_line, guard=writes_into), "guard: raises ValueError"),
    "a guard that is wrong the second time": (replace(tiny_line, guard=remembers_wrongly), "(1,), the feature is"),
    "safe without an answer": (replace(tiny_line, safe=lambda seen: None), "safe: must answer"),
    "a world that ends badly": (replace(tiny_line, world=lambda scenario, seed: 1 / 0), "world('default', 7): raises"),
    "a trigger in no language": (
        replace(tiny_line, triggers=(Trigger(when="x >", before_ns=0, after_ns=0),)),
        "trigger 'x >'",
    ),
    "an importer that takes anything": (
        replace(tiny_line, importers=importer(reads_anything)),
        ("importer bare: read: raises ValueError", "Smallest case: the file"),
    ),
    "a base of nothing": (replace(tiny_line, adopt=lambda files: {}), "adopt: takes no file for a base"),
    "a base that is not looked at": (
        replace(tiny_line, adopt=lambda files: {"config.json": files.read("config.json")}),
        "adopt: raises KeyError",
    ),
    "an importer that cannot look": (
        replace(tiny_line, importers=importer(reads_anything, lambda files: bool(files.names()[0]))),
        ("importer bare: detects: raises IndexError", "Smallest case: no file"),
    ),
}


@pytest.mark.parametrize("bug", sorted(BUGS))
def test_a_planted_bug_is_caught_and_named(bug):
    line, what = BUGS[bug]

    breaches = check_line(line)

    assert breaches
    assert all(b.startswith("line tiny: ") and "\n" not in b and "Traceback" not in b for b in breaches)
    for part in (what,) if isinstance(what, str) else what:
        assert part in " ".join(breaches)


def test_the_same_breach_is_told_in_the_same_words_every_time():
    line, _ = BUGS["a cut that keeps doubles"]
    assert check_line(line) == check_line(line)


def test_what_is_said_clearly_is_no_breach():
    """Little data refused in one line, and a guard that says what NaN means."""
    assert check_line(replace(tiny_line, train=refuses_few, guard=documented)) == []


def test_a_line_that_learns_nothing_from_made_up_sessions_is_told_to_give_some():
    def refuses(job, tracker):
        raise InvalidInputError("tiny: wants real data")

    (breach,) = check_line(replace(tiny_line, train=refuses))
    assert breach == (
        "line tiny: train: refuses these sessions (tiny: wants real data); give check_line stretches "
        "that it can learn from"
    )


def test_without_hypothesis_one_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    for name in ("generated", "foreign", "probes"):
        monkeypatch.delitem(sys.modules, f"fleetmill.testing.{name}", raising=False)
    monkeypatch.delattr("fleetmill.testing.probes", raising=False)
    with pytest.raises(EngineMissingError, match=r"hypothesis is not installed.*fleetmill\[testing\]"):
        check_line(tiny_line)


def test_the_test_kit_is_loaded_without_hypothesis():
    code = "import sys, fleetmill.testing; print('hypothesis' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# -- what generated cases once found in our own lines ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "files", "said"),
    [
        ("traffic", {"a.csv": b"time,count\n9999-12-31 23:00:00,5\n"}, "of 1970 to 2261, found '9999-12-31"),
        ("machine_alarm", {"a.csv": b"time,value\n1900-01-01,5\n"}, "of 1970 to 2261"),
        ("machine_life", {"a.txt": b"1 1e300" + b" 0" * 24}, "expected numbers from 0 to 1,000,000"),
        ("machine_life", {"a.csv": b'engine,cycle\n1,"' + b"2" * 140_000}, "no table that can be read"),
        ("rccar", a_tub([a_record(0, 10**30)]).files, "_timestamp_ms must be milliseconds"),
        ("rccar", a_tub([a_record(0, 1, **{"user/angle": 10**400})]).files, "user/angle must be a number"),
        (EXAMPLE, {"a.csv": TABLE.replace(b"2025", b"1925")}, "of 1970 to 2261"),
    ],
)
def test_a_number_that_no_recording_holds_is_refused_in_one_line(name, files, said, line_of):
    (importer,) = line_of(name).importers
    with pytest.raises(InvalidInputError, match=re.escape(said)):
        [list(session.messages) for session in importer.read(Garbage(held=tuple(files.items())))]


def test_a_baseline_passes_over_what_is_no_number():
    table = Rows({"label.y": np.array([1.0, np.nan, 3.0, np.inf, 2.0], np.float32)})
    assert steady(tiny_line.model, {"y": "label.y"})(table).step({})["y"] == np.float32(2.0)
