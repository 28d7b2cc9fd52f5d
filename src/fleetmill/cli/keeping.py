"""Living with a home: settings, doctor, upgrade, gc."""

from __future__ import annotations

import typer

app = typer.Typer()
