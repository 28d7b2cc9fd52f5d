"""Lines: which are installed, and a new one from a recording, a table, another line or a base."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fleetmill.cli.shown import JsonOption
from fleetmill.core.plain import plain

if TYPE_CHECKING:
    from fleetmill.scaffold.found import Source

app = typer.Typer()
new_app = typer.Typer(help="Lines: write a new one.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def lines(as_json: JsonOption = False) -> None:
    """Print each installed line: what it observes and does, its checks, and where it was installed from."""
    from fleetmill.lines.installed import installed

    found = installed()
    if as_json:
        typer.echo(json.dumps([plain(line) for line in found]))
        return
    for line in found:
        where = f"{line.module} from {line.distribution} {line.version}".rstrip()
        if line.error:
            typer.echo(f"{line.name}: broken ({where}): {line.error}")
            continue
        typer.echo(f"{line.name}: {line.rate_hz:.4g} Hz, {line.lives}, held out by {line.split}; {where}")
        told = (
            ("observes", line.observes),
            ("does", line.does),
            ("labels", line.labels),
            ("checks", line.checks),
            ("imports", line.importers),
            ("version of cut", (str(line.cut_version),)),
        )
        for what, values in told:
            typer.echo(f"  {what}: {'; '.join(values) or 'none'}")


@new_app.command("new")
def line_new(
    name: Annotated[str, typer.Argument(help="Name of the line: a-z, 0-9 and _.")],
    from_recording: Annotated[Path | None, typer.Option("--from-recording", help="Its channels, from MCAP.")] = None,
    from_csv: Annotated[Path | None, typer.Option("--from-csv", help="Its columns, from a CSV file.")] = None,
    from_line: Annotated[str | None, typer.Option("--from", help="Its features, from an installed line.")] = None,
    from_base: Annotated[
        Path | None, typer.Option("--from-base", help="The vocabulary of a language model, from its folder.")
    ] = None,
    observe: Annotated[list[str] | None, typer.Option(help="Column that is observed; may be repeated.")] = None,
    act: Annotated[list[str] | None, typer.Option(help="Column that the model acts; may be repeated.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="Column that the model predicts; may be repeated.")] = None,
    time: Annotated[str, typer.Option(help="Column of times in the CSV file. [found by its name]")] = "",
    out: Annotated[Path | None, typer.Option(help="Folder of the package. [./NAME]")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a small package that is a line: entry point, one file, a test, the next commands."""
    from fleetmill.core.errors import InvalidInputError
    from fleetmill.scaffold import based, texts
    from fleetmill.scaffold.chosen import choose
    from fleetmill.scaffold.write import checked_new, write

    folder = out or Path(name)
    checked_new(name, folder)
    watched, acted, predicted = list(observe or []), list(act or []), list(label or [])
    if from_base is not None:
        if from_recording or from_csv or from_line or time or watched or acted or predicted:
            raise InvalidInputError("--from-base: what such a line observes and says is known. Give it alone")
        written = write(name, based.files(name, from_base), folder)
    else:
        source = _source(from_recording, from_csv, from_line, time)
        if sys.stdin.isatty():
            watched = watched or _ask(source, "What is observed")
            predicted = predicted if acted or predicted else _ask(source, "What is acted or predicted")
        chosen = choose(source, observe=watched, act=acted, label=predicted)
        written = write(name, texts.files(name, source, chosen), folder)
    if as_json:
        typer.echo(json.dumps({"name": name, "files": [str(path) for path in written]}))
        return
    for path in written:
        typer.echo(path)
    typer.echo(
        f"line {name} is written. Next: pip install -e '{folder}[test]', pytest {folder}; then see {folder}/README.md"
    )


def _source(recording: Path | None, table: Path | None, line: str | None, time: str) -> Source:
    from fleetmill.core.errors import InvalidInputError
    from fleetmill.lines import find
    from fleetmill.scaffold import found

    given = [option for option in (recording, table, line) if option is not None]
    if len(given) != 1:
        raise InvalidInputError(
            "give one of --from-recording FILE.mcap, --from-csv FILE, --from LINE and --from-base FOLDER"
        )
    if time and table is None:
        raise InvalidInputError("--time names a column of a CSV file. Give it with --from-csv")
    if recording is not None:
        return found.in_recording(recording)
    return found.in_table(table, time) if table is not None else found.in_line(find(str(line)))


def _ask(source: Source, question: str) -> list[str]:
    answer = typer.prompt(f"{source.where} has {source.listed()}\n{question} (names with commas between)")
    return [name.strip() for name in answer.split(",") if name.strip()]
