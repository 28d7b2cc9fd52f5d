"""How well does the line `rccar` steer on drives it never saw, beside simpler models on the same folds?

    python bench/rccar_folds.py --data ../shared/data/drive-rc-roomb [--json]

Whole drives are held out: five folds over the drives, shuffled by a seed. Where a drive that trains lies next to one
that is held out, its 25 frames nearest to the cut are left out. Beside it the same with random frames, which is a leak:
neighbouring frames are 50 ms apart and nearly equal, so it measures memory. Intervals resample drives (frames' drives
for the leak too), 95 %. R2 counts from the held-out labels' own mean, so a mean predictor cannot be above 0.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg

from fleetmill.core.evidence import interval
from fleetmill.core.line import Array, Files, Message, Stretch, Tally, TrainJob
from fleetmill.engines.runtime_onnx import OnnxRuntime
from fleetmill.lines.rccar import line
from fleetmill.lines.rccar.judging import tally
from fleetmill.receive.imports import open_files
from fleetmill.seams.runtime import policies
from fleetmill.testing import Notes, Rows

FOLDS, GUARD_FRAMES = 5, 25
SEED = 2027  # of the published folds; everything was chosen on folds of other seeds (docs/lines/rccar.md)
Model = Callable[[Array, Array], Array]  # (rows that train, rows held out) -> answers for the latter


@dataclass(frozen=True, kw_only=True, slots=True)
class Frames:
    """Every usable frame of a tub, in time order."""

    camera: Array  # uint8 (N, 120, 160, 3)
    small: Array  # float32 (N, 3600): a quarter of the resolution, 0..1, for the simple models
    label: Array  # (N,)
    drive: Array  # (N,): number of the drive


def load(files: Files) -> Frames:
    """What the importer reads and the line cuts."""
    cameras, labels, drives = [], [], []
    for number, foreign in enumerate(line.importers[0].read(files)):
        messages = [_decoded(m) for m in foreign.messages]
        stretch = Stretch(device="car", session=foreign.session, index=0, tags=foreign.tags, messages=messages)
        for episode in line.cut(stretch):
            cameras.append(episode.columns["camera"])
            labels.append(episode.columns["label.steer"])
            drives += [number] * len(episode.times_ns)
    camera = np.concatenate(cameras)
    small = camera.reshape(-1, 30, 4, 40, 4, 3).mean((2, 4), dtype=np.float32).reshape(len(camera), -1) / 255
    return Frames(camera=camera, small=small, label=np.concatenate(labels).astype(np.float64), drive=np.array(drives))


def _decoded(m: Message) -> Message:
    if m.topic != "camera":
        return m
    picture = simplejpeg.decode_jpeg(np.asarray(m.value["data"]).tobytes())
    return Message(topic=m.topic, log_time_ns=m.log_time_ns, publish_time_ns=m.publish_time_ns, value={"data": picture})


def drive_folds(drive: Array, seed: int) -> list[tuple[Array, Array]]:
    """(rows that train, rows held out) of each fold: whole drives, with the guard at the cuts."""
    names = np.unique(drive)
    shuffled = np.random.default_rng(seed).permutation(names)
    folds = []
    for i in range(FOLDS):
        held = set(shuffled[i::FOLDS].tolist())
        train = ~np.isin(drive, list(held))
        for at, name in enumerate(names):
            rows = np.flatnonzero(drive == name)
            if name not in held and at > 0 and names[at - 1] in held:
                train[rows[:GUARD_FRAMES]] = False
            if name not in held and at + 1 < len(names) and names[at + 1] in held:
                train[rows[-GUARD_FRAMES:]] = False
        folds.append((np.flatnonzero(train), np.flatnonzero(np.isin(drive, list(held)))))
    return folds


def frame_folds(drive: Array, seed: int) -> list[tuple[Array, Array]]:
    """The leak: frames dealt out at random."""
    shuffled = np.random.default_rng(seed).permutation(len(drive))
    parts = [np.sort(shuffled[i::FOLDS]) for i in range(FOLDS)]
    return [(np.setdiff1d(shuffled, part), part) for part in parts]


def models(f: Frames, seed: int, settings: Mapping[str, int]) -> dict[str, Model]:
    """Each takes (rows that train, rows held out) and gives answers for the latter."""

    def mean(train: Array, held: Array) -> Array:
        return np.full(len(held), f.label[train].mean())

    def ridge(train: Array, held: Array, strength: float = 50.0) -> Array:
        centre, level = f.small[train].mean(0), f.label[train].mean()
        a, b = f.small[train] - centre, f.small[held] - centre
        dual = np.linalg.solve((a @ a.T).astype(np.float64) + strength * np.eye(len(a)), f.label[train] - level)
        return (b @ a.T) @ dual + level

    def kernel(train: Array, held: Array, width: float = 1.0, strength: float = 0.7) -> Array:
        a, b, level = f.small[train], f.small[held], f.label[train].mean()
        apart = _apart(a, a)
        scale = width / np.median(apart)
        dual = np.linalg.solve(np.exp(-scale * apart) + strength * np.eye(len(a)), f.label[train] - level)
        return np.exp(-scale * _apart(b, a)) @ dual + level

    def net(train: Array, held: Array) -> Array:
        data = Rows({"camera": f.camera[train], "label.steer": f.label[train]})
        files = line.train(TrainJob(data=data, parent=None, seed=seed, settings=settings), Notes())
        policy = policies(line, OnnxRuntime(), files)
        parts = np.array_split(held, max(1, len(held) // 64))
        return np.concatenate([policy.ask({"camera": f.camera[part]})["steer"] for part in parts])

    return {"mean": mean, "ridge": ridge, "kernel": kernel, "line": net}


def _apart(a: Array, b: Array) -> Array:
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return squares.astype(np.float64)


def judge(f: Frames, model: Model, folds: Sequence[tuple[Array, Array]], seed: int) -> dict[str, object]:
    """R2 by fold, pooled with its interval over drives, and what it cost."""
    start, found, answers = time.process_time(), [], np.zeros(len(f.label))
    for train, held in folds:
        answers[held] = np.clip(model(train, held), -1.0, 1.0)  # full lock, for every model
        found.append(line.judging.metrics([tally(f.label[held], answers[held])])["steering_r2"])
    cost = time.process_time() - start
    trials: list[Tally] = [tally(f.label[f.drive == d], answers[f.drive == d]) for d in np.unique(f.drive)]
    value, low, high = interval("steering_r2", trials, line.judging.metrics, seed=seed)
    pooled = line.judging.metrics(trials)
    return {
        "r2_by_fold": [round(r, 3) for r in found],
        "r2": round(value, 3),
        "r2_low": round(low, 3),
        "r2_high": round(high, 3),
        "rmse": round(pooled["steering_rmse"], 3),
        "mae": round(pooled["steering_mae"], 3),
        "cpu_seconds": round(cost, 1),
        "trials": trials,
    }


def against(a: Sequence[Tally], b: Sequence[Tally], seed: int) -> dict[str, float]:
    """The ratio of pooled RMSE with its 95 % interval, paired by drive."""
    from fleetmill.core.evidence import ratios

    (found,) = ratios(["steering_rmse"], a, b, line.judging.metrics, seed=seed)
    return {"rmse_ratio": round(found.value, 3), "low": round(found.low, 3), "high": round(found.high, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a tub, or a folder with tubs")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--seed", type=int, default=SEED, help="of the folds and of the training")
    parser.add_argument(
        "--steps", type=int, default=None, help="training steps of the line; its own number if not given"
    )
    parser.add_argument("--skip-leak", action="store_true", help="leave the random frames out: half the time")
    options = parser.parse_args()
    frames = load(open_files(options.data))
    settings = {"steps": options.steps} if options.steps else {}
    kinds = {"drives held out": drive_folds} | ({} if options.skip_leak else {"LEAK, random frames": frame_folds})
    report: dict[str, object] = {
        "frames": len(frames.label), "drives": len(np.unique(frames.drive)), "seed": options.seed
    }  # fmt: skip
    for title, folds in kinds.items():
        rows = {
            name: judge(frames, model, folds(frames.drive, options.seed), options.seed)
            for name, model in models(frames, options.seed, settings).items()
        }
        trials = {name: row.pop("trials") for name, row in rows.items()}
        report[title] = rows | {"line / kernel": against(trials["line"], trials["kernel"], options.seed)}
    print(json.dumps(report, indent=1) if options.json else table(report))


def table(report: Mapping[str, object]) -> str:
    out = [f"{report['frames']} frames of {report['drives']} drives, seed {report['seed']}"]
    for title, rows in report.items():
        if isinstance(rows, dict):
            out += ["", title, *(_line(name, row) for name, row in rows.items())]
    return "\n".join(out)


def _line(name: str, row: Mapping[str, object]) -> str:
    if "rmse_ratio" in row:
        return f"  {name}: RMSE ratio {row['rmse_ratio']} [{row['low']}, {row['high']}]"
    return (
        f"  {name:8s} R2 {row['r2']:6.3f} [{row['r2_low']:6.3f}, {row['r2_high']:6.3f}]  RMSE {row['rmse']:.3f}"
        f"  MAE {row['mae']:.3f}  folds {row['r2_by_fold']}  {row['cpu_seconds']} CPU-s"
    )


if __name__ == "__main__":
    main()
