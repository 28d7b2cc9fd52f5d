"""Refining: sessions become stretches without holes; every landed nanosecond is refined or left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fleetmill.core.errors import LineError
from fleetmill.core.line import Episode, Message
from fleetmill.core.recording import RecordingRef, Session
from fleetmill.home import init_home, open_home
from fleetmill.receive import imports
from fleetmill.refine import run as refine
from fleetmill.refine import stages
from fleetmill.settings import Settings
from fleetmill.testing import Clock, tiny_file, tiny_line

PERIOD = 100_000_000


def at(*steps: float) -> list[Message]:
    return [
        Message(topic="x", log_time_ns=int(s * PERIOD), publish_time_ns=0, value={"data": np.zeros(3, np.float32)})
        for s in steps
    ]


def a_session(*edges: tuple[float, float]) -> Session:
    refs = tuple(
        RecordingRef(digest="0" * 64, start_ns=int(a * PERIOD), end_ns=int(b * PERIOD), bytes=1, messages=1)
        for a, b in edges
    )
    return Session(
        device="d0", name="s0", number=0, line="tiny", start_ns=0, end_ns=int(edges[-1][1] * PERIOD), recordings=refs,
        recorded_bytes=1, tags={"room": "a"},
    )  # fmt: skip


def runs(session: Session, messages: list[Message]) -> list[list[float]]:
    found = list(stages.stretches(tiny_line, session, messages))
    assert [s.index for s in found] == list(range(len(found)))
    assert all((s.device, s.session, s.tags) == ("d0", "s0", {"room": "a"}) for s in found)
    return [[m.log_time_ns / PERIOD for m in s.messages] for s in found]


def test_a_session_without_a_hole_is_one_stretch() -> None:
    assert runs(a_session((0, 5)), at(0, 1, 2, 3, 4)) == [[0, 1, 2, 3, 4]]
    assert runs(a_session((0, 5)), []) == []


def test_three_periods_of_silence_are_borne_and_more_end_the_stretch() -> None:
    assert runs(a_session((0, 9)), at(0, 1, 4, 5)) == [[0, 1, 4, 5]]
    assert runs(a_session((0, 9)), at(0, 1, 4.01, 5)) == [[0, 1], [4.01, 5]]


def test_recordings_that_touch_go_on_and_those_that_do_not_end_the_stretch() -> None:
    rows = at(0, 1, 2, 3, 4, 5)

    assert runs(a_session((0, 3), (3, 6)), rows) == [[0, 1, 2, 3, 4, 5]]
    assert runs(a_session((0, 2), (3, 6)), at(0, 1, 3, 4, 5)) == [[0, 1], [3, 4, 5]]


def test_every_message_of_an_instant_stays_in_its_stretch() -> None:
    twice = [m for pair in zip(at(0, 1, 5, 6), at(0, 1, 5, 6)) for m in pair]

    assert runs(a_session((0, 2), (5, 7)), twice) == [[0, 0, 1, 1], [5, 5, 6, 6]]


def an_episode(**changed: object) -> Episode:
    known = Episode(
        device="d0", session="s0", start_ns=0, end_ns=3, times_ns=np.arange(3), columns={"x": np.zeros((3, 3))}
    )
    return replace(known, **changed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"times_ns": np.zeros(0, np.int64), "columns": {}}, "rows in rising time"),
        ({"times_ns": np.array([0, 2, 1])}, "rows in rising time"),
        ({"end_ns": 0}, "rows in rising time"),
        ({"end_ns": 10**12}, "lies outside its session"),
        ({"start_ns": -1}, "lies outside its session"),
        ({"columns": {"x": np.zeros((2, 3))}}, "column x has 2 rows, the episode 3"),
    ],
)
def test_a_line_that_cuts_nonsense_is_told(changed: dict[str, object], says: str) -> None:
    line = replace(tiny_line, cut=lambda stretch: iter([an_episode(**changed)]))

    with pytest.raises(LineError, match=f"line tiny: an episode of session d0/s0.*{says}"):
        list(stages.episodes(line, a_session((0, 5)), at(0, 1)))


def test_an_episode_is_known_by_what_is_in_it() -> None:
    digests = {
        stages.digest(e)
        for e in (
            an_episode(),
            an_episode(device="d1"),
            an_episode(end_ns=4),
            an_episode(tags={"room": "b"}),
            an_episode(columns={"y": np.zeros((3, 3))}),
            an_episode(columns={"x": np.zeros((3, 3), np.float32)}),
            an_episode(columns={"x": np.full((3, 3), -0.0)}),
        )
    }

    assert len(digests) == 7
    assert stages.digest(an_episode()) == stages.digest(an_episode(columns={"x": np.asfortranarray(np.zeros((3, 3)))}))


def test_a_frame_is_known_again_by_what_was_observed() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 3)).astype(np.float32)
    x[3] = x[0]
    columns = {"x": x, "label.y": rng.normal(size=4)}

    found = stages.frame_digests(tiny_line, an_episode(times_ns=np.arange(4), end_ns=4, columns=columns))

    assert found.dtype == np.uint64
    assert found[3] == found[0]
    assert len(set(found.tolist())) == 3


@pytest.mark.parametrize("left", [(0, 0), (3, 0), (0, 4), (2, 5)])
def test_every_landed_nanosecond_and_byte_is_refined_or_left_out(tmp_path: Path, left: tuple[int, int]) -> None:
    before, after = left

    def cut(stretch):  # type: ignore[no-untyped-def]
        for e in tiny_line.cut(stretch):
            rows = slice(before, len(e.times_ns) - after)
            times = e.times_ns[rows]
            yield replace(
                e,
                start_ns=int(times[0]),
                end_ns=int(times[-1]) + PERIOD,
                times_ns=times,
                columns={name: column[rows] for name, column in e.columns.items()},
            )

    line, path = replace(tiny_line, cut=cut), tmp_path / "s1.tiny.json"
    path.write_bytes(tiny_file(1, rows=30))
    init_home(Settings(home=tmp_path / "home"), now_ns=Clock()())
    with open_home(Settings(home=tmp_path / "home"), clock=Clock()) as home:
        sessions = imports.import_path(home.ledger, home.books, home.blobs, line, path, device="d0")
        (landed,) = (b for b in home.books.balances() if b.account == "landed")

        version = refine.run(home.ledger, home.books, home.blobs, line, sessions)

        rows = {(b.account, b.reason): b for b in home.books.balances() if b.account != "lived"}
        assert sum(b.ns for b in rows.values()) == landed.ns == 30 * PERIOD
        assert sum(b.bytes for b in rows.values()) == landed.bytes
        assert rows["refined", ""].ns == (30 - before - after) * PERIOD
        assert ("left_out", "not_cut") in rows or left == (0, 0)
        assert version.rows("train") == 30 - before - after
        assert home.books.faults() == home.books.verify() == []
        assert refine.run(home.ledger, home.books, home.blobs, line, sessions) == version
        assert len(refine.open_data(home.ledger, home.blobs, version.digest)) == 1
