"""People decide: approve, refuse, enter a model or an evaluation that was made elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from fleetmill.cli.shown import HomeOption, JsonOption, LineOption
from fleetmill.core.errors import InvalidInputError, NotFoundError

app = typer.Typer()
models = typer.Typer(help="Models: enter one that was trained elsewhere.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(models, name="model")
benches = typer.Typer(
    help="Outside test benches that may sign scorecards.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(benches, name="bench")
scorecards = typer.Typer(help="Evaluations that a bench made and signed.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(scorecards, name="scorecard")

Model = Annotated[str, typer.Argument(help="Digest of the model, or at least its first 6 digits; `status` shows it.")]
By = Annotated[str, typer.Option("--as", help="Who decides; it stays in the ledger.")]
Why = Annotated[str, typer.Option("--reason", help="Why; it stays in the ledger.")]


@app.command()
def approve(model: Model, by: By, reason: Why, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Let a model go out that the gate accepted. The factory may be running; it publishes at once."""
    _decide(model, "approved", by, reason, home, as_json)


@app.command()
def refuse(model: Model, by: By, reason: Why, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Stop a model that the gate accepted. The fleet keeps the one that it has."""
    _decide(model, "refused", by, reason, home, as_json)


@models.command("add")
def model_add(
    file: Annotated[Path, typer.Argument(help="An ONNX file with the ports that the line declares.")],
    line: LineOption,
    made_by: Annotated[str, typer.Option("--made-by", help="Who made it and how; it stays in the ledger.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Enter a model that was trained elsewhere: it is judged and released like our own."""
    from fleetmill.home import open_home
    from fleetmill.lines import find
    from fleetmill.settings import read_settings
    from fleetmill.train.elsewhere import add

    with open_home(read_settings(home=home), own=False) as opened:
        entered = add(opened.ledger, opened.blobs, opened.runtime, find(line), _bytes(file), made_by=made_by)
    if as_json:
        typer.echo(json.dumps({"line": line, "model": entered.digest}))
        return
    typer.echo(f"model {entered.digest[:12]} waits to be judged: by the factory that runs, or by fleetmill turn")


@benches.command("add")
def bench_add(
    name: Annotated[str, typer.Argument(help="The bench's name; lines and scorecards name it so.")],
    public_key: Annotated[str, typer.Option("--public-key", help="Its Ed25519 public key, 64 hex digits.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Admit a test bench: what its key signs counts for the lines that name it."""
    from fleetmill.home import open_home
    from fleetmill.judge import outside
    from fleetmill.settings import read_settings

    with open_home(read_settings(home=home), own=False) as opened:
        fact = outside.admit(opened.ledger, name, public_key)
    typer.echo(
        json.dumps({"fact": fact.seq, **fact.record}) if as_json else f"bench {name}: admitted (fact {fact.seq})"
    )


@scorecards.command("add")
def scorecard_add(
    file: Annotated[Path, typer.Argument(help="A JSON file that an admitted bench has signed (docs/formats.md).")],
    line: LineOption,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Enter a signed evaluation that was made elsewhere. The factory may be running; it goes on at once."""
    from fleetmill.home import open_home
    from fleetmill.judge import outside
    from fleetmill.lines import find
    from fleetmill.settings import read_settings

    data = _bytes(file, "the scorecard that a bench signed")
    with open_home(read_settings(home=home), own=False) as opened:
        fact = outside.add(opened.ledger, opened.blobs, find(line), data)
    if as_json:
        typer.echo(json.dumps({"fact": fact.seq, **fact.record}))
        return
    typer.echo(outside.sentence(fact))
    for reason in outside.reasons(fact):
        typer.echo(f"  {reason}")


def _decide(
    model: str, word: Literal["approved", "refused"], by: str, reason: str, home: Path | None, as_json: bool
) -> None:
    from fleetmill.home import open_home
    from fleetmill.judge import people
    from fleetmill.settings import read_settings

    with open_home(read_settings(home=home), own=False) as opened:
        fact = people.decide(opened.ledger, model, word=word, by=by, reason=reason)
    if as_json:
        typer.echo(json.dumps({"fact": fact.seq, **fact.record}))
        return
    typer.echo(f"model {fact.record['model'][:12]}: {word} by {by} (fact {fact.seq})")


def _bytes(file: Path, what: str = "the ONNX file of a model") -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError as error:
        raise NotFoundError(f"{file}: no such file. Give {what}") from error
    except OSError as error:
        raise InvalidInputError(f"{file}: {error.strerror}. Give {what}") from error
