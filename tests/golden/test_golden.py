"""Bytes that were written once are read by today's code, which writes the same."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from make import BEGIN, CAMPAIGN, FEATURES, MAKERS, POSTING, SESSION, SINCE_V2, START, V1, V2, episode, messages, place

from fleetmill.core import canonical
from fleetmill.core.fleet import Campaign
from fleetmill.core.plain import build, plain
from fleetmill.core.recording import Session
from fleetmill.device.journal import open_journal
from fleetmill.device.spool import Begin, open_spool
from fleetmill.home import init_home
from fleetmill.seams import recordings
from fleetmill.seams.ledger import Draft, open_ledger
from fleetmill.seams.tables import open_table
from fleetmill.settings import Settings

LIBRARYS_OWN = {"table.arrow"}  # Arrow promises that it is read, not how it is written


def test_there_is_a_golden_file_of_every_format() -> None:
    assert sorted(p.name for p in V1.iterdir()) == sorted([*MAKERS, *SINCE_V2])
    assert sorted(p.name for p in V2.iterdir()) == sorted(SINCE_V2)


@pytest.mark.parametrize("name", sorted(set(MAKERS) - LIBRARYS_OWN))
def test_todays_code_writes_the_same_bytes(name: str) -> None:
    assert MAKERS[name]() == (V1 / name).read_bytes()


@pytest.mark.parametrize("name", sorted(SINCE_V2))
def test_todays_code_writes_the_same_bytes_as_format_2(name: str) -> None:
    assert SINCE_V2[name]() == (V2 / name).read_bytes()


def test_facts_are_read_and_their_chain_holds() -> None:
    lines = [canonical.loads(line) for line in (V1 / "facts.jsonl").read_bytes().splitlines()]
    ticks = iter([line["time_ns"] for line in lines])
    ledger = open_ledger("sqlite://", clock=lambda: next(ticks))

    facts = [ledger.append([Draft(kind=x["kind"], key=x["key"], record=x["record"])])[0] for x in lines]

    assert [f.digest for f in facts] == [x["digest"] for x in lines]
    assert [f.seq for f in facts] == [1, 2]
    ledger.close()


def test_a_recording_is_read() -> None:
    data = (V1 / "recording.mcap").read_bytes()

    info, found = recordings.read_info(data, "golden"), list(recordings.read_messages(data, "golden"))

    assert info is not None
    assert (info.device, info.line, info.tags, info.version) == ("car-07", "driving", {"room": "grün"}, 1)
    assert [(m.topic, m.log_time_ns) for m in found] == [(m.topic, m.time_ns) for m in messages()]
    assert found[-1].value == {"data": "örtlich 2"}
    np.testing.assert_array_equal(found[0].value["data"], np.arange(18).reshape(2, 3, 3))
    assert {m.topic for m in found} == {f.name for f in FEATURES}


def test_a_table_is_read_and_today_gives_the_same_values(tmp_path: Path) -> None:
    (tmp_path / "today").write_bytes(MAKERS["table.arrow"]())

    for path in (V1 / "table.arrow", tmp_path / "today"):
        table = open_table(path)
        assert list(table.places) == [place()]
        for name, column in {**episode().columns, "time_ns": episode().times_ns}.items():
            found = table.column(name)
            assert (found.dtype, found.shape) == (column.dtype, column.shape)
            np.testing.assert_array_equal(found, column)


def test_a_journal_and_a_log_are_read(tmp_path: Path) -> None:
    shutil.copy(V1 / "journal.jsonl", tmp_path / "journal.jsonl")
    folder = tmp_path / "spool" / BEGIN.session
    folder.mkdir(parents=True)
    for name in ("begin.json", "live.wal"):
        shutil.copy(V1 / name, folder / name)

    journal, spool = open_journal(tmp_path / "journal.jsonl"), open_spool(tmp_path / "spool")

    assert journal.postings() == [{**plain(POSTING), "entry": 1}]
    (begin,) = spool.sessions()
    assert begin == BEGIN == build(Begin, canonical.loads((V1 / "begin.json").read_bytes()))
    assert [m for i in spool.instants(begin) for m in i.messages] == messages()
    assert next(spool.instants(begin)).time_ns == START


def test_a_campaign_and_a_manifest_are_read_and_keep_their_digests() -> None:
    campaign = build(Campaign, canonical.loads((V1 / "campaign.json").read_bytes()))
    manifest = build(Session, canonical.loads((V1 / "manifest.json").read_bytes()))

    assert (campaign, manifest) == (CAMPAIGN, SESSION)
    assert campaign.digest == canonical.digest(canonical.loads((V1 / "campaign.json").read_bytes()))


def test_golden_frames_are_read_without_pickle() -> None:
    with np.load(io.BytesIO((V1 / "golden.npz").read_bytes()), allow_pickle=False) as stored:
        np.testing.assert_array_equal(stored["in.camera"], np.arange(36).reshape(2, 2, 3, 3))
        np.testing.assert_array_equal(stored["out.steer"], np.float32([8.5, 26.5]))


@pytest.mark.parametrize("then", [V1, V2], ids=["v1", "v2"])
def test_a_home_of_then_is_a_home_now(tmp_path: Path, then: Path) -> None:
    home = tmp_path / "home"
    init_home(Settings(home=home), now_ns=START)
    shutil.copy(then / "home.json", home / "home.json")

    init_home(Settings(home=home), now_ns=START)

    assert (home / "home.json").read_bytes() == (then / "home.json").read_bytes()
