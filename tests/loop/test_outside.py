"""A bench that the owner admitted signs paired trials: evidence that a line may ask for before a model goes out."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from fleetmill import check_line, due, loop
from fleetmill.cli import app
from fleetmill.core import canonical
from fleetmill.core.errors import (
    ConflictError,
    InvalidInputError,
    LineError,
    NotFoundError,
    TooNewError,
    TrustError,
)
from fleetmill.home import init_home, open_home
from fleetmill.judge import outside, people
from fleetmill.receipts.why import why
from fleetmill.receive import imports
from fleetmill.release import publish as release
from fleetmill.seams.signatures import read_statement
from fleetmill.settings import LineSettings, Settings
from fleetmill.testing import Clock, tiny_file, tiny_line, tiny_model
from fleetmill.train import elsewhere

BENCH = Ed25519PrivateKey.from_private_bytes(b"b" * 32)
PUBLIC = BENCH.public_key().public_bytes_raw().hex()
LINE = replace(tiny_line, benches=("track-a",))
GOOD, BAD = 0.1, 9.0  # the candidate's error per step; the other's is about 1


@pytest.fixture
def opened(tmp_path):
    def open_with(**line):
        settings = Settings(home=tmp_path / "home", seed=3, lines={"tiny": LineSettings(**line)})
        init_home(settings, now_ns=clock())
        return open_home(settings, clock=clock)

    clock = Clock()
    return open_with


@pytest.fixture
def home(opened):
    with opened() as found:
        outside.admit(found.ledger, "track-a", PUBLIC)
        yield found


def bring(home, folder, seeds):
    for seed in seeds:
        path = folder / f"s{seed}.tiny.json"
        path.write_bytes(tiny_file(seed, scenario="default" if seed < 10 else "field"))
        imports.import_path(home.ledger, home.books, home.blobs, tiny_line, path, device=f"d{seed % 5}")


def tally(wrong):
    return {"wrong": wrong, "takeovers": 0.0, "steps": 100}


def card(model, other="baseline", *, error=GOOD, pairs=12, key=BENCH, **changes):
    trials = [{"candidate": tally(100 * error + i), "other": tally(100.0 + i)} for i in range(pairs)]
    signed = {
        **{"type": "fleet.scorecard", "version": 1, "line": "tiny", "bench": "track-a"},
        **{"model": model, "other": other, "trials": trials, "weather": "dry", **changes},
    }
    return json.dumps({"signed": signed, "signature": key.sign(canonical.dumps(signed)).hex()}, indent=1).encode()


def add(home, data, line=LINE):
    return outside.add(home.ledger, home.blobs, line, data)


def candidate(home, folder, line=LINE):
    """A model that the gate accepted and that waits."""
    bring(home, folder, range(4))
    assert loop.turn(home, line) is None
    return due.awaited(home, line)


def test_a_model_goes_out_when_the_bench_has_agreed_and_not_before(home, tmp_path):
    model = candidate(home, tmp_path)
    waits = due.waiting(home, LINE)
    assert (waits.benches, waits.tried, waits.approval) == (("track-a",), (model, "baseline"), "")
    assert f"bench track-a must try {model[:12]} against baseline" in waits.sentence()
    bring(home, tmp_path, range(10, 16))  # also when more arrives
    assert loop.turn(home, LINE) is None
    assert home.repository.counters() == {}

    fact = add(home, card(model))

    assert (fact.record["met"], fact.record["trials"]) == (True, 12)
    turned = loop.turn(home, LINE)
    assert (turned.number, turned.release.counter) == (0, 1)
    assert why(home.ledger, model).standing.benches == (
        f"bench track-a: met in 12 trials against baseline (fact {fact.seq})",
    )


def test_the_next_candidate_must_be_tried_against_the_champion_of_its_verdict(home, tmp_path):
    first = candidate(home, tmp_path)
    add(home, card(first))
    loop.turn(home, LINE)
    bring(home, tmp_path, range(10, 16))
    assert loop.turn(home, LINE) is None
    second = due.awaited(home, LINE)
    assert due.waiting(home, LINE).tried == (second, first)

    add(home, card(second))  # against the baseline: good to know, and not what was asked
    assert loop.turn(home, LINE) is None
    add(home, card(second, first))
    assert loop.turn(home, LINE).release.counter == 2


@pytest.mark.parametrize("approval", ["none", "required"])
def test_a_bench_that_says_no_refuses_the_model_and_the_line_turns_on(opened, tmp_path, approval):
    with opened(approval=approval) as home:
        outside.admit(home.ledger, "track-a", PUBLIC)
        model = candidate(home, tmp_path)

        assert add(home, card(model, error=BAD)).record["met"] is False
        turned = loop.turn(home, LINE)

        assert (turned.verdict.decision, turned.release) == ("accepted", None)
        assert home.ledger.get("turn_ended", "tiny/0").record["decision"] == "refused"
        assert release.champion(home.ledger, "tiny") is None
        (verdict,) = why(home.ledger, model).standing.verdicts
        assert verdict.decided.startswith("refused by bench track-a: fact ")
        assert "NOT MET: error" in verdict.decided
        with pytest.raises(ConflictError, match="bench track-a has refused it"):
            people.decide(home.ledger, model, word="approved", by="Ada", reason="I like it")
        assert due.awaited(home, LINE) == ""


def test_a_person_and_a_bench_must_both_agree_in_any_order(opened, tmp_path):
    with opened(approval="required") as home:
        outside.admit(home.ledger, "track-a", PUBLIC)
        model = candidate(home, tmp_path)
        people.decide(home.ledger, model, word="approved", by="Ada", reason="good")
        assert loop.turn(home, LINE) is None  # the bench has not spoken

        add(home, card(model, error=BAD))
        assert loop.turn(home, LINE).release is None  # and its no holds, whatever a person said

        bring(home, tmp_path, range(10, 16))
        assert loop.turn(home, LINE) is None
        second = due.awaited(home, LINE)
        add(home, card(second))
        assert loop.turn(home, LINE) is None  # now a person has not
        assert due.waiting(home, LINE).approval == second
        people.decide(home.ledger, second, word="approved", by="Ada", reason="good")
        assert loop.turn(home, LINE).release.counter == 1


def test_a_person_ends_the_wait_for_a_bench_that_will_not_come(home, tmp_path):
    model = candidate(home, tmp_path)
    people.decide(home.ledger, model, word="refused", by="Ada", reason="the bench burnt down")

    assert loop.turn(home, LINE).release is None
    assert due.awaited(home, LINE) == ""


def test_a_bench_lets_nothing_through_that_the_gate_held(home, tmp_path):
    model = candidate(home, tmp_path)
    add(home, card(model))
    loop.turn(home, LINE)
    awful = tiny_model(np.array([9.0, -9.0, 5.0]))
    entered = elsewhere.add(home.ledger, home.blobs, home.runtime, LINE, awful, made_by="a saboteur").digest
    assert add(home, card(entered, model)).record["met"] is True  # also before the verdict

    assert loop.examine(home, LINE).decision == "held"
    assert release.champion(home.ledger, "tiny").model == model


def test_an_examination_waits_for_the_bench_too(home, tmp_path):
    model = candidate(home, tmp_path)
    add(home, card(model))
    loop.turn(home, LINE)
    perfect = tiny_model(np.array([-1.0, 1.0, 2.0]))
    entered = elsewhere.add(home.ledger, home.blobs, home.runtime, LINE, perfect, made_by="Ada").digest

    assert loop.examine(home, LINE) is None
    assert due.waiting(home, LINE).tried == (entered, model)
    add(home, card(entered, model))
    assert loop.examine(home, LINE).decision == "accepted"
    assert release.champion(home.ledger, "tiny").model == entered


def test_a_bench_speaks_once_on_a_pair_of_models(home, tmp_path):
    model = candidate(home, tmp_path)
    fact = add(home, card(model, error=BAD))

    assert add(home, card(model, error=BAD)) == fact
    with pytest.raises(ConflictError, match="speaks once"):
        add(home, card(model))
    assert len(list(home.ledger.read(kind="outside_scorecard"))) == 1


def test_what_was_signed_is_kept_and_can_be_verified_again(home, tmp_path):
    model = candidate(home, tmp_path)
    fact = add(home, card(model))

    kept, _ = read_statement(PUBLIC, home.blobs.get(fact.record["statement"]), what="the copy")
    assert (kept["model"], kept["weather"], len(kept["trials"])) == (model, "dry", 12)


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        ({"key": Ed25519PrivateKey.from_private_bytes(b"x" * 32)}, TrustError, "not signed by the key"),
        ({"bench": "track-b"}, NotFoundError, "track-b: was not admitted"),
        ({"line": "arm-2"}, InvalidInputError, "--line says tiny"),
        ({"type": "fleet.findings"}, InvalidInputError, "'type': 'fleet.scorecard'"),
        ({"version": 2}, TooNewError, "format 2"),
        ({"pairs": 2}, InvalidInputError, "at least 3"),
        ({"other": "f" * 64}, NotFoundError, "no model ffffffffffff here"),
        ({"other": "the old one"}, InvalidInputError, "64 lower-case hex"),
        ({"trials": [{"candidate": {"speed": 1.0}, "other": {"speed": 2.0}}] * 3}, InvalidInputError, "cannot pool"),
        ({"trials": [{"candidate": tally("far"), "other": tally(1.0)}] * 3}, InvalidInputError, "must be a number"),
        ({"trials": [{"candidate": tally([1, [2]]), "other": tally(1.0)}] * 3}, InvalidInputError, "equal lists"),
        ({"trials": [{"candidate": tally(1.0)}] * 3}, InvalidInputError, "other: is missing"),
        ({"trials": 7}, InvalidInputError, "must be a list"),
    ],
)
def test_what_is_no_scorecard_of_an_admitted_bench_is_refused(home, tmp_path, change, kind, said):
    model = candidate(home, tmp_path)

    with pytest.raises(kind, match=said):
        add(home, card(model, **change))
    assert list(home.ledger.read(kind="outside_scorecard")) == []


def test_a_changed_byte_is_noticed(home, tmp_path):
    data = card(candidate(home, tmp_path))

    with pytest.raises(TrustError):
        add(home, data.replace(b'"dry"', b'"wet"'))
    with pytest.raises(InvalidInputError, match="not JSON"):
        add(home, data[:-5])


def test_a_pair_needs_two_models(home, tmp_path):
    model = candidate(home, tmp_path)

    with pytest.raises(InvalidInputError, match="a pair needs two"):
        add(home, card(model, model))


def test_a_bench_keeps_its_key(home):
    assert outside.admit(home.ledger, "track-a", PUBLIC).key == "track-a"
    with pytest.raises(ConflictError, match="another key"):
        outside.admit(home.ledger, "track-a", "0" * 64)
    with pytest.raises(InvalidInputError, match="--public-key"):
        outside.admit(home.ledger, "track-b", "secret")
    with pytest.raises(InvalidInputError, match="bench"):
        outside.admit(home.ledger, "Track B", PUBLIC)


def test_a_line_whose_checks_are_all_on_slices_cannot_ask_a_bench(home, tmp_path):
    model = candidate(home, tmp_path)
    sliced = replace(LINE, checks=tuple(replace(c, slice="night") for c in LINE.checks))

    with pytest.raises(LineError, match="no check that a bench could be asked"):
        add(home, card(model), sliced)
    assert "every check is on a slice" in check_line(sliced)[0]
    assert check_line(LINE) == []


def test_the_commands_admit_a_bench_and_enter_what_it_signed(tmp_path, monkeypatch):
    monkeypatch.setattr("fleetmill.lines.find", lambda name: {"tiny": LINE}[name])
    settings = Settings(home=tmp_path / "home", seed=3, lines={"tiny": LineSettings()})
    init_home(settings, now_ns=Clock()())
    with open_home(settings, clock=Clock()) as home:
        model = candidate(home, tmp_path)
    (tmp_path / "card.json").write_bytes(card(model))
    at = ("--home", str(settings.home))

    def run(*words):
        return CliRunner().invoke(app, [*words, *at], catch_exceptions=False)

    assert "admitted" in run("bench", "add", "track-a", "--public-key", PUBLIC).output
    said = run("scorecard", "add", str(tmp_path / "card.json"), "--line", "tiny").output
    assert "bench track-a: met in 12 trials" in said
    assert "  met: error" in said
    again = json.loads(run("scorecard", "add", str(tmp_path / "card.json"), "--line", "tiny", "--json").output)
    assert (again["model"], again["met"]) == (model, True)
