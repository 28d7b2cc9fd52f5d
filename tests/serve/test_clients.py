"""Unmodified clients before our endpoint: OpenAI's SDK, and the reference client of the Open Inference Protocol."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import openai
import pytest
import tritonclient.http as triton

from fleetmill.core.serve import Label, Tier
from fleetmill.engines.runtime_onnx import OnnxRuntime
from fleetmill.serve.http import Connection
from fleetmill.serve.oip import Inference, Loaded
from fleetmill.serve.words import Tenant
from fleetmill.testing import tiny_model
from simulated import KEY, Engine, answer_to, stage

ASKED = [{"role": "user", "content": "hello"}]


class Town:
    """A stage in a thread of its own, for clients that know nothing of our loop."""

    def __init__(self, engines, **changes):
        self._engines, self._changes = engines, changes
        self._up, self._stop = threading.Event(), None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    async def _run(self):
        self._stop, self._loop = asyncio.Event(), asyncio.get_running_loop()
        async with stage(self._engines, **self._changes) as self.stage:
            self._up.set()
            await self._stop.wait()

    def __enter__(self):
        self._thread.start()
        assert self._up.wait(10)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def client(self, key=KEY, **more):
        return openai.OpenAI(base_url=f"http://127.0.0.1:{self.stage.port}/v1", api_key=key, **more)


@pytest.fixture
def town():
    with Town([Engine("a"), Engine("b")]) as found:
        yield found


def test_openai_an_answer_at_once(town):
    with town.client() as client:
        found = client.chat.completions.create(model="small", messages=ASKED, max_tokens=6)

    assert found.choices[0].message.content == "".join(answer_to("hello", 6))
    assert found.usage.completion_tokens == 6


def test_openai_a_stream_with_usage(town):
    with town.client() as client:
        parts = list(
            client.chat.completions.create(
                model="small", messages=ASKED, max_tokens=9, stream=True, stream_options={"include_usage": True}
            )
        )

    text = "".join(p.choices[0].delta.content or "" for p in parts if p.choices)
    assert text == "".join(answer_to("hello", 9))
    assert parts[-1].usage.completion_tokens == 9


def test_openai_a_stream_that_broke_off_twice_is_one_stream():
    with Town([Engine("a", faults=[("die", 4)]), Engine("b", faults=[("stall", 2)]), Engine("c")]) as town:
        for name, seconds in (("a", 0.001), ("b", 0.002), ("c", 0.5)):
            town.stage.relay.pool.spoke(name, seconds)
        with town.client() as client:
            parts = list(client.chat.completions.create(model="small", messages=ASKED, max_tokens=12, stream=True))

    assert "".join(p.choices[0].delta.content or "" for p in parts) == "".join(answer_to("hello", 12))
    assert parts[-1].choices[0].finish_reason == "length"
    assert parts[-1].model_extra["fleetmill"] == {"resumed": 2}


def test_openai_a_stream_that_cannot_go_on_is_an_error_and_no_short_answer():
    with Town([Engine("a", faults=[("die", 4)])]) as town, town.client(max_retries=0) as client:
        answer = client.chat.completions.create(model="small", messages=ASKED, max_tokens=12, stream=True)
        with pytest.raises(openai.APIError, match="failed in the middle"):
            list(answer)


def test_openai_completions_and_the_list_of_models(town):
    with town.client() as client:
        found = client.completions.create(model="small", prompt="hello|", max_tokens=5)
        models = client.models.list()

    assert found.choices[0].text == "".join(answer_to("hello|", 5))
    assert [m.id for m in models] == ["small"]


def test_openai_errors_have_their_own_types(town):
    with town.client("sk-wrong") as client, pytest.raises(openai.AuthenticationError):
        client.models.list()
    with town.client() as client:
        with pytest.raises(openai.NotFoundError, match="no server has model"):
            client.chat.completions.create(model="huge", messages=ASKED)
        with pytest.raises(openai.BadRequestError, match="max_tokens"):
            client.chat.completions.create(model="small", messages=ASKED, max_tokens=-4)
        with pytest.raises(openai.PermissionDeniedError):
            client.chat.completions.create(model="small", messages=ASKED, extra_headers={"x-fleetmill-label": "device"})


def test_openai_retries_after_what_we_say(town):
    pool = town.stage.relay.pool
    servers = list(pool.servers)
    for server in servers:
        pool._states[server.name].server = replace(server, capacity=0)
        pool._servers = [s.server for s in pool._states.values()]
    timer = threading.Timer(0.5, lambda: pool.__init__(servers, clock=lambda: 0.0))
    timer.start()
    with town.client(max_retries=3) as client:
        found = client.chat.completions.create(model="small", messages=ASKED, max_tokens=3)
    timer.join()

    assert found.choices[0].message.content == "".join(answer_to("hello", 3))


def test_openai_asynchronous(town):
    async def ask():
        async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{town.stage.port}/v1", api_key=KEY) as client:

            async def one(n):
                stream = await client.chat.completions.create(
                    model="small", messages=[{"role": "user", "content": f"p{n}"}], max_tokens=8, stream=True
                )
                return "".join([p.choices[0].delta.content or "" async for p in stream])

            return await asyncio.gather(*(one(n) for n in range(20)))

    assert asyncio.run(ask()) == ["".join(answer_to(f"p{n}", 8)) for n in range(20)]


def test_a_premises_request_opens_no_connection_to_a_partner():
    tenant = Tenant(name="t", label=Label.PREMISES, consent=True)
    with Town([Engine("own"), Engine("partner")], tenant=tenant, partner={"tier": Tier.PARTNER}) as town:
        with town.client(max_retries=0) as client:
            for _ in range(5):
                client.chat.completions.create(model="small", messages=ASKED, max_tokens=3)
        opened = town.stage.relay.egress.opened

    assert set(opened) == {"own"}


# the Open Inference Protocol


class Champions:
    """Models that a test may swap."""

    def __init__(self, weights):
        self.swap(weights, "1")
        self.seen = 0

    def swap(self, weights, version):
        model = OnnxRuntime().load(tiny_model(np.asarray(weights, np.float32)))
        self.loaded = Loaded(name="tiny", version=version, model=model)

    def names(self):
        return ["tiny"]

    def get(self, name, version=""):
        return self.loaded if name == "tiny" and version in ("", self.loaded.version) else None

    def versions(self, name):
        return [self.loaded.version]

    def saw(self, loaded, inputs, outputs):
        self.seen += 1


@pytest.fixture
def inference():
    """(address, the models that answer there)."""
    champions, up, box = Champions([1, 2, 3]), threading.Event(), {}

    async def run():
        box["loop"], box["stop"] = asyncio.get_running_loop(), asyncio.Event()
        with ThreadPoolExecutor(2) as pool:
            answering = Inference(champions, pool)
            server = await box["loop"].create_server(lambda: Connection(answering.handle, set()), "127.0.0.1", 0)
            box["port"] = server.sockets[0].getsockname()[1]
            up.set()
            await box["stop"].wait()
            server.close()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert up.wait(10)
    yield f"127.0.0.1:{box['port']}", champions
    box["loop"].call_soon_threadsafe(box["stop"].set)
    thread.join()


def asked(values, *, binary):
    values = np.asarray(values, np.float32)
    found = triton.InferInput("x", list(values.shape), "FP32")
    found.set_data_from_numpy(values, binary_data=binary)
    return [found]


@pytest.mark.parametrize("binary", [True, False])
def test_triton_asks_a_model(inference, binary):
    address, _ = inference
    client = triton.InferenceServerClient(address)

    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.get_model_metadata("tiny")["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]
    outputs = [triton.InferRequestedOutput("y", binary_data=binary)]
    found = client.infer("tiny", asked([[1, 0, 0], [0, 1, 1]], binary=binary), outputs=outputs, request_id="r1")

    assert found.as_numpy("y").tolist() == [1.0, 5.0]
    assert found.get_response()["id"] == "r1"
    assert found.get_response()["model_version"] == "1"
    client.close()


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("tiny", [[1, 2]], "does not fit"),
        ("huge", [[1, 2, 3]], "no model"),
    ],
)
def test_triton_is_told_what_is_wrong(inference, name, values, words):
    client = triton.InferenceServerClient(inference[0])

    with pytest.raises(triton.InferenceServerException, match=words):
        client.infer(name, asked(values, binary=True))
    client.close()


def test_a_new_champion_is_swapped_in_without_a_lost_request(inference):
    address, champions = inference
    stop, answers, faults = threading.Event(), [], []

    def ask():
        client = triton.InferenceServerClient(address)
        while not stop.is_set():
            try:
                found = client.infer("tiny", asked([[1, 1, 1]], binary=True))
                answers.append((found.get_response()["model_version"], float(found.as_numpy("y")[0])))
            except triton.InferenceServerException as error:
                faults.append(str(error))
        client.close()

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for version in range(2, 12):
        before = len(answers)
        champions.swap([version, 0, 0], str(version))
        while len(answers) < before + 20:
            pass
    stop.set()
    for thread in threads:
        thread.join()

    assert faults == []
    assert {version for version, _ in answers} >= {str(v) for v in range(2, 12)}
    assert all(value == (6.0 if version == "1" else float(version)) for version, value in answers)


# litellm, in an environment of its own: it holds openai to another version

LITELLM = """
import json, sys
import litellm
asked = dict(model="openai/small", api_base=sys.argv[1], api_key=sys.argv[2], max_tokens=9, timeout=20, num_retries=0,
             messages=[{"role": "user", "content": "hello"}])
whole = litellm.completion(**asked)
pieces = [p.choices[0].delta.content or "" for p in litellm.completion(**asked, stream=True)]
told = {"whole": whole.choices[0].message.content, "pieces": "".join(pieces), "tokens": whole.usage.completion_tokens}
for name, more in (("NotFoundError", {"model": "openai/huge"}), ("AuthenticationError", {"api_key": "sk-wrong"})):
    try:
        litellm.completion(**(asked | more))
    except Exception as error:
        told[name] = type(error).__name__
print(json.dumps(told))
"""


@pytest.mark.slow
def test_litellm_as_a_client(town):
    place = os.environ.get("FLEETMILL_LITELLM")
    if not place:
        pytest.skip("FLEETMILL_LITELLM names no environment with litellm: python -m venv X, X/bin/pip install litellm")
    words = [f"{place}/bin/python", "-c", LITELLM, f"http://127.0.0.1:{town.stage.port}/v1", KEY]
    environment = {"PATH": os.environ["PATH"], "LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # it fetches nothing
    done = subprocess.run(words, capture_output=True, text=True, timeout=180, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    wanted = "".join(answer_to("hello", 9))
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "whole": wanted,
        "pieces": wanted,
        "tokens": 9,
        "NotFoundError": "NotFoundError",
        "AuthenticationError": "AuthenticationError",
    }
