"""A held-out session in which there is nothing to score is no pair, and the verdict says so."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from fleetmill import loop
from fleetmill.home import init_home, open_home
from fleetmill.judge import trials
from fleetmill.judge.gate import LEAST_PAIRS
from fleetmill.lines import find
from fleetmill.receipts.standing import Standings
from fleetmill.receive import imports
from fleetmill.settings import LineSettings, Settings
from fleetmill.testing import Clock, tiny_file, tiny_line

NAN = float("nan")


def score(policy, episode):
    known = np.isfinite(episode.columns["label.y"])
    answers = policy.ask({"x": episode.columns["x"]})["y"]
    apart = np.where(known, np.abs(answers - episode.columns["label.y"]), 0.0)
    return {"wrong": apart.sum(), "rows": np.asarray(float(known.sum()))}


def metrics(tallies):
    rows = sum(float(t["rows"]) for t in tallies)
    return {"error": sum(float(t["wrong"]) for t in tallies) / rows if rows else NAN, "asked": float(len(tallies))}


def train(job, tracker):
    return tiny_line.train(replace(job, data=Known(job.data)), tracker)


class Known:
    def __init__(self, data):
        self._data, self._known = data, np.isfinite(data.column("label.y"))

    def column(self, name):
        return self._data.column(name)[self._known]


LINE = replace(
    tiny_line,
    world=None,
    train=train,
    judging=replace(tiny_line.judging, score=score, metrics=metrics, live=None),
    checks=tiny_line.checks[1:],
)


def without_labels(seed):
    return json.dumps([[t, x, NAN] for t, x, _ in json.loads(tiny_file(seed))]).encode()


@pytest.fixture
def home(tmp_path):
    settings = Settings(home=tmp_path / "home", seed=3, lines={"tiny": LineSettings()})
    init_home(settings, now_ns=Clock()())
    with open_home(settings, clock=Clock()) as opened:
        yield opened


def turned(home, folder, silent):
    """Session n of device d is held out where (d + n) mod 4 is 2."""
    for device in range(4):
        for number in range(4):
            seed = 4 * device + number
            path = folder / f"s{seed:02}.tiny.json"
            path.write_bytes(
                without_labels(seed) if device in silent and number == (2 - device) % 4 else tiny_file(seed)
            )
            imports.import_path(home.ledger, home.books, home.blobs, LINE, path, device=f"d{device}")
    return loop.turn(home, LINE)


def test_only_sessions_with_something_to_score_are_pairs(home, tmp_path):
    verdict = turned(home, tmp_path, {3}).verdict

    assert (verdict.pairs, verdict.unscored, verdict.decision) == (3, ("d3/s15",), "accepted")
    assert {r.pairs for r in verdict.reasons} == {3}
    assert "nothing to score in 1 held-out sessions, which are no pairs: d3/s15" in verdict.sentences()
    (told,) = Standings(home.ledger).of(verdict.candidate).verdicts
    assert told.reasons == verdict.sentences()


def test_empty_sessions_do_not_make_enough_pairs(home, tmp_path):
    verdict = turned(home, tmp_path, {1, 2}).verdict

    assert verdict.pairs == 2 < LEAST_PAIRS
    assert verdict.decision == "not_enough_evidence"
    assert len(verdict.unscored) == 2


def test_where_nothing_at_all_can_be_scored_there_is_no_pair(home, tmp_path):
    verdict = turned(home, tmp_path, {0, 1, 2, 3}).verdict

    assert (verdict.pairs, verdict.decision, len(verdict.unscored)) == (0, "not_enough_evidence", 4)


def test_a_session_that_only_counts_in_the_pool_is_a_pair():
    def one(wrong):
        return {"wrong": np.asarray(wrong)}

    def spread(tallies):
        return {"error": float(np.std([float(t["wrong"]) for t in tallies])) if len(tallies) > 1 else NAN}

    line = replace(LINE, judging=replace(LINE.judging, metrics=spread))
    side = {"a": [one(1.0)], "b": [one(2.0)], "c": [one(4.0)]}

    assert trials.unscored(line, side, side) == []


@pytest.mark.parametrize("name", ["traffic", "machine_life", "machine_alarm"])
def test_lines_on_recordings_say_nothing_of_an_empty_session_and_something_of_others(name):
    line = find(name)
    full, empty = TALLIES[name]()
    side = {"full": [full], "empty": [empty]}

    assert trials.unscored(line, side, side) == ["empty"]
    assert trials.unscored(line, {"full": [full]}, {"full": [full]}) == []


def traffic():
    from fleetmill.lines.traffic.judging import tally

    volume = np.arange(400, dtype=np.float32) % 24
    told = np.zeros((400, 3, 24), np.float32)
    return tally(volume, told, start=168), tally(volume[:100], told[:100], start=168)


def life():
    from fleetmill.lines.machine.life_judging import tally

    left = np.arange(50.0)[::-1]
    return tally(left, left + 1), tally(left * NAN, left)


def alarm():
    from fleetmill.lines.machine.alarm_judging import tally

    times = np.arange(400, dtype=np.int64) * 3_600_000_000_000
    label = (np.arange(400) // 20 == 10) * 1.0
    rung = (np.arange(400) % 100 == 99) * 1.0
    return tally(times, label, rung, rung), tally(times, label * NAN, rung, rung)


TALLIES = {"traffic": traffic, "machine_life": life, "machine_alarm": alarm}
