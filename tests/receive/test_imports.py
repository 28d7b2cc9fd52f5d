"""Foreign recordings: sessions end at gaps, our own come back as they were, an archive is a folder."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mcap.writer import Writer

from fleetmill.core import wire
from fleetmill.core.errors import ConflictError, InvalidInputError
from fleetmill.core.ids import sha256
from fleetmill.core.line import UNREADABLE, Files, Foreign, Importer, Message
from fleetmill.core.recording import RecordingInfo
from fleetmill.home import Home, init_home, open_home
from fleetmill.lines import find
from fleetmill.receive import imports, roll
from fleetmill.seams import recordings
from fleetmill.seams.ledger import Draft
from fleetmill.settings import Settings
from fleetmill.testing import Clock, tiny_file, tiny_line

START = 1_700_000_000_000_000_000
PERIOD = 100_000_000
SECOND = 10**9


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    settings = Settings(home=tmp_path / "home")
    init_home(settings, now_ns=Clock()())
    with open_home(settings, clock=Clock()) as opened:
        yield opened


def bring(home: Home, path: Path, **more):  # type: ignore[no-untyped-def]
    known = {"device": "d0", **more}
    return imports.import_path(home.ledger, home.books, home.blobs, known.pop("line", tiny_line), path, **known)


def foreign_mcap(times_ns: list[int]) -> bytes:
    """As another tool writes it: no `fleet` record, another library, no compression, a topic that nobody knows."""
    buffer = io.BytesIO()
    writer = Writer(buffer)
    writer.start(library="other")
    kind = wire.ARRAYS["float32"]
    schema = writer.register_schema(name=kind.name, encoding="ros2msg", data=kind.definition.encode())
    strange = writer.register_schema(name="foreign/msg/Thing", encoding="ros2msg", data=b"")
    channels = {
        "/x": writer.register_channel("/x", "cdr", schema),
        "/label.y": writer.register_channel("/label.y", "cdr", schema),
        "/thing": writer.register_channel("/thing", "cdr", strange),
    }
    for t in times_ns:
        for topic, size in (("/x", 3), ("/label.y", 1)):
            data = wire.encode(kind, {"data": np.ones(size, np.float32)}, t)
            writer.add_message(channels[topic], log_time=t, publish_time=t, data=data)
        writer.add_message(channels["/thing"], log_time=t, publish_time=t, data=b"?")
    writer.finish()
    return buffer.getvalue()


def test_a_foreign_recording_ends_a_session_at_each_gap_over_five_seconds(home: Home, tmp_path: Path) -> None:
    times = [START + t * PERIOD for t in (0, 1, 51, 52, 103, 104, 105)]  # 5.0 s apart, then 5.1 s
    (tmp_path / "Drive 1.mcap").write_bytes(foreign_mcap(times))

    with pytest.raises(InvalidInputError):
        bring(home, tmp_path / "Drive 1.mcap", device="D 0")
    sessions = bring(home, tmp_path / "Drive 1.mcap", tags={"room": "a"})

    assert [(s.start_ns, s.end_ns) for s in sessions] == [
        (START, START + 53 * PERIOD),
        (START + 103 * PERIOD, START + 106 * PERIOD),
    ]
    assert [s.number for s in sessions] == [0, 1]
    assert all(s.tags == {"room": "a"} and s.ended == "import" for s in sessions)
    rows = {b.account: b.ns for b in home.books.balances()}
    assert rows == {"landed": 56 * PERIOD, "lived": -56 * PERIOD}
    assert home.books.faults() == home.books.verify() == []


def test_our_own_recording_comes_back_as_the_session_that_it_was(home: Home, tmp_path: Path) -> None:
    info = RecordingInfo(
        device="car7", session="s3", line="tiny", start_ns=START, end_ns=START + 3 * PERIOD, tags={"night": "1"}
    )
    by_name = {f.name: f for f in tiny_line.features}
    messages = [
        Message(topic=name, log_time_ns=START + i * PERIOD, publish_time_ns=START + i * PERIOD, value={"data": value})
        for i in range(3)
        for name, value in (("x", np.arange(3, dtype=np.float32)), ("label.y", np.float32(i)))
    ]
    data = recordings.write_recording(
        info, tiny_line.features, [recordings.encode(by_name[m.topic], m) for m in messages]
    )
    (tmp_path / "a.mcap").write_bytes(data)

    (session,) = bring(home, tmp_path / "a.mcap", tags={"room": "b"})

    assert (session.device, session.name, session.tags) == ("d0-car7", "s3", {"night": "1", "room": "b"})
    assert (session.start_ns, session.end_ns) == (info.start_ns, info.end_ns)
    back = list(recordings.read_messages(home.blobs.get(session.recordings[0].digest), "it"))
    assert [(m.topic, m.log_time_ns) for m in back] == [(m.topic, m.log_time_ns) for m in messages]
    np.testing.assert_array_equal(back[0].value["data"], np.arange(3))


def test_an_archive_is_a_folder_and_the_same_drive_has_the_same_source(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "s1.tiny.json").write_bytes(tiny_file(1))
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as packed:
        packed.write(folder / "deep", "deep/")
        packed.write(folder / "deep" / "s1.tiny.json", "deep/s1.tiny.json")

    loose = list(imports.convert(folder, tiny_line, device="d0"))
    packed_up = list(imports.convert(tmp_path / "in.zip", tiny_line, device="d0"))

    assert loose == packed_up
    assert [c.source for c in loose] == [c.source for c in imports.convert(folder, tiny_line, device="other")]


def test_a_device_is_on_one_line(home: Home, tmp_path: Path) -> None:
    (tmp_path / "s1.tiny.json").write_bytes(tiny_file(1))
    bring(home, tmp_path / "s1.tiny.json")

    with pytest.raises(ConflictError, match="device d0: is on line tiny, not other"):
        bring(home, tmp_path / "s1.tiny.json", line=replace(tiny_line, name="other"))


def test_without_a_channel_of_the_line_nothing_comes_in(home: Home, tmp_path: Path) -> None:
    (tmp_path / "a.mcap").write_bytes(foreign_mcap([START]))
    narrow = replace(tiny_line, features=tuple(replace(f, name=f"other.{f.name}") for f in tiny_line.features))

    with pytest.raises(InvalidInputError, match="none of the line's channels is in it; expected"):
        bring(home, tmp_path / "a.mcap", line=narrow)
    (tmp_path / "empty.mcap").write_bytes(foreign_mcap([]))
    with pytest.raises(InvalidInputError, match="a mcap without a single session"):
        bring(home, tmp_path / "empty.mcap")
    assert list(home.ledger.read()) == []


def broken(pattern: str) -> Importer:
    """One character per instant: o could be read, x could not, - is a pause."""

    def read_past(files: Files) -> Iterator[Foreign]:
        messages = [
            Message(
                topic="x" if c == "o" else UNREADABLE,
                log_time_ns=START + i * PERIOD,
                publish_time_ns=START,
                value={"data": np.zeros(3, np.float32)} if c == "o" else {},
            )
            for i, c in enumerate(pattern)
            if c != "-"
        ]
        yield Foreign(device="", session="s0", time_base="utc", tags={}, messages=iter(messages))

    return Importer(name="broken", detects=lambda files: True, read=read_past, read_past=read_past)


@pytest.mark.parametrize(
    ("pattern", "clips", "unreadable"),
    [
        ("oooo", [(0, 4)], []),
        ("oxoo", [(0, 1), (2, 4)], [(1, 2)]),
        ("xxoo", [(2, 4)], [(0, 2)]),
        ("ooxx", [(0, 2)], [(2, 4)]),
        ("ox--o", [(0, 1), (4, 5)], [(1, 4)]),  # who knows when it began or ended: all of it
        ("o--o", [(0, 4)], []),
        ("xxx", [], [(0, 3)]),
        ("xoxoxx", [(1, 2), (3, 4)], [(0, 1), (2, 3), (4, 6)]),
    ],
)
def test_what_cannot_be_read_is_time_that_the_books_call_unreadable(
    home: Home, tmp_path: Path, pattern: str, clips: list[tuple[int, int]], unreadable: list[tuple[int, int]]
) -> None:
    (tmp_path / "tub").mkdir()
    line = replace(tiny_line, importers=(broken(pattern),))

    (session,) = bring(home, tmp_path / "tub", line=line, skip_broken=True)

    def steps(edges: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return [((a - START) // PERIOD, (b - START) // PERIOD) for a, b in edges]

    assert steps([(r.start_ns, r.end_ns) for r in session.recordings]) == clips
    spans = home.books.spans(0, session.start_ns, session.end_ns)
    assert steps([(s.start_ns, s.end_ns) for s in spans if s.reason == "unreadable"]) == unreadable
    assert sum(s.end_ns - s.start_ns for s in spans) == session.end_ns - session.start_ns
    assert home.books.faults() == home.books.verify() == []
    assert bring(home, tmp_path / "tub", line=line, skip_broken=True) == [session]


def test_one_drive_counts_once_whatever_it_is_called(home, tmp_path):
    (tmp_path / "a.tiny.json").write_bytes(tiny_file(1))
    bring(home, tmp_path / "a.tiny.json", device="car-0")
    before = home.ledger.head()
    (tmp_path / "b.tiny.json").write_bytes(tiny_file(1))

    for path, device in (("a.tiny.json", "car-1"), ("b.tiny.json", "car-0"), ("b.tiny.json", "car-1")):
        with pytest.raises(ConflictError, match=r"the same recordings came in as car-0/a\. Bring each drive once"):
            bring(home, tmp_path / path, device=device)

    assert home.ledger.head() == before
    assert bring(home, tmp_path / "a.tiny.json", device="car-0")  # the very same again changes nothing
    assert home.ledger.head() == before


def table(hours: int, *, first: int = 0) -> str:
    rows = [f"2024-05-{1 + h // 24:02} {h % 24:02}:00:00,{100 + h % 7}" for h in range(first, hours)]
    return "\n".join(["date_time,volume", *rows]) + "\n"


@pytest.mark.parametrize("name", ["traffic", "machine_alarm"])
def test_a_table_that_grew_inside_a_session_is_refused_with_the_rows_to_give_and_these_come_in(home, tmp_path, name):
    line = find(name)
    path = tmp_path / "street.csv"
    text = table(40).replace("date_time,volume", "time,value")
    path.write_text(text)
    (first,) = bring(home, path, line=line)
    before = home.ledger.head()

    path.write_text(table(60).replace("date_time,volume", "time,value"))
    with pytest.raises(ConflictError) as refused:
        bring(home, path, line=line)
    (said,) = str(refused.value).splitlines()
    assert "came in before and ended at 2024-05-02T16:00:00Z; this file goes on inside it until" in said
    assert "give a file with only the rows from 2024-05-02T16:00:00Z on" in said
    assert home.ledger.head() == before

    path.write_text(table(60, first=40).replace("date_time,volume", "time,value"))
    (second,) = bring(home, path, line=line)
    assert (second.start_ns, second.device) == (first.end_ns, first.device)
    assert home.books.faults() == []


def test_rows_that_overlap_another_session_are_refused_before_anything_is_entered(home, tmp_path):
    line, path = find("traffic"), tmp_path / "street.csv"
    path.write_text(table(40))
    bring(home, path, line=line)
    before = home.ledger.head()
    path.write_text(table(60, first=30))

    with pytest.raises(ConflictError, match=r"T06: from 2024-05-02T06:00:00Z to .* is here with .*lies outside"):
        bring(home, path, line=line)
    assert home.ledger.head() == before


def test_other_content_of_one_interval_is_refused_as_such(home, tmp_path):
    line, path = find("traffic"), tmp_path / "street.csv"
    path.write_text(table(40))
    bring(home, path, line=line)
    path.write_text(table(40).replace(",103", ",104"))

    with pytest.raises(ConflictError, match="came in before with other content or tags, from 2024-05-01T00:00:00Z"):
        bring(home, path, line=line)


def engine(cycles, *, first=1):
    rows = [" ".join(["1", str(c), *(f"{c * 0.1 + n:.2f}" for n in range(24))]) for c in range(first, cycles)]
    return "\n".join(rows) + "\n"


def test_the_rest_of_a_life_comes_in_as_a_session_of_its_own(home, tmp_path):
    line, path = find("machine_life"), tmp_path / "test.txt"
    path.write_text(engine(30))
    (first,) = bring(home, path, line=line)
    path.write_text(engine(50, first=30))
    (second,) = bring(home, path, line=line)

    assert (first.name, second.name) == ("life", "life-from-30")
    assert second.start_ns == first.end_ns


# -- roles ------------------------------------------------------------------------------------------------------------


def test_devices_of_other_lines_do_not_change_which_device_is_held_out(tmp_path):
    """The same machines, in a home of their own and in one where others were enrolled before and between them."""
    line = replace(tiny_line, split="device")
    found = []
    for others in (False, True):
        settings = Settings(home=tmp_path / f"home-{others}")
        init_home(settings, now_ns=Clock()())
        with open_home(settings, clock=Clock()) as home:
            for nth in range(6):
                if others:
                    roll.invite(home.ledger, f"other-{nth}", line="other")
                path = tmp_path / f"s{nth}.tiny.json"
                path.write_bytes(tiny_file(nth))
                bring(home, path, line=line, device=f"d{nth}")
            found.append(home.books.roles("tiny"))
            numbers = [d.number for d in roll.devices(home.ledger)]
            assert numbers == ([1, 3, 5, 7, 9, 11] if others else list(range(6)))
            places = [f.record.get("place") for f in home.ledger.read(kind="device")]
            assert places == ([0, 1, 2, 3, 4, 5] if others else [None] * 6)

    assert found[0] == found[1]
    assert found[0]["d2/s2"] == "held_out"


def test_a_device_that_was_enrolled_before_there_were_places_keeps_its_number(home):
    record = {"name": "old", "number": 6, "line": "tiny", "hardware": "cpu", "public_key": "ab" * 32}
    secret = "5e" * 16
    invited = {"name": "old", "number": 6, "line": "tiny", "secret_sha256": sha256(secret.encode())}
    home.ledger.append(
        [Draft(kind="invited", key="old", record=invited), Draft(kind="device", key="old", record=record)]
    )

    again = roll.enrol(home.ledger, name="old", secret=secret, public_key="ab" * 32, hardware="cpu")
    assert (again.place, again.nth) == (None, 6)
    roll.invite(home.ledger, "new", line="tiny")
    assert home.ledger.get("invited", "new").record["number"] == 1
