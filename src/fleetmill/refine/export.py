"""A dataset version goes out as files, for a trainer of one's own."""

from __future__ import annotations

from pathlib import Path

from fleetmill.core import canonical
from fleetmill.core.errors import InvalidInputError, UnavailableError
from fleetmill.core.line import Line
from fleetmill.core.plain import plain
from fleetmill.seams.blobs import Blobs
from fleetmill.seams.files import copy_whole, write_whole
from fleetmill.seams.ledger import Ledger
from fleetmill.seams.tables import open_table, write_parquet

FORMATS = ("arrow", "parquet")
MANIFEST = "dataset.json"


def export(ledger: Ledger, blobs: Blobs, line: Line, dataset: str, folder: Path, form: str = "arrow") -> list[Path]:
    """Write one file of rows for each role, and ``dataset.json``, which says what they are and is written last.

    Raises:
        InvalidInputError: no such format, or the version is of another line.
        NotFoundError: no such dataset version.
        UnavailableError: the disk refused.
    """
    if form not in FORMATS:
        raise InvalidInputError(f"--format {form!r}: must be one of {', '.join(FORMATS)}")
    record = ledger.get("dataset", dataset).record
    if record["manifest"]["line"] != line.name:
        raise InvalidInputError(f"dataset {dataset[:12]}: is of line {record['manifest']['line']}, not {line.name}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnavailableError(f"{folder}: {error.strerror}. Give another --out") from error
    files = {role: folder / f"{role}.{form}" for role in record["shards"]}
    for role, path in files.items():
        source = blobs.path(record["shards"][role])
        if form == "arrow":
            copy_whole(source, path)
        else:
            write_whole(path, write_parquet(source))
    places = {role: plain(open_table(blobs.path(digest)).places) for role, digest in record["shards"].items()}
    manifest = {
        "type": "fleet.dataset",
        "version": 1,
        "dataset": dataset,
        "manifest": record["manifest"],
        "features": plain(line.features),
        "files": {role: path.name for role, path in files.items()},
        "episodes": places,
    }
    write_whole(folder / MANIFEST, canonical.dumps(manifest))
    return [*files.values(), folder / MANIFEST]
