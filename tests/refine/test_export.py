"""A dataset version as files, for a trainer of one's own."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from fleetmill.core.errors import InvalidInputError, NotFoundError, UnavailableError
from fleetmill.home import init_home, open_home
from fleetmill.receive import imports, inbox
from fleetmill.refine import run as refine
from fleetmill.refine.export import export
from fleetmill.settings import Settings
from fleetmill.testing import Clock, tiny_file, tiny_line


@pytest.fixture
def home(tmp_path):
    chosen = Settings(home=tmp_path / "home")
    init_home(chosen, now_ns=Clock()())
    with open_home(chosen, clock=Clock()) as opened:
        for seed in range(4):
            path = tmp_path / f"s{seed}.tiny.json"
            path.write_bytes(tiny_file(seed))
            imports.import_path(opened.ledger, opened.books, opened.blobs, tiny_line, path, device="d0")
        yield opened


@pytest.fixture
def digest(home):
    sessions = inbox.sessions(home.ledger, "tiny")
    return refine.run(home.ledger, home.books, home.blobs, tiny_line, sessions).digest


@pytest.mark.parametrize("form", ["arrow", "parquet"])
def test_the_files_hold_the_rows_of_each_role_and_say_what_they_are(home, digest, tmp_path, form):
    written = export(home.ledger, home.blobs, tiny_line, digest, tmp_path / "out", form)

    manifest = json.loads((tmp_path / "out/dataset.json").read_text())
    assert [p.name for p in written] == [*manifest["files"].values(), "dataset.json"]
    assert (manifest["type"], manifest["version"], manifest["dataset"]) == ("fleet.dataset", 1, digest)
    data = refine.open_data(home.ledger, home.blobs, digest)
    for role in ("train", "held_out"):
        path = tmp_path / "out" / manifest["files"][role]
        table = parquet.read_table(path) if form == "parquet" else pa.ipc.open_file(path.read_bytes()).read_all()
        x = np.stack(table["x"].combine_chunks().to_pylist())
        assert np.array_equal(x.reshape(-1, 3), data.split(role).column("x"))
        assert np.array_equal(table["label.y"].to_numpy(), data.split(role).column("label.y"))
        assert sum(place["rows"] for place in manifest["episodes"][role]) == table.num_rows
    assert {f["name"] for f in manifest["features"]} >= {"x", "label.y"}


def test_changing_an_export_leaves_the_home_as_it_is(home, digest, tmp_path):
    export(home.ledger, home.blobs, tiny_line, digest, tmp_path / "out")
    path = tmp_path / "out/train.arrow"
    before = home.blobs.get(home.ledger.get("dataset", digest).record["shards"]["train"])
    path.write_bytes(b"mine")

    assert home.blobs.get(home.ledger.get("dataset", digest).record["shards"]["train"]) == before
    export(home.ledger, home.blobs, tiny_line, digest, tmp_path / "out")
    assert path.read_bytes() == before


def test_what_cannot_be_written_is_one_clear_line(home, digest, tmp_path):
    with pytest.raises(InvalidInputError, match="--format 'csv': must be one of arrow, parquet"):
        export(home.ledger, home.blobs, tiny_line, digest, tmp_path / "out", "csv")
    with pytest.raises(NotFoundError):
        export(home.ledger, home.blobs, tiny_line, "0" * 64, tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match="Give another --out"):
        export(home.ledger, home.blobs, tiny_line, digest, tmp_path / "file")
