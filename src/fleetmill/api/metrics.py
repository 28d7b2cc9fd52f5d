"""``GET /metrics``: what the factory counts, in Prometheus' text format 0.0.4.

Numbers of the ledger are a running tally over its facts: each fact is read once, so a scrape costs what is new.
"""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics, generate_latest
from prometheus_client import Counter as Counts
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fleetmill.home import Home
from fleetmill.seams.ledger import Fact

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0)


class Tally:
    """What is counted of the facts; `take` is given each once, in order."""

    def __init__(self) -> None:
        self.facts = 0
        self.kinds: Counter[str] = Counter()
        self.sessions: Counter[str] = Counter()  # by line
        self.decisions: Counter[tuple[str, str]] = Counter()  # (line, decision)
        self.releases: dict[str, int] = {}  # line -> counter in the field
        self.last_turn_ns: dict[str, int] = {}
        self.heard_ns: dict[int, int] = {}  # device number -> its last signed journal
        self.enrolled: dict[int, int] = {}  # device number -> when
        self.open_turns: dict[str, int] = {}  # line/turn -> when it was begun
        self.stored_bytes = 0

    def take(self, fact: Fact) -> None:
        """Count one fact."""
        self.facts = fact.seq
        self.kinds[fact.kind] += 1
        record = fact.record
        if fact.kind == "session":
            self.sessions[record["manifest"]["line"]] += 1
        elif fact.kind == "recording":
            self.stored_bytes += int(record["stored_bytes"])
        elif fact.kind == "journal":
            self.heard_ns[record["device"]] = fact.time_ns
        elif fact.kind == "device" and record["public_key"]:
            self.enrolled[record["number"]] = fact.time_ns
        elif fact.kind == "release":
            self.releases[record["line"]] = max(int(record["counter"]), self.releases.get(record["line"], 0))
        elif fact.kind == "turn_begun":
            self.open_turns[fact.key] = fact.time_ns
        elif fact.kind == "turn_ended":
            self._ended(fact)

    def _ended(self, fact: Fact) -> None:
        self.open_turns.pop(fact.key, None)
        self.decisions[fact.record["line"], fact.record["decision"]] += 1
        self.last_turn_ns[fact.record["line"]] = fact.time_ns


class Meter(Collector):
    """Counts requests as they are answered, and reads the rest when it is asked."""

    def __init__(self, home: Home, loop_alive: Callable[[], bool | None]) -> None:
        self._home, self._loop_alive = home, loop_alive
        self._tally, self._lock = Tally(), threading.Lock()
        self._registry = CollectorRegistry()
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series per counter, for nobody
        self._requests = Counts(
            "fleetmill_requests", "Requests answered.", ["method", "route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "fleetmill_request_seconds",
            "How long an answer took.",
            ["method", "route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._registry.register(self)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def page(self) -> bytes:
        """Everything, as text."""
        return generate_latest(self._registry)

    def turning(self) -> list[str]:
        """Turns that have begun and not ended: line/turn."""
        with self._lock:
            return sorted(self._now().open_turns)

    def describe(self) -> list[Metric]:
        """Nothing beforehand: registering must not read the ledger."""
        return []

    def collect(self) -> Iterator[Metric]:
        """What is read when it is asked for."""
        with self._lock:
            return iter(list(self._collect(self._now())))

    def _now(self) -> Tally:
        """The tally over all facts up to now. Only under the lock."""
        for fact in self._home.ledger.read(after=self._tally.facts):
            self._tally.take(fact)
        return self._tally

    def _collect(self, tally: Tally) -> Iterator[Metric]:
        now_ns = self._home.clock()
        yield from _of_facts(tally)
        yield from _of_turns(tally)
        yield _balances(self._home)
        heard = [tally.heard_ns.get(number, since) for number, since in tally.enrolled.items()]
        yield _gauge(
            "oldest_unreported_seconds",
            "Since the enrolled device that is silent the longest said what it lived.",
            (now_ns - min(heard)) / 1e9 if heard else 0.0,
        )
        disk = shutil.disk_usage(self._home.settings.home)
        yield _gauge("disk_free_bytes", "Left on the disk of the home.", disk.free)
        alive = self._loop_alive()
        if alive is not None:
            yield _gauge("loop_up", "1 while the loop's process runs.", int(alive))


def _of_facts(tally: Tally) -> Iterator[Metric]:
    kinds = CounterMetricFamily("fleetmill_facts", "Facts in the ledger.", labels=["kind"])
    for kind, number in sorted(tally.kinds.items()):
        kinds.add_metric([kind], number)
    yield kinds
    sessions = CounterMetricFamily("fleetmill_sessions", "Closed sessions.", labels=["line"])
    for line, number in sorted(tally.sessions.items()):
        sessions.add_metric([line], number)
    yield sessions
    yield _gauge("devices", "Devices with a key.", len(tally.enrolled))
    yield CounterMetricFamily("fleetmill_recording_bytes", "Recordings taken in, as stored.", value=tally.stored_bytes)


def _of_turns(tally: Tally) -> Iterator[Metric]:
    turns = CounterMetricFamily("fleetmill_turns", "Turns that ended.", labels=["line", "decision"])
    for (line, decision), number in sorted(tally.decisions.items()):
        turns.add_metric([line, decision], number)
    yield turns
    release = GaugeMetricFamily("fleetmill_release", "Newest release counter.", labels=["line"])
    for line, counter in sorted(tally.releases.items()):
        release.add_metric([line], counter)
    yield release
    last = GaugeMetricFamily("fleetmill_last_turn_timestamp_seconds", "When the last turn ended.", labels=["line"])
    for line, time_ns in sorted(tally.last_turn_ns.items()):
        last.add_metric([line], time_ns / 1e9)
    yield last
    yield _gauge("turns_in_progress", "Turns that have begun and not ended.", len(tally.open_turns))


def _balances(home: Home) -> Metric:
    """The fleet's books: seconds by account and reason; all of them sum to zero."""
    total: Counter[tuple[str, str]] = Counter()
    for row in home.books.fleet():
        total[row.account, row.reason] += row.ns
    found = GaugeMetricFamily("fleetmill_balance_seconds", "Lived time by account.", labels=["account", "reason"])
    for (account, reason), ns in sorted(total.items()):
        found.add_metric([account, reason], ns / 1e9)
    return found


def _gauge(name: str, text: str, value: float) -> Any:
    return GaugeMetricFamily(f"fleetmill_{name}", text, value=value)
