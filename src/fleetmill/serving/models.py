"""The lines' models at the endpoint: the champion, and beside it a candidate that the gate accepted.

A candidate is the newest model that the gate accepted and that nobody has released or refused yet (`approval =
"required"`). What the gate held is never loaded here. As a shadow it answers a copy of what the champion was asked,
after the client has its answer; with a weight it answers a share of the requests in the champion's place.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from fleetmill.core.errors import EngineError
from fleetmill.core.line import Frame
from fleetmill.core.plain import plain
from fleetmill.home import Home
from fleetmill.judge import people
from fleetmill.release import publish as release
from fleetmill.seams.ledger import Draft
from fleetmill.seams.runtime import Runtime
from fleetmill.serve.compared import FAILED, Compared, compare
from fleetmill.serve.oip import Loaded
from fleetmill.settings import CandidateSettings, ServeLineSettings
from fleetmill.train import trainer

_MOST_WAITING = 64  # comparisons; more are left out, and counted
_DIGITS = 12  # of a candidate's digest: its version
_MODEL = "model.onnx"
_LOG = logging.getLogger("fleetmill.serve")


@dataclass(slots=True)
class _Line:
    """What is served of one line."""

    champion: Loaded
    asked: CandidateSettings
    candidate: Loaded | None = None
    turn: float = 0.0  # adds up the weight: at 1 it is the candidate's turn
    shadows: dict[str, Compared] = field(default_factory=dict)  # candidate's version -> how it compares
    left_out: int = 0
    entered: set[str] = field(default_factory=set)  # of `shadows`: a fact by now


class LineModels:
    """`oip.Models` over a home, as of a second ago. Who has a model keeps it to the end."""

    def __init__(self, home: Home, lines: Mapping[str, ServeLineSettings], *, runtime: Runtime | None = None) -> None:
        self._home, self._asked, self._runtime = home, lines, runtime or home.runtime
        self._lines: dict[str, _Line] = {}
        self._head = -1
        self._behind = ThreadPoolExecutor(1, "shadow")
        self._waiting, self._lock = 0, threading.Lock()
        self.look()

    def close(self) -> None:
        """When nothing is asked any more: what was compared is entered."""
        self._behind.shutdown()  # what waits is little
        for name, line in self._lines.items():
            self._enter(name, line)

    def look(self) -> None:
        """Load what came since the last look; the old one answers until the new one is loaded."""
        head = self._home.ledger.head()[0]
        if head == self._head:
            return
        for name in sorted({str(f.record["line"]) for f in self._home.ledger.read(kind="release")}):
            self._champion(name)
            self._candidate(name)
        self._head = head

    def _champion(self, name: str) -> None:
        champion = release.champion(self._home.ledger, name)
        known = self._lines.get(name)
        if champion is None or (known is not None and known.champion.version == str(champion.counter)):
            return
        loaded = self._load(name, str(champion.counter), champion.model_file)
        if known is None:
            asked = self._asked.get(name, ServeLineSettings()).candidate
            self._lines[name] = _Line(champion=loaded, asked=asked)
        else:
            was = known.candidate
            known.champion = loaded
            if was is not None and was.digest == loaded.digest:  # it is the champion now
                known.candidate = None
                self._enter(name, known)
        _LOG.info("a model is served", extra={"line": name, "release": champion.counter})

    def _candidate(self, name: str) -> None:
        line = self._lines.get(name)
        if line is None or not (line.asked.shadow or line.asked.weight):
            return
        waiting = people.undecided(self._home.ledger, name)
        digest = str(waiting[-1].record["candidate"]) if waiting else ""
        known = line.candidate.version if line.candidate else ""
        if digest[:_DIGITS] == known:
            return
        self._enter(name, line)
        file = trainer.model(self._home.ledger, digest).files[_MODEL] if digest else ""
        line.candidate = self._load(name, digest[:_DIGITS], file) if digest else None
        _LOG.info("the candidate changed", extra={"line": name, "model": digest[:_DIGITS]})

    def _load(self, name: str, version: str, file: str) -> Loaded:
        return Loaded(name=name, version=version, model=self._runtime.load(self._home.blobs.get(file)), digest=file)

    # `oip.Models`

    def names(self) -> Sequence[str]:
        """Lines with a champion."""
        return sorted(self._lines)

    def get(self, name: str, version: str = "") -> Loaded | None:
        """By version; without one the champion, or in its turn the candidate. Others are not served any more."""
        line = self._lines.get(name)
        if line is None:
            return None
        candidate = line.candidate
        if version:
            return next((m for m in (line.champion, candidate) if m is not None and m.version == version), None)
        if candidate is None or not line.asked.weight:
            return line.champion
        with self._lock:
            line.turn += line.asked.weight
            if line.turn < 1.0 - 1e-9:
                return line.champion
            line.turn -= 1.0
        return candidate

    def versions(self, name: str) -> Sequence[str]:
        """The champion's release number, then the candidate's digits."""
        line = self._lines.get(name)
        return [m.version for m in (line.champion, line.candidate) if m is not None] if line else []

    def saw(self, loaded: Loaded, inputs: Frame, outputs: Frame) -> None:
        """The client has its answer: let the candidate answer the same, if it is to, behind everything else."""
        line = self._lines.get(loaded.name)
        if line is None or line.candidate is None or not line.asked.shadow or loaded is not line.champion:
            return
        with self._lock:
            if self._waiting >= _MOST_WAITING:
                line.left_out += 1
                return
            self._waiting += 1
        self._behind.submit(self._compare, line, line.candidate, inputs, outputs)

    def _compare(self, line: _Line, candidate: Loaded, inputs: Frame, outputs: Frame) -> None:
        try:
            found = compare(outputs, candidate.model.ask(inputs), line.asked.tolerance)
        except EngineError:
            found = FAILED
        with self._lock:
            self._waiting -= 1
            line.shadows[candidate.version] = line.shadows.get(candidate.version, Compared()) + found

    def _enter(self, name: str, line: _Line) -> None:
        """The candidate is none any more, or this process ends: how it compared becomes a fact, once."""
        with self._lock:
            found = {v: c for v, c in line.shadows.items() if v not in line.entered}
            line.entered |= set(found)
        now_ns = self._home.clock()
        drafts = [
            Draft(
                kind="shadowed",
                key=f"{name}/{version}/{os.getpid()}-{now_ns}",
                record={
                    "line": name,
                    "candidate": version,
                    "champion": line.champion.version,
                    "tolerance": line.asked.tolerance,
                    "left_out": line.left_out,
                    **plain(compared),
                },
            )
            for version, compared in found.items()
        ]
        if drafts:
            self._home.ledger.append(drafts)

    # what is told

    def compared(self) -> Iterator[tuple[str, str, Compared]]:
        """(line, candidate's version, how it compares), of every candidate since the process began."""
        with self._lock:
            found = [
                (name, version, c) for name, line in list(self._lines.items()) for version, c in line.shadows.items()
            ]
        yield from found

    def left_out(self) -> Iterator[tuple[str, int]]:
        """(line, requests that were not compared since too many waited)."""
        yield from ((name, line.left_out) for name, line in list(self._lines.items()) if line.left_out)
