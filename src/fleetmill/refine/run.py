"""Refining: closed sessions become a dataset version.

Each session is cut once, whatever version it goes into, and anew when labels from outside come to it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import simplejpeg

from fleetmill.core import canonical
from fleetmill.core.custody import Posting, Span, cut, move
from fleetmill.core.dataset import DatasetVersion, Part, refined_key
from fleetmill.core.errors import IntegrityError, NotFoundError
from fleetmill.core.label import LabelSet, merged
from fleetmill.core.line import Array, Episode, Line, Message
from fleetmill.core.plain import build, plain
from fleetmill.core.recording import RecordingRef, Session
from fleetmill.core.split import ROLES, in_time
from fleetmill.refine import data as datasets
from fleetmill.refine import outside, stages
from fleetmill.seams import recordings
from fleetmill.seams.blobs import Blobs
from fleetmill.seams.books import Books
from fleetmill.seams.ledger import Draft, Fact, Ledger
from fleetmill.seams.tables import Place, open_table, write_table

Read = Callable[[str], bytes]
NOT_CUT = "not_cut"  # left out, and the line says no more


def run(
    ledger: Ledger, books: Books, blobs: Blobs, line: Line, sessions: Sequence[Session], *, parent: str = ""
) -> DatasetVersion:
    """The dataset version of exactly these sessions (all that the line has ever had, or fewer), with all labels so far.

    Sessions that were refined before with the same labels are not read again. The digest does not depend on the order
    of `sessions`.
    """
    roles = _roles(books, line, sessions)
    sets = outside.read_sets(ledger, blobs, line)
    facts = {s.key: _refined(ledger, books, blobs, line, s, outside.touching(sets, s)) for s in sessions}
    parts = tuple(
        Part(
            session=s.key,
            manifest=canonical.digest(plain(s)),
            role=roles[s.key],
            episodes=tuple(place["digest"] for place in facts[s.key].record["episodes"]),
            rows=sum(place["rows"] for place in facts[s.key].record["episodes"]),
            labels=tuple(facts[s.key].record.get("labels", ())),
            sources=facts[s.key].record.get("sources", {}),
        )
        for s in sorted(sessions, key=lambda s: (s.device, s.number))
    )
    made = DatasetVersion(line=line.name, line_version=line.version, parts=parts, parent=parent)
    _enter(ledger, blobs, made, facts)
    return made


def rows_to_learn(ledger: Ledger, books: Books, blobs: Blobs, line: Line, sessions: Sequence[Session]) -> int:
    """How many rows of these sessions would train; none where everything waits for labels."""
    roles, sets = _roles(books, line, sessions), outside.read_sets(ledger, blobs, line)
    cut = (
        _refined(ledger, books, blobs, line, s, outside.touching(sets, s)) for s in sessions if roles[s.key] == "train"
    )
    return sum(place["rows"] for fact in cut for place in fact.record["episodes"])


def version(ledger: Ledger, digest: str) -> DatasetVersion:
    """A dataset version that was made before.

    Raises:
        NotFoundError: no such version.
    """
    return build(DatasetVersion, ledger.get("dataset", digest).record["manifest"])


def open_data(ledger: Ledger, blobs: Blobs, digest: str) -> datasets.Dataset:
    """A dataset version's rows, memory-mapped.

    Raises:
        NotFoundError: no such version.
    """
    shards = ledger.get("dataset", digest).record["shards"]
    return datasets.Dataset({role: open_table(blobs.path(shard)) for role, shard in shards.items()})


def read_session(session: Session, read: Read) -> list[Message]:
    """Every message of a session in log order, JPEG images decoded."""
    found: list[Message] = []
    for ref in session.recordings:
        found += [_pixels(m) for m in recordings.read_messages(read(ref.digest), f"recording {ref.digest[:12]}")]
    return found


def _roles(books: Books, line: Line, sessions: Sequence[Session]) -> Mapping[str, str]:
    """Given once per session; where time is what splits, by this version's cut-off."""
    if line.split == "time":
        return in_time({s.key: (s.start_ns, s.end_ns) for s in sessions})
    return books.roles(line.name)


def _refined(
    ledger: Ledger, books: Books, blobs: Blobs, line: Line, session: Session, sets: Sequence[LabelSet]
) -> Fact:
    key = refined_key(line.name, line.version, session.key, [s.digest for s in sets])
    try:
        return ledger.get("refined", key)
    except NotFoundError:
        pass
    labels = [label for s in sets for label in s.labels]
    messages, sources = merged(line, read_session(session, blobs.get), labels)
    found, reasons = list(stages.episodes(line, session, messages)), list(stages.left_out(line, session, messages))
    places = [stages.place(e) for e in found]
    frames = [stages.frame_digests(line, e) for e in found]
    record = {
        "line": line.name,
        "line_version": line.version,
        "session": session.key,
        "episodes": plain(places),
        "shard": blobs.put(write_table(found, places)) if found else "",
        "frames": blobs.put(np.concatenate([*frames, np.zeros(0, np.uint64)]).tobytes()),
    }
    if sets:
        record |= {"labels": [s.digest for s in sets], "sources": stages.labelled_rows(found, sources)}
    number = ledger.get("device", session.device).record["number"]
    moves = [p for ref in session.recordings for p in _custody(books, number, ref, places, reasons)]
    drafts = [Draft(kind="moved", key=p.key, record=plain(p)) for p in moves]
    return ledger.append([*drafts, Draft(kind="refined", key=key, record=record)])[-1]


def _enter(ledger: Ledger, blobs: Blobs, version: DatasetVersion, facts: dict[str, Fact]) -> None:
    try:
        ledger.get("dataset", version.digest)
        return
    except NotFoundError:
        pass
    numbers = {f.key: f.record["number"] for f in ledger.read(kind="device")}
    members = [
        {
            "device": numbers[place["device"]],
            "start_ns": place["start_ns"],
            "end_ns": place["end_ns"],
            "episode": place["digest"],
        }
        for part in version.parts
        for place in facts[part.session].record["episodes"]
    ]
    shards = {role: _shard(blobs, version, role, facts) for role in ROLES}
    record = {
        "digest": version.digest,
        "manifest": version.record,
        "members": members,
        "shards": {role: digest for role, digest in shards.items() if digest},
    }
    ledger.append([Draft(kind="dataset", key=version.digest, record=record)])


def _shard(blobs: Blobs, version: DatasetVersion, role: str, facts: dict[str, Fact]) -> str:
    """One file per role, so that a training's batch is a gather out of one memory map."""
    found: list[Episode] = []
    places: list[Place] = []
    for part in version.parts:
        digest = facts[part.session].record["shard"]
        if part.role == role and digest:
            table = open_table(blobs.path(digest))
            found += [table.episode(i) for i in range(len(table.places))]
            places += table.places
    return blobs.put(write_table(found, places)) if found else ""


def _custody(
    books: Books, device: int, ref: RecordingRef, places: Sequence[Place], reasons: Sequence[stages.LeftOut]
) -> Iterator[Posting]:
    """Where an episode covers what was landed or left out, it is refined; where none does, it is left out, with reason.

    What is refined stays so: another cut may leave it out, and use is not custody.
    """
    held = books.spans(device, ref.start_ns, ref.end_ns)
    ends = [(p.start_ns, p.end_ns) for p in places] + [(s.start_ns, s.end_ns) for s in held]
    ends += [(r.start_ns, r.end_ns) for r in reasons]
    edges = {t for pair in ends for t in pair if ref.start_ns <= t <= ref.end_ns}
    for a, b in itertools.pairwise(sorted(edges)):
        span = next((s for s in held if s.start_ns <= a < s.end_ns), None)
        inside = any(p.start_ns <= a and b <= p.end_ns for p in places)
        if span is None or span.account not in ("landed", "left_out") or (span.account == "left_out" and not inside):
            continue
        why = next((r.reason for r in reasons if r.start_ns <= a and b <= r.end_ns), NOT_CUT)
        posting = _posting(device, cut(span, a, b)[1], reason="" if inside else why)
        held = [*(s for s in held if s is not span), *move(posting, [span])]
        yield posting


def _posting(device: int, span: Span, *, reason: str) -> Posting:
    return Posting(
        device=device,
        track=0,
        start_ns=span.start_ns,
        end_ns=span.end_ns,
        bytes=span.bytes,
        messages=span.messages,
        source=span.account,
        to="left_out" if reason else "refined",
        reason=reason,
        by="factory",
    )


def _pixels(message: Message) -> Message:
    if "format" not in message.value:
        return message
    data = np.asarray(message.value["data"], np.uint8)
    try:
        picture: Array = simplejpeg.decode_jpeg(data.tobytes(), colorspace="RGB")
    except ValueError as error:
        raise IntegrityError(f"/{message.topic} at {message.log_time_ns}: no whole JPEG ({error})") from error
    return Message(
        topic=message.topic,
        log_time_ns=message.log_time_ns,
        publish_time_ns=message.publish_time_ns,
        value={"data": picture},
    )
