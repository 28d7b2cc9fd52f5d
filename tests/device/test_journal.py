"""The device's own books: each line follows from the one before, a torn last line was never said."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fleetmill.core.errors import IntegrityError, UnavailableError
from fleetmill.core.journal import GENESIS, totals
from fleetmill.device.journal import open_journal
from killing import every_death


def moved(start: int, source: str = "lived", to: str = "buffered") -> tuple[str, dict[str, object]]:
    return "moved", {"start_ns": start, "end_ns": start + 10, "bytes": 3, "source": source, "to": to}


def test_entries_are_numbered_chained_and_read_back(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "j.jsonl")
    journal.append([("begin", {"session": "s0"})])
    journal.append([moved(0), moved(0, "buffered", "kept"), moved(10)])

    again = open_journal(tmp_path / "j.jsonl")

    assert again.entries == journal.entries
    assert [e.entry for e in again.entries] == [0, 1, 2, 3]
    assert [e.prev for e in again.entries] == [GENESIS, *(e.digest for e in again.entries[:-1])]
    assert [p["entry"] for p in again.postings()] == [1, 2, 3]
    assert again.begun() == [{"session": "s0"}]


def test_totals_count_what_was_lived_once(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "j.jsonl")
    journal.append([moved(0), moved(0, "buffered", "kept"), moved(10)])

    found = totals(4, journal.entries)

    assert (found.device, found.entry, found.digest) == (4, 2, journal.entries[-1].digest)
    assert (found.lived_ns, found.lived_bytes, found.lived_until_ns) == (20, 6, 20)
    assert totals(4, []).entry == -1


def test_a_journal_that_is_torn_at_any_byte_keeps_its_whole_lines_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    journal = open_journal(path)
    journal.append([moved(0), moved(10), moved(20)])
    data = path.read_bytes()

    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        torn = open_journal(path)
        assert torn.entries == journal.entries[: data[:size].count(b"\n")]
        torn.append([moved(30)])
        assert open_journal(path).entries == torn.entries


@pytest.mark.parametrize("line", [0, 1, 2])
def test_a_line_that_was_changed_taken_out_or_moved_is_named(tmp_path: Path, line: int) -> None:
    path = tmp_path / "j.jsonl"
    open_journal(path).append([moved(0), moved(10), moved(20), moved(30)])
    lines = path.read_bytes().splitlines(keepends=True)

    changed = [b.replace(b'"bytes":3', b'"bytes":4') if i == line else b for i, b in enumerate(lines)]
    for bad in (changed, lines[:line] + lines[line + 1 :], [*lines[:line], lines[line + 1], *lines[line:]]):
        path.write_bytes(b"".join(bad))
        with pytest.raises(IntegrityError, match=r"j.jsonl: entry \d does not follow from entry -?\d"):
            open_journal(path)
    path.write_bytes(b"".join([*lines[:line], b"no JSON\n", *lines[line:]]))
    with pytest.raises(IntegrityError, match=f"j.jsonl, line {line + 1}: no journal entry"):
        open_journal(path)


def test_killed_at_any_effect_it_holds_what_was_said_before(tmp_path: Path) -> None:
    def said(nth: int) -> None:
        open_journal(tmp_path / f"{nth}.jsonl").append([moved(0), moved(10)])

    for nth in every_death(
        lambda nth: open_journal(tmp_path / f"{nth}.jsonl").append([moved(20), moved(30)]), before=said
    ):
        found = open_journal(tmp_path / f"{nth}.jsonl")
        assert 2 <= len(found.entries) <= 4
        found.append([moved(40)])
        assert open_journal(tmp_path / f"{nth}.jsonl").entries == found.entries


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_takes_all_of_an_append_or_none(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    journal = open_journal(path)
    journal.append([moved(0)])
    before = path.read_bytes()

    for room in (0, 1, 50, len(before) + 5):
        with files_of_at_most(len(before) + room), pytest.raises(UnavailableError, match="Free some space"):
            journal.append([moved(10), moved(20)])
        assert path.read_bytes() == before
        assert len(journal.entries) == 1

    journal.append([moved(10)])
    assert open_journal(path).entries == journal.entries
