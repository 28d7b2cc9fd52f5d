"""What befalls a demo: the rule says when and whether it ended as promised; the wire bends what it is told to."""

from __future__ import annotations

import http.client

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetmill.core import canonical
from fleetmill.demo import accidents
from fleetmill.demo.accidents import ATTACKS, PROMISES, Accident, Kind
from fleetmill.demo.forgery import bad_model, flipped_byte, wrong_key
from fleetmill.demo.wire import honest, open_wire
from fleetmill.engines.runtime_onnx import OnnxRuntime
from fleetmill.seams.ledger import Draft, open_ledger
from fleetmill.testing.tiny import tiny_model

DEVICES = [f"d{n}" for n in range(6)]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 89), devices=st.integers(3, 20), generations=st.integers(1, 8))
def test_every_demo_has_all_six_at_moments_of_its_seed(seed, devices, generations):
    names = [f"d{n}" for n in range(devices)]
    found = accidents.plan(seed, names, generations)

    assert [a.kind for a in found] == list(Kind) == list(PROMISES)
    assert found == accidents.plan(seed, names, generations)
    assert all(0 <= a.generation < generations and 0 <= a.moment < 1 for a in found)
    assert all((a.device in names) == (a.kind in (*ATTACKS, Kind.DEVICE_KILLED)) for a in found)
    attacked = [a.device for a in found if a.kind in ATTACKS]
    assert len(set(attacked)) == 3


def test_seeds_differ():
    assert len({accidents.plan(seed, DEVICES, 4) for seed in range(20)}) == 20


def an_accident(kind, device="d1", generation=1):
    return Accident(kind=kind, device=device, generation=generation, moment=0.5)


@pytest.fixture
def ledger():
    opened = open_ledger("sqlite://", clock=lambda: 1)
    yield opened
    opened.close()


def enter(ledger, kind, key, **record):
    return ledger.append([Draft(kind=kind, key=key, record=record)])[0]


def said(ledger, device, state, reason="", counter=0, file="", running=""):
    report = {"device": device, "state": state, "reason": reason, "release_counter": counter}
    key = f"{device}/{ledger.head()[0]}"
    return enter(ledger, "deployment", key, report={**report, "model_file": file, "running": running})


def ending(ledger, accident, since, **more):
    return accidents.ending(accident, "tiny", list(ledger.read()), since=since, **more)


def test_a_killed_factory_kept_its_word_when_the_turn_took_what_it_had_begun_with(ledger):
    accident = an_accident(Kind.FACTORY_KILLED, device="")
    assert not accidents.is_time(accident, "tiny", list(ledger.read()))
    enter(ledger, "turn_begun", "tiny/1", sessions=["d0/s0", "d1/s0"])
    assert accidents.is_time(accident, "tiny", list(ledger.read()))
    since = ledger.head()[0]
    enter(ledger, "dataset", "abc", manifest={"parts": [{"session": "d1/s0"}, {"session": "d0/s0"}]}, members=[])
    assert ending(ledger, accident, since) is None
    enter(ledger, "turn_ended", "tiny/1", dataset="abc", turn=1, line="tiny")

    assert ending(ledger, accident, since).kept


def test_a_killed_factory_that_lost_a_session_broke_its_word(ledger):
    enter(ledger, "turn_begun", "tiny/1", sessions=["d0/s0", "d1/s0"])
    enter(ledger, "dataset", "abc", manifest={"parts": [{"session": "d1/s0"}]}, members=[])
    enter(ledger, "turn_ended", "tiny/1", dataset="abc", turn=1, line="tiny")

    assert ending(ledger, an_accident(Kind.FACTORY_KILLED, device=""), 1).kept is False


def crash(ledger, *, tail_ns, ended="crash"):
    """A killed device's session of generation 1 comes in."""
    campaign = enter(ledger, "campaign", "tiny/1", line="tiny", number=1, sessions=1)
    enter(ledger, "device", "d1", number=4)
    since = ledger.head()[0]
    if tail_ns:
        end = 10**9 + tail_ns
        record = {"device": 4, "track": 0, "start_ns": 10**9, "end_ns": end, "bytes": 0, "messages": 0, "entry": 0}
        move = {"source": "lived", "to": "dropped", "reason": "crash", "by": "device", "recording": ""}
        enter(ledger, "moved", "4/0/0", **record, **move)
    manifest = {"device": "d1", "name": "s00001", "ended": ended, "start_ns": 0, "end_ns": 10**9 + tail_ns}
    enter(ledger, "session", "d1/s00001", manifest={**manifest, "campaign": canonical.digest(campaign.record)})
    return since


@pytest.mark.parametrize(("tail_ns", "kept"), [(40_000_000, True), (100_000_000, True), (100_000_001, False)])
def test_a_killed_device_may_lose_a_tenth_of_a_second(ledger, tail_ns, kept):
    since = crash(ledger, tail_ns=tail_ns)

    found = ending(ledger, an_accident(Kind.DEVICE_KILLED), since)

    assert found.kept is kept
    assert "1.0" in found.sentence or "1.1" in found.sentence


def test_a_cut_short_session_without_a_named_tail_breaks_the_promise(ledger):
    assert ending(ledger, an_accident(Kind.DEVICE_KILLED), crash(ledger, tail_ns=0)).kept is False


def test_a_device_killed_between_two_sessions_lost_none(ledger):
    since = crash(ledger, tail_ns=0, ended="done")

    assert "between two sessions" in ending(ledger, an_accident(Kind.DEVICE_KILLED), since).sentence


@pytest.mark.parametrize(("decision", "release", "kept"), [("held", 0, True), ("accepted", 3, False)])
def test_a_bad_candidate_must_be_held(ledger, decision, release, kept):
    accident = an_accident(Kind.BAD_CANDIDATE, device="")
    since = ledger.head()[0]
    enter(ledger, "entered", "tiny/0", model="bad", line="tiny")
    assert ending(ledger, accident, since, subject="bad") is None
    reason = {"metric": "error", "candidate": 9.0, "other": 1.0, "met": False}
    enter(ledger, "verdict", "tiny/1000/bad", candidate="bad", decision=decision, reasons=[reason])
    enter(ledger, "examined", "tiny/0", model="bad", release=release)

    assert ending(ledger, accident, since, subject="bad").kept is kept


def test_a_flipped_byte_ends_when_the_honest_bytes_were_taken(ledger):
    accident, since = an_accident(Kind.FLIPPED_BYTE), ledger.head()[0]
    said(ledger, "d1", "confirmed", counter=1, file="old", running="old")
    said(ledger, "d2", "refused", "x: SHA-256 aa, signed is bb", 2, "new", "old")  # another device's
    assert ending(ledger, accident, since) is None
    said(ledger, "d1", "refused", "x: SHA-256 aa, signed is bb", 2, "new", "old")
    assert ending(ledger, accident, since) is None
    said(ledger, "d1", "confirmed", counter=2, file="new", running="new")

    found = ending(ledger, accident, since)
    assert (found.kept, found.facts) == (True, (3, 4))


def test_after_the_last_turn_an_older_release_needs_two_that_its_device_took(ledger):
    accident = an_accident(Kind.OLDER_RELEASE)
    said(ledger, "d1", "confirmed", counter=1, file="old", running="old")
    said(ledger, "d2", "confirmed", counter=2, file="new", running="new")
    assert not accidents.may_come(accident, "tiny", list(ledger.read()))
    assert accidents.may_come(an_accident(Kind.DEVICE_KILLED), "tiny", list(ledger.read()))

    said(ledger, "d1", "confirmed", counter=2, file="new", running="new")
    assert accidents.may_come(accident, "tiny", list(ledger.read()))


def test_a_bit_to_flip_is_in_vain_when_no_release_comes_after_it(ledger):
    accident = an_accident(Kind.FLIPPED_BYTE)
    enter(ledger, "release", "tiny/1")
    since = ledger.head()[0]
    assert accidents.is_vain(accident, list(ledger.read()), since)
    assert not accidents.is_vain(an_accident(Kind.WRONG_KEY), list(ledger.read()), since)  # needs metadata alone
    assert not accidents.is_vain(accident, list(ledger.read()), since - 1)  # the release came after it

    said(ledger, "d1", "refused", "x: SHA-256 aa, signed is bb", 1, "new", "old")  # it was on its way already
    assert not accidents.is_vain(accident, list(ledger.read()), since)


def test_a_refusal_after_which_something_else_runs_breaks_the_promise(ledger):
    said(ledger, "d1", "confirmed", counter=1, file="old", running="old")
    said(ledger, "d1", "refused", "not signed by enough of the right keys", running="evil")

    assert ending(ledger, an_accident(Kind.WRONG_KEY), 1).kept is False


def test_an_older_release_can_be_offered_once_there_are_two(ledger):
    accident = an_accident(Kind.OLDER_RELEASE, generation=0)
    said(ledger, "d1", "confirmed", counter=1)
    assert not accidents.is_time(accident, "tiny", list(ledger.read()))
    said(ledger, "d1", "confirmed", counter=2, file="new", running="new")
    assert accidents.is_time(accident, "tiny", list(ledger.read()))
    said(ledger, "d1", "refused", "older release under newer metadata: release 1", running="new")

    assert ending(ledger, accident, 2).kept


def test_a_bad_model_answers_and_is_wrong():
    model = tiny_model(np.array([-1.0, 1.0, 2.0], np.float32))
    frames = {"x": np.eye(3, dtype=np.float32)}

    bad = OnnxRuntime().load(bad_model(model, seed=3)).ask(frames)["y"]

    good = OnnxRuntime().load(model).ask(frames)["y"]
    assert sorted(bad) == sorted(good)
    assert not np.allclose(bad, good)


def test_one_bit_of_a_model_is_flipped_and_nothing_else():
    bend, data = flipped_byte(0.5), bytes(range(100))

    status, bent = bend("GET", "/v1/repository/targets/models/aa/model.onnx", 200, data)

    assert status == 200
    assert sum(bin(a ^ b).count("1") for a, b in zip(data, bent, strict=True)) == 1
    for method, path in (("GET", "/v1/repository/targets/models/aa/golden.npz"), ("PUT", "/v1/x/model.onnx")):
        assert bend(method, path, 200, data) == (200, data)


def test_only_metadata_after_the_newest_is_signed_by_the_wrong_key(tmp_path):
    from fleetmill.release import trust

    trust.create(tmp_path / "repository", tmp_path / "keys", now_ns=10**18)
    data = (tmp_path / "repository" / "timestamp.json").read_bytes()

    assert wrong_key(1)("GET", "/v1/repository/metadata/timestamp.json", 200, data) == (200, data)
    _, bent = wrong_key(0)("GET", "/v1/repository/metadata/timestamp.json", 200, data)
    signed, forged = canonical.loads(data), canonical.loads(bent)
    assert forged["signed"] == signed["signed"]
    assert {s["keyid"] for s in forged["signatures"]}.isdisjoint({s["keyid"] for s in signed["signatures"]})


def test_a_wire_carries_what_it_is_given_and_a_factory_that_is_down_looks_down():
    with open_wire("127.0.0.1:1") as down, open_wire(down.address) as wire:
        assert wire.bend is honest
        there = http.client.HTTPConnection("127.0.0.1", wire.server_port, timeout=10)
        there.request("GET", "/health")
        with pytest.raises((http.client.HTTPException, OSError)):
            there.getresponse()
        there.close()


def test_no_wire_is_in_two_hands_in_a_small_fleet():
    for seed in range(40):
        for size in (2, 3, 6):
            devices = [f"d{n}" for n in range(size)]
            attacked = [a.device for a in accidents.plan(seed, devices, 4) if a.kind in accidents.ATTACKS]
            assert len(attacked) == len(set(attacked)) >= 1
