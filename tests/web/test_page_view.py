"""The fold over facts, and the rules over it: steps, answers, takeovers, the tail."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fleetmill.home import open_home
from fleetmill.seams.ledger import Draft, Fact, open_ledger
from fleetmill.settings import LineSettings, Settings
from fleetmill.testing.kit import Clock
from fleetmill.web import curve, steps, tiles
from fleetmill.web.glimpse import Held
from fleetmill.web.look import Eye
from fleetmill.web.state import Clip, DeviceSeen, Lived
from fleetmill.web.view import LAST_FACTS, View

ASKED = LineSettings()


@pytest.fixture(scope="session")
def told(finished):
    """The facts of the finished demo."""
    with open_home(Settings(home=finished), own=False) as home:
        return list(home.ledger.read())


class Told:
    """Facts made up one by one."""

    def __init__(self):
        self.view, self._clock = View(), Clock()

    def add(self, kind, key, **record):
        fact = Fact(
            seq=self.view.seq + 1,
            time_ns=self._clock(),
            kind=kind,
            key=key,
            record=record,
            digest=f"{self.view.seq:064x}",
        )
        self.view.take([fact])
        return fact

    def device(self, name, number=0, key="ab"):
        self.add("device", name, name=name, number=number, line="tiny", hardware="cpu", public_key=key)

    def report(self, name, state, counter, reason=""):
        report = {"device": name, "line": "tiny", "state": state, "release_counter": counter}
        report |= {"model_file": "f" * 64, "running": "a" * 64, "reason": reason}
        return self.add("deployment", f"{name}/{counter}/{state}", report=report, signature="")

    def release(self, counter):
        self.add("release", f"tiny/{counter}", line="tiny", counter=counter, model="m", model_file="f", verdict="v")

    def verdict(self, number, decision="accepted", candidate="c" * 64):
        reason = {"slice": "all", "metric": "error", "better": "lower", "candidate": 1.0, "other": 2.0, "low": 0.4}
        record = {"line": "tiny", "candidate": candidate, "champion": "", "decision": decision, "pairs": 16}
        self.add("verdict", f"tiny/{number}/cc", reasons=[{**reason, "high": 0.6}], **record)

    def steps(self, asked=ASKED):
        line = self.view.line("tiny")
        return {s.name: s for s in steps.steps(line, self.view.devices_of("tiny"), asked)}


def test_folding_fact_by_fact_gives_what_folding_all_at_once_gives(told):
    once, slowly = View(), View()
    once.take(told)
    for fact in told:
        slowly.take([fact])

    assert (slowly.lines, slowly.devices, slowly.facts) == (once.lines, once.devices, once.facts)
    assert (slowly.seq, slowly.head) == (told[-1].seq, told[-1].digest)


def test_the_step_of_an_open_turn_follows_from_its_facts(told):
    view, seen = View(), []
    for fact in told:
        view.take([fact])
        turn = view.line("tiny").turn
        if turn is not None and turn.number == 1 and turn.phase not in seen:
            seen.append(turn.phase)
            found = steps.steps(view.line("tiny"), view.devices_of("tiny"), ASKED)
            assert next(s for s in found if s.name == turn.phase).state in ("works", "idle")
            assert turn.phase in steps.now(view.line("tiny"), found) or turn.phase == "release"

    assert seen == ["refine", "train", "judge", "release"]
    assert view.line("tiny").turn is None
    assert view.line("tiny").turns == 3


def test_what_devices_owe_the_campaign_is_counted_and_named():
    told = Told()
    for number in range(5):
        told.device(f"d{number}", number)
    told.device("old", 5, key="")
    told.add("campaign", "tiny/0", line="tiny", number=0, sessions=2, seconds=1.0, triggers=[])
    digest = told.view.line("tiny").campaign.digest
    manifest = {"line": "tiny", "device": "d0", "campaign": digest, "recordings": []}
    told.add("session", "d0/s0", manifest=manifest, signature="")

    live = told.steps()["live"]

    assert (live.state, live.waits, live.of) == ("works", 9, "sessions")
    assert live.says == "Campaign 0: 1 of 10 sessions are here; missing from d0, d1, d2 and 2 more."


def test_recordings_whose_session_is_not_closed_are_with_receive():
    told = Told()
    told.device("d0")
    for n in range(2):
        told.add("recording", f"r{n}", line="tiny", device="d0", session="s0")
    before = told.steps()["receive"]
    manifest = {"line": "tiny", "device": "d0", "campaign": "", "recordings": []}
    told.add("session", "d0/s0", manifest=manifest, signature="")

    assert (before.state, before.waits) == ("works", 2)
    assert (told.steps()["receive"].state, told.steps()["refine"].waits) == ("idle", 1)


def test_a_model_that_the_gate_accepted_waits_for_a_person_where_the_settings_ask_for_one():
    told, asked = Told(), LineSettings(approval="required")
    told.verdict(0)
    waits = told.steps(asked)
    without = told.steps()
    told.add("decided", "tiny/0/cc", line="tiny", model="c" * 64, word="approved", by="ann", reason="good")
    approved = told.steps(asked)

    assert waits["release"].state == "person"
    assert "fleetmill approve|refuse cccccccccccc" in waits["release"].says
    assert steps.now(told.view.line("tiny"), list(waits.values())).startswith("A person must decide")
    assert without["release"].state == approved["release"].state == "works"


def test_a_model_that_the_gate_accepted_waits_for_a_bench_that_owes_a_scorecard():
    told = Told()
    told.verdict(0)
    found = steps.steps(told.view.line("tiny"), [], LineSettings(), ["track-a"])
    waits = next(s for s in found if s.name == "release")

    assert (waits.state, waits.waits) == ("waits", 1)
    assert "bench track-a to try cccccccccccc" in waits.says


def test_a_model_that_a_person_refused_is_drawn_as_refused_and_waits_for_nobody():
    told, asked = Told(), LineSettings(approval="required")
    told.verdict(0)
    told.add("decided", "tiny/0/cc", line="tiny", model="c" * 64, word="refused", by="ann", reason="no")

    assert told.steps(asked)["release"].state == "idle"
    assert told.view.line("tiny").compared[0].decision == "refused"


def test_a_device_that_confirmed_and_then_refused_something_else_has_said_both():
    told = Told()
    told.device("d0")
    told.release(2)
    first = told.report("d0", "confirmed", 2, "healthy")
    second = told.report("d0", "refused", 0, "an older release")

    device = told.view.devices["d0"]
    said = tiles.tile(device, told.view.line("tiny"), None, {}, id="t").words

    assert [(a.mark.text, a.release, a.fact) for a in said.answers] == [
        ("confirmed", 2, first.seq),
        ("refused", 0, second.seq),
    ]
    assert said.owes == 0
    assert told.steps()["confirm"].says == "1 of 1 confirmed release 2."


def test_a_device_that_has_not_answered_the_newest_release_owes_it():
    told = Told()
    told.device("d0")
    told.device("d1", 1)
    told.release(1)
    told.report("d0", "failed", 1, "no memory")

    confirm = told.steps()["confirm"]
    words = {d.name: tiles.tile(d, told.view.line("tiny"), None, {}, id="t").words for d in told.view.devices.values()}

    assert (confirm.state, confirm.waits) == ("works", 1)
    assert confirm.says == "0 of 2 confirmed release 1, 1 failed, 1 not heard from."
    assert (words["d0"].owes, words["d1"].owes) == (0, 1)


def test_a_model_made_elsewhere_is_with_judge_until_it_is_examined():
    told = Told()
    told.add("entered", "tiny/0", line="tiny", model="e" * 64, made_by="ann")
    waits = told.steps()["judge"]
    told.add("examination", "tiny/0", line="tiny", dataset="d", champion="", campaign=1)
    works = told.steps()["judge"]
    told.add("examined", "tiny/0", line="tiny", model="e" * 64, decision="held", release=0)

    assert (waits.state, works.state, told.steps()["judge"].state) == ("waits", "works", "idle")


def test_the_curve_has_each_turns_candidate_with_the_interval_at_the_level_that_it_had_to_beat(told):
    view = View()
    view.take(told)
    verdicts = [f for f in told if f.kind == "verdict"]

    chart = curve.growing(view.line("tiny"), id="c")

    mine, others = chart.series
    first = verdicts[0].record["reasons"][0]
    assert [p.x for p in mine.points] == [0.0, 1.0, 2.0]
    assert (mine.points[0].y, others.points[0].y) == (first["candidate"], first["other"])
    assert mine.points[0].low == pytest.approx(first["low"] * first["other"])
    assert [p.note for p in mine.points] == ["", "", "held"]
    assert others.points[0].note == "baseline"
    assert "error (lower is better)" in chart.y_label


def test_what_could_not_be_measured_is_not_drawn():
    told = Told()
    reason = {"slice": "all", "metric": "error", "better": "lower", "candidate": -1.0, "other": 2.0, "low": -1.7e308}
    record = {"line": "tiny", "candidate": "c", "champion": "x", "decision": "held", "pairs": 2}
    told.add("verdict", "tiny/0/cc", reasons=[{**reason, "high": 1.7e308}], **record)

    mine = told.view.line("tiny").compared[0]

    assert (mine.value, mine.other, mine.low, mine.high) == (None, 2.0, None, None)
    assert curve.growing(told.view.line("tiny"), id="c").series[0].points == ()


def test_postings_of_one_device_stand_on_one_row_of_the_tail():
    told = Told()
    told.device("d0")
    for n in range(40):
        told.add("moved", f"0/0/{n}", device=0, to="kept")
    told.device("d1", 1)
    told.add("moved", "1/0/0", device=1, to="kept")

    rows = list(told.view.facts)

    assert [(r.first, r.last, r.kind, r.key) for r in rows] == [
        (1, 1, "device", "d0"),
        (2, 41, "moved", "d0"),
        (42, 42, "device", "d1"),
        (43, 43, "moved", "d1"),
    ]


def test_the_tail_is_short(told):
    view = View()
    view.take(told)

    assert len(view.facts) == LAST_FACTS
    assert view.facts[-1].last == told[-1].seq


def test_a_takeover_that_goes_on_into_the_next_recording_began_once():
    clips = tuple(Clip(digest=d, start_ns=a, end_ns=b) for d, a, b in (("x", 0, 10), ("y", 10, 20), ("z", 30, 40)))
    held = Held(onsets=1, at_start=True, at_end=True)
    found = dict.fromkeys("xyz", held)

    assert tiles.onsets(Lived(key="s", clips=clips), found) == 2
    assert tiles.onsets(Lived(key="s", clips=clips), {**found, "y": replace(held, at_start=False)}) == 3
    assert tiles.onsets(Lived(key="s", clips=clips), {}) is None
    assert tiles.onsets(Lived(key="s", clips=()), {}) == 0


def test_of_too_many_devices_those_in_trouble_are_shown_first_then_those_heard_last():
    told = Told()
    for n in range(6):
        told.device(f"d{n}", n)
    told.report("d1", "refused", 1)
    for n in (2, 4):
        told.report(f"d{n}", "confirmed", 1)

    assert [d.name for d in tiles.shown(list(told.view.devices.values()), 3)] == ["d1", "d2", "d4"]
    assert len(tiles.shown(list(told.view.devices.values()), 9)) == 6


def test_hints_say_what_to_do_next_and_nothing_where_all_goes_on():
    told = Told()
    empty = steps.hint(told.view.line("tiny"), [], "home")
    told.add("invited", "d0", name="d0", number=0, line="tiny", secret_sha256="")
    invited = steps.hint(told.view.line("tiny"), told.view.devices_of("tiny"), "home")
    told.device("d0")
    manifest = {"line": "tiny", "device": "d0", "campaign": "", "recordings": []}
    told.add("session", "d0/s0", manifest=manifest, signature="")
    imports = steps.hint(told.view.line("tiny"), told.view.devices_of("tiny"), "home")
    told.add("campaign", "tiny/0", line="tiny", number=0, sessions=2, seconds=1.0, triggers=[])

    assert empty[1] == "fleetmill device enrol NAME --line tiny --home home"
    assert invited[1].startswith("fleetmill device run ")
    assert imports[1] == "fleetmill turn --line tiny --home home"
    assert steps.hint(told.view.line("tiny"), told.view.devices_of("tiny"), "home") == ("", "")


def test_a_fact_of_a_kind_that_this_page_does_not_know_is_only_counted():
    ledger = open_ledger("sqlite://", clock=Clock())
    ledger.append([Draft(kind="of_tomorrow", key="x", record={"a": 1})])
    view = View()
    view.take(ledger.read())
    ledger.close()

    assert (view.seq, view.lines, view.facts[0].kind) == (1, {}, "of_tomorrow")


def test_only_the_last_sessions_of_a_device_are_remembered():
    device = DeviceSeen(name="d0", number=0, line="tiny")
    for n in range(100):
        device.lived.append(Lived(key=f"s{n}", clips=()))

    assert len(device.lived) == 64
    assert device.lived[-1].key == "s99"


def test_what_one_look_has_no_time_for_is_read_by_the_next(finished):
    with open_home(Settings(home=finished), own=False) as home:
        eye = Eye(home)
        hasty = eye.look(budget_seconds=-1.0)
        whole = eye.look(budget_seconds=60.0)

    def shown(seen):
        return {t.name: (t.sight.missing, t.words.takeovers.read) for t in seen.lines[0].tiles}

    assert shown(hasty) == dict.fromkeys(("d0", "d1", "d2", "old"), ("being read", 0))
    assert shown(whole) == {"d0": ("", 4), "d1": ("", 4), "d2": ("", 4), "old": ("", 4)}
