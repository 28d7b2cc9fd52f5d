"""Measure every promised figure and write docs/proof.md. Takes about an hour on two idle cores.

Usage: python scripts/prove.py [--out FOLDER] [--only NAME ...] [--rotating] [--data ../shared/data]

A demo whose report lies in FOLDER already is not run again. What cannot be run here is said so, not left out.
`--rotating`: one of the parts whose figures do not depend on how busy the machine is, another one with each commit, and
docs/proof.md stays as it is: what CI runs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from proofs import benches, fleets, suites
from proofs.rows import ROOT, Row

PROOFS: Mapping[str, Callable[[Path, Path], Sequence[Row]]] = {
    "accounts": benches.accounts,
    "arm": fleets.arm,
    "driving": fleets.driving,
    "forecasts": benches.foretold,
    "language": fleets.language,
    "machine": benches.machine,
    "rccar": benches.rccar,
    "replayed": fleets.replayed,
    "same_twice": fleets.same_twice,
    "tests": suites.tests,
    "traffic": benches.traffic,
}
ROTATING = ("same_twice", "traffic", "forecasts")


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "demo-proof")
    parser.add_argument("--only", nargs="*", choices=sorted(PROOFS), default=sorted(PROOFS))
    parser.add_argument("--rotating", action="store_true")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    asked = parser.parse_args()
    if asked.rotating:
        with tempfile.TemporaryDirectory() as folder:
            return measure([ROTATING[_commits() % len(ROTATING)]], Path(folder), asked.data)
    asked.out.mkdir(parents=True, exist_ok=True)
    ended = measure(asked.only, asked.out, asked.data)
    write(asked.out)
    return ended


def measure(names: Sequence[str], out: Path, data: Path) -> int:
    """Measure some parts into `out`; 1: a promise was not met."""
    rows: list[Row] = []
    for name in names:
        began = time.monotonic()
        found = list(PROOFS[name](out, data))
        kept = {"commit": _git("rev-parse", "--short", "HEAD"), "rows": [_plain(r) for r in found]}
        (out / f"{name}.rows.json").write_text(json.dumps(kept))
        for row in found:
            print(f"{_mark(row)} {row.promise}: {row.measured}", flush=True)
        print(f"   ({name}: {time.monotonic() - began:.0f} s)", flush=True)
        rows += found
    return 1 if any(row.met is False for row in rows) else 0


def write(out: Path) -> None:
    """docs/proof.md from all rows that were ever measured into `out`."""
    text = [
        "# Proof",
        "",
        f"Written by `make prove` at {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC on "
        f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}. Times are of that machine, "
        "which other work may have shared. Intervals are 95 %, paired bootstrap over worlds (a world's training seeds "
        "stay together).",
        "",
        "| met | promise | measured | command | commit |",
        "|---|---|---|---|---|",
    ]
    for name in sorted(PROOFS):
        path = out / f"{name}.rows.json"
        found = json.loads(path.read_text()) if path.exists() else {"commit": "", "rows": []}
        for row in found["rows"]:
            met = {True: "yes", False: "**no**", None: "no bar"}[row["met"]]
            cells = [met, row["promise"], row["measured"], f"`{row['command']}`", found["commit"]]
            text.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
        if not path.exists():
            text.append(f"| not run | {name} | | | |")
    (ROOT / "docs" / "proof.md").write_text("\n".join(text) + "\n")


def _mark(row: Row) -> str:
    return {True: "met    ", False: "NOT MET", None: "no bar "}[row.met]


def _plain(row: Row) -> dict[str, Any]:
    return {"promise": row.promise, "measured": row.measured, "met": row.met, "command": row.command}


def _commits() -> int:
    return int(_git("rev-list", "--count", "HEAD") or 0)


def _git(*words: str) -> str:
    """What git says of the revision that is measured; "" where there is none."""
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
