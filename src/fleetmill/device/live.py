"""Living sessions: every instant is made durable before it is acted on; afterwards it is decided what is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fleetmill.core import wire
from fleetmill.core.drive import Moment, drive
from fleetmill.core.fleet import Campaign, session_seed
from fleetmill.core.ids import sha256
from fleetmill.core.line import Array, Line, Message, Policy, World
from fleetmill.core.plain import plain
from fleetmill.core.recording import RecordingInfo, RecordingRef, Session
from fleetmill.device import keep
from fleetmill.device.enrolment import Enrolled
from fleetmill.device.journal import Journal
from fleetmill.device.keep import Lived, Piece
from fleetmill.device.spool import DURABLE_NS, Begin, Spool
from fleetmill.seams.recordings import Encoded, encode, write_recording

EPOCH_NS = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z: where every simulated device's clock starts


def begun(journal: Journal, campaign: Campaign) -> int:
    """How many sessions of the campaign this device has begun."""
    return sum(b["campaign"] == campaign.digest for b in journal.begun())


def live(
    me: Enrolled,
    line: Line,
    journal: Journal,
    spool: Spool,
    campaign: Campaign,
    *,
    policy: Policy | None,
    model: str,
    world: Callable[[str, int], World],
) -> None:
    """Live the device's next session of `campaign`, to its end."""
    number = len(journal.begun())
    seed = session_seed(campaign, device=me.number, number=number)
    machine = world(campaign.scenario, seed)
    begin = Begin(
        session=f"s{number:05d}",
        number=number,
        campaign=campaign.digest,
        line=line.name,
        model=model,
        start_ns=now(journal, spool),
        period_ns=round(1e9 / line.model.rate_hz),
        seed=seed,
        topics=tuple(f.name for f in line.features),
        kinds=tuple(sorted(wire.KINDS)),
        tags={**campaign.tags, **getattr(machine, "tags", {})},
    )
    log = spool.begin(begin)
    journal.append([("begin", _entry(begin))])
    end_ns = begin.start_ns
    try:
        for moment in drive(machine, policy, steps=max(1, round(campaign.seconds * line.model.rate_hz))):
            at_ns = begin.start_ns + moment.step.time_ns
            log.add(at_ns, _messages(line, moment, at_ns))
            end_ns = at_ns + begin.period_ns
    finally:
        machine.close()
        log.close()
    spool.end(begin.session, end_ns=end_ns, ended="done")


def now(journal: Journal, spool: Spool) -> int:
    """The device's lived clock: where the last session ended, by the journal or by what is still in the spool."""
    ends = [p["end_ns"] for p in journal.postings()]
    for begin in spool.sessions():
        ended = spool.ended(begin.session)
        ends.append(int(ended["end_ns"]) if ended else begin.start_ns)
    return int(max([EPOCH_NS, *ends]))


def recover(journal: Journal, spool: Spool) -> list[str]:
    """End the sessions that a crash left open, at their last durable instant plus a tail of at most 100 ms."""
    known, found = {b["session"] for b in journal.begun()}, []
    for begin in spool.sessions():
        if begin.session not in known:
            journal.append([("begin", _entry(begin))])
        if spool.ended(begin.session) is None:
            instants = list(spool.instants(begin))
            end_ns = instants[-1].time_ns + begin.period_ns if instants else begin.start_ns
            spool.end(begin.session, end_ns=end_ns + tail(begin), ended="crash")
            found.append(begin.session)
    return found


def tail(begin: Begin) -> int:
    """What a crash may have lost: lived after the last durable mark, at most 100 ms."""
    return min(begin.period_ns, DURABLE_NS)


def settle(me: Enrolled, line: Line, journal: Journal, spool: Spool, campaigns: Callable[[str], Campaign]) -> None:
    """Decide for all ended sessions of a campaign together what is kept, cut the clips, post it all.

    May be called again. `campaigns` gives a campaign by its digest.
    """
    unsettled = [b for b in spool.sessions() if spool.settled(b.session) is None]
    for digest in sorted({b.campaign for b in unsettled}):
        campaign = campaigns(digest)
        sessions = [_lived(spool, b) for b in unsettled if b.campaign == digest]
        for lived, pieces in zip(sessions, keep.decide(campaign, sessions), strict=True):
            _settle(me, line, spool, campaign, lived, pieces)
    posted = {_move(p) for p in journal.postings()}
    for begin in spool.sessions():
        settled = spool.settled(begin.session)
        missing = [p for p in settled["postings"] if _move(p) not in posted] if settled else []
        if missing:  # a power cut may have let some of them through
            journal.append([("moved", posting) for posting in missing])


def _move(posting: Mapping[str, Any]) -> tuple[object, ...]:
    """Names a posting: an interval is moved to an account once."""
    return posting["start_ns"], posting["end_ns"], posting["to"]


def _settle(me: Enrolled, line: Line, spool: Spool, campaign: Campaign, lived: Lived, pieces: Sequence[Piece]) -> None:
    clips: dict[str, bytes] = {}
    refs: list[RecordingRef] = []
    for piece in (p for p in pieces if not p.reason):
        info = RecordingInfo(
            device=me.name,
            session=lived.begin.session,
            line=line.name,
            start_ns=piece.start_ns,
            end_ns=piece.end_ns,
            model=lived.begin.model,
            campaign=campaign.digest,
            tags=lived.begin.tags,
        )
        data = write_recording(info, line.features, [m for i in piece.instants for m in i.messages])
        clips[sha256(data)] = data
        refs.append(
            RecordingRef(
                digest=sha256(data),
                start_ns=piece.start_ns,
                end_ns=piece.end_ns,
                bytes=piece.bytes,
                messages=piece.messages,
            )
        )
    session = Session(
        device=me.name,
        name=lived.begin.session,
        number=lived.begin.number,
        line=line.name,
        start_ns=lived.begin.start_ns,
        end_ns=(pieces[-1].end_ns if pieces else lived.begin.start_ns) + lived.tail_ns,
        recordings=tuple(refs),
        recorded_bytes=sum(p.bytes for p in pieces),
        ended=lived.ended,  # type: ignore[arg-type]
        model=lived.begin.model,
        campaign=lived.begin.campaign,
        tags=lived.begin.tags,
    )
    postings = [plain(p) for p in keep.postings(me.number, lived, pieces)]
    spool.settle(lived.begin.session, clips=clips, settled={"manifest": plain(session), "postings": postings})


def _lived(spool: Spool, begin: Begin) -> Lived:
    ended = spool.ended(begin.session) or {}
    crashed = ended.get("ended") == "crash"
    return Lived(
        begin=begin,
        instants=tuple(spool.instants(begin)),
        ended=str(ended.get("ended", "crash")),
        tail_ns=tail(begin) if crashed else 0,
    )


def _messages(line: Line, moment: Moment, at_ns: int) -> list[Encoded]:
    """What is recorded of an instant: every feature that the line declares and the instant has."""
    step = moment.step
    values: dict[str, Array] = {**step.observation, **step.label, **moment.sent}
    values |= {f"model.{name}": value for name, value in (moment.proposed or {}).items()}
    values["takeover"] = np.asarray(np.float32(step.takeover is not None))
    return [
        encode(f, Message(topic=f.name, log_time_ns=at_ns, publish_time_ns=at_ns, value={"data": values[f.name]}))
        for f in line.features
        if f.name in values
    ]


def _entry(begin: Begin) -> dict[str, object]:
    return {
        "session": begin.session,
        "number": begin.number,
        "campaign": begin.campaign,
        "start_ns": begin.start_ns,
        "model": begin.model,
    }
