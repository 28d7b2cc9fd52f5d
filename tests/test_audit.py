"""The audit's own rule: how far books and simulators may be apart."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SECOND_NS = 1_000_000_000
SCRIPT = Path(__file__).parents[1] / "scripts" / "audit.py"
SPEC = importlib.util.spec_from_file_location("audit", SCRIPT)
audit = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(audit)


@pytest.mark.parametrize("period_ns", [40_000_000, 100_000_000, SECOND_NS, 3600 * SECOND_NS])
@pytest.mark.parametrize("durable", [True, False], ids=["after the instant was durable", "before"])
def test_a_crash_is_within_what_the_books_may_differ_and_a_lost_instant_is_not(period_ns, durable):
    begun = 7  # instants that the simulator counts
    tail = min(period_ns, audit.CRASH_NS)  # what the device posts as lost, see `device.live.tail`
    books = period_ns * (begun if durable else begun - 1) + tail

    assert abs(books - begun * period_ns) <= audit.may_differ_ns(1, period_ns)
    lost = books - 2 * period_ns - audit.CRASH_NS
    assert abs(lost - begun * period_ns) > audit.may_differ_ns(1, period_ns)
    assert audit.may_differ_ns(0, period_ns) == 0
