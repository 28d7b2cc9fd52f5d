"""Suites: tests that are a promise's proof."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from proofs.rows import ROOT, Row


def tests(_: Path, __: Path) -> Sequence[Row]:
    """Tests that prove what no single figure says."""
    groups = {
        "a killed factory, a killed device, attacks between two processes": "tests/processes",
        "killed at every ledger append, in process": "tests/loop/test_turn.py",
        "three planted bad models fail the health check; slots survive every kill": "tests/device",
        "floors, circles, one library one file, light device": "tests/test_architecture.py",
        "every line keeps the contract, planted bugs are caught": "tests/lines/test_contract.py",
        "why and fate agree everywhere, and planted disagreements show": "tests/receipts",
        "findings: false alarms at most 5 % over the family, signed; forecasts scored": "tests/findings",
        "a real demo: page, six accidents, every number again, receipts, the report in a browser": "tests/demo",
        "the live page at 390, 1024 and 1920 px, light and dark, by keyboard, no console error": "tests/web",
        "labels from outside: each row with its source": "tests/labels",
        "the tutorial, the four ways in and the README as they are printed": "tests/docs",
        "the gateway: a thousand deaths, no content kept, accounts, proof, clients": "tests/serve",
        "two real engines serve what the line language trained": "tests/engines",
        "upgrade from the first landing, killed anywhere; each doctor finding; lost keys; clocks": "tests/care",
    }
    return [_pytest(promise, where) for promise, where in groups.items()]


def _pytest(promise: str, where: str) -> Row:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", where], cwd=ROOT, capture_output=True, text=True, check=False
    )
    last = (done.stdout.strip().splitlines() or [""])[-1]
    return Row(promise=promise, measured=last.strip("= "), met=done.returncode == 0, command=f"pytest {where}")
