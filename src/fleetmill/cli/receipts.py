"""Signed receipts for what went to partners."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fleetmill.cli.nodes import app
from fleetmill.cli.shown import HomeOption
from fleetmill.core.errors import InvalidInputError, NotFoundError
from fleetmill.core.plain import plain

__all__ = ["app"]


@app.command()
def receipts(
    request: Annotated[str, typer.Option(help="Of this one, as its answer's x-request-id names it. [all]")] = "",
    since: Annotated[str, typer.Option(help="First day, UTC, as 2026-01-31. [all]")] = "",
    until: Annotated[str, typer.Option(help="First day that does not count any more. [all]")] = "",
    check: Annotated[Path | None, typer.Option(help="Check receipts in this file, one a line, instead.")] = None,
    home: HomeOption = None,
) -> None:
    """Print a signed receipt, as a line of JSON, for each time that something went to a partner.

    With --check exit code 3 says that one was not signed by this home, or was changed.
    """
    from fleetmill.home import open_home
    from fleetmill.serve.accounts import receipts as made
    from fleetmill.serve.accounts.export import day_ns
    from fleetmill.serve.accounts.journal import FOLDER
    from fleetmill.settings import read_settings

    with open_home(read_settings(home=home), own=False) as opened:
        repository = opened.repository
        if check is not None:
            lines = check.read_text().splitlines() if check.exists() else []
            for number, line in enumerate(lines, 1):
                _check(line, f"{check}:{number}", repository.verify_statement)
            if not lines:
                raise NotFoundError(f"{check}: holds no receipt")
            typer.echo(f"{len(lines)} receipts are this home's, as they were signed")
            return
        folder = opened.settings.home / "serve" / FOLDER
        days = {"since_ns": day_ns(since) if since else None, "until_ns": day_ns(until) if until else None}
        found = list(made.receipts(folder, request=request, **days))
        if request and not found:
            raise NotFoundError(f"request {request[:40]}: nothing of it went to a partner")
        for receipt in found:
            signature = repository.sign_statement(receipt.statement())
            typer.echo(json.dumps({"receipt": plain(receipt), "signature": plain(signature)}))


def _check(line: str, where: str, verify: object) -> None:
    from fleetmill.core import canonical
    from fleetmill.core.plain import build
    from fleetmill.core.signing import Signature
    from fleetmill.serve.accounts.receipts import read

    try:
        told = json.loads(line)
        receipt = read(canonical.dumps(told["receipt"]))
        signature = build(Signature, told["signature"], "signature")
    except (ValueError, TypeError, LookupError, InvalidInputError):
        raise InvalidInputError(f"{where}: is no receipt as `fleetmill serve receipts` prints it") from None
    assert callable(verify)
    verify(receipt.statement(), signature, what=f"{where}: receipt")
