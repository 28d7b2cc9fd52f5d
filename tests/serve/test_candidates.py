"""The lines' models at the endpoint: what the gate admitted, a candidate beside it, and a swap that loses nothing."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from dataclasses import replace

import httpx
import numpy as np
import pytest
import tritonclient.http as triton

from fleetmill import due, loop
from fleetmill.core.errors import InvalidInputError
from fleetmill.engines.runtime_onnx import OnnxRuntime
from fleetmill.home import init_home, open_home
from fleetmill.judge import people
from fleetmill.receive import imports
from fleetmill.serve.accounts.keys import new_key, set_tenant
from fleetmill.serve.compared import Compared, compare
from fleetmill.serve.http import Connection
from fleetmill.serve.words import Tenant
from fleetmill.serving.gateway import gateway
from fleetmill.serving.models import LineModels
from fleetmill.settings import CandidateSettings, LineSettings, ServeLineSettings, Settings
from fleetmill.testing import Clock, tiny_file, tiny_line
from fleetmill.train import elsewhere
from matmul import AWFUL, PERFECT


@pytest.fixture
def home(tmp_path):
    """A home with a champion, release 1, in which people must agree."""
    settings = Settings(home=tmp_path / "home", seed=3, lines={"tiny": LineSettings(approval="required")})
    clock = Clock()
    init_home(settings, now_ns=clock())
    with open_home(settings, clock=clock) as opened:
        folder = tmp_path / "in"
        folder.mkdir()
        for seed in range(4):
            path = folder / f"s{seed}.tiny.json"
            path.write_bytes(tiny_file(seed, scenario="default"))
            imports.import_path(opened.ledger, opened.books, opened.blobs, tiny_line, path, device=f"d{seed % 5}")
        assert loop.turn(opened, tiny_line) is None
        agree(opened)
        assert loop.turn(opened, tiny_line).release.counter == 1
        yield opened


def agree(home, word="approved"):
    model = due.waiting(home, tiny_line).approval
    people.decide(home.ledger, model, word=word, by="Ada", reason="looked at it")
    return model


def judged(home, model):
    """A model from elsewhere, judged; it waits for a person if the gate accepts it."""
    return elsewhere.add(home.ledger, home.blobs, home.runtime, tiny_line, model, made_by="Ada"), loop.examine(
        home, tiny_line
    )


def asked(**candidate):
    return {"tiny": ServeLineSettings(candidate=CandidateSettings(**candidate))}


def test_a_candidate_answers_by_its_version_and_its_share_of_the_rest(home):
    entered, verdict = judged(home, PERFECT)
    assert verdict is None  # a person must speak
    models = LineModels(home, asked(weight=0.25))
    digits = entered.digest[:12]

    assert models.versions("tiny") == ["1", digits]
    assert [models.get("tiny").version for _ in range(8)] == (["1"] * 3 + [digits]) * 2
    assert models.get("tiny", digits).version == digits
    assert models.get("tiny", "7") is None
    out = models.get("tiny", digits).model.ask({"x": np.array([[0, 0, 1]], np.float32)})
    assert out["y"].tolist() == [2.0]

    agree(home, "refused")
    models.look()
    assert models.versions("tiny") == ["1"]
    models.close()


def test_what_the_gate_held_and_what_nobody_asked_for_is_not_served(home):
    _, verdict = judged(home, AWFUL)
    assert verdict.decision == "held"
    models = LineModels(home, asked(weight=1.0, shadow=True))
    assert models.versions("tiny") == ["1"]
    judged(home, PERFECT)
    silent = LineModels(home, {})
    models.look()
    assert (len(models.versions("tiny")), silent.versions("tiny")) == (2, ["1"])
    models.close()
    silent.close()


def test_a_shadow_answers_behind_the_champion_and_is_compared(home):
    entered, _ = judged(home, PERFECT)
    models = LineModels(home, asked(shadow=True, tolerance=0.0))
    champion, x = models.get("tiny"), {"x": np.array([[0, 0, 1], [0, 0, 0]], np.float32)}
    candidate = models.get("tiny", entered.digest[:12])
    outputs = champion.model.ask(x)
    for _ in range(5):
        models.saw(champion, x, outputs)
    models.saw(candidate, x, outputs)  # who asked the candidate itself is not compared
    models.close()

    fact = list(home.ledger.read(kind="shadowed"))[-1].record
    apart = float(np.abs(outputs["y"][0] - 2.0)) + float(np.abs(outputs["y"][1]))
    assert (fact["rows"], fact["failed"], fact["candidate"]) == (10, 0, entered.digest[:12])
    assert fact["differing"] == 5 * sum(np.abs(outputs["y"] - [2.0, 0.0]) > 0)
    assert fact["distance"] == pytest.approx(5 * apart, rel=1e-6)


def test_answers_of_another_shape_or_of_no_number_differ_whole():
    one = {"y": np.array([[1.0, 2.0], [3.0, np.nan]])}
    assert compare(one, {"y": np.array([1.0, 2.0])}, 1e9) == Compared(rows=2, differing=2)
    assert compare(one, one, 0.0) == Compared(rows=2, differing=1)
    assert compare(one, {}, 1.0).differing == 2
    assert Compared(rows=1) + Compared(failed=2) == Compared(rows=1, failed=2)


@contextmanager
def served(home):
    """The home's gateway in a thread; gives (host:port, an API key)."""
    up, box = threading.Event(), {}

    async def run():
        box["loop"], box["stop"] = asyncio.get_running_loop(), asyncio.Event()
        async with gateway(home, address="http://x") as front:
            connections = set()
            server = await box["loop"].create_server(lambda: Connection(front.handle, connections), "127.0.0.1", 0)
            box["at"] = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            up.set()
            await box["stop"].wait()
            server.close()
            for connection in list(connections):
                connection.cut()

    from fleetmill.serve.accounts.book import open_accounts

    accounts = open_accounts(home.settings.home / "serve")
    set_tenant(accounts, Tenant(name="t"))
    key = new_key(accounts, "t")
    accounts.close()
    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        assert up.wait(20)
        yield box["at"], key
    finally:
        box["loop"].call_soon_threadsafe(box["stop"].set)
        thread.join()


def test_a_champion_is_released_while_clients_ask_all_the_time_and_none_of_them_fails(home):
    entered, _ = judged(home, PERFECT)
    digits = entered.digest[:12]
    settings = replace(home.settings, serve=replace(home.settings.serve, lines=asked(shadow=True, weight=0.5)))
    stop, answers, faults = threading.Event(), [], []

    def ask(at, key):
        client, x = triton.InferenceServerClient(at), triton.InferInput("x", [1, 3], "FP32")
        x.set_data_from_numpy(np.array([[0, 0, 1]], np.float32))
        while not stop.is_set():
            try:
                found = client.infer("tiny", [x], headers={"authorization": f"Bearer {key}"})
                answers.append((found.get_response()["model_version"], float(found.as_numpy("y")[0])))
            except triton.InferenceServerException as error:
                faults.append(str(error))
        client.close()

    with served(replace(home, settings=settings)) as (at, key):
        threads = [threading.Thread(target=ask, args=(at, key)) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            until(lambda: {v for v, _ in answers} == {"1", digits})
            metrics = httpx.get(f"http://{at}/metrics").text
            agree(home)
            loop.examine(home, tiny_line)  # it goes out, release 2
            until(lambda: answers[-1][0] == "2")
            seen = len(answers)
            until(lambda: len(answers) > seen + 50)
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    assert faults == []
    assert {v for v, _ in answers} == {"1", digits, "2"}
    assert {y for v, y in answers if v != "1"} == {2.0}
    assert len({y for v, y in answers if v == "1"}) == 1
    assert f'fleetmill_serve_inferences{{model="tiny",version="{digits}"}}' in metrics
    assert list(home.ledger.read(kind="shadowed"))[-1].record["rows"] > 0


def until(holds, seconds=30):
    import time

    limit = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_a_provider_that_is_not_here_is_refused_by_name():
    with pytest.raises(InvalidInputError, match="provider 'CoreMLExecutionProvider': onnxruntime here has only"):
        OnnxRuntime(providers=("CoreMLExecutionProvider", "CPUExecutionProvider"))
