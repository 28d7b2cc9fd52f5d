"""Where time splits a line, what a session is used for stands in the dataset version: every receipt reads it there."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from fleetmill import due, loop, receipts, score
from fleetmill.core.split import BY_TIME
from fleetmill.home import init_home, open_home
from fleetmill.receipts.fate import fate
from fleetmill.receipts.why import why
from fleetmill.receive import imports
from fleetmill.refine import stages
from fleetmill.settings import LineSettings, Settings
from fleetmill.testing import Clock, tiny_file, tiny_line

LINE = replace(tiny_line, split="time")


@pytest.fixture
def home(tmp_path):
    settings = Settings(home=tmp_path / "home", seed=3, lines={"tiny": LineSettings()})
    init_home(settings, now_ns=Clock()())
    with open_home(settings, clock=Clock()) as opened:
        yield opened


def bring(home, folder, seeds):
    for seed in seeds:
        path = folder / f"s{seed}.tiny.json"
        path.write_bytes(tiny_file(seed))
        imports.import_path(home.ledger, home.books, home.blobs, LINE, path, device="d")


def roles(turned):
    return {part.session: part.role for part in turned.dataset.parts}


def test_a_session_that_was_asked_and_trains_later_has_its_role_by_dataset(home, tmp_path):
    bring(home, tmp_path, range(4))
    assert set(home.books.roles("tiny").values()) == {BY_TIME}
    assert due.is_due(home, LINE)
    first = loop.turn(home, LINE)
    bring(home, tmp_path, range(4, 12))
    assert home.books.roles("tiny")["d/s11"] == BY_TIME  # in no dataset yet
    second = loop.turn(home, LINE)

    asked = [s for s, role in roles(first).items() if role == "held_out"]
    assert asked == ["d/s3"]
    assert roles(second)["d/s3"] == "train"
    assert home.books.roles("tiny", first.dataset.digest)["d/s3"] == "held_out"
    assert home.books.roles("tiny") == roles(second)

    session = home.ledger.get("session", "d/s3").record["manifest"]
    told = fate(home.ledger, home.books, "d", session["start_ns"], session["end_ns"])
    assert [h.role for h in told.datasets] == ["held_out", "train"]
    assert [s.role for s in told.sessions] == ["train"]
    assert [r.model for r in told.judged] == [first.candidate.digest]
    assert [r.model for r in told.taught] == [second.candidate.digest]
    assert {p.session for p in why(home.ledger, first.candidate.digest).judged_on} == {"s3"}
    assert receipts.cross_check(home) == []
    assert home.books.verify() == []


def test_score_says_what_a_session_is_used_for_now(home, tmp_path):
    bring(home, tmp_path, range(4))
    turned = loop.turn(home, LINE)

    for seed, role in ((0, "train"), (3, "held_out")):
        found = score.score(home, LINE, turned.candidate.digest, tmp_path / f"s{seed}.tiny.json")
        assert found.sessions[0].roles == (role,)


def shifted(seed, *, first=0, rows=30, by_ns=0, noise=0.0):
    """The tiny file of a seed, some of its rows, at another time, other numbers beside them."""
    held = json.loads(tiny_file(seed))[first : first + rows]
    return json.dumps([[t + by_ns, [v + noise for v in x], y] for t, x, y in held]).encode()


@pytest.mark.parametrize(
    ("more", "known"),
    [
        ({}, 30),  # the very file
        ({"by_ns": 10**15}, 30),  # the same in another archive, whose clock was another
        ({"first": 3, "rows": 25}, 25),  # the middle of it
        ({"rows": 10}, 0),  # a few equal numbers in a row are no sign of anything
        ({"noise": 1e-3}, 0),
    ],
)
def test_numbers_are_known_again_by_runs_of_them(home, tmp_path, more, known):
    bring(home, tmp_path, range(4))
    turned = loop.turn(home, LINE)
    path = tmp_path / "other.tiny.json"
    path.write_bytes(shifted(1, **more))
    (found,) = score.score(home, LINE, turned.candidate.digest, path).sessions

    assert (found.known_frames, found.seen) == (known, known > 0)
    assert found.roles == (("train",) if known else ())


def test_equal_single_numbers_do_not_make_a_session_seen(home, tmp_path):
    """A sensor at rest gives the same numbers everywhere; what comes before and after tells them apart."""
    held = json.loads(tiny_file(1))
    zero = [[t, [0.0, 0.0, 0.0], 0.0] if i % 10 == 0 else [t, x, y] for i, (t, x, y) in enumerate(held)]
    (tmp_path / "a.tiny.json").write_text(json.dumps(zero))
    bring(home, tmp_path, range(4))
    imports.import_path(home.ledger, home.books, home.blobs, LINE, tmp_path / "a.tiny.json", device="e")
    turned = loop.turn(home, LINE)
    other = [[t, [0.0, 0.0, 0.0], 0.0] if i % 10 == 0 else [t, x, y] for i, (t, x, y) in enumerate(rows_of(77))]
    (tmp_path / "b.tiny.json").write_text(json.dumps(other))
    (found,) = score.score(home, LINE, turned.candidate.digest, tmp_path / "b.tiny.json").sessions

    assert (found.known_frames, found.seen, found.roles) == (0, False, ())


def rows_of(seed):
    return json.loads(tiny_file(seed))


def test_one_picture_is_enough_to_know_a_session_again(home, tmp_path):
    """Where a line has a picture a frame is a run of its own."""
    line = replace(LINE, features=(replace(LINE.features[0], shape=(1, 3, 1)), *LINE.features[1:]))
    bring(home, tmp_path, range(4))
    turned = loop.turn(home, LINE)
    path = tmp_path / "other.tiny.json"
    path.write_bytes(json.dumps([rows_of(1)[5], *rows_of(50)]).encode())
    known = score._Known(home, line)
    (_, episodes), *_ = score.recorded(LINE, path)

    assert known.roles([stages.frame_digests(LINE, e) for e in episodes])[0] == 1
    assert score._Known(home, LINE).roles([stages.frame_digests(LINE, e) for e in episodes])[0] == 0
    assert turned.candidate
