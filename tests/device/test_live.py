"""A device killed at any effect on its disk: what it lived stands in its journal once, or is named as lost."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from fleetmill.core.custody import Posting, Span, move
from fleetmill.core.fleet import Campaign
from fleetmill.core.ids import sha256
from fleetmill.core.line import Frame, Step, Trigger
from fleetmill.core.plain import build, plain
from fleetmill.device import live
from fleetmill.device.enrolment import Enrolled
from fleetmill.device.journal import open_journal
from fleetmill.device.spool import open_spool
from fleetmill.testing import tiny_line
from killing import every_death

ME = Enrolled(name="d0", number=0, line="tiny", hardware="cpu", factory="http://factory", root="")
CAMPAIGN = Campaign(
    line="tiny", number=1, scenario="field", sessions=2, seconds=0.4, budget_ratio=0.6, seed=5,
    triggers=(Trigger(when="abs(label.y) > 1", before_ns=0, after_ns=0),),
)  # fmt: skip
PERIOD_NS = 100_000_000


class Counted:
    """A world that counts, for itself, the instants that it began."""

    def __init__(self, folder: Path, scenario: str, seed: int) -> None:
        assert tiny_line.world is not None
        self._world, self._folder = tiny_line.world(scenario, seed), folder

    def begin(self) -> Step:
        return self._count(self._world.begin())

    def act(self, action: Frame) -> Step:
        return self._count(self._world.act(action))

    def close(self) -> None:
        self._world.close()

    def _count(self, step: Step) -> Step:
        COUNTS[self._folder] = COUNTS.get(self._folder, 0) + 1
        return step


COUNTS: dict[Path, int] = {}


def work(folder: Path, taken: dict[str, Any]) -> None:
    """What the agent does between two looks at the factory; `taken` is what the factory was handed."""
    journal, spool = open_journal(folder / "journal.jsonl"), open_spool(folder / "spool")
    live.recover(journal, spool)
    while live.begun(journal, CAMPAIGN) < CAMPAIGN.sessions:
        live.live(
            ME, tiny_line, journal, spool, CAMPAIGN, policy=None, model="",
            world=lambda scenario, seed: Counted(folder, scenario, seed),
        )  # fmt: skip
    live.settle(ME, tiny_line, journal, spool, lambda digest: CAMPAIGN)
    for begin in spool.sessions():
        settled = spool.settled(begin.session)
        assert settled is not None
        sent = {p["recording"] for p in journal.postings() if p["to"] == "sent"}
        for ref in settled["manifest"]["recordings"]:
            assert sha256(spool.clip(begin.session, ref["digest"]).read_bytes()) == ref["digest"]
            if ref["digest"] not in sent:
                known = {name: ref[name] for name in ("start_ns", "end_ns", "bytes", "messages")}
                posting = Posting(device=0, track=0, source="kept", to="sent", recording=ref["digest"], **known)
                journal.append([("moved", plain(posting))])
        assert taken.setdefault(begin.session, settled["manifest"]) == settled["manifest"], "said twice, differently"
        spool.forget(begin.session)


def books(folder: Path) -> list[Span]:
    """The device's postings as the factory would take them."""
    spans: list[Span] = []
    for record in open_journal(folder / "journal.jsonl").postings():
        posting = build(Posting, record)
        touched = [s for s in spans if s.start_ns < posting.end_ns and s.end_ns > posting.start_ns]
        spans = [s for s in spans if s not in touched] + move(posting, touched)
    return sorted(spans, key=lambda s: s.start_ns)


def test_an_undisturbed_device_hands_over_what_it_kept(tmp_path: Path) -> None:
    taken: dict[str, Any] = {}
    work(tmp_path, taken)

    spans = books(tmp_path)

    assert sum(s.end_ns - s.start_ns for s in spans) == 8 * PERIOD_NS
    assert COUNTS[tmp_path] == 8
    assert [m["ended"] for m in taken.values()] == ["done", "done"]
    assert {s.account for s in spans} == {"sent", "dropped"}


def test_killed_at_any_effect_nothing_is_lost_in_silence_and_nothing_is_said_twice(tmp_path: Path) -> None:
    deaths = 0
    handed: dict[int, dict[str, Any]] = {}

    def begin(nth: int) -> None:
        (tmp_path / f"{nth}").mkdir()
        handed[nth] = {}

    for nth in every_death(lambda nth: work(tmp_path / f"{nth}", handed[nth]), before=begin):
        folder = tmp_path / f"{nth}"
        work(folder, handed[nth])
        work(folder, handed[nth])

        spans = books(folder)
        crashes = [s for s in spans if s.reason == "crash"]
        lived_ns = sum(s.end_ns - s.start_ns for s in spans)
        assert all(a.end_ns == b.start_ns for a, b in itertools.pairwise(spans)), "a hole in the books"
        assert spans[0].start_ns == live.EPOCH_NS
        assert len(crashes) <= 1
        assert abs(lived_ns - COUNTS[folder] * PERIOD_NS) <= len(crashes) * PERIOD_NS
        assert {s.account for s in spans} <= {"sent", "dropped"}
        assert sorted(handed[nth]) == ["s00000", "s00001"]
        assert sum(m["ended"] == "crash" for m in handed[nth].values()) == len(crashes)
        assert open_spool(folder / "spool").sessions() == []
        deaths += 1
    assert deaths > 50
