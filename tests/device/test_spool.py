"""What a device lived survives a cut at any byte: whole instants are kept, a torn one is where the log ends."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleetmill.core import canonical
from fleetmill.device.spool import Begin, Instant, Spool, open_spool
from fleetmill.seams.recordings import Encoded
from killing import every_death

PERIOD_NS = 40_000_000
KIND = "std_msgs/msg/Float32MultiArray"


def a_begin(number: int = 0, start_ns: int = 1000) -> Begin:
    return Begin(
        session=f"s{number:05d}",
        number=number,
        campaign="c",
        line="tiny",
        model="",
        start_ns=start_ns,
        period_ns=PERIOD_NS,
        seed=1,
        topics=("x", "y"),
        kinds=(KIND,),
    )


def messages(index: int) -> list[Encoded]:
    at_ns = 1000 + index * PERIOD_NS
    sizes = {"x": index, "y": 2}
    return [Encoded(topic=t, kind=KIND, time_ns=at_ns, payload=bytes([index]) * n) for t, n in sizes.items()]


def lived(spool: Spool, begin: Begin, instants: int) -> Path:
    log = spool.begin(begin)
    for index in range(instants):
        log.add(1000 + index * PERIOD_NS, messages(index))
    log.close()
    return spool.folder(begin.session) / "live.wal"


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return open_spool(tmp_path / "spool")


def test_what_was_added_is_read_back(spool: Spool) -> None:
    lived(spool, a_begin(), 3)

    assert list(spool.instants(a_begin())) == [
        Instant(time_ns=1000 + i * PERIOD_NS, messages=tuple(messages(i))) for i in range(3)
    ]
    assert [i.bytes for i in spool.instants(a_begin())] == [2, 3, 4]
    assert spool.sessions() == [a_begin()]


def test_a_log_that_is_torn_at_any_byte_gives_the_whole_instants_before_it(spool: Spool) -> None:
    path = lived(spool, a_begin(), 4)
    data, whole = path.read_bytes(), list(spool.instants(a_begin()))
    ends = []
    for at in frames(data):
        ends.append(at)

    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        assert list(spool.instants(a_begin())) == whole[: sum(end <= size for end in ends)]


def test_a_log_that_is_damaged_at_any_byte_never_gives_anything_else(spool: Spool) -> None:
    path = lived(spool, a_begin(), 3)
    data, whole = path.read_bytes(), list(spool.instants(a_begin()))

    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        found = list(spool.instants(a_begin()))
        assert found == whole[: len(found)]
        assert len(found) == sum(end <= at for end in frames(data))


def frames(data: bytes) -> Iterator[int]:
    """Where each frame ends."""
    at = 0
    while at < len(data):
        at += 8 + struct.unpack_from("<I", data, at)[0]
        yield at


def test_a_session_that_was_never_wholly_begun_is_swept_and_the_others_stay(tmp_path: Path) -> None:
    spool = open_spool(tmp_path / "spool")
    lived(spool, a_begin(1), 1)
    (tmp_path / "spool" / "s00002").mkdir()
    (tmp_path / "spool" / "s00002" / "live.wal").write_bytes(b"")

    assert [b.number for b in open_spool(tmp_path / "spool").sessions()] == [1]
    assert not (tmp_path / "spool" / "s00002").exists()


def test_sessions_come_oldest_first_whatever_their_folders_are_called(spool: Spool) -> None:
    for number in (100_000, 7, 99_999):
        lived(spool, a_begin(number), 0)

    assert [b.number for b in spool.sessions()] == [7, 99_999, 100_000]


def test_a_session_is_settled_when_its_last_file_is_whole_and_not_before(tmp_path: Path) -> None:
    settled, whole = {"manifest": {"a": 1}, "postings": []}, 0

    def fresh(nth: int) -> Path:
        return tmp_path / f"n{nth}"

    def settle(nth: int) -> None:
        Spool(fresh(nth)).settle("s00000", clips={"d1": b"clip one", "d2": b"clip two"}, settled=settled)

    for nth in every_death(settle, before=lambda nth: lived(open_spool(fresh(nth)), a_begin(), 2)):
        spool = open_spool(fresh(nth))
        found = spool.settled("s00000")
        assert found in (None, settled)
        if found is not None:
            whole += 1
            assert [spool.clip("s00000", d).read_bytes() for d in ("d1", "d2")] == [b"clip one", b"clip two"]
        assert len(list(spool.instants(a_begin()))) == 2
    assert whole <= 2


def test_a_session_that_is_forgotten_halfway_is_gone_and_never_half_there(tmp_path: Path) -> None:
    def make(nth: int) -> None:
        spool = open_spool(tmp_path / f"n{nth}")
        lived(spool, a_begin(), 2)
        spool.end("s00000", end_ns=1, ended="done")
        spool.settle("s00000", clips={"d": b"clip"}, settled={"manifest": {}, "postings": []})

    for nth in every_death(lambda nth: Spool(tmp_path / f"n{nth}").forget("s00000"), before=make):
        spool = open_spool(tmp_path / f"n{nth}")
        for begin in spool.sessions():
            assert spool.settled(begin.session) is not None
            assert spool.clip(begin.session, "d").read_bytes() == b"clip"


def test_what_is_written_of_a_session_is_canonical(spool: Spool) -> None:
    lived(spool, a_begin(), 0)

    data = (spool.folder("s00000") / "begin.json").read_bytes()

    assert canonical.dumps(canonical.loads(data)) == data
