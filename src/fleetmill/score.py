"""Score a model on recordings that the factory need never have seen, foreign formats included."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fleetmill.core.errors import InvalidInputError, NotFoundError
from fleetmill.core.line import Array, Episode, Line, Policy, Tally
from fleetmill.core.model import ModelVersion
from fleetmill.home import Home
from fleetmill.judge.gate import finite
from fleetmill.receive import imports
from fleetmill.refine import run as refine
from fleetmill.refine import stages
from fleetmill.release import publish as release
from fleetmill.seams.runtime import policies
from fleetmill.train import trainer

_RUN = 24  # numbers by which frames are known again, in one frame or in so many in a row: a few are equal by chance
_ODD = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionScore:
    """One session's metrics, and whether the factory has ever used what is in it."""

    session: str
    frames: int
    metrics: Mapping[str, float]
    known_frames: int  # frames that the factory has refined before, by the digests of what was observed
    known_source: bool  # the very same session was imported before
    roles: tuple[str, ...]  # what the factory used the known frames for

    @property
    def seen(self) -> bool:
        """Whether the factory has ever used anything of it, for whatever purpose."""
        return self.known_source or self.known_frames > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """Metrics in total, on sessions that the factory has used and on those that it never saw."""

    model: str
    line: str
    total: Mapping[str, float]
    seen: Mapping[str, float]
    unseen: Mapping[str, float]
    sessions: tuple[SessionScore, ...]


def score(home: Home, line: Line, model: str, path: Path) -> Score:
    """Judge `model` (a digest or its beginning, a release number, or ``champion``) on the recordings at `path`.

    Nothing is entered in the home.

    Raises:
        NotFoundError: no such model, or nothing at `path`.
        InvalidInputError: files that no importer of the line knows, or that hold nothing to score.
        IntegrityError: a truncated or damaged file.
    """
    version = find_model(home, line, model)
    file = home.blobs.get(version.files["model.onnx"])
    policy = policies(line, home.runtime, {"model.onnx": file}, what=f"model {version.digest[:12]}")
    known = _Known(home, line)
    scored: list[tuple[SessionScore, list[Tally]]] = []
    for converted, episodes in recorded(line, path):
        tallies, frames = _tallies(line, policy, episodes), [stages.frame_digests(line, e) for e in episodes]
        if tallies:
            scored.append((_session(line, known, converted, tallies, frames), tallies))
    if not scored:
        raise InvalidInputError(f"{path}: no session holds an episode of line {line.name}")

    def pooled(which: bool | None) -> dict[str, float]:
        chosen = [t for s, tallies in scored for t in tallies if which is None or s.seen == which]
        return finite(line.judging.metrics(chosen)) if chosen else {}

    return Score(
        model=version.digest,
        line=line.name,
        total=pooled(None),
        seen=pooled(True),
        unseen=pooled(False),
        sessions=tuple(s for s, _ in scored),
    )


def find_model(home: Home, line: Line, name: str) -> ModelVersion:
    """The model that `name` means: ``champion``, a release number, or a digest or at least 6 digits of one.

    Raises:
        NotFoundError: there is none, or more than one.
    """
    if name == "champion":
        champion = release.champion(home.ledger, line.name)
        if champion is None:
            raise NotFoundError(f"line {line.name}: has no champion yet. Run: fleetmill turn --line {line.name}")
        return trainer.model(home.ledger, champion.model)
    released = {str(f.record["counter"]): f.record["model"] for f in home.ledger.read(kind="release")}
    models = [f.key for f in home.ledger.read(kind="model") if f.record["line"] == line.name]
    found = [m for m in models if m == released.get(name) or (len(name) >= 6 and m.startswith(name))]
    if len(found) != 1:
        raise NotFoundError(f"model {name!r} of line {line.name}: {len(found)} found. See: fleetmill status")
    return trainer.model(home.ledger, found[0])


class _Known:
    """What the factory has refined: runs of frames by role, and the digests of imported sessions.

    A frame is known when it stands in a run of frames that was refined in just that order. A picture, or a frame of
    `_RUN` numbers, is a run of its own; where a line observes fewer a run is `_RUN` frames, or the whole of a shorter
    episode.
    """

    def __init__(self, home: Home, line: Line) -> None:
        seen = [f for f in line.features if f.kind == "observation"]
        numbers = sum(math.prod(f.shape) for f in seen if f.dtype.startswith("float") and -1 not in f.shape)
        self._length = 1 if numbers >= _RUN or any(len(f.shape) == 3 for f in seen) else _RUN
        roles = home.books.roles(line.name)
        found: dict[str, list[Array]] = {}
        for fact in home.ledger.read(kind="refined"):
            if fact.record["line"] == line.name:
                held = np.frombuffer(home.blobs.get(fact.record["frames"]), np.uint64)
                edges = np.cumsum([place["rows"] for place in fact.record["episodes"]])[:-1]
                runs = [_runs(part, self._length) for part in np.split(held, edges)]
                found.setdefault(roles.get(fact.record["session"], "train"), []).extend(runs)
        self._runs = {role: np.unique(np.concatenate(runs)) for role, runs in found.items()}
        manifests = (f.record["manifest"] for f in home.ledger.read(kind="session"))
        self.sources = {m["source"] for m in manifests if m["source"]}

    def roles(self, episodes: Sequence[Array]) -> tuple[int, tuple[str, ...]]:
        """(how many frames of these episodes were refined before, in which roles)."""
        number, roles = 0, set()
        for frames in episodes:
            known = np.zeros(len(frames), bool)
            runs = _runs(frames, self._length)
            for role, held in self._runs.items():
                hits = np.flatnonzero(np.isin(runs, held))
                known[(hits[:, np.newaxis] + np.arange(len(frames) - len(runs) + 1)).reshape(-1)] = True
                roles |= {role} if len(hits) else set()
            number += int(known.sum())
        return number, tuple(sorted(roles))


def _runs(frames: Array, length: int) -> Array:
    """uint64: names each run of `length` frames, or all of them where they are fewer; (T,) -> (T - length + 1,)."""
    size = min(length, len(frames))
    found = np.full(len(frames) - size + 1 if size else 0, size, np.uint64)
    for at in range(size):
        found = found * _ODD + frames[at : at + len(found)]  # modulo 2^64
    return found


def recorded(line: Line, path: Path) -> Iterator[tuple[imports.Converted, list[Episode]]]:
    """Each session in the files at `path`, and its episodes, cut as the factory would; nothing is entered."""
    for converted in imports.convert(path, line, device="score"):
        session = converted.session(0)
        held = {clip.ref.digest: clip.data for clip in converted.clips}
        yield converted, list(stages.episodes(line, session, refine.read_session(session, held.__getitem__)))


def _tallies(line: Line, policy: Policy, episodes: list[Episode]) -> list[Tally]:
    found: list[Tally] = []
    for episode in episodes:
        policy.reset()
        found.append(line.judging.score(policy, episode))
    return found


def _session(
    line: Line, known: _Known, converted: imports.Converted, tallies: list[Tally], frames: Sequence[Array]
) -> SessionScore:
    number, roles = known.roles(frames)
    return SessionScore(
        session=converted.name,
        frames=sum(map(len, frames)),
        metrics=finite(line.judging.metrics(tallies)),
        known_frames=number,
        known_source=converted.source in known.sources,
        roles=roles,
    )
