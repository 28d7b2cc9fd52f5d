"""What somebody asked on this device and agreed to have learned from, until the agent makes a session of it.

One file a conversation, written whole; whoever asks needs no lock, also while the agent runs. Nothing lies here without
that person's yes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from fleetmill.core import canonical
from fleetmill.core.fleet import Campaign
from fleetmill.core.ids import sha256
from fleetmill.core.line import Frame, Line, Step
from fleetmill.core.plain import build, plain
from fleetmill.core.serve import Tier
from fleetmill.core.talk import Said, Source, Talk
from fleetmill.seams.files import write_whole

SCENARIO = "asked"


def keep(folder: Path, said: Sequence[Said], answer: str, source: Source, *, time_ns: int) -> Path:
    """Keep a conversation and its answer, durably; two that are alike at one time are one."""
    record = {
        "said": [plain(turn) for turn in said],
        "answer": answer,
        "tier": int(source.tier),
        "may_train": source.may_train,
        "sure": None if source.sure != source.sure else source.sure,
    }
    data = canonical.dumps(record)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{time_ns:020d}-{sha256(data)[:16]}.json"
    write_whole(path, data)
    return path


def waiting(folder: Path) -> list[Path]:
    """What is kept, oldest first."""
    return sorted(folder.glob("*.json"))


def campaign(line: Line, paths: Sequence[Path], attempt: int) -> Campaign:
    """What the session of these conversations is lived for: nobody's campaign, all of it is kept."""
    return Campaign(
        line=line.name,
        number=-1,
        scenario=SCENARIO,
        sessions=attempt + 1,
        seconds=1e9,
        budget_ratio=1.0,
        triggers=(),
        seed=0,
        tags={"asked": sha256("".join(p.name for p in paths).encode())[:16]},
    )


class Spoken:
    """What was asked, lived as a session; implements `core.line.World`."""

    def __init__(self, talk: Talk, paths: Sequence[Path], *, period_ns: int) -> None:
        self._rows, self._period_ns, self._at = list(_rows(talk, paths)), period_ns, 0

    def begin(self) -> Step:
        """The first row."""
        return self._step()

    def act(self, action: Frame) -> Step:  # noqa: ARG002 - it was said already
        """The next one."""
        self._at += 1
        return self._step()

    def close(self) -> None:
        """Nothing is held."""

    def _step(self) -> Step:
        return Step(
            time_ns=self._at * self._period_ns,
            observation=self._rows[self._at],
            label={},
            takeover=None,
            events={},
            done=self._at + 1 == len(self._rows),
            acts=False,
        )


def _rows(talk: Talk, paths: Sequence[Path]) -> Iterator[Frame]:
    for path in paths:
        found = canonical.loads(path.read_bytes())
        sure = float("nan") if found["sure"] is None else float(found["sure"])
        source = Source(tier=Tier(found["tier"]), may_train=bool(found["may_train"]), sure=sure)
        turns = [build(Said, turn) for turn in found["said"]]
        for number, turn in enumerate(turns):
            yield from talk.rows(turn, number == 0, None)
        yield from talk.rows(Said(role="assistant", text=found["answer"]), False, source)
