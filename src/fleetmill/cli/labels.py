"""Labels from outside: bring them in, ask people for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fleetmill.cli.shown import HomeOption, JsonOption, LineOption
from fleetmill.core.errors import InvalidInputError, NotFoundError
from fleetmill.core.plain import plain

app = typer.Typer(help="Labels from outside: import, export.", no_args_is_help=True, rich_markup_mode=None)

ClassOption = Annotated[
    list[str] | None, typer.Option("--class", help="NAME=NUMBER: what a class is called; may be repeated.")
]


@app.command("import")
def labels_import(
    file: Annotated[Path, typer.Argument(help="CSV of intervals, COCO, or JSON of Label Studio.")],
    line: LineOption,
    source: Annotated[str, typer.Option(help="Who says so; it stays in the ledger. [as the file's rows say]")] = "",
    feature: Annotated[str, typer.Option(help="Label feature of rows that name none. [the line's only one]")] = "",
    form: Annotated[str, typer.Option("--format", help="csv, coco or label-studio. [detected]")] = "",
    named: ClassOption = None,
    elsewhere: Annotated[
        str, typer.Option(help="Value of what was looked at and not marked, e.g. 0; `none`: no boxes. [not labelled]")
    ] = "",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Enter what people or tools say was right. The factory may be running; the next turn learns from it."""
    from fleetmill.home import open_home
    from fleetmill.labels.importing import Asked, import_labels
    from fleetmill.lines import find
    from fleetmill.settings import read_settings

    asked = Asked(source=source, feature=feature, format=form, classes=_classes(named), elsewhere=elsewhere)
    data = _bytes(file)
    with open_home(read_settings(home=home), own=False) as opened:
        done = import_labels(opened.ledger, opened.books, opened.blobs, find(line), file.name, data, asked)
    if as_json:
        typer.echo(json.dumps(plain(done)))
        return
    if not done.new:
        typer.echo(f"{done.rows} rows of {done.format}: nothing in them is new")
        return
    typer.echo(
        f"{done.new} labels by {', '.join(done.sources)} on {done.sessions} sessions: "
        f"label set {done.digest[:12]} (fact {done.fact})"
    )


@app.command("export")
def labels_export(
    line: LineOption,
    out: Annotated[Path, typer.Option(help="File to write; pictures and settings of the tool go beside it.")],
    form: Annotated[str, typer.Option("--format", help="csv, coco or label-studio.")] = "csv",
    feature: Annotated[str, typer.Option(help="Label feature. [the line's only one; csv: all]")] = "",
    channel: Annotated[str, typer.Option(help="Picture that is shown. [the line's first]")] = "",
    every: Annotated[float, typer.Option(min=0.0, help="Seconds between two pictures, at least. [all]")] = 0.0,
    named: ClassOption = None,
    dataset: Annotated[str, typer.Option(help="Only sessions of this dataset version.")] = "",
    unlabelled: Annotated[bool, typer.Option("--unlabelled", help="Only what nobody has said all of.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write what is known, with its source, and what is not, for people to label."""
    from fleetmill.home import open_home
    from fleetmill.labels.exporting import Wanted, export_labels
    from fleetmill.lines import find
    from fleetmill.settings import read_settings

    wanted = Wanted(
        format=form,
        feature=feature,
        channel=channel,
        every=every,
        dataset=dataset,
        unlabelled=unlabelled,
        classes=_classes(named),
    )
    with open_home(read_settings(home=home), own=False) as opened:
        done = export_labels(opened.ledger, opened.blobs, find(line), out, wanted)
    if as_json:
        typer.echo(json.dumps({**plain(done), "files": [str(path) for path in done.files]}))
        return
    typer.echo(f"{done.known} known and {done.questions} open, of {done.sessions} sessions: {done.files[0]}")
    for path in done.files[1:]:
        typer.echo(path)


def _classes(given: list[str] | None) -> dict[str, float]:
    found: dict[str, float] = {}
    for text in given or ():
        name, _, number = text.partition("=")
        try:
            found[name] = float(number)
        except ValueError:
            raise InvalidInputError(f"--class {text[:60]!r}: must be NAME=NUMBER") from None
    return found


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError as error:
        raise NotFoundError(f"{file}: no such file. Give a file of labels") from error
    except OSError as error:
        raise InvalidInputError(f"{file}: {error.strerror}. Give a file of labels") from error
