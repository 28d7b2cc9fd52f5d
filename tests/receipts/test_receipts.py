"""Receipts in both directions, over every interval of a finished demo; and a planted lie shows."""

from __future__ import annotations

import itertools
import json
import sqlite3
from contextlib import closing, contextmanager
from dataclasses import replace

import pytest

from finished import NAMES, copied, settings
from fleetmill import receipts
from fleetmill.core.errors import FleetmillError, InvalidInputError, NotFoundError
from fleetmill.core.model import ModelVersion, Run
from fleetmill.core.moment import iso, read_moment
from fleetmill.core.plain import plain
from fleetmill.home import open_home
from fleetmill.receipts import check
from fleetmill.receipts.fate import UNREPORTED, Forward, fate, named
from fleetmill.receipts.standing import running
from fleetmill.receipts.why import Backward, find, why
from fleetmill.receive import roll
from fleetmill.seams.ledger import Draft, open_ledger

S = 10**9


@pytest.fixture
def home(finished):
    with open_home(replace(settings(finished.parent), home=finished), own=False) as opened:
        yield opened


@pytest.fixture
def spoiled(finished, tmp_path):
    with copied(finished, tmp_path) as opened:
        yield opened


def models(home):
    """Models in the order in which they were made: first, second, the held third."""
    return [f.key for f in home.ledger.read(kind="model")]


def spans(home, device):
    return [h.span for h in home.books.holdings(device.number, 0, 2**63 - 1)]


@contextmanager
def table(home):
    connection = sqlite3.connect(home.settings.home / "ledger.db")
    with connection:
        yield connection
    connection.close()


# -- the must-show ----------------------------------------------------------------------------------------------------


def test_why_lists_an_interval_exactly_when_its_fate_names_the_model(home):
    """Written out by hand, apart from `receipts.check`: every interval of every device against every model."""
    pairs = owed = 0
    for device in roll.devices(home.ledger):
        for span in spans(home, device):
            told = fate(home.ledger, home.books, device.name, span.start_ns, span.end_ns)
            for model in models(home):
                said = why(home.ledger, model)
                for listed, named_by in ((said.learned_from, told.taught), (said.judged_on, told.judged)):
                    back = {
                        (p.role, p.episode)
                        for p in listed
                        if p.device == device.name and p.start_ns < span.end_ns and p.end_ns > span.start_ns
                    }
                    forward = {(r.how, e) for r in named_by if r.model == model for e in r.episodes}
                    assert back == forward, (device.name, span, model)
                    pairs, owed = pairs + 1, owed + bool(back)

    assert pairs > 200
    assert 0.1 * pairs < owed < 0.9 * pairs


def test_the_shipped_check_agrees_and_says_how_much_it_compared(home):
    checked = check.check_all(home)

    assert receipts.cross_check(home) == []
    assert (checked.devices, checked.models, checked.disagreements) == (4, 3, ())
    assert checked.intervals == sum(len(spans(home, d)) for d in roll.devices(home.ledger))
    assert checked.links > 30


@pytest.mark.parametrize(
    ("plant", "said"),
    [
        (
            "DELETE FROM member WHERE device = 0 AND start_ns = (SELECT min(start_ns) FROM member WHERE device = 0)",
            "does not name the model",
        ),
        (
            "UPDATE member SET start_ns = start_ns + 1950000000, end_ns = end_ns + 1950000000 WHERE device = 1",
            "why does not list it",
        ),
        ("UPDATE member SET episode = 'e' || substr(episode, 2) WHERE device = 1", "does not name the model"),
        ("UPDATE role SET role = 'held_out' WHERE session = 'd0/s00000'", "does not name the model"),
        (
            "DELETE FROM span WHERE device = 0 AND start_ns = (SELECT min(start_ns) FROM span WHERE device = 0)",
            "the books hold 0 ns of it",
        ),
    ],
    ids=["episode missing", "intervals shifted", "episodes swapped", "role moved", "span missing"],
)
def test_a_planted_disagreement_shows(spoiled, plant, said):
    with table(spoiled) as connection:
        assert connection.execute(plant).rowcount

    found = receipts.cross_check(spoiled)

    assert any(said in line for line in found), found


def test_the_two_paths_read_apart(home):
    """Why has no books to look into; fate is refused the manifests."""

    class Shut:
        def __init__(self, ledger):
            self._ledger = ledger

        def __getattr__(self, name):
            return getattr(self._ledger, name)

        def read(self, *, kind=None, after=0):
            assert kind not in ("dataset", "refined", None)
            return self._ledger.read(kind=kind, after=after)

        def get(self, kind, key):
            assert kind not in ("dataset", "refined")
            return self._ledger.get(kind, key)

    open_eyed = fate(home.ledger, home.books, "d0", 0, 2**62)

    assert fate(Shut(home.ledger), home.books, "d0", 0, 2**62) == open_eyed
    assert open_eyed.taught


# -- why --------------------------------------------------------------------------------------------------------------


def test_why_tells_the_whole_descent_with_each_training(home):
    first, second, third = models(home)
    told = why(home.ledger, third)
    datasets = [f.key for f in home.ledger.read(kind="dataset")]

    assert [t.model for t in told.descent] == [third, second, first]
    assert [t.dataset for t in told.descent] == datasets[::-1]
    assert [t.parent for t in told.descent] == [second, first, ""]
    assert told.descent[0].labels == {"oracle": 1.0}
    assert all(t.code.startswith("fleetmill ") and t.run and t.fact for t in told.descent)
    assert {p.role for p in told.learned_from} <= {"train", "validation"}
    assert {p.role for p in told.judged_on} == {"held_out"}
    assert told.devices == ("d0", "d1", "d2", "old")


def test_what_a_child_learned_later_is_not_owed_by_its_parent(home):
    first, _, third = models(home)
    early, late = ({(p.number, p.start_ns) for p in why(home.ledger, m).learned_from} for m in (first, third))

    assert early < late


def test_why_names_recordings_that_hold_the_interval(home):
    told = why(home.ledger, models(home)[1])
    refs = {r["digest"]: r for f in home.ledger.read(kind="session") for r in f.record["manifest"]["recordings"]}

    for piece in told.learned_from:
        assert refs[piece.recording]["start_ns"] <= piece.start_ns < piece.end_ns <= refs[piece.recording]["end_ns"]


def test_why_says_what_was_decided_and_who_runs_it(home):
    first, second, third = (why(home.ledger, m).standing for m in models(home))

    assert [v.decision for v in third.verdicts] == ["held"]
    assert any("NOT MET" in r for r in third.verdicts[0].reasons)
    assert [r.counter for r in second.releases] == [2]
    assert (first.running, second.running, third.running) == ((), NAMES, ())


@pytest.mark.parametrize("name", ["champion", "2"])
def test_a_model_is_found_by_what_people_call_it(home, name):
    second = models(home)[1]

    assert find(home.ledger, name, "tiny") == find(home.ledger, second[:8], None) == second
    assert find(home.ledger, name, None) == second  # of the only line


def test_of_several_lines_one_must_be_named():
    with closing(open_ledger("sqlite://", clock=lambda: 1)) as ledger:
        with pytest.raises(NotFoundError, match="nothing was released yet"):
            find(ledger, "champion", None)
        for line in ("tiny", "other"):
            ledger.append([Draft(kind="release", key=f"{line}/1", record={"line": line, "counter": 1, "model": line})])
        with pytest.raises(InvalidInputError, match=r"of which line\? Give --line other or tiny"):
            find(ledger, "1", None)
        assert find(ledger, "1", "other") == "other"


@pytest.mark.parametrize(
    ("name", "line", "said"),
    [
        ("9", "tiny", "no release 9"),
        ("champion", "nowhere", "has no champion"),
        ("abc", None, "at least 6 digits"),
        ("0123456789ab", None, "0 found"),
    ],
)
def test_an_unknown_model_is_one_clear_line(home, name, line, said):
    with pytest.raises(FleetmillError, match=said) as error:
        find(home.ledger, name, line)
    assert "\n" not in str(error.value)


def test_a_model_made_elsewhere_owes_us_nothing_and_is_judged_on_ours(spoiled):
    version = ModelVersion(line="tiny", files={"model.onnx": "f" * 64})
    dataset = [f.key for f in spoiled.ledger.read(kind="dataset")][-1]
    verdict = next(iter(spoiled.ledger.read(kind="verdict"))).record
    spoiled.ledger.append(
        [
            Draft(kind="model", key=version.digest, record=plain(version)),
            Draft(kind="entered", key="tiny/0", record={"line": "tiny", "model": version.digest, "made_by": "Ann"}),
            Draft(
                kind="verdict",
                key=f"tiny/1000/{version.digest[:16]}",
                record={**verdict, "candidate": version.digest, "dataset": dataset},
            ),
        ]
    )
    told = why(spoiled.ledger, version.digest)

    assert (told.made_by, told.learned_from, told.descent[0].run) == ("Ann", (), "")
    assert told.judged_on
    assert receipts.cross_check(spoiled) == []


def test_a_training_that_gave_its_parent_back_ends_the_descent(spoiled):
    second = models(spoiled)[1]
    dataset = [f.key for f in spoiled.ledger.read(kind="dataset")][-1]
    run = Run(line="tiny", line_version=1, dataset=dataset, parent=second, seed=0, settings={"steps": 0}, code="x")
    spoiled.ledger.append([Draft(kind="run", key=run.key, record={**plain(run), "model": second})])

    assert dataset in {t.dataset for t in why(spoiled.ledger, second).descent}
    assert receipts.cross_check(spoiled) == []


# -- fate -------------------------------------------------------------------------------------------------------------


def test_fate_accounts_for_every_instant_of_the_interval(home):
    for device in roll.devices(home.ledger):
        first, last = home.books.lived(device.number)
        told = fate(home.ledger, home.books, device.name, first - S, last + S)
        covered = sorted([(p.start_ns, p.end_ns) for p in told.pieces] + [(g.start_ns, g.end_ns) for g in told.gaps])

        assert covered[0][0] == first - S
        assert covered[-1][1] == last + S
        assert all(a[1] == b[0] for a, b in itertools.pairwise(covered))
        assert told.lived_until_ns == last
        assert all(p.fact for p in told.pieces)
        assert all(p.recording for p in told.pieces if p.account in ("landed", "refined", "left_out"))


def test_bytes_of_pieces_are_shares_that_sum_to_the_whole(home):
    span = next(s for s in spans(home, named(home.ledger, "d0")) if s.bytes > 1000)
    middle = (span.start_ns + span.end_ns) // 2
    halves = [
        sum(p.bytes for p in fate(home.ledger, home.books, "d0", *edges).pieces)
        for edges in ((span.start_ns, middle), (middle, span.end_ns))
    ]

    assert sum(halves) == span.bytes
    assert min(halves) > 0


def test_an_interval_outside_everything_lived_is_said_to_be_so(home):
    told = fate(home.ledger, home.books, "d1", 5, 10)

    assert (told.pieces, told.sessions, told.datasets, told.taught) == ((), (), (), ())
    assert [(g.start_ns, g.end_ns, g.what) for g in told.gaps] == [(5, 10, UNREPORTED)]
    assert told.lived_until_ns == home.books.journal(1).lived_until_ns


def test_fate_follows_to_models_and_to_devices_that_run_them_now(home):
    first, second, third = models(home)
    begin, _ = home.books.lived(0)
    told = fate(home.ledger, home.books, "d0", begin, begin + S)

    assert [s.session for s in told.sessions] == ["d0/s00000"]
    assert {r.model for r in told.taught} == {first, second, third}
    assert {r.model: r.standing.running for r in told.taught}[second] == NAMES
    assert {v.decision for r in told.taught if r.model == third for v in r.standing.verdicts} == {"held"}
    assert [h.role for h in told.datasets] == ["train"] * 3


def test_a_model_is_reached_through_its_parent_where_its_own_dataset_lacks_the_interval(spoiled):
    """A later dataset may leave sessions out: what the parent learned is still in the child."""
    first = models(spoiled)[0]
    dataset = next(f.key for f in spoiled.ledger.read(kind="dataset"))
    child = ModelVersion(line="tiny", files={"model.onnx": "e" * 64}, run="r")
    run = Run(line="tiny", line_version=1, dataset="0" * 64, parent=first, seed=0, settings={}, code="x")
    manifest = {**spoiled.ledger.get("dataset", dataset).record["manifest"], "parts": []}
    empty = {"digest": "0" * 64, "manifest": manifest, "members": [], "shards": {}}
    spoiled.ledger.append(
        [
            Draft(kind="dataset", key="0" * 64, record=empty),
            Draft(kind="model", key=child.digest, record=plain(child)),
            Draft(kind="run", key=run.key, record={**plain(run), "model": child.digest}),
        ]
    )
    begin, _ = spoiled.books.lived(0)
    reached = {r.model: r for r in fate(spoiled.ledger, spoiled.books, "d0", begin, begin + S).taught}

    assert reached[child.digest].through == first
    assert reached[child.digest].datasets == (dataset,)
    assert receipts.cross_check(spoiled) == []


def test_an_imported_interval_has_a_fate_too(home):
    begin, end = home.books.lived(3)
    told = fate(home.ledger, home.books, "old", begin, end)

    assert {p.account for p in told.pieces} == {"refined"}
    assert len(told.sessions) == 4
    assert told.taught
    assert told.lived_until_ns == end


def test_what_a_device_runs_is_its_last_signed_word(spoiled):
    second = spoiled.ledger.get("model", models(spoiled)[1]).record["files"]["model.onnx"]
    first = spoiled.ledger.get("model", models(spoiled)[0]).record["files"]["model.onnx"]

    def say(device, state, runs):
        report = {
            "device": device,
            "line": "tiny",
            "state": state,
            "release_counter": 0,
            "model_file": "",
            "reason": "",
        }
        record = {"report": {**report, "running": runs}, "signature": ""}
        spoiled.ledger.append([Draft(kind="deployment", key=f"{device}/{state}/{runs[:8]}", record=record)])

    say("d0", "failed", first)  # a slot was damaged: it fell back
    say("d1", "refused", second)  # it refused something and runs on
    say("d2", "failed", "9" * 64)  # it never confirmed that

    assert running(spoiled.ledger) == {"d0": first, "d1": second}


@pytest.mark.parametrize(("start", "end"), [(10, 10), (10, 5)])
def test_an_interval_that_runs_backwards_is_refused(home, start, end):
    with pytest.raises(InvalidInputError, match="must be after START"):
        fate(home.ledger, home.books, "d0", start, end)


def test_an_unknown_device_is_refused(home):
    with pytest.raises(NotFoundError, match="device 'nobody'"):
        fate(home.ledger, home.books, "nobody", 0, 1)


# -- instants ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1767225600000000001", 1767225600000000001),
        ("2026-01-01T00:00:00Z", 1767225600 * S),
        ("2026-01-01 00:00:00.000000001+00:00", 1767225600 * S + 1),
        ("2026-01-01", 1767225600 * S),
        ("+0.000000001s", 1001),
        ("+12.5s", 12_500_001_000),
    ],
)
def test_an_instant_is_read_to_the_nanosecond(text, ns):
    assert read_moment(text, "START", first_ns=1000) == ns


@pytest.mark.parametrize(
    "text", ["soon", "", "-5", "2026-13-01", "2026-01-01T25:00:00Z", "2026-01-01T00:00:00+02:00", "+5"]
)
def test_what_is_no_instant_is_refused(text):
    with pytest.raises(InvalidInputError, match="START"):
        read_moment(text, "START", first_ns=0)


def test_an_instant_is_written_as_it_is_read():
    assert read_moment(iso(1767225612500000001), "END", first_ns=None) == 1767225612500000001


def test_a_path_is_read_once_for_many_questions(home):
    back, forward = Backward(home.ledger), Forward(home.ledger, home.books)
    device = named(home.ledger, "d2")

    assert [back.why(m) for m in models(home)] == [why(home.ledger, m) for m in models(home)]
    assert forward.fate(device, 0, 2**62) == fate(home.ledger, home.books, "d2", 0, 2**62)


def test_receipts_are_plain_json(home):
    told = plain(why(home.ledger, models(home)[2])), plain(fate(home.ledger, home.books, "d0", 0, 2**62))

    assert json.loads(json.dumps(told)) == list(told)
