"""Dataset versions: cut and write one for a trainer of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fleetmill.cli.shown import HomeOption, JsonOption, LineOption
from fleetmill.core.errors import NotFoundError

app = typer.Typer(help="Dataset versions: write one for your own trainer.", no_args_is_help=True, rich_markup_mode=None)


@app.command("export")
def dataset_export(
    line: LineOption,
    out: Annotated[Path, typer.Option(help="Folder for the files.")],
    form: Annotated[str, typer.Option("--format", help="arrow or parquet.")] = "arrow",
    dataset: Annotated[
        str, typer.Option(help="Digest, or its first 6 digits. [a version of all that has arrived]")
    ] = "",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a dataset version: a file of rows for each role (train, validation, held out) and dataset.json."""
    from fleetmill.home import open_home
    from fleetmill.lines import find
    from fleetmill.receipts import dataset as datasets
    from fleetmill.receive import inbox
    from fleetmill.refine import run as refine
    from fleetmill.refine.export import export
    from fleetmill.settings import read_settings

    found = find(line)
    with open_home(read_settings(home=home), own=False) as opened:
        if dataset:
            digest = datasets.find(opened.ledger, dataset)
            if not digest:
                raise NotFoundError(f"dataset {dataset[:64]!r}: none, or more than one. See: fleetmill status")
        else:
            sessions = inbox.sessions(opened.ledger, found.name)
            if not sessions:
                raise NotFoundError(f"line {found.name}: has no closed session. Run: fleetmill import")
            digest = refine.run(opened.ledger, opened.books, opened.blobs, found, sessions).digest
        made = datasets.why(opened.ledger, digest)
        written = export(opened.ledger, opened.blobs, found, digest, out, form)
    if as_json:
        rows = {share.role: share.rows for share in made.shares}
        typer.echo(json.dumps({"dataset": digest, "rows": rows, "files": [str(path) for path in written]}))
        return
    told = ", ".join(f"{share.rows} rows {share.role.replace('_', ' ')}" for share in made.shares)
    typer.echo(f"dataset {digest[:12]}: {told}")
    for path in written:
        typer.echo(path)
