"""The line `coldstore`: how hard the compressor of a cold store must work, seen from five numbers every five minutes.

Learned by least squares, written as ONNX by hand: no training library. In scenario "default" the seals are new and
doors stay shut; in "field" seals leak, doors stand open and the evaporator frosts, which only the fleet's life teaches.
"""

import math

import numpy as np

from fleetmill import Check, Feature, Judging, Line, ModelSpec, Port, Trigger
from fleetmill.core.errors import InvalidInputError
from fleetmill.core.line import Recipe, Round, Step
from fleetmill.lines.ready import rows_of
from fleetmill.lines.tabular import Clock, csv_rows, steady

PERIOD_NS = 300 * 10**9
STEPS_A_DAY = 288
TARGET, TOO_WARM, TOO_COLD = -20.0, -17.0, -23.0  # degC: what goods are sold for, and where the thermostat takes over
LEAK = {"default": 0.004, "field": 0.008}  # of the difference to outside that comes in per step; worn seals leak more
DOOR, COOLING = 0.06, 1.2  # the same through open doors; K per step at full power
HOUR_NS = 3600 * 10**9


def feature(name, kind, unit="1"):
    """What a channel records and a column holds."""
    return Feature(name=name, kind=kind, dtype="float32", shape=(), unit=unit, hold_ns=PERIOD_NS)


def port(name):
    """The model's input or output that is this feature."""
    return Port(name=name, dtype="float32", shape=(), feature=name)


SEEN = ("room", "outside", "door", "frost", "draught")
model = ModelSpec(
    inputs=tuple(port(name) for name in SEEN), outputs=(port("power"),), rate_hz=1 / 300, latency_ns=10_000_000
)


class Store:
    """A room that warms by what leaks in and by open doors, and a compressor that cools it; `core.line.World`."""

    def __init__(self, scenario, seed):
        if scenario not in LEAK:
            raise InvalidInputError(f"coldstore: no scenario {scenario!r}; there are {', '.join(LEAK)}")
        self._chance = np.random.default_rng(seed)
        self._busy, self._leak = scenario == "field", LEAK[scenario]
        self._index, self._room, self._frost, self._held = 0, TARGET + self._chance.normal(), 0.0, False

    def begin(self):
        """Midnight."""
        return self._step(0.0, 0.0)

    def act(self, action):
        """Five minutes later."""
        power = float(np.clip(action["power"], 0.0, 1.0))
        self._room += self._warming() - self._cooling() * power + 0.05 * self._chance.normal()
        self._frost = min(self._frost + 0.004 * self._door, 0.6) if self._busy else 0.0
        self._index += 1
        was_held = self._held
        self._held = not TOO_COLD < self._room < TOO_WARM or (was_held and abs(self._room - TARGET) > 1.0)
        return self._step(power, float(self._held and not was_held))

    def close(self):
        """Nothing is held."""

    def _warming(self):
        return (self._leak + DOOR * self._door) * (self._outside - self._room)

    def _cooling(self):
        return COOLING * (1.0 - self._frost)

    def _step(self, power, took):
        hour = 24.0 * self._index / STEPS_A_DAY
        self._outside = 16.0 + 8.0 * math.sin((hour - 9.0) * math.pi / 12.0) + self._chance.normal()
        self._door = float(self._chance.random() < 0.5) * self._chance.uniform(0.0, 0.4) if self._busy else 0.0
        need = (self._warming() + 0.15 * (self._room - TARGET)) / self._cooling()
        safety = np.float32(self._room > TARGET)  # on or off, as a thermostat does
        seen = (self._room, self._outside, self._door, self._frost, self._door * (self._outside - self._room))
        return Step(
            time_ns=self._index * PERIOD_NS,
            observation={n: np.asarray(v, np.float32) for n, v in zip(SEEN, seen, strict=True)},
            label={"label.power": np.asarray(np.clip(need, 0.0, 1.0), np.float32)},
            takeover={"power": np.asarray(safety)} if self._held else None,
            events={"takeovers": took, "days": 1 / STEPS_A_DAY, "power": power},
            done=False,
        )


def recorded(column):
    """What was seen (N, 5), what was right (N,), and where all of it was recorded (N,)."""
    seen, right = np.stack([column(name) for name in SEEN], axis=1), np.asarray(column("label.power"))
    return seen, right, np.isfinite(seen).all(axis=1) & np.isfinite(right)


def train(job, tracker):
    """Least squares on numbers of one size; the same data give the same bytes."""
    if job.parent and job.settings.get("steps") == 0:
        return job.parent
    if job.settings.get("labels", "oracle") != "oracle":
        raise InvalidInputError("coldstore: learns from labels = 'oracle' only")
    seen, right, whole = recorded(job.data.split("train").column)
    if not whole.any():
        raise InvalidInputError("coldstore: not one whole row to learn from")
    seen, right = seen[whole].astype(np.float64), right[whole].astype(np.float64)
    mean, spread = seen.mean(axis=0), seen.std(axis=0)
    spread = np.where(spread > 1e-6, spread, np.inf)  # what never moved says nothing
    normal = np.column_stack([(seen - mean) / spread, np.ones(len(seen))])
    found = np.linalg.lstsq(normal, right, rcond=1e-6)[0]
    weights = found[:-1] / spread
    bias = found[-1] - float(mean @ weights)
    tracker.step(1, 1, {"mae": float(np.abs(normal @ found - right).mean()), "rows.oracle": float(len(right))})
    return {"model.onnx": graph(weights, bias)}


def graph(weights, bias):
    """ONNX bytes of power = clip(sum of weight x number + bias, 0, 1)."""
    from onnx import TensorProto, helper, numpy_helper

    held = {"weights": weights, "bias": bias, "least": 0.0, "most": 1.0}
    constants = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in held.items()]
    constants.append(numpy_helper.from_array(np.array([1], np.int64), "axis"))
    nodes = [
        *(helper.make_node("Unsqueeze", [name, "axis"], [f"{name}_column"]) for name in SEEN),
        helper.make_node("Concat", [f"{name}_column" for name in SEEN], ["seen"], axis=1),
        helper.make_node("MatMul", ["seen", "weights"], ["weighed"]),
        helper.make_node("Add", ["weighed", "bias"], ["sum"]),
        helper.make_node("Clip", ["sum", "least", "most"], ["power"]),
    ]
    made = helper.make_graph(
        nodes,
        "coldstore",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch"]) for n in SEEN],
        [helper.make_tensor_value_info("power", TensorProto.FLOAT, ["batch"])],
        constants,
    )
    whole = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return whole.SerializeToString(deterministic=True)


def live(steps, sent):
    """Sums over a day that was lived."""
    return {name: np.asarray(sum(step.events[name] for step in steps)) for name in ("takeovers", "days", "power")}


def score(policy, episode):
    """Distance from what was right, over the whole rows; sums, never means: trials are pooled."""
    seen, right, whole = recorded(episode.columns.get)
    if not whole.any():
        return {"wrong": np.zeros(()), "rows": np.zeros(())}
    answers = policy.ask({name: seen[whole, place] for place, name in enumerate(SEEN)})["power"]
    return {"wrong": np.abs(answers - right[whole]).sum(dtype=np.float64), "rows": np.asarray(float(whole.sum()))}


def metrics(tallies):
    """Pooled; NaN for what these tallies cannot say."""
    total = {
        n: math.fsum(float(t[n]) for t in tallies if n in t) for n in ("takeovers", "days", "power", "wrong", "rows")
    }

    def share(part, whole):
        return part / whole if whole else math.nan

    return {
        "takeovers_per_day": share(total["takeovers"], total["days"]),
        "mean_power": share(total["power"], total["days"] * STEPS_A_DAY),
        "power_mae": share(total["wrong"], total["rows"]),
    }


def guard(action, observation, memory):
    """Between off and full power; what is no number leaves the compressor as it was."""
    before = memory.get("power", np.zeros((), np.float32))
    wanted = np.asarray(action["power"], np.float32)
    sent = np.asarray(np.clip(wanted, 0.0, 1.0) if np.isfinite(wanted) else before, np.float32)
    return {"power": sent}, {"power": sent}


line = Line(
    name="coldstore",
    features=(
        feature("room", "observation", "Cel"),
        feature("outside", "observation", "Cel"),
        feature("door", "observation"),  # share of the five minutes that doors stood open
        feature("frost", "observation"),  # share of the evaporator that is covered
        feature("draught", "observation", "K"),  # door x (outside - room)
        feature("power", "action"),  # of the compressor, 0 to 1
        feature("label.power", "label"),
        feature("model.power", "extra"),
        feature("takeover", "extra"),
    ),
    model=model,
    cut=rows_of(*SEEN, "label.power", period_ns=PERIOD_NS),
    train=train,
    judging=Judging(
        score=score,
        metrics=metrics,
        live=live,
        baseline=steady(model, {"power": "label.power"}),  # always the median of what was right
        trial_seconds=24 * 3600.0,
    ),
    checks=(
        Check(metric="takeovers_per_day", better="lower", against="champion", limit=1.0, first=False),
        Check(metric="takeovers_per_day", better="lower", against="baseline", limit=1.0),
    ),
    triggers=(
        Trigger(when="takeover > 0.5", before_ns=HOUR_NS, after_ns=HOUR_NS, priority=1),
        Trigger(when="abs(model.power - label.power) > 0.2", before_ns=HOUR_NS, after_ns=HOUR_NS),
    ),
    guard=guard,
    safe=lambda seen: bool(abs(float(seen["room"]) - TARGET) < 2.0),  # a new model while the goods are cold enough
    world=Store,
    importers=(
        csv_rows(
            {name: name for name in (*SEEN, "label.power")},
            Clock(column="time", tick_ns=0, period_ns=PERIOD_NS, gap_ns=2 * HOUR_NS, session_ns=24 * HOUR_NS),
        ),
    ),
    recipe=Recipe(
        devices=6,
        first=Round(scenario="default", sessions=1, seconds=24 * 3600.0, budget_ratio=1.0),
        then=Round(scenario="field", sessions=2, seconds=24 * 3600.0, budget_ratio=0.5),
        headline="takeovers_per_day",
        report_seconds=24 * 3600.0,
        quick=(2, 4),
    ),
)
