"""Measure every promised figure and write docs/proof.md. Takes about half an hour on two idle cores.

Usage: python scripts/prove.py [--out FOLDER] [--only NAME ...] [--data ../shared/data]

A demo whose report lies in FOLDER already is not run again. What cannot be run here is said so, not left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fleetmill import lines
from fleetmill.core import evidence
from fleetmill.core.line import Line

ROOT = Path(__file__).parents[1]
SEEDS = (0, 1, 2)
_BOOTSTRAP_SEED = 11


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One promised figure as measured."""

    promise: str
    measured: str
    met: bool | None  # None: no bar was promised, or it could not be run here
    command: str


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "demo-proof")
    parser.add_argument("--only", nargs="*", default=sorted(PROOFS))
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[Row]] = {}
    for name in asked.only:
        began = time.monotonic()
        rows[name] = list(PROOFS[name](asked.out, asked.data))
        found = {"commit": _commit(), "rows": [_plain(r) for r in rows[name]]}
        (asked.out / f"{name}.rows.json").write_text(json.dumps(found))
        for row in rows[name]:
            print(f"{_mark(row)} {row.promise}: {row.measured}", flush=True)
        print(f"   ({name}: {time.monotonic() - began:.0f} s)", flush=True)
    _write(asked.out)
    return 0 if all(row.met is not False for found in rows.values() for row in found) else 1


def _driving(out: Path, _: Path) -> Sequence[Row]:
    reports = [_demo(out, "driving", seed) for seed in SEEDS]
    line = lines.find("driving")
    rows = []
    for against, bar in (("generation 0", 0.4), ("control", 0.5)):
        pooled, each = _pooled(line, reports, "takeovers_per_km", against)
        rows.append(
            Row(
                promise=f"driving: takeovers per km of the final champion at most {bar} of {against}, pooled",
                measured=f"{_interval(pooled)}; seeds {', '.join(_interval(r) for r in each)}",
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


def _arm(out: Path, _: Path) -> Sequence[Row]:
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


def _same_twice(out: Path, _: Path) -> Sequence[Row]:
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


def _rccar(out: Path, data: Path) -> Sequence[Row]:
    command = ["bench/rccar_folds.py", "--data", str(data / "drive-rc-roomb"), "--json"]
    if not data.is_dir():
        return [_absent("rccar: folds", " ".join(command))]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=True)
    (out / "rccar.json").write_text(done.stdout)
    found = json.loads(done.stdout)
    held, leak = found["drives held out"], found["LEAK, random frames"]
    names = ("line", "kernel", "ridge", "mean")
    parts = [f"{n} {held[n]['r2']:.3f} [{held[n]['r2_low']:.3f}, {held[n]['r2_high']:.3f}]" for n in names]
    ratio = held["line / kernel"]
    return [
        Row(
            promise="rccar: R2 of steering on drives left out, five folds, not worse than the kernel model",
            measured=f"{'; '.join(parts)}; by fold, line {held['line']['r2_by_fold']}, kernel "
            f"{held['kernel']['r2_by_fold']}; RMSE ratio {ratio['rmse_ratio']} [{ratio['low']}, {ratio['high']}]; "
            f"with random frames (a LEAK): line {leak['line']['r2']}, kernel {leak['kernel']['r2']}",
            met=held["line"]["r2"] >= held["kernel"]["r2"],
            command="python bench/rccar_folds.py --data ../shared/data/drive-rc-roomb --json",
        )
    ]


def _machine(out: Path, data: Path) -> Sequence[Row]:
    """The bars are the field's simple models as the benches' own splits give them, and the promised numbers."""
    bar = "python bench/machine.py --data ../shared/data --json"
    found = _bench(out, "machine", data, "engine-cmapss-fd001", "sensor-nab")
    if found is None:
        return [_absent("machine_life, machine_alarm: benches", bar)]
    life, alarm = found["life"], found["alarm"]
    models, ratio = life["models"], life["line / linear, RMSE"]
    line, linear, aged = (models[n]["rul_rmse"] for n in ("line", "linear", "linear, with age"))
    rows = [
        Row(
            promise="machine_life: RMSE of the cycles left below 20.8 (linear model), on engines never seen",
            measured=f"{_range(line)}, seeds {_by_seed(line)}; linear {_range(linear)}, with age {_range(aged)}; "
            f"line over linear {_ratio(ratio)}; {life['engines']['held_out']} engines",
            met=line["value"] < 20.8 and ratio["high"] < 1,
            command=bar,
        )
    ]
    for name in ("8 series never looked at", "all 32 series, four folds"):
        part = alarm[name]
        mine, other = (part[side]["recall_at_one_a_week"] for side in ("line", "robust z"))
        rows.append(
            Row(
                promise=f"machine_alarm: recall at one false alarm a week above the robust z-score's, {name}",
                measured=f"{_range(mine)} against {_range(other)}, seeds {_by_seed(mine)}; over it "
                f"{_ratio(part['line / robust z, recall at one a week'])}; {part['windows']:.0f} windows; false "
                f"alarms a week as lived {_range(part['line']['false_alarms_per_week'])}",
                met=mine["value"] > other["value"],
                command=bar,
            )
        )
    return rows


def _traffic(out: Path, data: Path) -> Sequence[Row]:
    bar = "python bench/traffic.py --data ../shared/data/city-hourly --only volume --json"
    found = _bench(out, "traffic", data / "city-hourly", "hourly_traffic_volume.csv", more=("--only", "volume"))
    if found is None:
        return [_absent("traffic: bench", bar)]
    models = found["volume"]["models"]
    line, weekly, ridge = (models[n]["mae_24h"] for n in ("line", "weekly naive", "ridge"))
    ratio, cover = found["volume"]["line / weekly naive, MAE at 24 h"], models["line"]["coverage"]
    return [
        Row(
            promise="traffic: MAE at 24 hours below 338 (weekly naive, 2018), later than all that trains",
            measured=f"{_range(line)}, seeds {_by_seed(line)}; weekly naive {_range(weekly)}, ridge {_range(ridge)}; "
            f"line over weekly naive {_ratio(ratio)}; coverage of the 80 % interval {_range(cover)}; "
            f"{found['volume']['weeks_asked']} weeks",
            met=line["value"] < 338 and ratio["high"] < 1,
            command=bar,
        )
    ]


def _language(out: Path, _: Path) -> Sequence[Row]:
    reports = [_demo(out, "language", seed) for seed in SEEDS]
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
            command="fleetmill demo --line language --seed 0 | 1 | 2",
        ),
        Row(
            promise="language: at most 500 CPU-seconds a run",
            measured=f"{cpu} CPU-s",
            met=max(r["cpu_seconds"] for r in reports) <= 500,
            command="the same",
        ),
        *_all_demos(reports),
        *_asked(out, "language"),
    ]


def _bench(out: Path, name: str, data: Path, *files: str, more: Sequence[str] = ()) -> dict[str, Any] | None:
    """What a bench says, kept in `out`; None: its recordings are not here."""
    if not all((data / file).exists() for file in files):
        return None
    command = [sys.executable, f"bench/{name}.py", "--data", str(data), "--json", *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    (out / f"{name}.json").write_text(done.stdout)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _absent(promise: str, command: str) -> Row:
    return Row(promise=promise, measured="no recordings here", met=None, command=command)


def _range(metric: dict[str, Any]) -> str:
    return f"{metric['value']:.3g} [{metric['low']:.3g}, {metric['high']:.3g}]"


def _by_seed(metric: dict[str, Any]) -> str:
    return ", ".join(f"{value:.3g}" for value in metric["by_seed"])


def _ratio(ratio: dict[str, float]) -> str:
    return f"{ratio['ratio']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"


def _tests(_: Path, __: Path) -> Sequence[Row]:
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
        "upgrade from the first landing, killed anywhere; each doctor finding; lost keys; clocks": "tests/care",
    }
    return [_pytest(promise, where) for promise, where in groups.items()]


def _pytest(promise: str, where: str) -> Row:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", where], cwd=ROOT, capture_output=True, text=True, check=False
    )
    last = (done.stdout.strip().splitlines() or [""])[-1]
    return Row(promise=promise, measured=last.strip("= "), met=done.returncode == 0, command=f"pytest {where}")


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


def _asked(out: Path, line: str) -> list[Row]:
    """What every finished demo must answer: its report's numbers again, and both ways of its receipts."""
    questions = {
        "every number of the report follows again from its fact": ("report", "--verify", "{place}/report.html"),
        "why and fate agree for every interval and every model": ("why", "--check-all", "--home", "{place}/home"),
    }
    rows = []
    for promise, words in questions.items():
        told = []
        for seed in SEEDS:
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


def _interval(r: evidence.Ratio) -> str:
    return f"{r.value:.3f} [{r.low:.3f}, {r.high:.3f}]"


def _mark(row: Row) -> str:
    return {True: "met    ", False: "NOT MET", None: "no bar "}[row.met]


def _plain(row: Row) -> dict[str, Any]:
    return {"promise": row.promise, "measured": row.measured, "met": row.met, "command": row.command}


def _commit() -> str:
    """The revision that is measured."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def _write(out: Path) -> None:
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


PROOFS: dict[str, Callable[[Path, Path], Sequence[Row]]] = {
    "arm": _arm,
    "driving": _driving,
    "language": _language,
    "machine": _machine,
    "rccar": _rccar,
    "same_twice": _same_twice,
    "tests": _tests,
    "traffic": _traffic,
}

if __name__ == "__main__":
    sys.exit(main())
