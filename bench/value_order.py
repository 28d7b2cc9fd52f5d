"""Does it pay to keep what the triggers call valuable? Line `driving`, rare obstacles, equal bytes.

    python bench/value_order.py [--seeds 10 11 12] [--budgets 0.1 0.35] [--arms value frames stretches] [--json]

The loop of the demo in one process, without a gate: each candidate drives the next generation, so that nothing but the
selection differs. Generation 0 learns from the expert on empty roads; three more are lived in scenario `rare`. Of each,
at most the budget is kept: `value` keeps what the device would keep (`core.trigger`, the line's triggers); `frames`
keeps as many bytes in single frames drawn at random, the same number from each car; `stretches` keeps stretches as long
as those that `value` kept in that generation, at random places of all cars. All frames have the same size. Only cars
that teach are lived (8 of 12, then 7): the product's held-out and validation sessions would change nothing here.

Models are scored on worlds of their own, the same for all arms of a training seed. A ratio is value/random of pooled
takeovers per km of model driving, 95 %, paired bootstrap over (training seed, world). `--add` pools in what earlier
runs printed with `--json`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fleetmill.core.drive import drive
from fleetmill.core.evidence import interval, ratios
from fleetmill.core.line import Array, Data, Episode, Message, Metrics, Policy, Step, Tally, TrainJob
from fleetmill.core.split import role
from fleetmill.core.trigger import choose, windows
from fleetmill.engines.runtime_onnx import OnnxRuntime
from fleetmill.lines.driving import line
from fleetmill.lines.driving.shape import STEP_NS
from fleetmill.seams.recordings import encode
from fleetmill.seams.runtime import policies

GENERATIONS, WORLDS = 3, 20
SCORED = {1: ("rare",), 3: ("rare", "field")}  # generation -> scenarios
SCORE_SEED, FLEET_SEED = 55_000_000, 56_000_000
ARMS = ("value", "frames", "stretches")
Columns = dict[str, Array]


class Rows:
    """A dataset in memory. `core.line.Data`."""

    def __init__(self, columns: Mapping[str, Array]) -> None:
        self._columns = columns

    def split(self, name: str) -> Data:
        return self if name == "train" else Rows({k: v[:0] for k, v in self._columns.items()})

    def column(self, feature: str) -> Array:
        return self._columns[feature]

    def bounds(self) -> Array:
        return np.array([0, len(self._columns["speed"])])

    def episode(self, index: int) -> Episode:
        raise NotImplementedError

    def __len__(self) -> int:
        return 1


class Silent:
    """A tracker that does nothing. `core.line.Tracker`."""

    def step(self, step: int, of: int, metrics: Metrics) -> None:  # noqa: ARG002
        return

    def save(self, step: int, state: bytes) -> None:  # noqa: ARG002
        return

    def saved(self) -> None:
        return None


def live(scenario: str, seed: int, policy: Policy | None, seconds: float) -> tuple[Columns, Tally]:
    """One drive: its columns as the line cuts them, and its tally."""
    world = line.world(scenario, seed)
    steps: list[Step] = []
    rows: list[tuple[Array, ...]] = []
    for m in drive(world, policy, steps=round(seconds * line.model.rate_hz)):
        s = m.step
        proposed = m.proposed["steer"] if m.proposed else np.float32(np.nan)
        held = np.float32(s.takeover is not None)
        steps.append(s)
        rows.append(
            (s.observation["camera"], s.observation["speed"], m.sent["steer"], proposed, s.label["label.steer"], held)
        )
    world.close()
    columns = {
        f.name: np.stack(values).astype(f.dtype)
        for f, values in zip(line.features, zip(*rows, strict=True), strict=True)
    }
    return columns, line.judging.live(steps, [])


def by_value(cars: Sequence[Columns], budget: float) -> list[Array]:
    """What each device would keep of its own."""
    return [_wanted(car, budget) for car in cars]


def _wanted(car: Columns, budget: float) -> Array:
    times = np.arange(len(car["speed"])) * STEP_NS
    found = [w for t in line.triggers for w in windows(t, times, times + STEP_NS, car)]
    kept, _ = choose(found, times, np.ones(len(times), np.int64), most_bytes=int(budget * len(times)))
    return kept


def by_chance(cars: Sequence[Columns], number: int, chance: np.random.Generator) -> list[Array]:
    """`number` single frames, the same number from each car (give or take one)."""
    share = [number // len(cars) + (i < number % len(cars)) for i in range(len(cars))]
    kept = [np.zeros(len(car["speed"]), bool) for car in cars]
    for mask, count in zip(kept, share, strict=True):
        mask[chance.choice(len(mask), count, replace=False)] = True
    return kept


def by_stretches(cars: Sequence[Columns], lengths: Sequence[int], chance: np.random.Generator) -> list[Array]:
    """Stretches of these lengths at random places of all cars, none on another."""
    kept = [np.zeros(len(car["speed"]), bool) for car in cars]
    for length in sorted(lengths, reverse=True):
        free = [np.convolve(mask, np.ones(length), "valid") == 0 for mask in kept]
        places = [(car, at) for car, mask in enumerate(free) for at in np.flatnonzero(mask)]
        car, at = places[int(chance.integers(len(places)))]
        kept[car][at : at + length] = True
    return kept


def runs(mask: Array) -> list[int]:
    """The lengths of the runs of True.

    >>> runs(np.array([True, False, True, True]))
    [1, 2]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return [int(b - a) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def frame_bytes(car: Columns) -> int:
    """The payload of one instant, as a device counts it."""
    sizes = []
    for f in line.features:
        message = Message(topic=f.name, log_time_ns=0, publish_time_ns=0, value={"data": car[f.name][0]})
        sizes.append(len(encode(f, message).payload))
    return sum(sizes)


class Chain:
    """Everything of one training seed: generation 0 and what its model lives are shared by all arms."""

    def __init__(self, seed: int, say: Callable[[str], None]) -> None:
        self.seed, self.say = seed, say
        self._lived: dict[bytes, list[Columns]] = {}
        round_ = line.recipe.first
        self.first = [live(round_.scenario, self._fleet(d, 0), None, round_.seconds)[0] for d in self._teachers(0)]
        self.parent = self._train(self.first, None)

    def arm(self, name: str, budget: float, pattern: Sequence[Sequence[int]]) -> dict[str, Any]:
        """One arm from generation 1 to the last. `pattern`: the stretches that `value` kept, by generation."""
        began = time.process_time()
        chance = np.random.default_rng([self.seed, round(1000 * budget), ARMS.index(name)])
        data, files = list(self.first), self.parent
        out: dict[str, Any] = {"seed": self.seed, "arm": name, "budget": budget, "kept": [], "recorded": [], "near": []}
        out |= {"stretches": [], "trials": {}}
        for generation in range(1, GENERATIONS + 1):
            cars = self._collect(generation, files)
            if name == "value":
                kept = by_value(cars, budget)
            elif name == "frames":
                kept = by_chance(cars, sum(pattern[generation - 1]), chance)
            else:
                kept = by_stretches(cars, pattern[generation - 1], chance)
            whole = sum(len(mask) for mask in kept)
            size = frame_bytes(cars[0])
            out["stretches"].append([n for mask in kept for n in runs(mask)])
            out["kept"].append(size * int(sum(mask.sum() for mask in kept)))
            out["recorded"].append(size * whole)
            wanted = [_wanted(car, 1.0) for car in cars]
            out["near"].append(int(sum(w.sum() for w in wanted)) / whole)
            data += [{k: v[mask] for k, v in car.items()} for car, mask in zip(cars, kept, strict=True)]
            files = self._train(data, files)
            for scenario in SCORED.get(generation, ()):
                out["trials"][f"{scenario} {generation}"] = self._score(scenario, files)
        out["cpu_seconds"] = time.process_time() - began
        rates = {k: round(line.judging.metrics(v)["takeovers_per_km"], 2) for k, v in out["trials"].items()}
        self.say(f"seed {self.seed}, {budget:.0%}, {name}: {rates}, {out['cpu_seconds']:.0f} CPU-s")
        return out

    def _score(self, scenario: str, files: Mapping[str, bytes]) -> list[dict[str, float]]:
        policy = policies(line, OnnxRuntime(), files)
        base = SCORE_SEED + 1_000 * self.seed + (500 if scenario == "field" else 0)
        seconds = line.recipe.report_seconds
        tallies = [live(scenario, base + i, policy, seconds)[1] for i in range(WORLDS)]
        return [{k: float(v) for k, v in tally.items()} for tally in tallies]

    def _collect(self, generation: int, files: Mapping[str, bytes]) -> list[Columns]:
        model = files["model.onnx"]
        if model not in self._lived:
            policy = policies(line, OnnxRuntime(), files)
            seconds = line.recipe.then.seconds
            drives = [live("rare", self._fleet(d, generation), policy, seconds) for d in self._teachers(generation)]
            if generation == 1:
                self.zero = line.judging.metrics([tally for _, tally in drives])["takeovers_per_km"]
                self._lived[model] = [columns for columns, _ in drives]
            return [columns for columns, _ in drives]
        return self._lived[model]

    def _train(self, data: Sequence[Columns], parent: Mapping[str, bytes] | None) -> Mapping[str, bytes]:
        rows = Rows({f.name: np.concatenate([part[f.name] for part in data]) for f in line.features})
        return line.train(TrainJob(data=rows, parent=parent, seed=self.seed, settings={}), Silent())

    def _teachers(self, generation: int) -> list[int]:
        devices = range(line.recipe.devices)
        return [d for d in devices if role("session", device=d, session=generation) == "train"]

    def _fleet(self, device: int, generation: int) -> int:
        return FLEET_SEED + 10_000 * self.seed + 100 * device + generation


def measure(
    seed: int, budgets: Sequence[float], arms: Sequence[str], say: Callable[[str], None]
) -> list[dict[str, Any]]:
    began, found = time.process_time(), []
    chain = Chain(seed, say)
    say(f"seed {seed}, generation 0: {time.process_time() - began:.0f} CPU-s")
    for budget in budgets:
        value = chain.arm("value", budget, [])
        found.append(value)
        found += [chain.arm(arm, budget, value["stretches"]) for arm in arms if arm != "value"]
    for row in found:
        row["zero"] = chain.zero
    found[0]["cpu_seconds"] += time.process_time() - began - sum(row["cpu_seconds"] for row in found)
    return found


def compare(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each budget, scenario and generation: every arm's rate, and value against each random arm."""
    found = []
    for budget in sorted({row["budget"] for row in rows}):
        for what in sorted({what for row in rows for what in row["trials"]}, key=lambda w: (w.split()[1], w)):
            sides = {
                arm: {r["seed"]: r for r in rows if r["arm"] == arm and r["budget"] == budget and what in r["trials"]}
                for arm in ARMS
            }
            for arm in ("frames", "stretches"):
                seeds = sorted(sides["value"].keys() & sides[arm].keys())
                if not seeds:
                    continue
                a, b = ([t for s in seeds for t in sides[x][s]["trials"][what]] for x in ("value", arm))
                (ratio,) = ratios(["takeovers_per_km"], a, b, line.judging.metrics, seed=0)
                names = ("takeovers_per_km", "off_road_per_km")
                found.append(
                    {"budget": budget, "what": what, "against": arm, "seeds": seeds, "pairs": ratio.pairs}
                    | {"value": _rates(a, names), "random": _rates(b, names)}
                    | {"takeovers": [int(sum(t["takeovers"] for t in side)) for side in (a, b)]}
                    | {"ratio": [round(x, 3) for x in (ratio.value, ratio.low, ratio.high)]}
                    | {"by_seed": {s: [_rate(sides[x][s]["trials"][what]) for x in ("value", arm)] for s in seeds}}
                )
    return found


def _rate(trials: Sequence[Mapping[str, float]]) -> float:
    return round(line.judging.metrics(trials)["takeovers_per_km"], 2)


def _rates(trials: Sequence[Mapping[str, float]], names: Sequence[str]) -> dict[str, list[float]]:
    return {n: [round(x, 2) for x in interval(n, trials, line.judging.metrics, seed=0)] for n in names}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    out = ["takeovers per km of model driving [95 %]; ratio value/random [95 %], paired by world, pooled over seeds"]
    for c in compare(rows):
        scenario, generation = c["what"].split()
        a, b = (c[side]["takeovers_per_km"] for side in ("value", "random"))
        out.append(
            f"{c['budget']:4.0%} {scenario:5s} generation {generation}, seeds {c['seeds']}: value {_shown(a)}, "
            f"{c['against']} {_shown(b)}, ratio {_shown(c['ratio'])}; takeovers {c['takeovers']}; "
            f"by seed {c['by_seed']}"
        )
    out += ["", "kept of recorded, KB per generation (cars that teach); share of frames that the triggers want; CPU-s"]
    for r in rows:
        kept = ", ".join(f"{k / 1000:.0f} of {n / 1000:.0f}" for k, n in zip(r["kept"], r["recorded"], strict=True))
        near = ", ".join(f"{x:.0%}" for x in r["near"])
        out.append(f"{r['budget']:4.0%} seed {r['seed']} {r['arm']:9s} {kept}; {near}; {r['cpu_seconds']:.0f}")
    zeros = {r["seed"]: round(r["zero"], 2) for r in rows}
    out.append(f"generation 0 while it was recorded in `rare`: {zeros} takeovers per km")
    out.append(f"together {sum(r['cpu_seconds'] for r in rows):.0f} CPU-s")
    return "\n".join(out)


def _shown(found: Sequence[float]) -> str:
    value, low, high = found
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[10, 11, 12], help="training seeds; may be empty")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.1, 0.35], help="share of the bytes, at most")
    parser.add_argument("--arms", choices=ARMS, nargs="+", default=list(ARMS), help="`value` always runs")
    parser.add_argument("--add", type=Path, nargs="*", default=[], help="what earlier runs printed with --json")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    rows = [row for path in options.add for row in json.loads(path.read_text())["rows"]]
    for seed in options.seeds:
        rows += measure(seed, options.budgets, options.arms, lambda text: print(text, file=sys.stderr, flush=True))
    print(json.dumps({"compared": compare(rows), "rows": rows}) if options.json else table(rows))


if __name__ == "__main__":
    main()
