"""The owner's own server in a demo where people ask: a larger model is trained first, and a threshold is fixed.

What happens before generation 0, each with sessions that nothing else uses: the larger model learns; it answers a first
day's questions, from which a small model learns as generation 0's will; on that one's answers to further questions the
threshold is fixed, and never moved again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.ids import sha256
from fleetmill.core.line import Asking, Episode, Frame, Line, Message, Policy, Stretch, TrainJob
from fleetmill.core.plain import plain
from fleetmill.core.talk import Limits, Said, Talk
from fleetmill.demo import stock
from fleetmill.demo.control import Quiet
from fleetmill.demo.fleet import Plan, Processes, command
from fleetmill.demo.risk import CONFIDENCE, Threshold, threshold
from fleetmill.demo.stock import Dealt, Run
from fleetmill.device.speaking import speak
from fleetmill.engines.runtime_onnx import OnnxRuntime
from fleetmill.home import Home
from fleetmill.refine import stages
from fleetmill.refine.data import Dataset
from fleetmill.score import recorded
from fleetmill.seams.files import write_whole
from fleetmill.seams.ledger import Draft, Fact
from fleetmill.seams.runtime import policies
from fleetmill.seams.tables import open_table, write_table
from fleetmill.serve.accounts.book import open_accounts
from fleetmill.serve.accounts.keys import new_key, set_tenant
from fleetmill.serve.words import Tenant
from fleetmill.serving.gateway import FOLDER
from fleetmill.train import trainer

TENANT, PLACE = "fleet", "premises"
_TOML = """
[lines.{line}.talk]
sure = {sure}

[[serve.backend]]
name = "{place}"
address = "{address}"
supplier = "owner"
capacity = 8
models = [{{name = "{line}", digest = "{digest}", context = {context}}}]
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """What stands before the fleet begins."""

    folder: Path  # of the larger model's files
    limits: Limits  # signed with every release
    fixed: Mapping[str, Any]  # how the threshold was fixed, for the facts
    teacher: str  # digest of the larger model's model.onnx


def prepare(plan: Plan, dealt: Dealt) -> Prepared:
    """Teach the larger model and fix the threshold.

    Raises:
        InvalidInputError: too little was recorded for that.
    """
    asking, talk = _asking(plan.line), spoken_with(plan.line)
    school, pilot, check = _parted(plan.line, asking, dealt.rest)
    folder = plan.folder / PLACE
    data = {name: _written(plan.line, runs, folder / name) for name, runs in (("school", school), ("check", check))}
    files = _trained(plan, data["school"], {**plan.recipe.train, **asking.teacher}, folder)
    larger = policies(plan.line, OnnxRuntime(), files)
    answered = _written(plan.line, pilot, folder / "pilot")
    first = _trained(plan, [_reworded(plan.line, e, larger) for e in answered], plan.training, folder)
    told = list(_tried(talk, policies(plan.line, OnnxRuntime(), first), data["check"]))
    found = threshold(told, risk=asking.risk)
    for name, content in files.items():
        write_whole(folder / name, content)
    return Prepared(
        folder=folder,
        limits=replace(talk.limits, sure=found.sure),
        fixed=_fixed(plan, asking, found, told, school=data["school"], pilot=answered, first=first),
        teacher=sha256(files["model.onnx"]),
    )


def settings(plan: Plan, prepared: Prepared, address: str) -> str:
    """What the home's settings say of the server and of the threshold."""
    return _TOML.format(
        line=plan.line.name,
        sure=repr(prepared.limits.sure),
        place=PLACE,
        address=address,
        digest=prepared.teacher,
        context=spoken_with(plan.line).context,
    )


def start_engine(plan: Plan, processes: Processes, prepared: Prepared) -> str:
    """Serve the larger model; the engine's address."""
    words = ["-m", "fleetmill.serve.shell_genai", "--model", str(prepared.folder), "--name", plan.line.name]
    return processes.start_server("engine", [sys.executable, *words, "--port", "0", "--waiting", "64"])


def start_gateway(plan: Plan, processes: Processes) -> None:
    """The gateway of the home, and a key for the fleet."""
    accounts = open_accounts(plan.home / FOLDER)
    try:
        set_tenant(accounts, Tenant(name=TENANT))
        processes.key = new_key(accounts, TENANT, note="devices of the demo")
    finally:
        accounts.close()
    processes.gateway = processes.start_server(
        "gateway", [*command(), "serve", "--home", str(plan.home), "--port", "0"]
    )


def enter(home: Home, prepared: Prepared) -> Fact:
    """The fact of how the threshold was fixed: before any other of the fleet's."""
    teacher = home.blobs.put((prepared.folder / "model.onnx").read_bytes())
    record = {**prepared.fixed, "teacher": teacher, "sure": prepared.limits.sure}
    return home.ledger.append([Draft(kind="calibrated", key=str(record["line"]), record=record)])[0]


def asked(talk: Talk, episodes: Sequence[Episode]) -> Iterator[list[Said]]:
    """Each conversation of some episodes."""
    for episode in episodes:
        rows: list[Frame] = [
            {name: column[n] for name, column in episode.columns.items()} for n in range(len(episode.times_ns))
        ]
        starts = [n for n, row in enumerate(rows) if n == 0 or talk.begins(row)]
        for a, b in zip(starts, [*starts[1:], len(rows)], strict=True):
            yield talk.turns(rows[a:b])


def _parted(line: Line, asking: Asking, rest: Sequence[Run]) -> tuple[Sequence[Run], Sequence[Run], Sequence[Run]]:
    a, b = asking.schools, asking.schools + asking.pilots
    if len(rest) < b + asking.checks:
        raise InvalidInputError(
            f"line {line.name}: {len(rest)} recorded sessions are left for the larger model, {b + asking.checks} are "
            "needed. Give more recordings, fewer --generations, --devices or --sessions"
        )
    return rest[:a], rest[a:b], rest[b : b + asking.checks]


def _written(line: Line, runs: Sequence[Run], folder: Path) -> list[Episode]:
    """The runs as recordings, cut as the factory would."""
    stock.write_runs(line, runs, folder)
    return [episode for _, episodes in recorded(line, folder) for episode in episodes]


def _trained(plan: Plan, episodes: Sequence[Episode], how: Mapping[str, Any], folder: Path) -> Mapping[str, bytes]:
    path = folder / "rows.arrow"
    write_whole(path, write_table(episodes, [stages.place(e) for e in episodes]))
    data = Dataset({"train": open_table(path)})
    job = TrainJob(data=data, parent=None, seed=plan.seed, settings=how)
    return trainer.fit(plan.line, job, Quiet(), tables=lambda: {"train": path}, folder=folder / "run")


def _reworded(line: Line, episode: Episode, larger: Policy) -> Episode:
    """The same questions with what the larger model answers to them."""
    talk, rows = spoken_with(line), list[Frame]()
    for turns in asked(talk, [episode]):
        said = speak(talk, larger, turns[:1], talk.limits)
        answer = Said(role="assistant", text=said.text)
        rows += [*talk.rows(turns[0], True, None), *talk.rows(answer, False, None)]
    features = {f.name: f for f in line.features}
    names = [name for name in episode.columns if name in rows[0]]
    period_ns = round(1e9 / line.model.rate_hz)
    messages = [
        Message(
            topic=name,
            log_time_ns=episode.start_ns + n * period_ns,
            publish_time_ns=episode.start_ns + n * period_ns,
            value={"data": row[name].astype(features[name].dtype)},
        )
        for n, row in enumerate(rows)
        for name in names
    ]
    stretch = Stretch(device=episode.device, session=episode.session, index=0, tags=episode.tags, messages=messages)
    return next(iter(line.cut(stretch)))


def _tried(talk: Talk, policy: Policy, episodes: Sequence[Episode]) -> Iterator[tuple[float, bool]]:
    """How sure the model was of each answer, and whether it was right; questions without a rule are passed over."""
    for turns in asked(talk, episodes):
        said = speak(talk, policy, turns[:1], talk.limits)
        right = talk.right(turns[0].text, said.text)
        if right is not None:
            yield said.sure, right


def _fixed(
    plan: Plan,
    asking: Asking,
    found: Threshold,
    told: Sequence[tuple[float, bool]],
    *,
    school: Sequence[Episode],
    pilot: Sequence[Episode],
    first: Mapping[str, bytes],
) -> dict[str, Any]:
    talk = spoken_with(plan.line)
    return {
        **plain(found),
        "line": plan.line.name,
        "risk": asking.risk,
        "confidence": CONFIDENCE,
        "right": sum(right for _, right in told),
        "pilot": sha256(first["model.onnx"]),
        "pilot_questions": sum(1 for _ in asked(talk, pilot)),
        "school_questions": sum(1 for _ in asked(talk, school)),
    }


def _asking(line: Line) -> Asking:
    assert line.recipe is not None
    assert line.recipe.asking is not None
    return line.recipe.asking


def spoken_with(line: Line) -> Talk:
    """How people speak with the line's model.

    Raises:
        InvalidInputError: nobody can.
    """
    if line.talk is None:
        raise InvalidInputError(f"line {line.name}: its recipe says how it is asked, and nobody can speak with it")
    return line.talk
