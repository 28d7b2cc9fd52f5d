"""A device is asked: its own model answers, or a gateway does by rule; what is recorded of it, and who may teach."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetmill import loop
from fleetmill.api.door import make_app
from fleetmill.core.errors import InvalidInputError, TrustError, UnavailableError
from fleetmill.core.ids import sha256
from fleetmill.core.serve import Label, Tier, may_send
from fleetmill.core.talk import Limits, Said, Source
from fleetmill.device import asked
from fleetmill.device.agent import ASKED, open_agent
from fleetmill.device.answered import Answered, answering
from fleetmill.device.asking import Desk, Gateway
from fleetmill.device.asking_rule import Permit, way
from fleetmill.device.enrolment import Token, enrol, read_token
from fleetmill.device.running import running
from fleetmill.device.update_rule import Reason, SignedTarget, releases
from fleetmill.engines.runtime_onnx import OnnxRuntime
from fleetmill.home import Home, init_home, open_home
from fleetmill.receive import imports, roll
from fleetmill.release import trust_rule
from fleetmill.seams.runtime import policies
from fleetmill.settings import LineSettings, Settings, TalkSettings
from fleetmill.status import accounts
from fleetmill.testing import Clock, in_process
from simulated import KEY, Engine, answer_to, stage

pytest.importorskip("tokenizers", reason="needs the extra `llm`")

from fleetmill.lines.language import line

SUMS = [("3+4", "7"), ("12-5", "7"), ("2*6", "12"), ("9/3", "3")]
CANARY = "zebra-crossing-4711"
LIMITS = Limits(sure=0.9, tokens=6)
talk = line.talk
assert talk is not None
OPENED: list[httpx.Client] = []  # closed before the gateway is


def question(text: str) -> list[Said]:
    return [Said(role="user", text=text)]


# -- the rule ---------------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(st.none(), st.floats(0, 1)),
    st.floats(0, 1),
    st.sampled_from(Label),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_a_question_leaves_only_where_the_device_is_unsure_and_every_rule_lets_it(
    sure: float | None, threshold: float, label: Label, consent: bool, offline: bool, has_gateway: bool
) -> None:
    permit = Permit(label=label, consent=consent, offline=offline)
    found = way(sure, Limits(sure=threshold, tokens=1), permit, has_gateway=has_gateway)

    may = may_send(label, Tier.PREMISES, consent=consent) and has_gateway and not offline
    assert found.hand_on == (may and (sure is None or sure < threshold))
    assert found.why
    if label is Label.DEVICE:
        assert not found.hand_on


# -- a home, a device with a model, a gateway -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Home, httpx.Client, Path]]:
    """A factory that released a model of four sums, and the folder of a device that runs it."""
    folder = tmp_path_factory.mktemp("town")
    how = {"steps": 90, "size": "tiny", "texts": 1, "sums": 16, "practice": 0.0}
    asked_for = LineSettings(train=how, talk=TalkSettings(sure=LIMITS.sure, tokens=LIMITS.tokens))
    given_ = Settings(home=folder / "home", lines={"language": asked_for}, poll_seconds=0.0)
    (folder / "sums.jsonl").write_text(
        "".join(json.dumps({"question": f"{e}=", "answer": r}) + "\n" for e, r in SUMS * 8 * 12)
    )
    init_home(given_, now_ns=Clock()())
    with open_home(given_, clock=Clock()) as home, in_process(make_app(home, find=lambda name: line)) as client:
        imports.import_path(home.ledger, home.books, home.blobs, line, folder / "sums.jsonl", device="school")
        turned = loop.turn(home, line)
        assert turned is not None
        assert turned.release is not None, [r.sentence() for r in turned.verdict.reasons]
        secret = roll.invite(home.ledger, "d0", line="language")
        token = Token(name="d0", secret=secret, root_sha256=sha256(home.repository.root())).text()
        enrol(folder / "d0", read_token(token), factory="http://factory", hardware="cpu", client=client)
        with open_agent(folder / "d0", line, client=client, clock=home.clock) as agent:
            agent.once()
            assert agent.running is not None
        yield home, client, folder / "d0"


@contextmanager
def gateway(*engines: Engine, **changes: Any) -> Iterator[str]:
    """The real gateway before simulated engines, in a thread; its address."""
    up, stop = threading.Event(), asyncio.Event()
    found: dict[str, Any] = {}

    async def run() -> None:
        found["loop"] = asyncio.get_running_loop()
        async with stage(list(engines), **changes) as opened:
            found["port"] = opened.port
            up.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert up.wait(10)
    try:
        yield f"http://127.0.0.1:{found['port']}"
    finally:
        while OPENED:
            OPENED.pop().close()
        found["loop"].call_soon_threadsafe(stop.set)
        thread.join()


def desk(folder: Path, address: str = "", permit: Permit | None = None, model: str = "small") -> Desk:
    """As the command line opens one."""
    client = httpx.Client(base_url=address) if address else None
    OPENED.extend([client] if client else [])
    made = Desk(
        talk=talk,
        permit=permit or Permit(),
        gateway=Gateway(client=client, key=KEY, model=model) if client else None,
    )
    release, data = running(folder)  # type: ignore[misc]
    made.runs(policies(line, OnnxRuntime(), {"model.onnx": data}), release.model, release.talk)
    return made


def test_limits_are_signed_with_the_release_and_run_on_the_device(town: tuple[Home, httpx.Client, Path]) -> None:
    home, _, folder = town
    (signed,) = [t for t in home.repository.targets().values() if "release_counter" in t.custom]
    release, _ = running(folder)  # type: ignore[misc]

    assert signed.custom["talk"] == {"sure": "0.9", "tokens": 6}
    assert release.talk == LIMITS
    assert release.memory_bytes == signed.custom["memory_bytes"] == 512 * 1024**2


@pytest.mark.parametrize("wrong", [{"sure": 0.9, "tokens": 6}, {"sure": "0.9", "tokens": 0}, {"sure": "0.9"}, "0.9"])
def test_limits_that_make_no_sense_are_neither_signed_nor_installed(
    town: tuple[Home, httpx.Client, Path], wrong: Any
) -> None:
    signed = [t for t in town[0].repository.targets().values() if t.path.startswith("models/")]
    (model,) = [t for t in signed if "release_counter" in t.custom]
    changed = replace(model, custom={**model.custom, "talk": wrong})

    with pytest.raises(InvalidInputError):
        trust_rule.checked(changed)
    offered = [
        SignedTarget(path=t.path, length=t.length, sha256=t.sha256, custom=t.custom)
        for t in [changed, *signed]
        if t is not model
    ]
    found, refusals = releases(offered)
    assert (found, [r.reason for r in refusals]) == ([], [Reason.MALFORMED])


def test_device_ask_answers_with_the_network_cut_and_says_how_sure_it_is(
    town: tuple[Home, httpx.Client, Path],
) -> None:
    words = [sys.executable, "-m", "fleetmill.cli", "device", "ask", "2*6=", "--device-home", str(town[2])]
    done = subprocess.run([*words, "--json"], capture_output=True, text=True)

    told = json.loads(done.stdout)
    assert (done.returncode, told["answer"], told["who"], told["release"], told["recorded"]) == (
        0,
        "12",
        "device",
        1,
        False,
    )
    assert told["sure"] > 0.9
    assert told["model"] == running(town[2])[0].model  # type: ignore[index]
    assert not asked.waiting(town[2] / ASKED)


def test_an_unsure_device_hands_on_and_the_answer_is_the_gateway_s(town: tuple[Home, httpx.Client, Path]) -> None:
    with gateway(Engine("a")) as address:
        sure = desk(town[2], address).answer(question("3+4="))
        unsure = desk(town[2], address).answer(question("Who are you, then?"))

    assert sure.source is not None
    assert (sure.text, sure.source.tier) == ("7", Tier.DEVICE)
    assert unsure.text == "".join(answer_to("Who are you, then?", LIMITS.tokens))
    assert unsure.source is not None
    assert (unsure.source.tier, unsure.source.may_train) == (Tier.PREMISES, True)
    assert unsure.source.sure < 0.9


@pytest.mark.parametrize(
    ("permit", "says"),
    [
        (Permit(label=Label.DEVICE), "label device never leaves the device"),
        (Permit(offline=True), "offline was asked for"),
    ],
)
def test_what_may_not_leave_is_answered_here_and_the_gateway_hears_nothing(
    town: tuple[Home, httpx.Client, Path], permit: Permit, says: str
) -> None:
    engine = Engine("a")
    with gateway(engine) as address:
        reply = desk(town[2], address, permit).answer(question("Who are you, then?"))

    assert reply.source is not None
    assert reply.source.tier is Tier.DEVICE
    assert says in reply.why
    assert engine.seen == []


def test_no_gateway_and_one_that_is_down_are_said(town: tuple[Home, httpx.Client, Path]) -> None:
    alone = desk(town[2]).answer(question("Who are you, then?"))
    down = desk(town[2], "http://127.0.0.1:9").answer(question("Who are you, then?"))
    nobody = Desk(talk=talk).answer(question("3+4="))
    OPENED.pop().close()

    assert "no gateway is configured" in alone.why
    assert "gateway: did not answer" in down.why
    assert (nobody.source, nobody.text, nobody.why) == (None, "", "no model of its own; no gateway is configured")


def test_a_question_that_is_too_long_for_the_device_is_handed_on(town: tuple[Home, httpx.Client, Path]) -> None:
    with gateway(Engine("a")) as address:
        reply = desk(town[2], address).answer(question("7" * 300))
    alone = desk(town[2]).answer(question("7" * 300))

    assert reply.source is not None
    assert reply.source.tier is Tier.PREMISES
    assert (alone.source, "leaves none for an answer" in alone.why) == (None, True)


def _answers(headers: dict[str, str], status: int = 200) -> httpx.Client:
    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "small", "tiers": ["premises", "partner"]}]})
        return httpx.Response(status, headers=headers, json={"choices": [{"message": {"content": "text"}}]})

    return httpx.Client(transport=httpx.MockTransport(handle), base_url="http://gateway")


def test_who_does_not_say_which_tier_answered_is_taken_for_the_farthest() -> None:
    allowed = Permit(label=Label.OPEN, consent=True)
    for headers, found in (
        ({}, (Tier.PARTNER, False)),
        ({"x-fleetmill-tier": "premises"}, (Tier.PREMISES, False)),
        ({"x-fleetmill-tier": "partner", "x-fleetmill-may-train": "true"}, (Tier.PARTNER, True)),
    ):
        asks = Gateway(client=_answers(headers), key="k", model="small")
        assert asks.ask(question("?"), LIMITS, allowed)[1:] == found


def test_a_gateway_that_went_too_far_is_not_believed_and_others_errors_have_their_kind() -> None:
    far = Gateway(client=_answers({"x-fleetmill-tier": "partner"}), key="k", model="small")
    with pytest.raises(TrustError, match="a partner answered what carries the label premises"):
        far.ask(question("?"), LIMITS, Permit())
    with pytest.raises(InvalidInputError, match="status 403"):
        Gateway(client=_answers({}, 403), key="k", model="small").ask(question("?"), LIMITS, Permit())
    with pytest.raises(UnavailableError, match="status 503"):
        Gateway(client=_answers({}, 503), key="k", model="small").ask(question("?"), LIMITS, Permit())


# -- what is lived ----------------------------------------------------------------------------------------------------


def test_each_question_of_a_world_gets_its_answer_as_instants_of_their_own(
    town: tuple[Home, httpx.Client, Path],
) -> None:
    paths = [
        asked.keep(
            town[2] / "other", question(text), "", Source(tier=Tier.DEVICE, may_train=False, sure=1.0), time_ns=n
        )
        for n, text in enumerate(("3+4=", "2*6="))
    ]
    heard = asked.Spoken(talk, paths, period_ns=1)
    heard._rows = [row for row in heard._rows if int(row["role"]) == 2]  # the questions alone
    world = answering(lambda scenario, seed: heard, desk(town[2]), line)("", 0)

    step = world.begin()
    steps = [step]
    while not step.done:
        step = world.act({})
        steps.append(step)
    world.close()

    assert isinstance(world, Answered)
    assert [t.text for s in steps for t in talk.turns([s.observation])] == ["3+4=", "7", "2*6=", "12"]
    assert [s.time_ns for s in steps] == [n * 10**9 for n in range(4)]
    assert [int(s.observation.get("tier", np.array(9))) for s in steps] == [9, 0, 9, 0]


def test_no_byte_of_a_partner_s_answer_reaches_a_dataset_or_a_model_and_its_seconds_are_in_the_books(
    town: tuple[Home, httpx.Client, Path],
) -> None:
    home, client, folder = town
    own = Source(tier=Tier.PREMISES, may_train=False, sure=0.2)
    partner = Source(tier=Tier.PARTNER, may_train=False, sure=0.1)
    for number in range(4):  # the device's sessions get roles by their number: some train, one is held out
        for text, answer, source in (
            (f"Tell {number}", f"{CANARY} {number} " * 20, partner),
            (f"Say {number}", f"allowed-{CANARY[::-1]} {number}", replace(partner, may_train=True)),
            ("3+4=", "7", own),
        ):
            asked.keep(folder / ASKED, question(text), answer, source, time_ns=number)
        with open_agent(folder, line, client=client, clock=home.clock) as agent:
            agent.once()
        assert not list((folder / ASKED).iterdir())
    turned = loop.turn(home, line)
    assert turned is not None

    recordings = {r["digest"] for f in home.ledger.read(kind="session") for r in f.record["manifest"]["recordings"]}
    files = [p for p in (home.settings.home / "blobs").rglob("*") if p.is_file()]
    inside = {p.name for p in files if CANARY.encode() in p.read_bytes()}
    spread = [p for p in home.settings.home.rglob("*") if p.is_file() and p.name not in recordings]
    assert inside <= recordings
    assert not [p for p in spread if CANARY.encode() in p.read_bytes()]
    assert any(CANARY[::-1].encode() in p.read_bytes() for p in files if p.name not in recordings)

    held = {(r["account"], r["reason"]): r["seconds"] for r in accounts(home) if r["device"] == "d0"}
    rows = 4 * len(talk.rows(Said(role="assistant", text=f"{CANARY} 0 " * 20), False, partner))
    assert held["left_out", "partner_terms"] == rows
    assert sum(held.values()) == pytest.approx(sum(s for (a, _), s in held.items() if a in ("refined", "left_out")))
    assert not home.books.faults()
