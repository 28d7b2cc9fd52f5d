"""What does adapting a base (LoRA) give beside training all its weights, and what does it forget?

    python bench/adapt.py --data ../shared/data [--case far near] [--seeds 0 1 2] [--base-steps 1000] [--steps 200]

A base of size `small` has read some text, and learns another, in as many steps each: beside its weights, by all of
them, and from nothing; the base as it is stands by. `far`: it has read text-tinyshakespeare alone, and learns
text-gsm8k, whose digits and signs it never saw. `near`: it has read both, and learns six sessions of made-up bills. Of
each text whole sessions are held out (every fourth; of the bills 24), and all of them is told (`near`: of text-gsm8k a
third), in bits per byte, of the new text and of an old one. Which ways are shown was chosen with seed 10 of `far`.
Intervals resample sessions (95 %), all seeds' of one together. One CPU thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from language import SETS, interval, of, read

from fleetmill.core.line import Episode, TrainJob
from fleetmill.engines.runtime_onnx import OnnxRuntime
from fleetmill.lines.language import line
from fleetmill.lines.language.conversations import Conversation
from fleetmill.lines.language.judging import told_bits
from fleetmill.lines.language.pieces import OURS
from fleetmill.lines.language.sample import bills
from fleetmill.seams.runtime import policies
from fleetmill.testing import Notes
from fleetmill.testing.kit import Held
from fleetmill.train import bases

ALL = "q, k, v, o, gate, up, down"
WAYS: Mapping[str, Mapping[str, Any]] = {
    "beside the base (rank 8, the default)": {},
    "beside the base, rate 0.01": {"rate": 0.01},
    "beside the base, rank 32, rate 0.01": {"rank": 32, "alpha": 64.0, "rate": 0.01},
    "beside the base, and its table": {"adapt": f"{ALL}, table"},
    "beside the base, and its table, rate 0.01": {"adapt": f"{ALL}, table", "rate": 0.01},
    "all weights, from the base (rate 0.01)": {"adapt": "weights"},
    "all weights, from the base, rate 0.005": {"adapt": "weights", "rate": 0.005},
    "all weights, from nothing (rate 0.02)": {"size": "small"},
}
Files = Mapping[str, bytes]
Rows = dict[str, list[tuple[float, float]]]  # by text: (bits, bytes) of each held-out session
Made = tuple[Rows, float, float]  # with CPU-seconds, and how many weights were learned for each that there is


class Case(NamedTuple):
    """What a base has read, what is learned then, and the held-out sessions that are told, by text: new, old."""

    read: Sequence[Episode]
    learns: Sequence[Episode]
    told: Mapping[str, Sequence[Sequence[Conversation]]]


def main() -> None:
    said = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    said.add_argument("--data", type=Path, required=True)
    said.add_argument("--case", nargs="+", choices=["far", "near"], default=["far", "near"])
    said.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    said.add_argument("--base-steps", type=int, default=1000)
    said.add_argument("--steps", type=int, default=200)
    asked = said.parse_args()
    cases = texts(asked.data)
    for name in asked.case:
        case, made = cases[name], dict[str, list[Made]]()
        for seed in asked.seeds:
            base, spent, _ = trained(case.read, None, seed, asked.base_steps, {"size": "small"})
            made.setdefault("the base as it is", []).append((judged(base, case.told), spent, 0.0))
            for way, how in WAYS.items():
                parent = None if "size" in how else brought(base)
                files, spent, share = trained(case.learns, parent, seed, asked.steps, how)
                made.setdefault(way, []).append((judged(files, case.told), spent, share))
            print(f"{name}, seed {seed}", table(case, {w: runs[-1:] for w, runs in made.items()}), sep="\n", flush=True)
        print(f"{name}, seeds {asked.seeds}", table(case, made), sep="\n", flush=True)


def texts(data: Path) -> dict[str, Case]:
    sets = {name: read(data / folder) for name, folder in SETS.items()}
    train = {name: [e for n, e in enumerate(found) if n % 4] for name, found in sets.items()}
    held = {name: [of(e) for n, e in enumerate(found) if n % 4 == 0] for name, found in sets.items()}
    with TemporaryDirectory() as folder:
        for name, made in bills(7).items():
            (Path(folder) / name).write_bytes(made)
        new = read(Path(folder))
    return {
        "far": Case(train["shakespeare"], train["gsm8k"], held),
        "near": Case(
            [*train["shakespeare"], *train["gsm8k"]],
            new[:6],
            {"bills": [of(e) for e in new[100:124]], "gsm8k": held["gsm8k"][::3]},
        ),
    }


def trained(
    episodes: Sequence[Episode], parent: Files | None, seed: int, steps: int, how: Mapping[str, Any]
) -> tuple[Files, float, float]:
    begun, notes = time.process_time(), Notes()
    job = TrainJob(data=Held(episodes), parent=parent, seed=seed, settings={"steps": steps, "sums": 0, **how})
    files = line.train(job, notes)
    return files, time.process_time() - begun, notes.metrics[-1].get("trained.share", 1.0)


def brought(files: Files) -> Files:
    """As a factory takes a model from a folder."""
    with TemporaryDirectory() as folder:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        return bases.parent(line, bases.open_base(line, Path(folder)))


def judged(files: Files, held: Mapping[str, Any]) -> Rows:
    policy = policies(line, OnnxRuntime(), files)
    return {name: [told_bits(policy, said, OURS, most=10**6) for said in sessions] for name, sessions in held.items()}


def table(case: Case, made: Mapping[str, Sequence[Made]]) -> str:
    heads = " | ".join(f"{name}, bits per byte" for name in case.told)
    rows = [f"| | {heads} | weights learned | CPU-seconds |", "|---|---|---|---|---|"]
    for way, runs in made.items():
        told = [shown([rows_of[name] for rows_of, _, _ in runs]) for name in case.told]
        share = f"{runs[0][2]:.1%}" if runs[0][2] else ""
        rows.append(f"| {way} | {' | '.join(told)} | {share} | {np.mean([spent for _, spent, _ in runs]):.0f} |")
    return "\n".join(rows)


def shown(runs: Sequence[Sequence[tuple[float, float]]]) -> str:
    found = np.array(runs).sum(axis=0)  # (sessions, 2): all seeds' of a session together
    low, high = interval(found)
    return f"{found[:, 0].sum() / found[:, 1].sum():.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
