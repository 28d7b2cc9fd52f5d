"""People decide, models from elsewhere are judged like our own, and a line says what it waits for."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from fleetmill import due, loop
from fleetmill.core.errors import ConflictError, IntegrityError, InvalidInputError, NotFoundError
from fleetmill.home import init_home, open_home
from fleetmill.judge import people
from fleetmill.receive import imports
from fleetmill.release import publish as release
from fleetmill.settings import LineSettings, Settings, TurnWhen, read_settings
from fleetmill.testing import Clock, tiny_file, tiny_line
from fleetmill.train import elsewhere
from matmul import AWFUL, PERFECT


def bring(home, folder, seeds):
    folder.mkdir(exist_ok=True)
    for seed in seeds:
        path = folder / f"s{seed}.tiny.json"
        path.write_bytes(tiny_file(seed, scenario="default" if seed < 10 else "field"))
        imports.import_path(home.ledger, home.books, home.blobs, tiny_line, path, device=f"d{seed % 5}")


@pytest.fixture
def opened(tmp_path):
    def open_with(**line):
        settings = Settings(home=tmp_path / "home", seed=3, lines={"tiny": LineSettings(**line)})
        init_home(settings, now_ns=Clock()())
        return open_home(settings, clock=clock)

    clock = Clock()
    return open_with


def test_nothing_goes_out_before_somebody_has_said_yes(opened, tmp_path):
    with opened(approval="required") as home:
        bring(home, tmp_path / "in", range(4))

        assert loop.turn(home, tiny_line) is None
        waits = due.waiting(home, tiny_line)
        assert home.repository.counters() == {}
        assert waits.approval[:12] in waits.sentence()
        bring(home, tmp_path / "in", range(10, 16))  # also when more arrives
        assert loop.turn(home, tiny_line) is None

        people.decide(home.ledger, waits.approval[:10], word="approved", by="Ada", reason="looked at the clips")

        turned = loop.turn(home, tiny_line)
        assert (turned.number, turned.release.counter) == (0, 1)
        assert home.repository.counters() == {"tiny": 1}


def test_a_person_stops_what_the_gate_let_through(opened, tmp_path):
    with opened(approval="required") as home:
        bring(home, tmp_path / "in", range(4))
        loop.turn(home, tiny_line)
        model = due.waiting(home, tiny_line).approval

        people.decide(home.ledger, model, word="refused", by="Ada", reason="jerks at the kerb")
        people.decide(home.ledger, model, word="refused", by="Ada", reason="jerks at the kerb")
        turned = loop.turn(home, tiny_line)

        assert (turned.verdict.decision, turned.release) == ("accepted", None)
        assert home.ledger.get("turn_ended", "tiny/0").record["decision"] == "refused"
        assert release.champion(home.ledger, "tiny") is None
        with pytest.raises(ConflictError, match="Ada has refused it"):
            people.decide(home.ledger, model, word="approved", by="Bob", reason="I like it")


def test_nobody_lets_through_what_the_gate_held_and_nothing_is_decided_twice(opened, tmp_path):
    with opened() as home:
        bring(home, tmp_path / "in", range(4))
        out = loop.turn(home, tiny_line).candidate.digest
        held = elsewhere.add(home.ledger, home.blobs, home.runtime, tiny_line, AWFUL, made_by="a saboteur")
        assert loop.examine(home, tiny_line).decision == "held"

        with pytest.raises(ConflictError, match="nobody can let it through"):
            people.decide(home.ledger, held.digest, word="approved", by="Ada", reason="please")
        with pytest.raises(ConflictError, match="went out already"):
            people.decide(home.ledger, out, word="refused", by="Ada", reason="too late")
        with pytest.raises(NotFoundError, match="no such model"):
            people.decide(home.ledger, "f" * 64, word="approved", by="Ada", reason="?")
        with pytest.raises(InvalidInputError, match="--reason"):
            people.decide(home.ledger, out, word="approved", by="Ada", reason=" ")


def test_a_model_from_elsewhere_is_judged_and_released_like_our_own(opened, tmp_path):
    with opened() as home:
        assert loop.examine(home, tiny_line) is None
        entered = elsewhere.add(home.ledger, home.blobs, home.runtime, tiny_line, PERFECT, made_by="Ada, by hand")
        assert loop.examine(home, tiny_line) is None  # nothing to judge it with yet
        bring(home, tmp_path / "in", range(4))
        ours = loop.turn(home, tiny_line)

        verdict = loop.examine(home, tiny_line)

        assert (verdict.candidate, verdict.champion) == (entered.digest, ours.candidate.digest)
        assert verdict.decision == "accepted"
        champion = release.champion(home.ledger, "tiny")
        assert (champion.model, champion.counter) == (entered.digest, ours.release.counter + 1)
        assert loop.examine(home, tiny_line) is None
        assert elsewhere.add(home.ledger, home.blobs, home.runtime, tiny_line, PERFECT, made_by="x") == entered

        bring(home, tmp_path / "in", range(10, 16))
        turned = loop.turn(home, tiny_line)  # goes on from the last model that was ours
        run = next(f.record for f in home.ledger.read(kind="run") if f.record["model"] == turned.candidate.digest)
        assert run["parent"] == ours.candidate.digest
        assert turned.verdict.champion == entered.digest


def test_an_examination_waits_for_a_person_too(opened, tmp_path):
    with opened(approval="required") as home:
        bring(home, tmp_path / "in", range(4))
        loop.turn(home, tiny_line)
        people.decide(home.ledger, due.awaited(home, tiny_line), word="approved", by="Ada", reason="good")
        loop.turn(home, tiny_line)
        entered = elsewhere.add(home.ledger, home.blobs, home.runtime, tiny_line, PERFECT, made_by="Ada")

        assert loop.examine(home, tiny_line) is None
        assert due.awaited(home, tiny_line) == entered.digest
        people.decide(home.ledger, entered.digest, word="approved", by="Ada", reason="good")
        assert loop.examine(home, tiny_line).decision == "accepted"
        assert release.champion(home.ledger, "tiny").model == entered.digest


def test_a_model_that_does_not_fit_the_line_is_not_taken(opened):
    with opened() as home:
        add = {"ledger": home.ledger, "blobs": home.blobs, "runtime": home.runtime, "line": tiny_line}
        with pytest.raises(IntegrityError):
            elsewhere.add(**add, data=b"no model", made_by="Ada")
        with pytest.raises(InvalidInputError, match="--made-by"):
            elsewhere.add(**add, data=PERFECT, made_by="")
        other = replace(tiny_line, model=replace(tiny_line.model, outputs=tiny_line.model.inputs))
        with pytest.raises(InvalidInputError, match="line tiny needs"):
            elsewhere.add(**{**add, "line": other}, data=PERFECT, made_by="Ada")
        assert list(home.ledger.read(kind="entered")) == []


def test_what_was_trained_here_does_not_come_from_elsewhere(opened, tmp_path):
    with opened() as home:
        bring(home, tmp_path / "in", range(4))
        ours = loop.turn(home, tiny_line).candidate
        data = home.blobs.get(ours.files["model.onnx"])
        with pytest.raises(ConflictError, match="was trained here"):
            elsewhere.add(home.ledger, home.blobs, home.runtime, tiny_line, data, made_by="me")


def test_a_line_turns_with_so_many_sessions_or_after_so_many_hours(opened, tmp_path):
    with opened(turn_when=TurnWhen(sessions=6, hours=2.0)) as home:
        bring(home, tmp_path / "in", range(4))
        waits = due.waiting(home, tiny_line)
        assert (loop.turn(home, tiny_line), waits.sessions) == (None, 2)
        assert waits.hours == pytest.approx(2.0, abs=0.01)
        assert "2 more closed sessions" in waits.sentence()

        home.clock.forward(1.9 * 3600)
        assert loop.turn(home, tiny_line) is None
        home.clock.forward(0.2 * 3600)
        assert loop.turn(home, tiny_line).number == 0
        assert due.waiting(home, tiny_line).hours is None


def test_the_file_of_the_first_landing_is_still_read(tmp_path):
    (tmp_path / "fleetmill.toml").write_text(
        "[lines.a]\nsessions = 7\ndeadline_seconds = 7200\n[lines.b]\nsessions = 7\n[lines.b.campaign]\n"
    )
    lines = read_settings(home=tmp_path, environment={}).lines

    assert lines["a"].turn_when == TurnWhen(sessions=7, hours=2.0)
    assert lines["b"].turn_when == TurnWhen()  # a campaign said it


@pytest.mark.parametrize(
    ("text", "said"),
    [("approval = 'maybe'", "must be one of none, required"), ("turn_when = {hours = -1}", "0 or more"),
     ("turn_when = {days = 1}", "no such setting: days"), ("hardware = []", "no device could take a release"),
     ("campaign = {sessions = -2}", "must be at least 1"), ("campaign = {budget_ratio = 7.0}", "up to 1"),
     ("first_campaign = {seconds = 0.0}", "above 0")],
)  # fmt: skip
def test_a_wrong_setting_is_named(tmp_path, text, said):
    (tmp_path / "fleetmill.toml").write_text(f"[lines.a]\n{text}\n")

    with pytest.raises(InvalidInputError, match=said):
        read_settings(home=tmp_path, environment={})


def test_the_status_is_json(opened, tmp_path):
    from fleetmill.core.plain import plain

    with opened(turn_when=TurnWhen(sessions=6)) as home:
        bring(home, tmp_path / "in", range(2))
        assert json.loads(json.dumps(plain(due.waiting(home, tiny_line))))["sessions"] == 4
