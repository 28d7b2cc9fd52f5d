"""People decide: approve, refuse, enter a model that was made elsewhere."""

from __future__ import annotations

import typer

app = typer.Typer()
