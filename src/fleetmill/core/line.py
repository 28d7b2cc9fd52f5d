"""The contract of a production line: a value with pure parts.

All members are pure: same input, same output; no files, no network, no clock. `testing.check_line` holds every
line, ours and anyone's, to it. Standard library and numpy only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from fleetmill.core.talk import Talk

Array = NDArray[Any]  # the one Any of core: NDArray[np.generic] forbids arithmetic under mypy strict
Frame = Mapping[str, Array]  # one instant: feature name -> array WITHOUT time axis
Tally = Mapping[str, Array]  # sufficient statistics of ONE trial; any shape, never a mean
Metrics = Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Feature:
    """A named, typed stream: what a channel records and what a column of a dataset holds."""

    name: str  # equals the MCAP topic
    kind: Literal["observation", "action", "label", "extra"]  # label: privileged or human truth, never an input
    dtype: str
    shape: tuple[int, ...]  # -1: length varies within an episode (tokens, boxes)
    unit: str  # UCUM code; "1" where there is none
    hold_ns: int = 0  # nominal period: a message stands for [t, t + hold_ns)


@dataclass(frozen=True, kw_only=True, slots=True)
class Port:
    """One tensor of the model file. Normalisation lives inside the graph: a port takes what the recording holds."""

    name: str
    dtype: str
    shape: tuple[int, ...]  # without batch axis; -1 free
    feature: str | None = None  # the observation that feeds it / the action or estimate that it is
    history: int = 1  # the last n frames, oldest first; missing ones are NaN or zero with `mask`
    feeds: str | None = None  # output port: the input port that gets this value at the next step (state)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """What a model file takes and gives, how often, how fast and how exactly."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    rate_hz: float  # how often a device steps it
    latency_ns: int  # p99 allowed on the reference hardware class
    tolerance: float = 1e-4  # golden vectors: largest absolute difference allowed on a device


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One timestamped item on a channel, decoded."""

    topic: str
    log_time_ns: int  # device clock at recording
    publish_time_ns: int  # device clock at the sensor
    value: Mapping[str, Array | str]  # already decoded; encodings and JPEG are receive's and refine's business


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
    """Part of one session without a hole, in log order: the caller ends a stretch at each hole."""

    device: str
    session: str
    index: int  # nth stretch of the session
    tags: Mapping[str, str]  # room=a, gripper=2: from the campaign, the import or the operator
    messages: Iterable[Message]


@dataclass(frozen=True, kw_only=True, slots=True)
class Episode:
    """Arrays have time as first axis. The id is the digest of recordings, interval and arrays' bytes."""

    device: str
    session: str
    start_ns: int
    end_ns: int
    times_ns: Array  # int64 (T,)
    columns: Mapping[str, Array]
    tags: Mapping[str, str] = field(default_factory=dict)


class Data(Protocol):
    """A dataset version as a line sees it: memory-mapped, in the manifest's order, same bytes on every machine."""

    def split(self, name: Literal["train", "validation"]) -> Data: ...
    def column(self, feature: str) -> Array: ...  # all rows, (N, *shape), not copied
    def bounds(self) -> Array: ...  # int64 (E + 1,): episode e is rows bounds[e]:bounds[e+1]
    def episode(self, index: int) -> Episode: ...
    def __len__(self) -> int: ...


class Stopped(Exception):  # noqa: N818 - a request, not an error
    """Raised out of `Tracker.step` when a run was cancelled; `train` lets it pass."""


class Tracker(Protocol):
    """The only way out of train(): progress, resumable state, stop. A fake does nothing."""

    def step(self, step: int, of: int, metrics: Metrics) -> None: ...  # raises Stopped when the run is cancelled
    def save(self, step: int, state: bytes) -> None: ...
    def saved(self) -> tuple[int, bytes] | None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainJob:
    """Everything that `train` may look at."""

    data: Data
    parent: Mapping[str, bytes] | None  # the champion's files, so that training can go on; None: from nothing
    seed: int
    settings: Mapping[str, float | int | str | bool]
    accelerator: str = "cpu"  # "cpu", "cuda", "cuda:1"
    rank: int = 0
    world_size: int = 1  # the second door (DDP) runs the same function with rank > 0


Train = Callable[[TrainJob, Tracker], Mapping[str, bytes]]
# named files: "model.onnx" is what devices run, "weights.safetensors" what training goes on from; others ride along


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainCommand:
    """A training that is a program instead of a function: it is given a folder (docs/lines.md says what lies in it)."""

    words: tuple[str, ...]  # the program and its arguments; the folder is put behind them
    environment_digest: str = ""  # of the image or environment that it runs in, as its owner names it


class Policy(Protocol):
    """A loaded model with its state and the line's guard around it: what a machine would really do."""

    def reset(self) -> None: ...  # forget state, history and the guard's memory
    def step(self, observation: Frame) -> Frame: ...  # one instant, through state, history and guard
    def ask(self, inputs: Frame) -> Frame: ...  # the bare model, ports in and out, batch axis first


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What a world gives for one instant."""

    time_ns: int  # simulated, starts at 0
    observation: Frame
    label: Frame  # the expert's action: recorded as features of kind "label", may be empty
    takeover: Frame | None  # the safety driver's action while it holds the machine, else None
    events: Mapping[str, float]  # distance_m=1.44, off_road=1: summed up into the tally
    done: bool
    acts: bool = True  # False: what is sent moves nothing (a recording is replayed), so no expert stands in either


class World(Protocol):
    """A machine to live in: simulated, or a driver of a real one."""

    def begin(self) -> Step: ...
    def act(self, action: Frame) -> Step: ...
    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Judging:
    """How a model is scored. Either on recorded episodes, or alive in a world; a line may have both."""

    score: Callable[[Policy, Episode], Tally]  # replay: step the policy through, or all at once
    metrics: Callable[[Sequence[Tally]], Metrics]  # pools tallies: R2, AUROC, PHM08 need the pool
    live: Callable[[Sequence[Step], Sequence[Frame]], Tally] | None = None  # lived steps and what was sent
    baseline: Callable[[Data], Policy] | None = None  # last value, weekly naive, linear: what must be beaten
    scenario: str = "field"  # of the gate's worlds
    trial_seconds: float = 10.0  # how long one of the gate's trials lives at most
    looks: tuple[int, ...] = (16, 24, 32, 40)  # after how many pairs the gate may decide


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """A limit on a metric. `against`: an absolute limit, the champion, or the baseline."""

    metric: str
    better: Literal["lower", "higher"]
    against: Literal["limit", "champion", "baseline"]
    limit: float  # absolute bound, or non-inferiority margin as a ratio
    slice: str | None = None  # None: all
    first: bool = True  # also asked of the first model of a line, which has no champion
    forbids: tuple[str, ...] = ()  # sources of outside labels: with a held-out row by one of them it is not met


@dataclass(frozen=True, kw_only=True, slots=True)
class Trigger:
    """Data, never a callable: it is signed and travels to devices."""

    when: str  # "takeover or abs(action.steer - label.steer) > 0.35 for 0.08s"
    before_ns: int
    after_ns: int
    priority: int = 0


class Files(Protocol):
    """A foreign folder or archive, opened by the caller: lines and importers know no path."""

    def names(self) -> Sequence[str]: ...
    def read(self, name: str) -> bytes: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Foreign:
    """One session found in foreign files."""

    device: str  # appended to the user's --device: "engine-17"; "" where there is only one
    session: str
    time_base: Literal["utc", "local", "cycle", "none"]
    tags: Mapping[str, str]
    messages: Iterator[Message]


UNREADABLE = "unreadable"  # topic of a message without value: an instant that was there and could not be read


@dataclass(frozen=True, kw_only=True, slots=True)
class Importer:
    """Reads one foreign format."""

    name: str
    detects: Callable[[Files], bool]
    read: Callable[[Files], Iterator[Foreign]]
    # the same past what is broken, which it gives as messages of topic UNREADABLE; None: it refuses broken files
    read_past: Callable[[Files], Iterator[Foreign]] | None = None


Memory = Mapping[str, Array]
Guard = Callable[[Frame, Frame, Memory], tuple[Frame, Memory]]  # action, observation, memory -> sent, memory


def as_it_is(action: Frame, observation: Frame, memory: Memory) -> tuple[Frame, Memory]:  # noqa: ARG001
    """The guard that sends what the model says."""
    return action, memory


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """What each device of a simulated fleet lives in one generation."""

    scenario: str
    sessions: int  # per device
    seconds: float  # at most, per session
    budget_ratio: float  # share of the recorded bytes that may be kept


@dataclass(frozen=True, kw_only=True, slots=True)
class Asking:
    """How people ask a simulated fleet, and who answers what a device is not sure of: a larger model, trained first.

    Recorded sessions are dealt to devices and report as elsewhere; of the rest `schools` teach the larger model, the
    next `pilots` are answered by it and teach a first small one, and on the next `checks` the threshold is fixed.
    """

    asks: Callable[[Foreign, bool], Foreign]  # a recorded session -> what somebody asks of it; True: and what is right
    schools: int
    pilots: int
    checks: int
    teacher: Mapping[str, float | int | str | bool]  # settings that train the larger model
    learner: Mapping[str, float | int | str | bool]  # and the fleet's
    risk: float = 0.05  # of the answers that a device keeps at most so many may be wrong, with 95 % confidence


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How a simulated or replayed fleet lives on this line: what `fleetmill demo` does, and nothing else reads."""

    devices: int
    first: Round  # generation 0: no model yet, the expert drives
    then: Round
    headline: str  # the metric that the report is about
    generations: int = 4  # that a demo turns
    report_trials: int = 20  # worlds; in a replay: recorded sessions (of each device, where later time is held out)
    report_seconds: float = 20.0
    quick: tuple[int, int] = (2, 4)  # generations and devices of `demo --quick`
    shown: int = 0  # how much there is to see: `demo` shows the line with the most, `demo --quick` that with the least
    train: Mapping[str, float | int | str | bool] = field(default_factory=dict)
    demo_train: Mapping[str, float | int | str | bool] = field(default_factory=dict)  # over `train`, in the demo alone
    draw: Callable[[Step], Array] | None = None  # uint8 (H, W, 3) of an instant, for eyes; None: what a camera sees
    # files by name as an importer of the line reads them, made up from a seed: what a fleet without world replays
    sample: Callable[[int], Mapping[str, bytes]] | None = None
    asking: Asking | None = None  # people ask the fleet; None: nobody does


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What the champion tells beforehand for those who run no model, and how well it told once that is known.

    `score` gets what was told, rows with the features of `tells` over what the model saw from `start_ns` on, and all
    that the device has recorded since then, labels as they are known by now. None: nobody knows yet. It must not look
    at what lies behind the interval of `due`, so that it does not matter when it is asked.
    """

    tells: tuple[str, ...]  # action features that are handed on
    due: Callable[[int], tuple[int, int]]  # told at, ns -> [start, end) that must be recorded to score it
    score: Callable[[Episode, Episode], Tally | None]  # (told, recorded since) -> what `judging.metrics` pools
    # the one of `tells` that calls somebody, above 0.5: then every instant since the last look is told, else the newest
    alarm: str = ""
    # sessions that follow one another without a hole are one past to the model; else it begins anew, as on a device
    across: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One workload: everything that the loop must know about it, as a value."""

    name: str
    features: tuple[Feature, ...]
    model: ModelSpec
    cut: Callable[[Stretch], Iterator[Episode]]
    train: Train | TrainCommand
    judging: Judging
    checks: tuple[Check, ...]
    triggers: tuple[Trigger, ...] = ()
    guard: Guard = as_it_is
    safe: Callable[[Frame], bool] = lambda observation: True  # may a new model be put in now?
    slices: Mapping[str, Callable[[Episode], bool]] = field(default_factory=dict)
    split: Literal["session", "device", "time"] = "session"  # what is held out whole
    world: Callable[[str, int], World] | None = None  # scenario ("default", "field"), seed
    importers: tuple[Importer, ...] = ()
    version: int = 1  # of cut: part of the dataset fingerprint
    recipe: Recipe | None = None
    benches: tuple[str, ...] = ()  # outside benches that must each agree before an accepted model goes out
    forecast: Forecast | None = None  # what the factory tells of each device's next time with the champion
    talk: Talk | None = None  # how people speak with the model, on a device too
    # why `cut` leaves out what it leaves out: [start, end) in ns and a word for the books; elsewhere ``not_cut``
    left_out: Callable[[Stretch], Iterator[tuple[int, int, str]]] = lambda stretch: iter(())
    # a model that the owner brings, as the files of a parent that `train` goes on from; None: the line takes none
    adopt: Callable[[Files], Mapping[str, bytes]] | None = None
