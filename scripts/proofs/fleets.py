"""Demos: a factory and its fleet, run as a user runs them, for the report seeds."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fleetmill import lines
from fleetmill.core import evidence
from fleetmill.core.line import Line
from proofs.rows import ROOT, Row, interval

SEEDS = (0, 1, 2)
PEOPLE_SEEDS = (43, 44, 45)  # of the line language: smaller ones were looked at while its recipe was made
REPLAYED = {"machine_life": "engine-cmapss-fd001", "machine_alarm": "sensor-nab", "traffic": "city-hourly"}
_BOOTSTRAP_SEED = 11


def driving(out: Path, _: Path) -> Sequence[Row]:
    """The demo that is shown first."""
    reports = [_demo(out, "driving", seed) for seed in SEEDS]
    line = lines.find("driving")
    rows = []
    for against, bar in (("generation 0", 0.4), ("control", 0.5)):
        pooled, each = _pooled(line, reports, "takeovers_per_km", against)
        rows.append(
            Row(
                promise=f"driving: takeovers per km of the final champion at most {bar} of {against}, pooled",
                measured=f"{interval(pooled)}; seeds {', '.join(interval(r) for r in each)}",
                met=pooled.value <= bar and pooled.high < 1,
                command="fleetmill demo --seed 0 | 1 | 2",
            )
        )
    last = [r["generations"][-1] for r in reports]
    autonomy = ", ".join(f"{g['autonomy']:.3f}" for g in last)
    off_road = ", ".join(f"{g['off_road_per_km']:.2f}" for g in last)
    first_off_road = ", ".join(f"{r['generations'][0]['off_road_per_km']:.2f}" for r in reports)
    rows.append(
        Row(
            promise="driving: autonomy share and off-road per km of all driving, beside it",
            measured=f"autonomy {autonomy}; off-road per km {off_road} (generation 0: {first_off_road})",
            met=None,
            command="the same",
        )
    )
    shares = [
        g["uploaded_bytes"] / g["recorded_bytes"] for r in reports for g in r["generations"] if g["generation"] > 0
    ]
    rows.append(
        Row(
            promise="at most 35 % of what a device recorded is kept, from generation 1 on",
            measured=f"{100 * min(shares):.1f} to {100 * max(shares):.1f} % by generation",
            met=max(shares) <= 0.35,
            command="the same",
        )
    )
    cpu, wall = [r["cpu_seconds"] for r in reports], [r["wall_seconds"] for r in reports]
    rows.append(
        Row(
            promise="make demo: at most 500 CPU-seconds over all processes",
            measured=f"{', '.join(f'{c:.0f}' for c in cpu)} CPU-s in {', '.join(f'{s:.0f}' for s in wall)} s",
            met=max(cpu) <= 500,
            command="the same",
        )
    )
    return [*rows, *_all_demos(reports), *_asked(out, "driving")]


def arm(out: Path, _: Path) -> Sequence[Row]:
    """A simulated arm that picks and places."""
    reports = [_demo(out, "arm", seed) for seed in SEEDS]
    line = lines.find("arm")
    first = _interval_of(line, reports, "success", 0)
    last = _interval_of(line, reports, "success", -1)
    each = ", ".join(f"{r['generations'][-1]['success']:.2f}" for r in reports)
    cpu = [r["cpu_seconds"] for r in reports]
    return [
        Row(
            promise="arm: success at least 0.90 at the last generation, pooled; interval disjoint from generation 0",
            measured=f"{last[0]:.3f} [{last[1]:.3f}, {last[2]:.3f}] against {first[0]:.3f} "
            f"[{first[1]:.3f}, {first[2]:.3f}]; seeds {each}",
            met=last[0] >= 0.9 and last[1] > first[2],
            command="fleetmill demo --line arm --seed 0 | 1 | 2",
        ),
        Row(
            promise="arm: at most 120 CPU-seconds a run",
            measured=f"{', '.join(f'{c:.0f}' for c in cpu)} CPU-s",
            met=max(cpu) <= 120,
            command="the same",
        ),
        *_all_demos(reports),
        *_asked(out, "arm"),
    ]


def language(out: Path, _: Path) -> Sequence[Row]:
    """People ask a fleet; what a device is not sure of is handed on, and learned from."""
    reports = [_demo(out, "language", seed) for seed in PEOPLE_SEEDS]
    told = [
        [r["answers"][f"generation {g['generation']}"] for g in r["generations"]] + [r["answers"]["control"]]
        for r in reports
    ]

    def each(at: int, name: str) -> str:
        return ", ".join(
            f"{100 * t[at][name]:.1f} [{100 * t[at][name + '_low']:.1f}, {100 * t[at][name + '_high']:.1f}]"
            for t in told
        )

    def pooled(at: int) -> float:
        return sum(t[at]["kept_right"] for t in told) / max(sum(t[at]["kept"] for t in told), 1)

    falls = all(t[-2]["handed_on_share_high"] < t[0]["handed_on_share_low"] for t in told)
    cpu = ", ".join(f"{r['cpu_seconds']:.0f}" for r in reports)
    return [
        Row(
            promise="language: the share of questions handed on falls from the first generation to the last, intervals "
            "disjoint, at equal or better accuracy of the answers that are kept",
            measured=f"% handed on: {each(-2, 'handed_on_share')} after {each(0, 'handed_on_share')}; control "
            f"{each(-1, 'handed_on_share')}. % right of those kept: {each(-2, 'kept_right_share')} after "
            f"{each(0, 'kept_right_share')}; pooled {100 * pooled(-2):.1f} after {100 * pooled(0):.1f}",
            met=falls and pooled(-2) >= pooled(0),
            command="fleetmill demo --line language --seed 43 | 44 | 45",
        ),
        Row(
            promise="language: at most 500 CPU-seconds a run",
            measured=f"{cpu} CPU-s",
            met=max(r["cpu_seconds"] for r in reports) <= 500,
            command="the same",
        ),
        *_all_demos(reports),
        *_asked(out, "language", PEOPLE_SEEDS),
    ]


def same_twice(out: Path, _: Path) -> Sequence[Row]:
    """The same demo twice, by real processes."""
    found = []
    for name in ("once", "again"):
        report = _demo(out, "arm", 3, folder=out / f"arm-3-{name}", more=("--generations", "2", "--calm"))
        found.append([(g["dataset"], g["candidate"]) for g in report["generations"]])
    return [
        Row(
            promise="same inputs and seed: the same dataset and model digests",
            measured=f"{len(found[0])} generations, {'equal' if found[0] == found[1] else 'DIFFERENT'}: "
            f"{', '.join(m[:12] for _, m in found[0])}",
            met=found[0] == found[1],
            command="fleetmill demo --line arm --seed 3 --generations 2 --calm, twice",
        )
    ]


def replayed(out: Path, data: Path) -> Sequence[Row]:
    """Lines without a world: made-up recordings, as `fleetmill demo --line` takes them, and the real ones."""
    asked = [(name, Path()) for name in REPLAYED] + [(n, data / d) for n, d in REPLAYED.items() if (data / d).is_dir()]
    rows = []
    for name, where in asked:
        real = where != Path()
        more = ["--data", str(where), *(("--devices", "2") if where.name == "city-hourly" else ())] if real else []
        report = _demo(out, name, 0, folder=out / f"{name}-0{'-real' * real}", more=more)
        kept = [e["kept"] for e in report["events"] if e["kept"] is not None]  # others never came up: no release came
        decisions = [g["decision"].replace("_", " ") for g in report["generations"]]
        rows.append(
            Row(
                promise=f"{name}: the loop on {'real' if real else 'made-up'} recordings in under 90 s; accidents as "
                "promised, books that balance, an audit that agrees",
                measured=f"{report['wall_seconds']:.0f} s, {report['cpu_seconds']:.0f} CPU-s; {', '.join(decisions)}; "
                f"accidents {sum(kept)} of {len(kept)} as promised; {report['audit']['line'].removeprefix('audit: ')}",
                met=all(kept)
                and report["balanced"]
                and report["audit"]["exit_code"] == 0
                and report["wall_seconds"] < 90,
                command=f"fleetmill demo --line {name}{f' --data ../shared/data/{where.name}' * real}"
                f"{' --devices 2' * (where.name == 'city-hourly')}",
            )
        )
    return rows


def _all_demos(reports: Sequence[dict[str, Any]]) -> list[Row]:
    """What every demo must end with."""
    line = reports[0]["line"]
    off = [abs(sum(sum(g["stages"].values()) for g in r["generations"]) / r["loop_seconds"] - 1) for r in reports]
    events = [e for r in reports for e in r["events"]]
    kept = [sum(bool(e["kept"]) for e in r["events"]) for r in reports]
    checked = all(e["chain"] > 0 and not e["faults"] for e in events)
    return [
        Row(
            promise=f"{line}: each of the six accidents ends as promised, chain and books checked after each",
            measured=", ".join(f"{k} of {len(r['events'])}" for k, r in zip(kept, reports, strict=True)) + " by seed",
            met=checked and len(events) == 6 * len(reports) and sum(kept) == len(events),
            command="the same",
        ),
        Row(
            promise=f"{line}: the books balance and the audit agrees",
            measured="; ".join(r["audit"]["line"].removeprefix("audit: ") for r in reports),
            met=all(r["balanced"] and r["audit"]["exit_code"] == 0 for r in reports),
            command="the same",
        ),
        Row(
            promise=f"{line}: stages from fact times sum to the total within 1 %",
            measured=f"off by {', '.join(f'{100 * x:.3f} %' for x in off)}",
            met=max(off) < 0.01,
            command="the same",
        ),
    ]


def _asked(out: Path, line: str, seeds: Sequence[int] = SEEDS) -> list[Row]:
    """What every finished demo must answer: its report's numbers again, and both ways of its receipts."""
    questions = {
        "every number of the report follows again from its fact": ("report", "--verify", "{place}/report.html"),
        "why and fate agree for every interval and every model": ("why", "--check-all", "--home", "{place}/home"),
    }
    rows = []
    for promise, words in questions.items():
        told = []
        for seed in seeds:
            command = [w.format(place=out / f"{line}-{seed}") for w in words]
            done = subprocess.run(
                [sys.executable, "-m", "fleetmill.cli", *command], cwd=ROOT, capture_output=True, text=True, check=False
            )
            last = (done.stdout.strip().splitlines() or [done.stderr.strip()])[-1]
            told.append((done.returncode, last.removeprefix(f"{out / f'{line}-{seed}'}/report.html: ")))
        rows.append(
            Row(
                promise=f"{line}: {promise}",
                measured="; ".join(text for _, text in told),
                met=all(code == 0 for code, _ in told),
                command=f"fleetmill {' '.join(words).format(place=f'demo-{line}-SEED')}",
            )
        )
    return rows


def _demo(out: Path, line: str, seed: int, *, folder: Path | None = None, more: Sequence[str] = ()) -> dict[str, Any]:
    place = folder or out / f"{line}-{seed}"
    if not (place / "report.json").exists():
        subprocess.run(["rm", "-rf", str(place)], check=True)
        command = ["demo", "--line", line, "--seed", str(seed), "--out", str(place), *more]
        with (out / f"{place.name}.log").open("w") as log:
            done = subprocess.run(
                [sys.executable, "-m", "fleetmill.cli", *command], stdout=log, stderr=log, cwd=ROOT, check=False
            )
        if done.returncode:
            raise SystemExit(f"fleetmill {' '.join(command)}: exit {done.returncode}, see {log.name}")
    found: dict[str, Any] = json.loads((place / "report.json").read_text())
    return found


def _pooled(
    line: Line, reports: Sequence[dict[str, Any]], metric: str, against: str
) -> tuple[evidence.Ratio, list[evidence.Ratio]]:
    """Over worlds; a world's training seeds stay together, so that its difficulty counts once."""
    pairs = [
        (r["tallies"]["field"][-1], r["tallies"]["field"][0] if against == "generation 0" else r["tallies"]["control"])
        for r in reports
    ]
    a = [_together([p[0][world] for p in pairs]) for world in range(len(pairs[0][0]))]
    b = [_together([p[1][world] for p in pairs]) for world in range(len(pairs[0][1]))]
    (pooled,) = evidence.ratios([metric], a, b, _pool(line), seed=_BOOTSTRAP_SEED)
    each = [evidence.ratios([metric], _arrays(x), _arrays(y), _pool(line), seed=_BOOTSTRAP_SEED)[0] for x, y in pairs]
    return pooled, each


def _interval_of(
    line: Line, reports: Sequence[dict[str, Any]], metric: str, generation: int
) -> tuple[float, float, float]:
    sides = [r["tallies"]["field"][generation] for r in reports]
    trials = [_together([side[world] for side in sides]) for world in range(len(sides[0]))]
    return evidence.interval(metric, trials, _pool(line), seed=_BOOTSTRAP_SEED)


def _pool(line: Line) -> Callable[[Sequence[Any]], Any]:
    return lambda trials: line.judging.metrics([tally for trial in trials for tally in trial])


def _arrays(side: Sequence[Any]) -> list[Any]:
    return [[{k: np.asarray(v) for k, v in tally.items()} for tally in trial] for trial in side]


def _together(trials: Sequence[Any]) -> list[Any]:
    return [tally for trial in _arrays(trials) for tally in trial]
