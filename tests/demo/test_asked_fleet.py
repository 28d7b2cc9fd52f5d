"""A fleet that is asked: the threshold and its risk, who is dealt what, and one small demo up to its report."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetmill import lines
from fleetmill.demo import premises, risk, run, stock
from fleetmill.demo.fleet import Plan
from fleetmill.device.running import running
from fleetmill.home import open_home
from fleetmill.refine import run as refine
from fleetmill.settings import read_settings

pytest.importorskip("tokenizers", reason="needs the extra `llm`")

LINE = lines.find("language")
COMMAND = [sys.executable, "-m", "fleetmill.cli"]


# -- the threshold ----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 30), st.integers(1, 60))
def test_an_exact_interval_holds_its_share_and_is_as_the_binomial_says(hits: int, more: int) -> None:
    of = hits + more
    low, high = risk.interval(hits, of)
    assert 0.0 <= low <= hits / of <= high <= 1.0
    if hits:
        ways = np.array([_ways(of, k) * low**k * (1 - low) ** (of - k) for k in range(hits, of + 1)])
        assert ways.sum() == pytest.approx(0.025, rel=1e-6)


def _ways(of: int, k: int) -> float:
    return float(np.prod([(of - i) / (i + 1) for i in range(k)]))


def test_the_threshold_is_the_lowest_whose_risk_can_be_promised() -> None:
    chance = np.random.default_rng(3)
    sure = chance.random(1500)
    answers = [(float(s), bool(chance.random() < (0.99 if s > 0.4 else 0.5))) for s in sure]

    found = risk.threshold(answers, risk=0.05)

    kept = [right for s, right in answers if s >= found.sure]
    assert 0.35 < found.sure < 0.55
    assert (found.kept, found.wrong, found.asked) == (len(kept), len(kept) - sum(kept), 1500)
    assert found.bound == risk.upper(found.wrong, found.kept, 0.995) <= 0.05


def test_where_nothing_can_be_promised_nothing_is_ever_sure() -> None:
    assert risk.threshold([(0.9, False)] * 400, risk=0.05).sure == risk.NEVER
    assert risk.threshold([(0.9, True)] * 50, risk=0.05).sure == risk.NEVER  # too few to say


def test_the_promise_holds_for_nineteen_of_twenty_models() -> None:
    """Models that are wrong in 5 % at and above 0.8 and in 20 % below: whoever keeps a lower one breaks the promise."""
    broken = 0
    for seed in range(200):
        chance = np.random.default_rng(seed)
        sure = chance.random(800)
        wrong = np.where(sure >= 0.8, 0.05, 0.2)
        found = risk.threshold(list(zip(sure.tolist(), (chance.random(800) > wrong).tolist(), strict=True)), risk=0.05)
        share = 0.05 if found.sure >= 0.8 else (0.2 * 0.05 + (0.8 - found.sure) * 0.2) / max(1.0 - found.sure, 1e-9)
        broken += found.sure <= 1.0 and share > 0.05 + 1e-9
    assert broken <= 0.05 * 200


# -- the demo ---------------------------------------------------------------------------------------------------------


def small(folder, *, data=None) -> Plan:
    """The line's demo, as small as it can be."""
    assert LINE.recipe is not None
    assert LINE.recipe.asking is not None
    how = {"size": "tiny", "texts": 1, "sums": 16, "practice": 0.0}
    asking = replace(
        LINE.recipe.asking,
        schools=4,
        pilots=2,
        checks=8,
        risk=0.6,
        teacher={**how, "steps": 100},
        learner={**how, "steps": 70, "on_steps": 20},
    )
    week = replace(LINE.recipe.then, sessions=3)
    recipe = replace(LINE.recipe, first=week, then=week, report_trials=2, asking=asking, sample=_sums)
    line = replace(LINE, recipe=recipe)
    return Plan(
        line=line,
        recipe=recipe,
        generations=2,
        devices=3,
        seed=86,
        labels="oracle",
        folder=folder,
        calm=True,
        data=data,
    )


def _sums(seed: int) -> dict[str, bytes]:
    """Sessions of 32 conversations with one sum each, of few numbers."""
    chance = np.random.default_rng(seed)
    pairs = [(int(a), int(b)) for a, b in chance.integers(1, 5, size=(40 * 32, 2))]
    found = [json.dumps({"question": f"{a}+{b}=", "answer": str(a + b)}) for a, b in pairs]
    return {"sums.jsonl": "\n".join([*found, ""]).encode()}


def test_devices_hear_questions_the_report_knows_what_is_right_and_nobody_shares(tmp_path) -> None:
    told, dealt = run.stock_up(small(tmp_path), lambda text: None)
    assert dealt is not None
    sessions = [run_ for runs in (*dealt.devices.values(), dealt.report, dealt.rest) for run_ in runs]
    assert len({r.machine for r in sessions}) == len(sessions) == 40
    roles = [
        {int(np.asarray(m.value["data"])) for r in runs for m in r.messages if m.topic == "role"}
        for runs in ([r for runs in dealt.devices.values() for r in runs], dealt.report)
    ]
    assert roles == [{2}, {2, 3}]
    assert told["fleet_instants"] == 3 * 6 * 32
    assert len(list((tmp_path / "recordings" / stock.REPORT).glob("*.mcap"))) == 2


@pytest.mark.slow
def test_a_small_demo_is_asked_hands_on_learns_and_its_report_follows_from_facts(tmp_path) -> None:
    pytest.importorskip("onnxruntime_genai", reason="needs the extra `llm`: the larger model's engine")
    folder = tmp_path / "out"

    report = run.demo(small(folder), say=lambda text: None)

    told = report["answers"]
    first, last = told["generation 0"], told["generation 1"]
    assert report["balanced"]
    assert report["audit"]["exit_code"] == 0
    assert first["lived"] == {"answers": 3 * 3 * 32, "handed_on": 3 * 3 * 32}  # there was no model yet
    assert 0 < last["lived"]["answers"] <= 3 * 3 * 32
    assert told["fixed"]["bound"] <= told["fixed"]["risk"]
    assert first["asked"] == 2 * 32
    checked = subprocess.run(
        [*COMMAND, "report", "--verify", str(folder / "report.html"), "--json"], capture_output=True, text=True
    )
    assert json.loads(checked.stdout)["faults"] == []
    with open_home(read_settings(home=folder / "home"), own=False) as home:
        assert next(home.ledger.read(kind="calibrated")).seq < next(home.ledger.read(kind="session")).seq
        released = [running(folder / "devices" / name) for name in small(folder).names]
        assert {found[0].talk.sure for found in released if found} == {told["fixed"]["sure"]}
        ended = list(home.ledger.read(kind="turn_ended"))[-1]
        column = refine.open_data(home.ledger, home.blobs, ended.record["dataset"]).column("tier")
        assert set(np.unique(column)) <= {0, 1}
    assert premises.PLACE in (folder / "home" / "fleetmill.toml").read_text()
