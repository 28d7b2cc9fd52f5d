"""The loop in one process: it learns, judges, publishes; killed at any append it ends in the same facts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fleetmill import due, loop
from fleetmill.core import canonical
from fleetmill.core.errors import NotFoundError
from fleetmill.home import init_home, open_home
from fleetmill.receive import imports, roll
from fleetmill.settings import Settings
from fleetmill.testing import Clock, tiny_file, tiny_line

SKIP = {"invited"}  # holds a fresh secret's digest
MEASURED = {"cost", "findings"}  # CPU and wall time are what they were, so only that these are there is compared


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


class KillingLedger:
    """Passes everything on to the real ledger, and dies at the nth append that brings news: before it, or after it."""

    def __init__(self, ledger, at, *, after):
        self._ledger, self._at, self._after = ledger, at, after
        self.news = 0

    def __getattr__(self, name):
        return getattr(self._ledger, name)

    def append(self, drafts):
        self.news += any(not self._is_known(d) for d in drafts)
        if self.news == self._at and not self._after:
            raise Killed
        facts = self._ledger.append(drafts)
        if self.news == self._at:
            raise Killed
        return facts

    def _is_known(self, draft):
        try:
            self._ledger.get(draft.kind, draft.key)
        except NotFoundError:
            return False
        return True


def bring(home, folder, seeds):
    for seed in seeds:
        folder.mkdir(exist_ok=True)
        path = folder / f"s{seed}.tiny.json"
        path.write_bytes(tiny_file(seed, scenario="default" if seed < 10 else "field"))
        imports.import_path(home.ledger, home.books, home.blobs, tiny_line, path, device=f"d{seed % 5}")


def two_turns(home, folder):
    """What an operator does, who looks where he was before he goes on."""
    bring(home, folder, range(4))
    turned = loop.turn(home, tiny_line) if due.turns(home, tiny_line) == 0 else None
    bring(home, folder, range(10, 16))
    return loop.turn(home, tiny_line) if due.turns(home, tiny_line) == 1 else turned


@pytest.fixture
def home(tmp_path):
    settings = Settings(home=tmp_path / "home", seed=3)
    clock = Clock()
    init_home(settings, now_ns=clock())
    with open_home(settings, clock=clock) as opened:
        yield opened


def facts(home):
    return {
        (f.kind, f.key): b"" if f.kind in MEASURED else canonical.dumps(f.record)
        for f in home.ledger.read()
        if f.kind not in SKIP
    }


def test_two_turns_learn_what_the_field_teaches(home, tmp_path):
    turned = two_turns(home, tmp_path / "in")

    assert turned.number == 1
    assert turned.verdict.decision in ("accepted", "held", "not_enough_evidence")
    assert home.books.faults() == []
    assert home.books.verify() == []
    assert home.ledger.verify() > 20
    assert all(r.trials and r.pairs for r in turned.verdict.reasons)


def test_a_turn_without_news_does_nothing(home, tmp_path):
    two_turns(home, tmp_path / "in")
    before = facts(home)

    assert loop.turn(home, tiny_line) is None
    assert facts(home) == before


def test_a_session_that_is_held_out_alone_begins_no_turn(home, tmp_path):
    for name in ("d0", "d1", "d2"):
        roll.ensure_imported(home.ledger, name, line="tiny")
    bring(home, tmp_path / "in", [2])  # the first of device 2: held out
    assert (loop.turn(home, tiny_line), due.waiting(home, tiny_line).sessions) == (None, 1)

    bring(home, tmp_path / "in", [0])

    assert loop.turn(home, tiny_line).number == 0


def test_a_session_that_comes_in_while_it_is_asked_whether_all_are_here_is_taken(home, tmp_path, monkeypatch):
    bring(home, tmp_path / "in", range(3))
    is_due = due.is_due

    def is_due_now(home, line):
        bring(home, tmp_path / "in", [3])  # the last one, from a device that uploads beside the loop
        return is_due(home, line)

    monkeypatch.setattr(due, "is_due", is_due_now)

    assert len(loop.turn(home, tiny_line).dataset.parts) == 4


def test_a_first_session_alone_proves_nothing_and_the_loop_goes_on(home, tmp_path):
    bring(home, tmp_path / "in", [0])
    replayed = replace(tiny_line, world=None)

    turned = loop.turn(home, replayed)
    bring(home, tmp_path / "in", range(1, 8))

    assert (turned.verdict.decision, turned.verdict.pairs, turned.release) == ("not_enough_evidence", 0, None)
    assert loop.turn(home, replayed).verdict.pairs > 0


def test_importing_the_same_files_again_changes_nothing(home, tmp_path):
    bring(home, tmp_path / "in", range(3))
    before = facts(home)

    bring(home, tmp_path / "in", range(3))

    assert facts(home) == before


def test_the_order_of_arrival_changes_no_digest(tmp_path):
    digests = []
    for name, order in (("a", [0, 1, 2, 3, 4]), ("b", [3, 1, 4, 0, 2])):
        settings = Settings(home=tmp_path / name)
        init_home(settings, now_ns=Clock()())
        with open_home(settings, clock=Clock()) as home:
            for d in range(5):
                roll.ensure_imported(home.ledger, f"d{d}", line="tiny")
            bring(home, tmp_path / name / ".in", order)
            turned = loop.turn(home, tiny_line)
            digests.append((turned.dataset.digest, turned.candidate.digest))

    assert digests[0] == digests[1]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_every_append_it_ends_in_the_same_facts(tmp_path, after):
    settings = Settings(home=tmp_path / "whole", seed=3)
    init_home(settings, now_ns=Clock()())
    with open_home(settings, clock=Clock()) as home:
        counted = replace(home, ledger=KillingLedger(home.ledger, -1, after=after))
        two_turns(counted, tmp_path / "in")
        expected, appends = facts(home), counted.ledger.news

    settings, kills = Settings(home=tmp_path / "killed", seed=3), 0
    init_home(settings, now_ns=Clock()())
    while True:
        with open_home(settings, clock=Clock()) as home:
            try:  # each process gets one append further than the one before
                two_turns(
                    replace(home, ledger=KillingLedger(home.ledger, 1 if after else 2, after=after)), tmp_path / "in"
                )
            except Killed:
                kills += 1
                continue
            assert facts(home) == expected
            assert home.books.faults() == home.books.verify() == []
            break

    assert kills == (appends if after else appends - 1)
