"""Episodes as columns: what goes in comes out, as views of the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fleetmill.core.errors import IntegrityError
from fleetmill.core.line import Episode
from fleetmill.seams.tables import Place, open_table, write_table


def an_episode(seed: int, rows: int) -> Episode:
    rng = np.random.default_rng(seed)
    return Episode(
        device=f"d{seed}",
        session="s0",
        start_ns=seed * 1000,
        end_ns=seed * 1000 + rows,
        times_ns=np.arange(rows, dtype=np.int64) + 2**60 + seed,
        columns={
            "camera": rng.integers(0, 255, (rows, 4, 5, 3)).astype(np.uint8),
            "state": rng.normal(size=(rows, 7)).astype(np.float32),
            "steer": np.array([np.nan, -0.0, np.inf, *rng.normal(size=rows)], np.float32)[:rows],
            "count": rng.integers(-5, 5, rows).astype(np.int64),
        },
        tags={"room": "ä"},
    )


def a_place(e: Episode) -> Place:
    return Place(
        digest="0" * 64, device=e.device, session=e.session, start_ns=e.start_ns, end_ns=e.end_ns, rows=len(e.times_ns),
        tags=dict(e.tags),
    )  # fmt: skip


EPISODES = [an_episode(0, 3), an_episode(1, 1), an_episode(2, 8)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "shard"
    found.write_bytes(write_table(EPISODES, [a_place(e) for e in EPISODES]))
    return found


def test_every_episode_comes_back_bit_by_bit(path: Path) -> None:
    table = open_table(path)

    assert table.bounds().tolist() == [0, 3, 4, 12]
    assert sorted(table.names()) == ["camera", "count", "state", "steer"]
    for i, e in enumerate(EPISODES):
        found = table.episode(i)
        assert (found.device, found.start_ns, found.end_ns, dict(found.tags)) == (
            e.device,
            e.start_ns,
            e.end_ns,
            e.tags,
        )
        assert found.times_ns.tobytes() == e.times_ns.tobytes()
        for name, column in e.columns.items():
            assert found.columns[name].dtype == column.dtype
            assert found.columns[name].shape == column.shape
            assert found.columns[name].tobytes() == column.tobytes()


def test_columns_are_views_of_the_file_and_nobody_writes_to_them(path: Path) -> None:
    table = open_table(path)

    for name in ("camera", "state", "steer", "count"):
        column = table.column(name)
        assert np.shares_memory(column, table.column(name))
        assert np.shares_memory(column, table.episode(2).columns[name])
        assert not column.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 0


def test_the_same_episodes_give_the_same_bytes(path: Path) -> None:
    assert write_table(EPISODES, [a_place(e) for e in EPISODES]) == path.read_bytes()


def test_what_is_no_table_is_an_integrity_error(path: Path, tmp_path: Path) -> None:
    whole = path.read_bytes()

    for bad in (whole[: len(whole) // 2], whole[:-8], b"ARROW1\0\0", b"no table", b""):
        (tmp_path / "bad").write_bytes(bad)
        with pytest.raises(IntegrityError, match="bad: no table of episodes"):
            open_table(tmp_path / "bad")
