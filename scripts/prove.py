"""Measure every promised figure and write docs/proof.md. Takes about an hour on two idle cores.

Usage: python scripts/prove.py [--out FOLDER] [--only NAME ...] [--rotating] [--data ../shared/data]

A demo whose report lies in FOLDER already is not run again. What cannot be run here is said so, not left out. What a
part measured stays in docs/proof.json until it is measured again; docs/proof.md is the same for people.
`--rotating`: one of the parts whose figures do not depend on how busy the machine is, another one with each commit, and
docs/proof.md stays as it is: what CI runs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from proofs import benches, fleets, suites
from proofs.rows import ROOT, Row

PROOFS: Mapping[str, Callable[[Path, Path], Sequence[Row]]] = {
    "accounts": benches.accounts,
    "arm": fleets.arm,
    "driving": fleets.driving,
    "forecasts": benches.foretold,
    "goodput": benches.goodput,
    "kills": benches.kills,
    "language": fleets.language,
    "machine": benches.machine,
    "rccar": benches.rccar,
    "relay": benches.relay,
    "replayed": fleets.replayed,
    "same_twice": fleets.same_twice,
    "tests": suites.tests,
    "traffic": benches.traffic,
}
KEPT = ROOT / "docs" / "proof.json"
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
    return measure(asked.only, asked.out, asked.data, keep=keep)


def measure(
    names: Sequence[str], out: Path, data: Path, *, keep: Callable[[str, Sequence[Row]], None] = lambda name, rows: None
) -> int:
    """Measure some parts, using `out`, and keep each when it is done; 1: a promise was not met."""
    missed = False
    for name in names:
        began = time.monotonic()
        rows = PROOFS[name](out, data)
        for row in rows:
            print(f"{_mark(row)} {row.promise}: {row.measured}", flush=True)
        print(f"   ({name}: {time.monotonic() - began:.0f} s)", flush=True)
        missed |= any(row.met is False for row in rows)
        keep(name, rows)
    return int(missed)


def keep(name: str, rows: Sequence[Row]) -> None:
    """What a part measured, in place of what it had; docs/proof.md follows."""
    kept = json.loads(KEPT.read_text())
    when = {"commit": _git("rev-parse", "--short", "HEAD"), "day": time.strftime("%Y-%m-%d"), "cores": os.cpu_count()}
    kept[name] = [{**asdict(row), **when} for row in rows]
    KEPT.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n")
    KEPT.with_suffix(".md").write_text(page(kept))


def page(kept: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """docs/proof.md."""
    text = [
        "# Proof",
        "",
        "Written by `make prove`, part by part, from `proof.json`: each row names the commit that was measured. Times "
        "are those of two cores, which other work may have shared. Intervals are 95 %, paired bootstrap over worlds (a "
        "world's training seeds stay together).",
        "",
        "| met | promise | measured | command | commit |",
        "|---|---|---|---|---|",
    ]
    for part in PROOFS:
        for row in kept.get(part, []):
            met = {True: "yes", False: "**no**", None: "no bar"}[row["met"]]
            cells = [met, row["promise"], row["measured"], f"`{row['command']}`", row["commit"]]
            text.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
        if part not in kept:
            text.append(f"| not run | {part} | | | |")
    return "\n".join(text) + "\n"


def _mark(row: Row) -> str:
    return {True: "met    ", False: "NOT MET", None: "no bar "}[row.met]


def _commits() -> int:
    return int(_git("rev-list", "--count", "HEAD") or 0)


def _git(*words: str) -> str:
    """What git says of the revision that is measured; "" where there is none."""
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
