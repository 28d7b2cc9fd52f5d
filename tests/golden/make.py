"""Make the golden files: small bytes of every format that we write, from fixed inputs.

``python tests/golden/make.py`` writes what is missing under ``tests/golden/v1`` and ``v2``, and changes nothing that is
there: a golden file is what an older version wrote. A new format version gets a folder of its own.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fleetmill.core import canonical
from fleetmill.core.custody import Posting
from fleetmill.core.fleet import Campaign
from fleetmill.core.line import Episode, Feature, Message, Trigger
from fleetmill.core.plain import plain
from fleetmill.core.recording import RecordingInfo, RecordingRef, Session
from fleetmill.device.journal import open_journal
from fleetmill.device.spool import Begin, open_spool
from fleetmill.home import init_home
from fleetmill.release.golden import golden_npz
from fleetmill.seams import recordings
from fleetmill.seams.ledger import Draft, open_ledger
from fleetmill.seams.tables import Place, write_table
from fleetmill.settings import Settings

V1, V2 = (Path(__file__).parent / version for version in ("v1", "v2"))
START = 1_767_225_600_000_000_000
PERIOD = 50_000_000
FEATURES = (
    Feature(name="camera", kind="observation", dtype="uint8", shape=(2, 3, 3), unit="1", hold_ns=PERIOD),
    Feature(name="steer", kind="action", dtype="float32", shape=(), unit="1", hold_ns=PERIOD),
    Feature(name="mode", kind="extra", dtype="str", shape=(), unit="1", hold_ns=PERIOD),
)
POSTING = Posting(
    device=3,
    track=0,
    start_ns=START,
    end_ns=START + 3 * PERIOD,
    bytes=300,
    messages=9,
    source="lived",
    to="buffered",
)
SESSION = Session(
    device="car-07",
    name="s00002",
    number=2,
    line="driving",
    start_ns=START,
    end_ns=START + 3 * PERIOD,
    recordings=(RecordingRef(digest="ab" * 32, start_ns=START, end_ns=START + 3 * PERIOD, bytes=300, messages=9),),
    recorded_bytes=900,
    ended="crash",
    model="cd" * 32,
    campaign="ef" * 32,
    tags={"room": "grün"},
)
CAMPAIGN = Campaign(
    line="driving",
    number=1,
    scenario="field",
    sessions=2,
    seconds=25.0,
    budget_ratio=0.35,
    triggers=(Trigger(when="takeover or abs(steer - label.steer) > 0.35 for 0.08s", before_ns=10**9, after_ns=0),),
    seed=10_000_000,
)
BEGIN = Begin(
    session="s00002",
    number=2,
    campaign=CAMPAIGN.digest,
    line="driving",
    model="",
    start_ns=START,
    period_ns=PERIOD,
    seed=7,
    topics=tuple(f.name for f in FEATURES),
    kinds=("sensor_msgs/msg/Image", "std_msgs/msg/Float32MultiArray", "std_msgs/msg/String"),
)


def messages() -> list[recordings.Encoded]:
    """Three instants of every feature."""
    values = {
        "camera": lambda i: np.arange(18, dtype=np.uint8).reshape(2, 3, 3) + i,
        "steer": lambda i: np.float32(i / 4),
        "mode": lambda i: f"örtlich {i}",
    }
    return [
        recordings.encode(
            f,
            Message(topic=f.name, log_time_ns=t, publish_time_ns=t - 1, value={"data": values[f.name](i)}),
        )
        for i, t in enumerate(range(START, START + 3 * PERIOD, PERIOD))
        for f in FEATURES
    ]


def episode() -> Episode:
    """Three rows."""
    return Episode(
        device="car-07",
        session="s00002",
        start_ns=START,
        end_ns=START + 3 * PERIOD,
        times_ns=np.arange(START, START + 3 * PERIOD, PERIOD),
        columns={
            "camera": np.arange(54, dtype=np.uint8).reshape(3, 2, 3, 3),
            "steer": np.array([-1.0, 0.0, 0.25], np.float32),
        },
        tags={"room": "grün"},
    )


def place() -> Place:
    """Where the rows stand."""
    e = episode()
    return Place(
        digest="12" * 32,
        device=e.device,
        session=e.session,
        start_ns=e.start_ns,
        end_ns=e.end_ns,
        rows=3,
        tags=dict(e.tags),
    )


def a_recording() -> bytes:
    """A sealed recording."""
    info = RecordingInfo(
        device="car-07",
        session="s00002",
        line="driving",
        start_ns=START,
        end_ns=START + 3 * PERIOD,
        model="cd" * 32,
        tags={"room": "grün"},
    )
    return recordings.write_recording(info, FEATURES, messages())


def a_fact() -> bytes:
    """Two rows of the ledger's table of facts as JSON lines: what is hashed, and what it hashes to."""
    ticks = iter(range(START, START + 9))
    ledger = open_ledger("sqlite://", clock=lambda: next(ticks))
    drafts = [
        Draft(kind="moved", key=POSTING.key, record=plain(POSTING)),
        Draft(kind="campaign", key="driving/1", record=plain(CAMPAIGN)),
    ]
    facts = ledger.append(drafts)
    ledger.verify()
    ledger.close()
    return b"".join(canonical.dumps(plain(fact)) + b"\n" for fact in facts)


def a_journal() -> bytes:
    """The lines of a device's journal."""
    with tempfile.TemporaryDirectory() as folder:
        journal = open_journal(Path(folder) / "journal.jsonl")
        journal.append([("begin", {"session": "s00002", "number": 2, "campaign": "", "start_ns": START, "model": ""})])
        journal.append([("moved", plain(POSTING))])
        return (Path(folder) / "journal.jsonl").read_bytes()


def a_log() -> bytes:
    """The log of a session that is being lived."""
    with tempfile.TemporaryDirectory() as folder:
        spool = open_spool(Path(folder))
        log = spool.begin(BEGIN)
        for at in range(START, START + 3 * PERIOD, PERIOD):
            log.add(at, [m for m in messages() if m.time_ns == at])
        log.close()
        return (spool.folder(BEGIN.session) / "live.wal").read_bytes()


def a_home() -> bytes:
    """The mark of a home; the version that made it is taken out, since it changes with each."""
    with tempfile.TemporaryDirectory() as folder:
        init_home(Settings(home=Path(folder) / "home"), now_ns=START)
        mark = canonical.loads((Path(folder) / "home" / "home.json").read_bytes())
        return canonical.dumps({**mark, "made_by": "VERSION"})


def golden_frames() -> bytes:
    """What a model answered."""
    frames = {"camera": np.arange(36, dtype=np.uint8).reshape(2, 2, 3, 3)}
    return golden_npz(frames, lambda asked: {"steer": asked["camera"].astype(np.float32).mean(axis=(1, 2, 3))})


MAKERS: dict[str, Callable[[], bytes]] = {
    "facts.jsonl": a_fact,
    "recording.mcap": a_recording,
    "table.arrow": lambda: write_table([episode()], [place()]),
    "journal.jsonl": a_journal,
    "live.wal": a_log,
    "begin.json": lambda: canonical.dumps(plain(BEGIN)),
    "campaign.json": lambda: canonical.dumps(plain(CAMPAIGN)),
    "manifest.json": lambda: canonical.dumps(plain(SESSION)),
    "golden.npz": golden_frames,
}
SINCE_V2: dict[str, Callable[[], bytes]] = {"home.json": a_home}  # v1 has another: {"format":1}


def main() -> None:
    """Write what is missing."""
    for folder, makers in ((V1, MAKERS), (V2, SINCE_V2)):
        folder.mkdir(exist_ok=True)
        for name, make in makers.items():
            if not (folder / name).exists():
                (folder / name).write_bytes(make())
                sys.stdout.write(json.dumps({"made": f"{folder.name}/{name}"}) + "\n")


if __name__ == "__main__":
    main()
