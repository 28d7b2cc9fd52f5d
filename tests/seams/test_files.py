"""A file is the old one or the new one."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleetmill.core.errors import UnavailableError
from fleetmill.seams.files import sweep, write_whole
from killing import every_death, watched


def test_a_write_that_was_killed_anywhere_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path, found = tmp_path / "file", set()
    for _ in every_death(lambda nth: write_whole(path, b"new"), before=lambda nth: path.write_bytes(b"old")):
        found.add(path.read_bytes())
        sweep(tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert found == {b"old", b"new"}
    assert path.read_bytes() == b"new"


def test_bytes_are_durable_before_the_name_and_the_name_before_it_returns(tmp_path: Path) -> None:
    with watched() as effects:
        write_whole(tmp_path / "file", b"data")

    seen = [effect for effect in effects if effect not in ("unlink", "replace")]  # Python 3.10 hides these two
    assert seen == ["open", "write", "fsync", "open", "fsync"]
    if "replace" in effects:
        assert effects[-4:] == ["fsync", "replace", "open", "fsync"]


def test_a_secret_is_born_secret(tmp_path: Path) -> None:
    write_whole(tmp_path / "key", b"secret", mode=0o600)

    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_what_the_disk_refuses_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="No such file or directory"):
        write_whole(tmp_path / "gone" / "file", b"data")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UnavailableError, match="Is a directory"):
        write_whole(tmp_path / "folder", b"data")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
