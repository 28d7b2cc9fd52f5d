"""Slots and the record that says which one runs, under death at any byte."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetmill.core.errors import (
    ConflictError,
    FleetmillError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)
from fleetmill.core.ids import sha256
from fleetmill.device.slots import Slots, open_slots, read_state
from fleetmill.device.slots_rule import (
    SIZE,
    TIME_STEP_NS,
    TRIES,
    Seen,
    State,
    begin,
    confirm,
    decode,
    encode,
    never_back,
    newest,
    reject,
    restart,
    saw,
)
from fleetmill.device.update_rule import Release, SignedFile
from killing import Killed, every_death, killed_at


def contents(counter: int) -> dict[str, bytes]:
    return {"golden.npz": b"golden", "model.onnx": b"model %d" % counter}


def release(counter: int, *, line: str = "driving") -> Release:
    return Release(
        counter=counter,
        line=line,
        hardware=("pi5",),
        io_contract_sha256=sha256(b"io"),
        model=sha256(b"manifest %d" % counter),
        golden_sha256=sha256(b"golden"),
        tolerance=1e-4,
        latency_ns=5_000_000,
        memory_bytes=64 << 20,
        files=tuple(
            SignedFile(path=f"models/{sha256(data)}/{name}", name=name, length=len(data), sha256=sha256(data))
            for name, data in contents(counter).items()
        ),
    )


def fetch(slots: Slots, wanted: Release) -> None:
    folder = slots.fetching(wanted)
    for name, data in contents(wanted.counter).items():
        (folder / name).write_bytes(data)


def install(slots: Slots, counter: int) -> Release:
    """Fetch, stage, try and flip: what the agent does when all goes well. Goes on where a death left off."""
    wanted = release(counter)
    if slots.state.active != wanted.digest:
        if not slots.is_whole(wanted.digest):
            fetch(slots, wanted)
        slots.stage(wanted)
        slots.begin_trial(wanted)
        slots.confirm(wanted.digest)
    return wanted


def slot_names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "slots").iterdir()}


# The record


DIGEST = st.none() | st.integers(1, 2**256 - 1).map(lambda n: f"{n:064x}")
VERSION = st.integers(0, 2**64 - 1)
STATE = st.builds(
    State,
    sequence=VERSION,
    active=DIGEST,
    previous=DIGEST,
    trial=DIGEST,
    tries=st.integers(0, TRIES),
    time_ns=st.integers(0, 2**63),
    seen=st.builds(
        Seen, root=VERSION, timestamp=VERSION, snapshot=VERSION, targets=VERSION, keys=st.binary(min_size=8, max_size=8)
    ),
    counters=st.dictionaries(st.from_regex(r"[a-z][a-z0-9]{0,40}", fullmatch=True), VERSION, max_size=7),
)


@given(STATE)
def test_a_record_is_read_back_as_it_was_written(state: State) -> None:
    assert len(encode(state)) == SIZE
    assert decode(encode(state)) == state


def test_more_lines_than_fit_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="fit"):
        encode(State(counters={f"{i}".rjust(63, "x"): 1 for i in range(5)}))


OLD = State(sequence=7, active="11" * 32, time_ns=5, counters={"driving": 3})
NEW = State(sequence=8, active="22" * 32, previous="11" * 32, time_ns=6, counters={"driving": 4})
OLDEST = State(sequence=6, time_ns=4, counters={"driving": 2})


def test_a_write_torn_at_any_offset_leaves_the_old_or_the_new_record() -> None:
    for cut in range(SIZE + 1):
        over = encode(NEW)[:cut] + encode(OLDEST)[cut:]  # the copy of `OLDEST` is the one being overwritten
        shorter = encode(NEW)[:cut]

        assert newest((encode(OLD), over)) in (OLD, NEW)
        assert newest((shorter, encode(OLD))) in (OLD, NEW)
        assert newest((over, b"")) in (OLDEST, NEW, None)


def test_one_damaged_byte_in_either_copy_is_seen() -> None:
    for at in range(SIZE):
        flip = bytearray(SIZE)
        flip[at] = 0x40
        old, new = (bytes(a ^ b for a, b in zip(encode(state), flip)) for state in (OLD, NEW))

        assert newest((old, encode(NEW))) == NEW
        assert newest((encode(OLD), new)) == OLD
        assert newest((old, new)) is None


@pytest.mark.parametrize("name", ["state.a", "state.b"])
@pytest.mark.parametrize("damage", [b"", b"FMS1", bytes(SIZE), b"\xff" * SIZE, bytes(2 * SIZE)])
def test_a_device_starts_from_either_copy_and_writes_both_again(tmp_path: Path, name: str, damage: bytes) -> None:
    with open_slots(tmp_path) as slots:
        active = install(slots, 1).digest
        slots.saw(Seen(root=1), time_ns=10**18)
        last = slots.state
    (tmp_path / name).write_bytes(damage)

    with open_slots(tmp_path) as slots:
        assert slots.state.active == active
        assert last.sequence - slots.state.sequence in (0, 1)
        slots.saw(Seen(root=2), time_ns=2 * 10**18)
        slots.saw(Seen(root=3), time_ns=3 * 10**18)
    assert None not in [decode((tmp_path / copy).read_bytes()) for copy in ("state.a", "state.b")]


def test_with_both_copies_damaged_nothing_is_guessed(tmp_path: Path) -> None:
    with open_slots(tmp_path) as slots:
        install(slots, 1)
    for name in ("state.a", "state.b"):
        (tmp_path / name).write_bytes(bytes(SIZE))

    with pytest.raises(IntegrityError, match="enrol this device anew"), open_slots(tmp_path):
        pass


def test_a_first_start_that_was_killed_anywhere_starts_again(tmp_path: Path) -> None:
    def start(nth: int) -> None:
        with open_slots(tmp_path / str(nth)):
            pass

    for nth in every_death(start):
        with open_slots(tmp_path / str(nth)) as slots:
            assert slots.state in (State(sequence=1), State(sequence=2))
            slots.saw(Seen(root=1), time_ns=10**18)
        assert read_state(tmp_path / str(nth)) == slots.state


def test_two_processes_cannot_hold_the_same_slots(tmp_path: Path) -> None:
    with open_slots(tmp_path) as slots:
        with pytest.raises(ConflictError, match="another process"), open_slots(tmp_path):
            pass
        assert read_state(tmp_path) == slots.state


# Transitions


OPERATION = st.one_of(
    st.tuples(st.just("begin"), st.integers(1, 6), st.sampled_from(["arm", "driving"])),
    st.tuples(st.just("confirm"), st.integers(1, 6)),
    st.tuples(st.just("reject"), st.integers(1, 6)),
    st.tuples(st.just("restart"), st.booleans(), st.booleans()),
    st.tuples(st.just("saw"), st.integers(0, 5), st.integers(0, 10**19)),
)


def applied(state: State, operation: tuple[object, ...]) -> State:
    what, *how = operation
    match what, how:
        case "begin", [int(n), str(line)]:
            return begin(state, f"{n:064x}", line=line, counter=n)
        case "confirm", [int(n)]:
            return confirm(state, f"{n:064x}")
        case "reject", [int(n)]:
            return reject(state, f"{n:064x}")
        case "restart", [bool(a), bool(p)]:
            return restart(state, active_is_whole=a, previous_is_whole=p)
        case "saw", [int(version), int(time_ns)]:
            return saw(state, Seen(root=version, targets=version), time_ns)
    raise AssertionError(operation)


@given(st.lists(OPERATION, max_size=40))
def test_counters_never_fall_whatever_happens(operations: list[tuple[object, ...]]) -> None:
    state = State()
    for operation in operations:
        try:
            after = replace(applied(state, operation), sequence=state.sequence + 1)
            never_back(state, after)
        except ConflictError:
            continue  # refused: nothing was written
        assert all(after.counters.get(line, 0) >= n for line, n in state.counters.items())
        assert after.time_ns >= state.time_ns
        assert after.seen.root >= state.seen.root
        assert decode(encode(after)) == after
        state = after


def test_a_record_with_a_lower_counter_is_not_written() -> None:
    with pytest.raises(ConflictError, match="driving"):
        never_back(OLD, replace(OLD, sequence=8, counters={}))
    with pytest.raises(ConflictError, match="would fall"):
        never_back(NEW, replace(NEW, sequence=9, time_ns=1))


def test_the_time_seen_is_written_at_most_once_an_hour() -> None:
    state = saw(State(), Seen(root=1), 10**18)

    assert saw(state, Seen(root=1), 10**18 + TIME_STEP_NS - 1) == state
    assert saw(state, Seen(root=1), 10**18 + TIME_STEP_NS).time_ns == 10**18 + TIME_STEP_NS
    assert saw(state, Seen(root=2), 10**18 + 1).time_ns == 10**18 + 1
    assert saw(state, Seen(root=2), 5).time_ns == 10**18


# Slots


@pytest.fixture
def slots(tmp_path: Path):  # type: ignore[no-untyped-def]
    with open_slots(tmp_path) as found:
        yield found


def test_a_release_is_installed_and_the_one_before_is_kept(slots: Slots, tmp_path: Path) -> None:
    first, second, third = (install(slots, n) for n in (1, 2, 3))

    assert (slots.state.active, slots.state.previous) == (third.digest, second.digest)
    assert slot_names(tmp_path) == {second.digest, third.digest}
    assert first.digest not in slot_names(tmp_path)
    assert list((tmp_path / "fetch").iterdir()) == []
    assert slots.read(third.digest, "model.onnx") == b"model 3"
    assert slots.boot().run == third


def test_a_wrong_file_does_not_become_a_slot(slots: Slots, tmp_path: Path) -> None:
    fetch(slots, release(1))
    wrong = slots.fetching(release(1)) / "model.onnx"
    wrong.write_bytes(b"model 9")

    with pytest.raises(IntegrityError, match="7 bytes of SHA-256"):
        slots.stage(release(1))
    assert not wrong.exists()
    with pytest.raises(NotFoundError, match="is not there"):
        slots.stage(release(1))
    with pytest.raises(NotFoundError, match="is not staged"):
        slots.begin_trial(release(1))
    assert slot_names(tmp_path) == set()


def test_every_operation_may_be_repeated(slots: Slots, tmp_path: Path) -> None:
    fetch(slots, release(1))
    assert slots.stage(release(1)) == slots.stage(release(1))
    assert slots.begin_trial(release(1)) == slots.begin_trial(release(1))
    digest = release(1).digest
    assert slots.confirm(digest) == slots.confirm(digest)
    fetch(slots, release(2))
    slots.stage(release(2))
    slots.begin_trial(release(2))
    assert slots.reject(release(2).digest) == slots.reject(release(2).digest)
    assert slots.boot() == slots.boot()
    assert (slots.state.active, slots.state.trial) == (digest, None)
    assert slot_names(tmp_path) == {digest}


def test_a_rejected_release_and_older_ones_are_not_tried_again(slots: Slots) -> None:
    install(slots, 1)
    fetch(slots, release(3))
    slots.stage(release(3))
    slots.begin_trial(release(3))
    slots.reject(release(3).digest)

    for counter in (2, 3):
        fetch(slots, release(counter))
        slots.stage(release(counter))
        with pytest.raises(ConflictError, match="is not above 3"):
            slots.begin_trial(release(counter))


def test_only_what_is_on_trial_is_confirmed_and_what_runs_is_not_rejected(slots: Slots) -> None:
    active = install(slots, 1)

    with pytest.raises(ConflictError, match="is not on trial, none is"):
        slots.confirm(release(2).digest)
    with pytest.raises(ConflictError, match="is active"):
        slots.reject(active.digest)
    with pytest.raises(ConflictError, match="is active"):
        slots.begin_trial(active)


def test_an_unconfirmed_trial_does_not_run_and_is_given_up_after_its_tries(tmp_path: Path) -> None:
    with open_slots(tmp_path) as slots:
        old, new = install(slots, 1), release(2)
        fetch(slots, new)
        slots.stage(new)
    for left in range(TRIES - 1, -1, -1):
        with open_slots(tmp_path) as slots:
            slots.begin_trial(new)
        with open_slots(tmp_path) as slots:  # the power went
            start = slots.boot()
            assert start.run == old
            assert (start.again, start.given_up) == ((new.digest, None) if left else (None, new.digest))
    with open_slots(tmp_path) as slots, pytest.raises(ConflictError, match="is not above 2"):
        slots.begin_trial(new)


def test_a_damaged_active_slot_gives_way_to_the_previous_and_is_fetched_anew(slots: Slots, tmp_path: Path) -> None:
    old, new = install(slots, 1), install(slots, 2)
    (tmp_path / "slots" / new.digest / "model.onnx").write_bytes(b"model X")
    with pytest.raises(IntegrityError, match="signed are"):
        slots.read(new.digest, "model.onnx")
    with pytest.raises(ConflictError, match="start anew first"):
        slots.stage(new)

    start = slots.boot()

    assert start.run == old
    assert start.again == new.digest
    assert "model.onnx: 7 bytes" in start.damaged[0]
    fetch(slots, new)
    slots.stage(new)
    slots.begin_trial(new)
    slots.confirm(new.digest)
    assert slots.boot().run == new


def test_with_every_slot_damaged_nothing_runs(slots: Slots, tmp_path: Path) -> None:
    old, new = install(slots, 1), install(slots, 2)
    (tmp_path / "slots" / old.digest / "model.onnx").unlink()
    (tmp_path / "slots" / new.digest / "release.json").write_bytes(b"{}")

    start = slots.boot()

    assert start.run is None
    assert start.again == new.digest
    assert len(start.damaged) == 2
    assert slots.state.counters == {"driving": 2}


def test_bytes_that_changed_after_staging_are_not_flipped_to(slots: Slots, tmp_path: Path) -> None:
    old = install(slots, 1)
    fetch(slots, release(2))
    slots.begin_trial(release(slots.stage(release(2)) is not None and 2))
    (tmp_path / "slots" / release(2).digest / "model.onnx").write_bytes(b"model Y")

    with pytest.raises(IntegrityError, match="cannot become active"):
        slots.confirm(release(2).digest)
    assert slots.state.active == old.digest


def test_a_disk_that_refuses_changes_nothing_that_is_believed(slots: Slots, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> int:
        raise OSError(5, "Input/output error")

    before = slots.state
    monkeypatch.setattr("os.pwrite", refuses)

    with pytest.raises(UnavailableError, match="Input/output error"):
        slots.saw(Seen(root=1), time_ns=10**18)
    assert slots.state == before


def holds(folder: Path, known: State) -> Slots:
    """The invariants I1 to I3 and I6, as a restarted device finds them."""
    with open_slots(folder) as slots:
        start = slots.boot()
        if slots.state.active is not None:
            assert slots.is_whole(slots.state.active)  # I1
        assert not start.damaged
        assert start.run is not None or known.active is None  # I2
        assert all(slots.state.counters.get(line, 0) >= n for line, n in known.counters.items())  # I3
        assert slots.state.time_ns >= known.time_ns
        assert len(slot_names(folder)) <= 3  # I6
        assert len(list((folder / "fetch").iterdir())) <= 1
        return slots


def test_an_update_that_was_killed_anywhere_runs_old_or_new_and_is_finished_later(tmp_path: Path) -> None:
    with open_slots(tmp_path / "device") as slots:
        slots.saw(Seen(root=1), time_ns=10**18)
        install(slots, 1)
        install(slots, 2)
        fetch(slots, release(3))
        known = slots.state

    def update(nth: int) -> None:
        with open_slots(tmp_path / str(nth)) as slots:
            install(slots, 3)

    found = set()
    for nth in every_death(update, before=lambda nth: copytree(tmp_path / "device", tmp_path / str(nth))):
        found.add(holds(tmp_path / str(nth), known).state.active)
        update(nth)
        assert holds(tmp_path / str(nth), known).state.active == release(3).digest
    assert found == {release(2).digest, release(3).digest}


ACTION = st.tuples(st.sampled_from(["fetch", "stage", "begin", "confirm", "reject", "boot", "saw"]), st.integers(1, 4))


def acted(slots: Slots, what: str, counter: int) -> None:
    match what:
        case "fetch":
            fetch(slots, release(counter))
        case "stage":
            slots.stage(release(counter))
        case "begin":
            slots.begin_trial(release(counter))
        case "confirm":
            slots.confirm(release(counter).digest)
        case "reject":
            slots.reject(release(counter).digest)
        case "boot":
            slots.boot()
        case "saw":
            slots.saw(Seen(root=max(counter, slots.state.seen.root)), time_ns=counter * 10**18)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(ACTION, st.integers(1, 40)), max_size=14))
def test_any_order_of_operations_and_deaths_keeps_the_invariants(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[tuple[str, int], int]]
) -> None:
    folder = tmp_path_factory.mktemp("device")
    known = State()
    for (what, counter), death in steps:
        try:
            with open_slots(folder) as slots:
                with killed_at(death):
                    acted(slots, what, counter)
                known = slots.state
        except (FleetmillError, Killed):
            pass
        known = holds(folder, known).state
