"""Benches: what they print as JSON, against what was promised."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from proofs.rows import ROOT, Row, absent, by_seed, over, spread

COUNTED = ("reservations", "granted", "refused", "kills", "looks", "overspent", "lost", "unbalanced", "wrong")


def rccar(out: Path, data: Path) -> Sequence[Row]:
    """A toy car's drives, held out whole."""
    command = ["bench/rccar_folds.py", "--data", str(data / "drive-rc-roomb"), "--json"]
    if not data.is_dir():
        return [absent("rccar: folds", " ".join(command))]
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


def machine(out: Path, data: Path) -> Sequence[Row]:
    """The bars are the field's simple models as the benches' own splits give them, and the promised numbers."""
    bar = "python bench/machine.py --data ../shared/data --json"
    found = _bench(out, "machine", data, "engine-cmapss-fd001", "sensor-nab")
    if found is None:
        return [absent("machine_life, machine_alarm: benches", bar)]
    life, alarm = found["life"], found["alarm"]
    models, ratio = life["models"], life["line / linear, RMSE"]
    line, linear, aged = (models[n]["rul_rmse"] for n in ("line", "linear", "linear, with age"))
    rows = [
        Row(
            promise="machine_life: RMSE of the cycles left below 20.8 (linear model), on engines never seen",
            measured=f"{spread(line)}, seeds {by_seed(line)}; linear {spread(linear)}, with age {spread(aged)}; "
            f"line over linear {over(ratio)}; {life['engines']['held_out']} engines",
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
                measured=f"{spread(mine)} against {spread(other)}, seeds {by_seed(mine)}; over it "
                f"{over(part['line / robust z, recall at one a week'])}; {part['windows']:.0f} windows; false "
                f"alarms a week as lived {spread(part['line']['false_alarms_per_week'])}",
                met=mine["value"] > other["value"],
                command=bar,
            )
        )
    return rows


def traffic(out: Path, data: Path) -> Sequence[Row]:
    """A street's later hours."""
    bar = "python bench/traffic.py --data ../shared/data/city-hourly --only volume --json"
    found = _bench(out, "traffic", data / "city-hourly", "hourly_traffic_volume.csv", more=("--only", "volume"))
    if found is None:
        return [absent("traffic: bench", bar)]
    models = found["volume"]["models"]
    line, weekly, ridge = (models[n]["mae_24h"] for n in ("line", "weekly naive", "ridge"))
    ratio, cover = found["volume"]["line / weekly naive, MAE at 24 h"], models["line"]["coverage"]
    return [
        Row(
            promise="traffic: MAE at 24 hours below 338 (weekly naive, 2018), later than all that trains",
            measured=f"{spread(line)}, seeds {by_seed(line)}; weekly naive {spread(weekly)}, ridge {spread(ridge)}; "
            f"line over weekly naive {over(ratio)}; coverage of the 80 % interval {spread(cover)}; "
            f"{found['volume']['weeks_asked']} weeks",
            met=line["value"] < 338 and ratio["high"] < 1,
            command=bar,
        )
    ]


def foretold(out: Path, data: Path) -> Sequence[Row]:
    """Forecasts that were told, signed, and scored when their day had come."""
    command = "python bench/forecasts.py --data ../shared/data/city-hourly --json"
    found = _bench(out, "forecasts", data / "city-hourly", "hourly_traffic_volume.csv")
    if found is None:
        return [absent("forecasts scored against what came", command)]
    record = found["track_record"]
    told = {name: spread(metric) for name, metric in record["metrics"].items()}
    return [
        Row(
            promise="forecasts: told each day by the champion, scored against what came; coverage of the 80 % interval",
            measured=f"{record['told']} told, {record['scored']} scored; coverage {told['coverage']}, MAE at 24 h "
            f"{told['mae_24h']}; {found['cpu_seconds_a_look']:.2f} CPU-s a look",
            met=None,
            command=command,
        )
    ]


def accounts(out: Path, _: Path) -> Sequence[Row]:
    """A million reservations, processes that die at random commits."""
    found = _bench(out, "accounts", Path())
    assert found is not None
    crash = found["crash"]
    return [
        Row(
            promise="10^6 concurrent reservations in group commits, crashes at random commits: 0 overspent, 0 lost",
            measured=", ".join(f"{crash[n]:,} {n}" for n in COUNTED)
            + f"; {crash['cpu_microseconds']:.0f} us CPU a reservation",
            met=not any(crash[n] for n in ("overspent", "lost", "unbalanced", "wrong"))
            and crash["reservations"] >= 1_000_000,
            command="python bench/accounts.py --json",
        )
    ]


def relay(out: Path, _: Path) -> Sequence[Row]:
    """What the gateway costs beside nginx, in one run."""
    command = "python bench/relay.py --rounds 5 --json"
    promise = "relay: CPU per request at most {} times nginx's, {}"
    bars = {"unary, 150 B": 5.0, "unary, 16 KB": 5.0, "stream, 32 chunks": 1.5}
    if shutil.which("nginx") is None:
        return [absent(promise.format(bar, case), command, "nginx is not here") for case, bar in bars.items()]
    found = _bench(out, "relay", Path(), more=("--rounds", "5"))
    assert found is not None
    rows = []
    for case, bar in bars.items():
        told = "; ".join(
            f"{name} {one['microseconds']:.0f} us, {one['to_nginx']:.2f} [{one['least']:.2f}, {one['most']:.2f}]"
            for name, one in found[case].items()
        )
        met = found[case]["fleetmill"]["to_nginx"] <= bar
        rows.append(Row(promise=promise.format(bar, case), measured=told, met=met, command=command))
    return rows


def kills(out: Path, _: Path) -> Sequence[Row]:
    """Real engines that die in the middle of an answer."""
    rows = []
    for engine, name in (("genai", "ONNX Runtime GenAI"), ("llama", "llama-server")):
        command = f"python bench/kills.py --engine {engine} --json"
        promise = f"{name}: 50 random kills in the middle of a stream, 0 lost, 0 cut off without a word, text equal"
        if engine == "llama" and not (ROOT / "build" / "engines" / "llama-server").exists():
            rows.append(absent(promise, command, "llama-server is not here: `make engines` builds it"))
            continue
        found = _bench(out, "kills", Path(), more=("--engine", engine))
        assert found is not None
        rows.append(
            Row(
                promise=promise,
                measured=", ".join(f"{number} {what}" for what, number in found.items()),
                met=found["equal text"] == found["kills"] >= 50,
                command=command,
            )
        )
    return rows


def goodput(out: Path, data: Path) -> Sequence[Row]:
    """Real arrivals through the real router, before engines whose times are those of a measured one."""
    command = "python bench/goodput.py --data ../shared/data --json"
    found = _bench(out, "goodput", data, "llmtrace-azure-conv", "llmtrace-mooncake")
    if found is None:
        return [absent("goodput at 3x overload", command)]
    return [
        Row(
            promise=f"{trace}: goodput at {told['load']:g}x overload at least 90 % of the peak; answers "
            "whole, one server killed at 0.8x",
            measured=f"{told['of_the_peak']:.1%} of the peak; of {told['answered']} answered at any load "
            f"{told['late']} late, {told['not_whole']} not whole",
            met=told["of_the_peak"] >= 0.9 and not told["not_whole"],
            command=command,
        )
        for trace, told in found.items()
    ]


def _bench(out: Path, name: str, data: Path, *files: str, more: Sequence[str] = ()) -> dict[str, Any] | None:
    """What a bench says, kept in `out`; None: its recordings are not here."""
    if not all((data / file).exists() for file in files):
        return None
    given = ["--data", str(data)] if files else []
    command = [sys.executable, f"bench/{name}.py", *given, "--json", *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    (out / f"{name}.json").write_text(done.stdout)
    found: dict[str, Any] = json.loads(done.stdout)
    return found
