"""What the factory learned, and receipts in both directions: findings, why, fate."""

from __future__ import annotations

import typer

app = typer.Typer()
