"""The factory tells beforehand what the champion says of each device, and scores what it told before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fleetmill.core.dataset import refined_key
from fleetmill.core.errors import LineError, NotFoundError
from fleetmill.core.label import Label, LabelSet, merged
from fleetmill.core.line import Episode, Line, Message
from fleetmill.core.recording import Session
from fleetmill.findings import forecasts
from fleetmill.findings.recorded import Recorded
from fleetmill.home import Home
from fleetmill.receive import inbox
from fleetmill.refine import outside, stages
from fleetmill.refine import run as refine
from fleetmill.release import publish as release
from fleetmill.seams.runtime import policies
from fleetmill.seams.tables import open_table
from fleetmill.train import trainer


@dataclass(frozen=True, kw_only=True, slots=True)
class Looked:
    """What one look came to."""

    told: int
    scored: int


def look(home: Home, line: Line) -> Looked:
    """Score what is known by now, then tell what is not, with the model in the field. Looking again changes nothing.

    Raises:
        LineError: the line has nothing to tell.
    """
    if line.forecast is None:
        raise LineError(f"line {line.name}: tells nothing beforehand (it has no `forecast`). See docs/forecasts.md")
    head, tracks = home.ledger.head()[0], _tracks(home, line)
    scored = forecasts.settle(home.ledger, home.blobs, line, tracks)
    champion = release.champion(home.ledger, line.name)
    if champion is None:
        return Looked(told=0, scored=len(scored))
    files = trainer.model(home.ledger, champion.model).files
    model = {"model.onnx": home.blobs.get(files["model.onnx"])}
    told = forecasts.tell(
        home.ledger,
        home.blobs,
        line,
        forecasts.Champion(digest=champion.model, release=champion.counter, policy=policies(line, home.runtime, model)),
        tracks,
        head=head,
        sign=home.repository.sign_statement,
    )
    return Looked(told=len(told), scored=len(scored))


def _tracks(home: Home, line: Line) -> dict[str, Recorded]:
    sets = outside.read_sets(home.ledger, home.blobs, line)
    by_device: dict[str, list[Session]] = {}
    for session in inbox.sessions(home.ledger, line.name):
        by_device.setdefault(session.device, []).append(session)
    hole_ns = stages.GAP_PERIODS * max((f.hold_ns for f in line.features if f.kind == "observation"), default=0)
    gap_ns = hole_ns if line.forecast and line.forecast.across else None
    return {name: Recorded(mine, _rows(home, line, sets), gap_ns=gap_ns) for name, mine in by_device.items()}


def _rows(home: Home, line: Line, sets: Sequence[LabelSet]) -> Callable[[Session], list[Episode]]:
    """A session's rows with labels as they are known by now; where nobody said anything they are NaN."""

    def rows(session: Session) -> list[Episode]:
        touching = outside.touching(sets, session)
        return (not touching and _refined(home, line, session)) or _cut(home, line, session, touching)

    return rows


def _refined(home: Home, line: Line, session: Session) -> list[Episode]:
    """As it was cut before; nothing where it was not, or nothing came of it."""
    try:
        shard = home.ledger.get("refined", refined_key(line.name, line.version, session.key, [])).record["shard"]
    except NotFoundError:
        return []
    table = open_table(home.blobs.path(shard)) if shard else None
    return [table.episode(i) for i in range(len(table.places))] if table else []


def _cut(home: Home, line: Line, session: Session, touching: Sequence[LabelSet]) -> list[Episode]:
    messages = refine.read_session(session, home.blobs.get)
    labels = [*_unknown(line, session, messages), *(label for s in touching for label in s.labels)]
    return list(stages.episodes(line, session, merged(line, messages, labels)[0]))


def _unknown(line: Line, session: Session, messages: Sequence[Message]) -> list[Label]:
    """What nobody labelled, so that a cut which wants every label leaves no observation out."""
    recorded = {m.topic for m in messages}
    return [
        Label(
            device=session.device,
            session=session.name,
            feature=f.name,
            start_ns=session.start_ns,
            end_ns=session.end_ns,
            value=None,
            source="",
        )
        for f in line.features
        if f.kind == "label" and f.name not in recorded and -1 not in f.shape and f.dtype.startswith("float")
    ]
