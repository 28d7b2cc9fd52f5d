"""The label sets that came in from outside, read from the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fleetmill.core import canonical
from fleetmill.core.errors import IntegrityError, TooNewError
from fleetmill.core.label import TYPE, VERSION, Label, LabelSet
from fleetmill.core.line import Line
from fleetmill.core.plain import build, plain
from fleetmill.core.recording import Session
from fleetmill.seams.blobs import Blobs
from fleetmill.seams.ledger import Ledger


def read_sets(ledger: Ledger, blobs: Blobs, line: Line) -> list[LabelSet]:
    """Every label set of a line in the order in which they came in, without what the line has no label feature for.

    Raises:
        NotFoundError, IntegrityError: the bytes of one are gone or damaged.
        TooNewError: one was written by a newer version.
    """
    features = {f.name for f in line.features if f.kind == "label"}
    found = []
    for fact in ledger.read(kind="labels"):
        if fact.record["line"] == line.name:
            digest = str(fact.record["digest"])
            labels = _read(blobs.get(digest), f"label set {digest[:12]}")
            found.append(LabelSet(digest=digest, labels=tuple(each for each in labels if each.feature in features)))
    return found


def touching(sets: Sequence[LabelSet], session: Session) -> list[LabelSet]:
    """Those that say anything of a session, cut down to what they say of it."""
    mine = (LabelSet(digest=s.digest, labels=s.of(session.device, session.name)) for s in sets)
    return [s for s in mine if s.labels]


def written(line: Line, labels: Sequence[Label]) -> bytes:
    """The bytes of a label set: canonical JSON, the same for the same labels."""
    return canonical.dumps({"type": TYPE, "version": VERSION, "line": line.name, "labels": plain(list(labels))})


def _read(data: bytes, where: str) -> list[Label]:
    value: Mapping[str, Any] = canonical.loads(data)
    if not isinstance(value, dict) or value.get("type") != TYPE:
        raise IntegrityError(f"{where}: is none. Restore the home from a copy")
    if value["version"] > VERSION:
        raise TooNewError(where, found=value["version"], newest_known=VERSION)
    return [build(Label, each, f"{where}[{i}]") for i, each in enumerate(value["labels"])]
