"""What nobody needs goes, and nothing that a fact needs ever does: afterwards everything still works."""

from __future__ import annotations

import json
import os
import time

import pytest
from house import confirmed
from hypothesis import given
from hypothesis import strategies as st

from fleetmill import loop
from fleetmill.care.collect import YOUNG_NS, collect, wanted_blobs
from fleetmill.care.collect_rule import is_text, named, needed
from fleetmill.core import canonical
from fleetmill.core.errors import ConflictError, IntegrityError
from fleetmill.core.ids import sha256
from fleetmill.home import open_home
from fleetmill.refine import run as refine
from fleetmill.seams.ledger import Draft
from fleetmill.testing import tiny_line
from fleetmill.train import trainer
from killing import every_death

HEX = st.text("0123456789abcdef", min_size=64, max_size=64)


# the rule


@given(st.lists(HEX, max_size=5), st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=4))
def test_every_digest_in_a_record_is_seen_however_deep(digests, noise):
    record = noise
    for digest in digests:
        record = {"a": [record, {"b": digest, digest: 1}]}

    assert set(digests) <= named(canonical.dumps(record).decode())


def test_what_is_longer_is_no_digest():
    assert named("ab" * 64 + " " + "cd" * 31 + " " + "EF" * 32) == set()


@given(st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=10, max_size=10), st.sets(st.integers(0, 9)))
def test_what_documents_name_is_needed_as_far_as_it_goes(links, roots):
    name = [sha256(bytes([i])) for i in range(10)]
    text = {name[i]: json.dumps([name[j] for j in links[i]]) for i in range(10)}
    reached, todo = set(), set(roots)
    while todo:
        reached |= {(i := todo.pop())}
        todo |= set(links[i]) - reached

    assert needed({name[i] for i in roots}, text.__getitem__) == {name[i] for i in reached}


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"{}", True),
        (b"", True),
        ("ä".encode()[:1], True),
        (b"\x89MCAP0\r\n", False),
        (b"a\0b", False),
        (b"\xff" * 9, False),
    ],
)
def test_a_document_is_text(start, said):
    assert is_text(start) == said


# a home


def age(home, seconds=2 * YOUNG_NS / 1e9):
    """Make everything in the home old."""
    for path in sorted(home.rglob("*"), reverse=True):
        then = path.stat().st_mtime - seconds
        os.utime(path, (then, then))


def now_ns():
    return time.time_ns()


def litter(home):
    """What nobody needs, one of each kind: path -> its kind."""
    with open_home_of(home) as opened:
        orphan = opened.blobs.put(b"an upload whose fact never came")
        run = next(opened.ledger.read(kind="run")).key
    home.runs_folder.mkdir(exist_ok=True)
    made = {
        f"blobs/{orphan[:2]}/{orphan}": "blob",
        f"runs/{run}": "run",
        "repository/1.targets.json": "metadata",
        "repository/1.snapshot.json": "metadata",
        "keys/.timestamp.pem.12-34.part": "leftover",
        "blobs/ab/.incoming.xyz": "leftover",
        "backups/.making.20260101T000000Z": "leftover",
    }
    for path, kind in made.items():
        if kind in ("run", "leftover"):
            target = home.path / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if "making" in path:
                target.mkdir()
                target = target / "home.json"
            target.write_bytes(b"x" * 10)
    return made


class Place:
    """A home's folder with its settings."""

    def __init__(self, fleet):
        self.fleet, self.path = fleet, fleet.settings.home
        self.runs_folder = self.path / "runs"


def open_home_of(place):
    return open_home(place.fleet.settings, clock=place.fleet.clock)


@pytest.fixture
def place(grown):
    return Place(grown)


def everything(home):
    """Every file of the home but the lock and the ledger's, with its bytes."""
    skipped = ("home.lock", "ledger.db", ".lock")
    return {
        str(p.relative_to(home)): p.read_bytes()
        for p in home.rglob("*")
        if p.is_file() and not p.name.startswith(skipped)
    }


def test_what_nobody_needs_is_found_and_deleted_and_nothing_else(place):
    made = litter(place)
    age(place.path)
    before = everything(place.path)

    shown = collect(place.fleet.settings, now_ns=now_ns())
    unchanged = everything(place.path)
    done = collect(place.fleet.settings, now_ns=now_ns(), delete=True)
    again = collect(place.fleet.settings, now_ns=now_ns(), delete=True)

    found = {w.path: w.kind for w in shown.waste}
    old_lists = {p for p in found if p.startswith("repository/")}
    assert unchanged == before
    assert {**found, **dict.fromkeys(old_lists, "metadata")} == {**made, **dict.fromkeys(old_lists, "metadata")}
    assert {"repository/1.targets.json", "repository/1.snapshot.json"} <= old_lists
    assert (shown.deleted, done.deleted, done.waste, again.waste) == (False, True, shown.waste, ())
    gone = set(before) - set(everything(place.path))
    assert gone == {p if "making" not in p else f"{p}/home.json" for p in found}
    assert done.bytes == sum(len(before[p]) for p in gone)


def test_afterwards_the_home_answers_learns_and_ships_as_before(place):
    litter(place)
    age(place.path)
    collect(place.fleet.settings, now_ns=now_ns(), delete=True)

    turned = place.fleet.round()
    with open_home_of(place) as home:
        assert home.books.faults() == home.books.verify() == []
        assert home.ledger.verify() == home.ledger.head()[0]
        assert [c for c in confirmed(home) if c[1] == turned.release.counter] != []
        for fact in home.ledger.read(kind="dataset"):  # every version can be learned from again, the old ones too
            assert len(refine.open_data(home.ledger, home.blobs, fact.key)) > 0
        for fact in home.ledger.read(kind="model"):
            assert set(trainer.files(home.ledger, home.blobs, fact.key)) == {"model.onnx", "weights.bin"}
        for fact in home.ledger.read(kind="recording"):
            assert sha256(home.blobs.get(fact.key)) == fact.key
        for fact in home.ledger.read(kind="session"):
            assert all(home.blobs.has(r["digest"]) for r in fact.record["manifest"]["recordings"])


def test_a_blob_that_only_a_document_names_is_needed(place):
    with open_home_of(place) as home:
        leaf = home.blobs.put(b"\0a picture")
        page = home.blobs.put(f'<img src="/{leaf}">'.encode())
        document = home.blobs.put(canonical.dumps({"pages": [page]}))
        home.ledger.append([Draft(kind="note", key="a", record={"document": document})])
        assert {leaf, page, document} <= wanted_blobs(home)
    age(place.path)

    done = collect(place.fleet.settings, now_ns=now_ns(), delete=True)

    assert not [w for w in done.waste if w.kind == "blob"]
    with open_home_of(place) as home:
        assert home.blobs.has(leaf)


def test_a_digest_in_a_facts_key_counts_too(place):
    with open_home_of(place) as home:
        blob = home.blobs.put(b"named by a key alone")
        home.ledger.append([Draft(kind="note", key=f"tiny/{blob}", record={})])
        assert blob in wanted_blobs(home)


def test_what_is_young_is_left_alone(place):
    litter(place)

    assert collect(place.fleet.settings, now_ns=now_ns(), delete=True).waste == ()
    assert collect(place.fleet.settings, now_ns=now_ns(), delete=True).young >= 7
    assert collect(place.fleet.settings, now_ns=now_ns() + 10**10, delete=True, young_ns=0).young == 0


def test_a_training_that_goes_on_keeps_its_state(place):
    place.runs_folder.mkdir(exist_ok=True)
    (place.runs_folder / ("cd" * 32)).write_bytes(b"half-trained")
    age(place.path)

    assert not [w for w in collect(place.fleet.settings, now_ns=now_ns(), delete=True).waste if w.kind == "run"]


def test_nothing_is_collected_under_a_running_factory(place):
    with open_home_of(place), pytest.raises(ConflictError, match="another factory runs on this home"):
        collect(place.fleet.settings, now_ns=now_ns(), delete=True)


def test_nothing_is_collected_beside_an_import_and_no_import_begins_beside_it(place):
    beside = open_home(place.fleet.settings, own=False)
    with beside, pytest.raises(ConflictError, match="another command has it open"):
        collect(place.fleet.settings, now_ns=now_ns(), delete=True)
    alone = open_home(place.fleet.settings, alone=True)
    with (
        alone,
        pytest.raises(ConflictError, match="it is being upgraded or collected"),
        open_home(place.fleet.settings, own=False),
    ):
        pass


def test_of_a_damaged_ledger_nobody_can_say_what_it_names_so_nothing_goes(place):
    litter(place)
    age(place.path)
    with open_home_of(place) as home, home.ledger.engine.connect() as connection:
        connection.exec_driver_sql("DELETE FROM fact WHERE seq=9")
    before = everything(place.path)

    with pytest.raises(IntegrityError):
        collect(place.fleet.settings, now_ns=now_ns(), delete=True)

    assert everything(place.path) == before


def test_killed_while_it_deletes_it_is_done_by_the_next(place):
    litter(place)
    age(place.path)
    with open_home_of(place) as home:
        kept = {d for d in home.blobs if d in wanted_blobs(home)}

    for _ in every_death(lambda nth: collect(place.fleet.settings, now_ns=now_ns(), delete=True)):
        with open_home_of(place) as home:
            assert set(home.blobs) >= kept
    with open_home_of(place) as home:
        assert set(home.blobs) == kept
        assert loop.turn(home, tiny_line).number == 2
