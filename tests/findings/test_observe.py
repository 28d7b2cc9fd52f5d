"""The findings of a turn: what is said follows from what was lived, once, signed, and the same after a kill."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from finished import copied, open_fleet, settings
from fleetmill import loop
from fleetmill.core import canonical
from fleetmill.core.errors import IntegrityError, NotFoundError, TooNewError, TrustError
from fleetmill.core.finding import KINDS, Findings, read_findings
from fleetmill.core.line import Step
from fleetmill.core.plain import plain
from fleetmill.findings import observe
from fleetmill.findings.gather import takeovers
from fleetmill.findings.published import contact_sheet, published
from fleetmill.home import open_home, root_key_beside
from fleetmill.judge import people
from fleetmill.receive import inbox
from fleetmill.seams import recordings
from fleetmill.seams.ledger import Draft
from fleetmill.seams.processes import cpu_seconds_here
from fleetmill.testing import tiny_line
from fleetmill.testing.tiny import PERIOD_NS


@pytest.fixture
def home(finished):
    with open_home(replace(settings(finished.parent), home=finished), own=False) as opened:
        yield opened


@pytest.fixture
def spoiled(finished, tmp_path):
    with copied(finished, tmp_path) as opened:
        yield opened


def verifier(home):
    return lambda data, signature: home.repository.verify_statement(data, signature, what="findings")


def told(home, turn=None, line=None):
    return published(home.ledger, home.blobs, line=line, turn=turn, verify=verifier(home))


def of_kind(found, kind):
    return [f for f in found.findings.findings if f.kind == kind]


# -- what every finding has -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", [0, 1, 2])
def test_each_turn_has_findings_with_numbers_evidence_and_a_fact(home, turn):
    found = told(home, turn)
    refs = {r["digest"]: r for f in home.ledger.read(kind="session") for r in f.record["manifest"]["recordings"]}

    assert (found.findings.line, found.findings.turn) == ("tiny", turn)
    assert [KINDS.index(f.kind) for f in found.findings.findings] == sorted(
        KINDS.index(f.kind) for f in found.findings.findings
    )
    for finding in found.findings.findings:
        assert finding.sentence
        assert finding.numbers
        assert 0 < finding.fact <= found.findings.head
        for shown in finding.evidence:
            assert refs[shown.recording]["start_ns"] <= shown.start_ns < shown.end_ns
            assert shown.end_ns <= refs[shown.recording]["end_ns"]


def test_the_document_is_canonical_signed_and_named_in_the_ledger(home):
    found = told(home, 1)
    record = home.ledger.get("findings", "tiny/1").record
    value = json.loads(found.document)

    assert canonical.dumps(value) == found.document
    assert (value["type"], value["version"], value["head"]) == ("fleet.findings", 1, record["head"])
    assert found.digest == record["document"]
    assert read_findings(found.document, "again") == found.findings
    assert sorted({f["sheet"] for f in value["findings"]} - {""}) == record["sheets"]


def test_a_document_that_was_changed_is_refused(spoiled):
    record = spoiled.ledger.get("findings", "tiny/2").record
    path = spoiled.blobs.path(record["document"])
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b'"turn":2', b'"turn":3', 1))

    with pytest.raises(TrustError, match="is not what key"):
        told(spoiled, 2)


def test_another_homes_key_signs_nothing_here(home, tmp_path):
    with open_fleet(tmp_path) as fleet:
        signature = fleet.home.repository.sign_statement(b"{}")

        fleet.home.repository.verify_statement(b"{}", signature, what="it")
        with pytest.raises(TrustError, match="no targets key of any root"):
            home.repository.verify_statement(b"{}", signature, what="it")


def test_what_a_key_signed_before_it_was_replaced_is_still_known_to_be_its(finished, spoiled):
    before = told(spoiled, 1)
    spoiled.repository.renew(root_key_beside(finished), now_ns=spoiled.clock(), replace=["targets"])

    assert told(spoiled, 1) == before
    fresh = spoiled.repository.sign_statement(b"{}")
    assert fresh.keyid != before.signature.keyid
    spoiled.repository.verify_statement(b"{}", fresh, what="it")
    with pytest.raises(TrustError):
        spoiled.repository.verify_statement(b"{}", replace(fresh, keyid=before.signature.keyid), what="it")


def test_nothing_that_could_be_metadata_is_signed_as_a_statement(home):
    for data in (b'{"_type":"targets"}', b"[]", b"no json"):
        with pytest.raises(Exception, match=r"statement|not JSON"):
            home.repository.sign_statement(data)


GOLDEN = (
    b'{"findings":[{"evidence":[{"device":"d0","end_ns":1767225604900000000,"recording":"ab","session":"s00001",'
    b'"start_ns":1767225603400000000}],"fact":7,"kind":"failures","later":[1],"numbers":{"count":1,"per_lived_hour":2.5},'
    b'"sentence":"1 takeover","sheet":""}],"head":9,"line":"tiny","turn":1,"type":"fleet.findings","version":1}'
)


def test_what_was_written_once_is_read_and_written_alike_with_fields_that_came_later():
    found = read_findings(GOLDEN, "golden")

    assert found.document() == GOLDEN
    assert found.findings[0].extra == {"later": [1]}
    assert found.findings[0].evidence[0].start_ns == 1767225603400000000


def test_a_document_of_a_newer_version_or_of_something_else_is_refused():
    made = plain(Findings(line="x", turn=0, head=1, findings=()))

    with pytest.raises(TooNewError):
        read_findings(canonical.dumps({**made, "version": 2}), "it")
    with pytest.raises(IntegrityError, match=r"expected 'fleet\.findings'"):
        read_findings(canonical.dumps({**made, "type": "fleet.other"}), "it")
    with pytest.raises(IntegrityError, match="no document"):
        read_findings(b"{}", "it")


# -- made once --------------------------------------------------------------------------------------------------------


def test_a_turn_killed_before_its_findings_were_signed_makes_the_same_document(spoiled):
    """Whatever has arrived meanwhile: more facts come, and the findings are made again from scratch."""
    first = told(spoiled, 2)

    class Forgetful:
        """The ledger without that one fact, and deaf to it."""

        def __init__(self, ledger):
            self._ledger, self.appended = ledger, []

        def __getattr__(self, name):
            return getattr(self._ledger, name)

        def get(self, kind, key):
            if (kind, key) == ("findings", "tiny/2"):
                raise NotFoundError("gone")
            return self._ledger.get(kind, key)

        def append(self, drafts):
            self.appended += drafts
            return [None for _ in drafts]

    late = {"device": "d0", "line": "tiny", "state": "failed", "release_counter": 9, "model_file": "", "running": ""}
    spoiled.ledger.append(
        [Draft(kind="deployment", key="late", record={"report": {**late, "reason": "x"}, "signature": ""})]
    )
    forgetful = Forgetful(spoiled.ledger)
    verdict = [f.key for f in spoiled.ledger.read(kind="verdict")][-1]
    observe.observe(
        forgetful, spoiled.blobs, tiny_line, turn=2, verdict=verdict, release=0, sign=spoiled.repository.sign_statement
    )

    (draft,) = forgetful.appended
    assert draft.record == spoiled.ledger.get("findings", "tiny/2").record
    assert draft.record["document"] == first.digest


def test_what_was_made_is_given_back(spoiled):
    def sign(data):
        raise AssertionError("signed twice")

    before = spoiled.ledger.head()
    fact = observe.observe(spoiled.ledger, spoiled.blobs, tiny_line, turn=1, verdict="any", release=0, sign=sign)

    assert (fact.kind, fact.key) == ("findings", "tiny/1")
    assert spoiled.ledger.head() == before


def test_the_cost_that_was_noted_first_stays(spoiled):
    before = spoiled.ledger.get("cost", "tiny/1")

    assert observe.note_cost(spoiled.ledger, tiny_line, turn=1, cpu_seconds=1e6) == before
    assert 0 < before.record["cpu_seconds"] < 1e4


@pytest.mark.parametrize(("word", "last"), [("approved", "release"), ("refused", "decided")])
def test_where_a_person_decides_the_findings_wait_and_the_cost_does_not(tmp_path, word, last):
    with open_fleet(tmp_path) as fleet:
        home = fleet.home
        asked = replace(home.settings.lines["tiny"], approval="required")
        home = replace(home, settings=replace(home.settings, lines={"tiny": asked}))
        fleet.bring(0, 1, 2)
        fleet.everyone_once()

        assert loop.turn(home, tiny_line) is None
        noted = home.ledger.get("cost", "tiny/0")
        with pytest.raises(NotFoundError, match="turn 0 has not ended"):
            told(home, 0, "tiny")
        people.decide(home.ledger, next(home.ledger.read(kind="model")).key, word=word, by="Ann", reason="so")
        turned = loop.turn(home, tiny_line)

        found = told(home)
        (factory,) = of_kind(found, "factory")
        assert turned.number == 0
        assert home.ledger.get("cost", "tiny/0") == noted
        assert found.findings.head == [f.seq for f in home.ledger.read(kind=last)][-1]
        assert factory.numbers["accepted"] == (word == "approved")
        assert home.books.faults() == []


# -- 1. failures ------------------------------------------------------------------------------------------------------


def test_every_kept_takeover_is_evidence_of_exactly_one_finding(home):
    # a fourth campaign was lived after the last turn: no findings know of it
    known = {s for f in home.ledger.read(kind="turn_begun") for s in f.record["sessions"]}
    taken = [t for t in takeovers(tiny_line, inbox.sessions(home.ledger, "tiny"), home.blobs) if t.session.key in known]
    found = [f for turn in (0, 1, 2) for f in of_kind(told(home, turn), "failures")]
    shown = [(e.device, e.recording, e.start_ns, e.end_ns) for f in found for e in f.evidence]

    clips = [t.clip(10**9, 5 * 10**8) for t in taken]
    assert sorted(shown) == sorted((c.device, c.recording, c.start_ns, c.end_ns) for c in clips)
    assert sum(f.numbers["count"] for f in found) == len(taken) > 10


def test_a_takeover_is_where_the_channel_rises_also_from_one_recording_into_the_next(home):
    """Counted by hand; one that goes on where a recording ended and the next began at once is one."""
    for session in inbox.sessions(home.ledger, "tiny"):
        by_hand, was, until = [], 0.0, 0
        for ref in session.recordings:
            was = was if ref.start_ns == until else 0.0
            for m in recordings.read_messages(home.blobs.get(ref.digest), "r"):
                if m.topic == "takeover":
                    now = float(np.asarray(m.value["data"]))
                    by_hand += [m.log_time_ns] if now > was else []
                    was = now
            until = ref.end_ns

        assert [t.onset_ns for t in takeovers(tiny_line, [session], home.blobs)] == by_hand


def test_takeovers_are_ranked_with_rates_by_lived_hours_and_a_sheet(home):
    found = of_kind(told(home, 1), "failures")
    counts = [f.numbers["count"] for f in found]

    assert counts == sorted(counts, reverse=True)
    for finding in found:
        numbers = finding.numbers
        assert numbers["model"] == next(iter(home.ledger.read(kind="model"))).key
        assert numbers["lived_hours"] == pytest.approx(3 * 6.0 / 3600, rel=1e-4)
        assert numbers["per_lived_hour"] == pytest.approx(numbers["count"] / numbers["lived_hours"], rel=1e-4)
        assert sum(numbers["devices"].values()) == numbers["count"] == len(finding.evidence)
        assert contact_sheet(home.ledger, home.blobs, finding.sheet).startswith(b"<svg")


def test_a_turn_in_which_nobody_took_over_says_so(home):
    (finding,) = of_kind(told(home, 0), "failures")

    assert "no takeover in" in finding.sentence
    assert finding.numbers["count"] == 0


def test_only_sheets_that_findings_name_are_given_out(home):
    document = home.ledger.get("findings", "tiny/1").record["document"]

    with pytest.raises(NotFoundError, match="no finding names"):
        contact_sheet(home.ledger, home.blobs, document)


# -- lines with other features ----------------------------------------------------------------------------------------


def with_camera(world):
    """A tiny world that also sees: what it sees is as bright as its first number."""

    class Seeing:
        def __init__(self, scenario, seed):
            self._world = world(scenario, seed)

        def begin(self):
            return self._seen(self._world.begin())

        def act(self, action):
            return self._seen(self._world.act(action))

        def close(self):
            self._world.close()

        def _seen(self, step):
            level = np.uint8(np.clip(128 + 40 * step.observation["x"][0], 0, 255))
            picture = np.full((8, 10, 3), level, np.uint8)
            return Step(
                time_ns=step.time_ns,
                observation={**step.observation, "camera": picture},
                label=step.label,
                takeover=step.takeover,
                events=step.events,
                done=step.done,
            )

    return Seeing


def two_turns(folder, line, **more):
    """A fleet of that line, two turns; (home, what the second taught)."""
    with open_fleet(folder, line=line, **more) as fleet:
        for _ in range(2):
            fleet.everyone_once()
            loop.turn(fleet.home, line)
        yield fleet.home


def test_a_line_with_a_camera_gets_pictures(tmp_path):
    camera = replace(tiny_line.features[0], name="camera", dtype="uint8", shape=(8, 10, 3))
    line = replace(tiny_line, features=(*tiny_line.features, camera), world=with_camera(tiny_line.world))

    for home in two_turns(tmp_path, line):
        (finding, *_) = of_kind(told(home), "failures")
        assert home.blobs.get(finding.sheet).startswith(b"\xff\xd8")


def test_slices_that_tell_takeovers_apart_group_them_and_those_true_of_all_do_not(tmp_path):
    line = replace(
        tiny_line,
        slices={
            "always": lambda e: True,
            "high": lambda e: bool(e.columns["x"][len(e.times_ns) // 2, 0] > 0),
            "never": lambda e: False,
        },
    )
    for home in two_turns(tmp_path, line):
        found = of_kind(told(home), "failures")

        assert {tuple(f.numbers["slices"]) for f in found} == {("high",), ()}
        assert all("always" not in f.sentence for f in found)
        assert {tuple(f.numbers["outside"]) for f in found} == {("never",), ("high", "never")}
        weak = of_kind(told(home), "weak_slices")
        assert all(w.numbers["slice"] in ("always", "high") and w.numbers["times_worse"] > 1 for w in weak)


def test_a_line_without_the_channel_has_no_such_finding(tmp_path):
    line = replace(tiny_line, features=tuple(f for f in tiny_line.features if f.name != "takeover"))

    for home in two_turns(tmp_path, line):
        assert of_kind(told(home), "failures") == []


# -- 3. drift ---------------------------------------------------------------------------------------------------------


def test_before_the_second_turn_there_is_nothing_to_drift_from(home):
    assert of_kind(told(home, 0), "drift") == []
    (finding,) = of_kind(told(home, 1), "drift")
    assert (finding.numbers["sessions_new"], finding.numbers["sessions_before"]) == (3, 6)


def test_too_few_sessions_cannot_tell_of_drift(tmp_path):
    for home in two_turns(tmp_path / "a", tiny_line):
        (finding,) = of_kind(told(home), "drift")
        assert "3 sessions against 3 cannot single out one of 3 components" in finding.sentence

    with open_fleet(tmp_path / "b") as fleet:
        fleet.bring(0, 1, 2, 3)
        line = replace(tiny_line, recipe=None)
        home = replace(fleet.home, settings=replace(fleet.home.settings, lines={}))
        loop.turn(home, line)
        fleet.bring(4)
        loop.turn(home, line)
        (finding,) = of_kind(told(fleet.home), "drift")
        assert "1 new and 4 earlier sessions have rows, at least 3" in finding.sentence


def test_a_component_that_moved_is_drift_and_the_steady_ones_are_not(tmp_path):
    class Shifted:
        """From its second turn on the first number is larger by five."""

        def __init__(self, scenario, seed):
            self._world = tiny_line.world(scenario, seed)

        def begin(self):
            return self._moved(self._world.begin())

        def act(self, action):
            return self._moved(self._world.act(action))

        def close(self):
            self._world.close()

        def _moved(self, step):
            x = step.observation["x"] + np.array([5, 0, 0], np.float32)
            return replace(step, observation={"x": x})

    with open_fleet(tmp_path, sessions=3) as fleet:
        fleet.everyone_once()
        loop.turn(fleet.home, tiny_line)
        fleet.everyone_once(world=Shifted)
        loop.turn(fleet.home, tiny_line)
        found = of_kind(told(fleet.home), "drift")

        drifted = [f.numbers["component"] for f in found if "drifted" in f.sentence]
        assert drifted[0] == "x[0]"
        assert not {"x[1]", "x[2]"} & set(drifted)
        assert found[0].numbers["mean_new"] > found[0].numbers["mean_before"] + 3
        assert found[0].numbers["p_family"] < 0.05
        assert found[0].evidence


# -- 4. unlike, 5. factory --------------------------------------------------------------------------------------------


def test_a_device_whose_driver_takes_over_all_the_time_stands_out(tmp_path):
    class Nervous:
        """Its safety driver takes over at every other instant."""

        def __init__(self, scenario, seed):
            self._world = tiny_line.world(scenario, seed)

        def begin(self):
            return self._held(self._world.begin())

        def act(self, action):
            return self._held(self._world.act(action))

        def close(self):
            self._world.close()

        def _held(self, step):
            held = (step.time_ns // PERIOD_NS) % 2 == 1
            return replace(step, takeover={"y": step.label["label.y"]} if held else None)

    class Calm(Nervous):
        """Nobody takes over."""

        def _held(self, step):
            return replace(step, takeover=None)

    with open_fleet(tmp_path, ratio=1.0) as fleet:
        fleet.everyone_once()
        loop.turn(fleet.home, tiny_line)
        fleet.everyone_once(world={"d0": Calm, "d1": Calm, "d2": Nervous})
        loop.turn(fleet.home, tiny_line)
        *out, counts = of_kind(told(fleet.home), "unlike")

    device = next(f for f in out if f.numbers["device"] == "d2")
    assert device.numbers["per_lived_hour"] > device.numbers["rest_per_lived_hour"] == 0
    assert device.numbers["p_family"] < 0.05
    assert len(device.evidence) == device.numbers["takeovers"] > 10
    assert counts.numbers["stand_out"] == len(out)
    assert counts.numbers["devices"]["d0"]["takeovers"] == 0


def test_plain_counts_are_those_of_the_ledger(home):
    for turn in (0, 1, 2):
        (counts,) = of_kind(told(home, turn), "unlike")
        taken = set(home.ledger.get("turn_begun", f"tiny/{turn}").record["sessions"])
        before = set(home.ledger.get("turn_begun", f"tiny/{turn - 1}").record["sessions"]) if turn else set()
        new = [s for s in inbox.sessions(home.ledger, "tiny") if s.key in taken - before]

        assert counts.numbers["bytes_kept"] == sum(r.bytes for s in new for r in s.recordings)
        assert sum(d["sessions"] for d in counts.numbers["devices"].values()) == len(new)


def test_cpu_time_counts_children_that_still_work():
    burn = "import sys, time\nwhile time.process_time() < 0.3: pass\nprint('done', flush=True); sys.stdin.read()"
    before = cpu_seconds_here()
    with subprocess.Popen(
        [sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "done\n"
        living = cpu_seconds_here()
        child.stdin.close()
        child.wait()

    assert living - before >= 0.25
    assert cpu_seconds_here() - before >= 0.25


def test_the_factorys_sheet_adds_up(home):
    (sheet,) = of_kind(told(home, 2), "factory")
    costs = [f.record["cpu_seconds"] for f in home.ledger.read(kind="cost")]
    numbers = sheet.numbers

    assert (numbers["candidates"], numbers["accepted"], numbers["turns_measured"]) == (3, 2, 3)
    assert numbers["cpu_seconds"] == pytest.approx(sum(costs), rel=1e-4)
    assert numbers["cpu_seconds_per_accepted"] == pytest.approx(sum(costs) / 2, rel=1e-4)
    assert numbers["label_rows_by_source"] == {"oracle": 1.0}
    assert numbers["wall_seconds"] > 0
    assert "3 candidates made, 2 accepted (yield 67%)" in sheet.sentence
