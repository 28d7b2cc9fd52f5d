"""Receipts in both directions: from a model to the seconds that made it, from a second to what became of it."""

from fleetmill.receipts.check import cross_check

__all__ = ["cross_check"]
