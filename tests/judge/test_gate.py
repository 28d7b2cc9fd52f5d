"""The gate's rule: what is accepted, what is held, and what is said to lack evidence."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from fleetmill.core.line import Check, Metrics, Tally
from fleetmill.judge import gate
from fleetmill.judge.gate import Look, Side, decision, finite, look

RATE = Check(metric="takeovers", better="lower", against="champion", limit=1.0)
GUARD = Check(metric="off_road", better="lower", against="champion", limit=1.25)
SPEED = Check(metric="speed", better="higher", against="champion", limit=0.9)
FIRST = Check(metric="takeovers", better="lower", against="baseline", limit=1.0)
LEAST = Check(metric="speed", better="higher", against="limit", limit=10.0)


def metrics(tallies: Sequence[Tally]) -> Metrics:
    km = sum(float(t["km"]) for t in tallies)
    return {
        "takeovers": sum(float(t["takeovers"]) for t in tallies) / km if km else math.nan,
        "off_road": sum(float(t["off_road"]) for t in tallies) / km if km else math.nan,
        "speed": float(np.mean([float(t["speed"]) for t in tallies])),
    }


def side(
    takeovers: Sequence[float], off_road: Sequence[float] | None = None, speed: float = 18.0, km: float = 1.0
) -> Side:
    off_road = off_road or [0.0] * len(takeovers)
    trials = [
        [{"takeovers": np.array(t), "off_road": np.array(o), "speed": np.array(speed), "km": np.array(km)}]
        for t, o in zip(takeovers, off_road, strict=True)
    ]
    return Side(all=trials, digest="d" * 64)


def asked(checks: Sequence[Check], candidate: Side, other: Side, against: str = "champion") -> Look:
    return look(checks, candidate, other, metrics, against=against, seed=1)  # type: ignore[arg-type]


def decided(found: Look, pairs: int = 16) -> str:
    return decision(found, pairs=pairs)


def test_clearly_better_is_accepted_and_each_reason_has_its_receipts() -> None:
    found = asked([RATE, GUARD], side([1] * 16), side([4, 5] * 8))

    assert decided(found) == "accepted"
    rate, guard = found.reasons
    assert (rate.metric, rate.slice, rate.rule, rate.pairs, rate.limit, rate.met) == (
        "takeovers",
        "all",
        "bound",
        16,
        1.0,
        True,
    )
    assert (rate.candidate, rate.other) == (1.0, 4.5)
    assert rate.ratio == pytest.approx(1 / 4.5)
    assert rate.low <= rate.ratio <= rate.high < 1
    assert guard.rule == "margin"
    assert len(rate.trials) == 64
    assert rate.sentence().startswith("met: takeovers (all) 1 against champion 4.5: ratio 0.222 [")


def test_better_by_chance_lacks_evidence_and_worse_is_held() -> None:
    noisy, other = side([0, 9] * 4 + [4, 4] * 4), side([9, 0] * 4 + [5, 4] * 4)

    assert decided(asked([RATE], noisy, other)) == "not_enough_evidence"
    assert decided(asked([RATE], other, noisy)) == "held"
    assert decided(asked([RATE], side([4] * 16), side([4] * 16))) == "held"  # equal is no improvement


def test_superiority_asks_for_the_bound_not_for_the_point() -> None:
    candidate, other = side([4, 5, 4, 3] * 4), side([5, 4, 6, 3] * 4)
    (reason,) = asked([RATE], candidate, other).reasons

    assert reason.ratio < 1 <= reason.high
    assert not reason.met


def test_a_margin_asks_for_the_point() -> None:
    within, beyond = side([1] * 16, [1.25] * 16), side([1] * 16, [1.26] * 16)
    champion = side([5] * 16, [1.0] * 16)

    assert decided(asked([RATE, GUARD], within, champion)) == "accepted"
    assert decided(asked([RATE, GUARD], beyond, champion)) == "held"


def test_higher_may_be_better_too() -> None:
    fast = Check(metric="speed", better="higher", against="champion", limit=1.0)
    champion = side([1] * 16, speed=15.0)

    assert decided(asked([fast], side([1] * 16, speed=18.0), champion)) == "accepted"
    assert decided(asked([fast], side([1] * 16, speed=14.0), champion)) == "held"
    assert decided(asked([SPEED], side([1] * 16, speed=13.5), champion)) == "accepted"
    assert decided(asked([SPEED], side([1] * 16, speed=13.4), champion)) == "held"


@pytest.mark.parametrize(
    ("mine", "champions", "ratio", "outcome"),
    [
        (0.0, 0.0, 1.0, "accepted"),  # 0/0: no difference was seen, which no margin holds against anyone
        (1.0, 0.0, math.inf, "held"),  # 1/0: any event against none breaks every margin
        (0.0, 1.0, 0.0, "accepted"),
    ],
)
def test_a_champion_without_a_single_event(mine: float, champions: float, ratio: float, outcome: str) -> None:
    candidate = side([1] * 16, [mine] + [0.0] * 15)
    champion = side([5] * 16, [champions] + [0.0] * 15)

    found = asked([RATE, GUARD], candidate, champion)

    assert decided(found) == outcome
    (reason,) = (r for r in found.reasons if r.metric == "off_road")
    assert reason.ratio == min(ratio, 1.7e308)
    assert reason.met == (outcome == "accepted")


def test_a_champion_without_a_takeover_cannot_be_beaten_and_that_is_no_lack_of_evidence() -> None:
    perfect = side([0] * 16)

    assert decided(asked([RATE], perfect, perfect)) == "held"
    assert decided(asked([RATE], side([1] + [0] * 15), perfect)) == "held"


@pytest.mark.parametrize("better", ["lower", "higher"])
def test_what_cannot_be_measured_is_not_met_and_is_a_lack_of_evidence(better: str) -> None:
    check = Check(metric="takeovers", better=better, against="champion", limit=1.0)  # type: ignore[arg-type]

    found = asked([check], side([0] * 16, km=0.0), side([1] * 16))

    assert decided(found) == "not_enough_evidence"
    assert found.reasons[0].candidate == -1.0


@pytest.mark.parametrize("pairs", [0, 1, 2])
def test_fewer_than_three_pairs_prove_nothing(pairs: int) -> None:
    found = asked([RATE], side([0] * pairs), side([9] * pairs))

    assert not found.accepted
    assert decided(found, pairs) == "not_enough_evidence"


def test_a_first_model_is_asked_against_the_baseline_and_the_absolute_limits() -> None:
    follower = Check(metric="takeovers", better="lower", against="champion", limit=1.0, first=False)
    late = Check(metric="speed", better="higher", against="limit", limit=30.0, first=False)

    found = asked([FIRST, RATE, follower, LEAST, late], side([1] * 16), side([5] * 16), "baseline")

    assert [(r.metric, r.against, r.met) for r in found.reasons] == [
        ("takeovers", "baseline", True),
        ("speed", "limit", True),
    ]
    assert decided(asked([FIRST, LEAST], side([1] * 16, speed=9.0), side([5] * 16), "baseline")) == "held"
    assert not asked([], side([1] * 16), side([5] * 16)).accepted  # nothing asked proves nothing


def test_the_same_trials_give_the_same_verdict() -> None:
    candidate, other = side([4, 5, 4, 3] * 4), side([5, 4, 6, 3] * 4)

    assert asked([RATE], candidate, other) == asked([RATE], candidate, other)


def test_what_json_cannot_hold_is_said_otherwise() -> None:
    assert finite({"a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.5}) == {"b": 1.7e308, "c": -1.7e308, "d": 0.5}
    assert gate.LEAST_PAIRS == 3
