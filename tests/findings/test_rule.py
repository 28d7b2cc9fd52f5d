"""The statistics of findings: known values, brute force, and how often they cry wolf."""

from __future__ import annotations

import doctest
import importlib
import math
from fractions import Fraction

import numpy as np
import pytest

from fleetmill.findings import rule

MODULES = (
    "findings.rule", "findings.letters", "findings.failures", "core.moment", "api.findings",
)  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_what_a_docstring_shows_is_what_comes(name):
    done = doctest.testmod(importlib.import_module(f"fleetmill.{name}"))

    assert done.attempted
    assert done.failed == 0


# -- exact tests ------------------------------------------------------------------------------------------------------


def brute(hits, of, share):
    """The two-sided binomial p-value in exact fractions."""
    p = Fraction(share)
    chances = [math.comb(of, k) * p**k * (1 - p) ** (of - k) for k in range(of + 1)]
    return float(sum(c for c in chances if c <= chances[hits]))


@pytest.mark.parametrize("of", [1, 7, 30])
@pytest.mark.parametrize("share", [0.5, 0.25, 0.03125])
def test_the_binomial_p_value_is_exact(of, share):
    for hits in range(of + 1):
        assert rule.binomial(hits, of, share) == pytest.approx(brute(hits, of, share), rel=1e-9)


def test_known_values_of_other_software():
    # R: binom.test(682, 925, p = 0.75) and poisson.test(c(11, 6+8+7), c(800, 1083+1050+878)), from their help pages
    assert rule.binomial(682, 925, 0.75) == pytest.approx(0.3825, abs=5e-5)
    assert rule.rates_differ(11, 800, 21, 3011) == pytest.approx(0.07967, abs=5e-6)
    # R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    assert rule.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_no_time_and_no_hits_prove_nothing():
    assert rule.rates_differ(3, 0.0, 5, 1.0) == 1.0
    assert rule.rates_differ(0, 1.0, 0, 1.0) == 1.0
    assert rule.holm([]) == []


def test_many_hits_do_not_overflow():
    assert 0.9 < rule.binomial(500_000, 1_000_000, 0.5) <= 1.0
    assert rule.binomial(600_000, 1_000_000, 0.5) == 0.0


def test_the_ks_distance_is_the_largest_gap():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=37), np.round(rng.normal(size=53), 1)
    points = np.concatenate([a, b])

    assert rule.ks(a, b) == max(abs((a <= x).mean() - (b <= x).mean()) for x in points)
    assert rule.ks(a, a) == 0.0
    assert rule.ks(np.zeros(3), np.ones(9)) == 1.0


def test_the_least_p_value_of_few_sessions_is_known():
    assert rule.least_chance(3, 4) == 1 / 35
    assert rule.least_chance(4, 4) == 2 / 70


# -- how often they cry wolf ------------------------------------------------------------------------------------------


def test_of_equal_fleets_at_most_one_in_twenty_has_a_device_that_stands_out():
    rng, families, alarms = np.random.default_rng(0), 1500, 0
    for _ in range(families):
        hours = rng.uniform(0.5, 2.0, 12)
        hits = rng.poisson(6.0 * hours)
        total, time = int(hits.sum()), float(hours.sum())
        alone = [rule.rates_differ(int(k), float(h), total - int(k), time - float(h)) for k, h in zip(hits, hours)]
        alarms += min(rule.holm(alone)) < rule.LEVEL

    assert 0.005 < alarms / families <= rule.LEVEL


def test_a_device_that_fails_three_times_as_often_is_found():
    rng, found = np.random.default_rng(1), 0
    for _ in range(100):
        hits = [int(n) for n in rng.poisson([10.0] * 11 + [30.0])]
        alone = [rule.rates_differ(k, 1.0, sum(hits) - k, 11.0) for k in hits]
        found += rule.holm(alone)[-1] < rule.LEVEL

    assert found > 85


def sessions(rng, number, components, *, shift=0.0):
    """Columns of correlated rows: each session has a level of its own, rows scatter little around it."""
    return [
        [rng.normal(rng.normal(shift if c == 0 else 0.0), 0.3, size=int(rng.integers(10, 30))) for _ in range(number)]
        for c in range(components)
    ]


def test_of_fleets_that_did_not_drift_at_most_one_in_twenty_is_said_to_have():
    rng, families, alarms = np.random.default_rng(2), 400, 0
    for number in range(families):
        columns = [a + b for a, b in zip(sessions(rng, 6, 4), sessions(rng, 10, 4))]
        found = rule.shifts(columns, [True] * 6 + [False] * 10, seed=number)
        alarms += min(s.p_family for s in found) < rule.LEVEL

    assert 0.005 < alarms / families <= rule.LEVEL


def test_permuting_rows_instead_of_sessions_would_cry_wolf_all_the_time():
    """Why sessions are what changes sides: the same fleets, asked row by row."""
    rng, alarms = np.random.default_rng(3), 0
    for number in range(30):
        (column,) = [a + b for a, b in zip(sessions(rng, 6, 1), sessions(rng, 10, 1))]
        rows = [[row] for session in column for row in np.split(session, len(session))]
        new = [i < 6 for i, session in enumerate(column) for _ in session]
        (found,) = rule.shifts([[r[0] for r in rows]], new, seed=number)
        alarms += found.p < rule.LEVEL

    assert alarms > 20


def test_a_component_that_drifted_is_found_among_those_that_did_not():
    rng = np.random.default_rng(4)
    columns = [a + b for a, b in zip(sessions(rng, 8, 5, shift=4.0), sessions(rng, 10, 5))]

    found = rule.shifts(columns, [True] * 8 + [False] * 10, seed=0)

    assert [s.p_family < rule.LEVEL for s in found] == [True, False, False, False, False]
    assert found[0].distance > 0.8
    assert found == rule.shifts(columns, [True] * 8 + [False] * 10, seed=0)


def test_there_are_enough_permutations_for_many_components():
    least = 1 / (1 + rule.permutations(500))

    assert 500 * least < rule.LEVEL
