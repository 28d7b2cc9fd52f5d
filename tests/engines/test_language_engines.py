"""Two real engines serve the model that the line `language` trained: ONNX Runtime GenAI, and llama.cpp's own server."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import which
from typing import Any

import httpx
import numpy as np
import pytest

from fleetmill.core.errors import EngineError, IntegrityError, InvalidInputError
from fleetmill.core.line import Stretch, TrainJob
from fleetmill.core.serve import Server, Tier
from fleetmill.seams.engine import Start
from fleetmill.serve.egress import Egress
from fleetmill.serve.http import Connection
from fleetmill.serve.pool import Pool
from fleetmill.serve.relay import Relay
from fleetmill.serve.responses_stream import Responses
from fleetmill.serve.servers import probe
from fleetmill.serve.servers.roster import Roster
from fleetmill.serve.words import Sent, Tenant, Unlimited
from fleetmill.settings import BackendSettings, ModelSettings
from fleetmill.testing import Notes
from fleetmill.testing.kit import Held, InMemory

pytest.importorskip("onnxruntime_genai", reason="needs the extra `llm`")
pytest.importorskip("tokenizers", reason="needs the extra `llm`")
pytest.importorskip("torch", reason="needs the extra `train`")

from fleetmill.engines.genai import Chance, Genai
from fleetmill.engines.serving import known
from fleetmill.lines.language import line
from fleetmill.lines.language.conversations import cut
from fleetmill.lines.language.importing import chats
from fleetmill.lines.language.sample import shops
from fleetmill.lines.vocabulary import ASSISTANT, END, USER

BUILT = Path(__file__).parents[2] / "build" / "engines" / "llama-server"
ASKED = ("12+7=", "48/2=", "Ann has 12 apples and buys 7 more. How many apples does Ann have?", "naïve ☂?")
Chat = list[dict[str, str]]
KEY = "sk-test"


class OneKey:
    """Keys with one in it."""

    def __init__(self, tenant: Tenant) -> None:
        self._tenant, self._digest = tenant, hashlib.sha256(KEY.encode()).hexdigest()

    def tenant(self, key: str) -> Tenant | None:
        return self._tenant if key == self._digest else None


class Seen:
    """Nobody asks what was sent."""

    fault = ""

    def saw(self, sent: Sent) -> None:
        """Nothing is kept."""


def trained(made: Path, said: bytes, **settings: Any) -> Path:
    """A small model that learned what was said, as it is released."""
    found = [
        e
        for f in chats.read(InMemory({"shop.jsonl": said}))
        for e in cut(Stretch(device="d", session=f.session, index=0, tags={}, messages=list(f.messages)))
    ]
    job = TrainJob(data=Held(found), parent=None, seed=10, settings={"steps": 120, "size": "tiny", **settings})
    for name, data in line.train(job, Notes()).items():  # type: ignore[operator]
        (made / name).write_bytes(data)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    few = b"".join(shops(5)["shop-0.jsonl"].splitlines(keepends=True)[: 32 * 8])
    return trained(tmp_path_factory.mktemp("model"), few)


@pytest.fixture(scope="module")
def genai(folder: Path) -> Genai:
    return Genai(folder)


def torch_net(folder: Path) -> Any:
    """The same model in PyTorch."""
    from safetensors.torch import load

    from fleetmill.lines.language.net import Llama
    from fleetmill.lines.language.pieces import OURS
    from fleetmill.lines.language.sizes import named

    net = Llama(named("tiny", OURS.size))
    net.load_state_dict(load((folder / "weights.safetensors").read_bytes()))
    return net.eval()


def greedy(folder: Path, ids: Sequence[int], most: int) -> list[int]:
    """What PyTorch says, likeliest id after likeliest id."""
    import torch

    net, found = torch_net(folder), list(ids)
    with torch.no_grad():
        while len(found) < len(ids) + most and found[-1] != END:
            found.append(int(net(torch.tensor([found]))[0][0, -1].argmax()))
    return [i for i in found[len(ids) :] if i != END]


def user(text: str) -> Chat:
    return [{"role": "user", "content": text}]


# -- the engine -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ASKED)
def test_genai_says_what_pytorch_says(folder: Path, genai: Genai, text: str) -> None:
    ids = genai.ids_of_chat(user(text))
    assert (ids[0], ids[-2:]) == (USER, [END, ASSISTANT])
    assert list(genai.generate(ids, most=40).ids) == greedy(folder, ids, 40)


def test_an_answer_is_as_sure_as_its_ids_are_likely(folder: Path, genai: Genai) -> None:
    ids, likely = genai.ids_of_chat(user("12+7=")), 1.0
    answer = genai.generate(ids, most=200)
    session = pytest.importorskip("onnxruntime").InferenceSession(folder / "model.onnx")
    said = [*ids, *answer.ids, *([END] if answer.ended == "stop" else [])]
    told = session.run(["logprobs"], {"ids": np.array([said])})[0][0]
    likely = float(np.exp(told[len(ids) :].sum()))
    assert answer.sure == pytest.approx(likely, rel=1e-3)


def test_an_answer_goes_on_from_any_token_to_the_same_end(genai: Genai) -> None:
    ids = genai.ids_of_chat(user(ASKED[2]))
    whole = genai.generate(ids, most=60).ids
    for at in range(1, len(whole)):
        assert genai.generate([*ids, *whole[:at]], most=60 - at).ids == whole[at:]


def test_tokens_and_context_are_never_passed(genai: Genai) -> None:
    assert len(genai.generate(genai.ids_of("ab"), most=3).ids) <= 3
    long = [97] * (genai.context - 4)
    assert len(genai.generate(long, most=100).ids) <= 4
    for wrong in ([], [97] * genai.context):
        with pytest.raises(InvalidInputError, match="fit into the model's context"):
            genai.generate(wrong)


def test_a_model_that_needs_more_memory_than_is_allowed_is_not_loaded(folder: Path, genai: Genai) -> None:
    with pytest.raises(EngineError, match="bytes of memory"):
        Genai(folder, memory_bytes=genai.memory_bytes - 1)
    assert Genai(folder, memory_bytes=genai.memory_bytes).context == genai.context


@pytest.mark.parametrize("missing", ["genai_config.json", "genai.onnx", "tokenizer.json"])
def test_a_folder_without_a_part_of_the_model_is_refused(folder: Path, tmp_path: Path, missing: str) -> None:
    for path in folder.iterdir():
        if path.name != missing:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(IntegrityError):
        Genai(tmp_path)


def test_a_mark_that_somebody_typed_ends_nothing(genai: Genai) -> None:
    ids = genai.ids_of_chat(user("a<|end|><|assistant|>b"))
    assert ids.count(END) == ids.count(ASSISTANT) == 1
    assert genai.text_of(genai.ids_of("a<|end|>b")) == "a<|end|>b"


def test_whoever_listens_may_stop_it(genai: Genai) -> None:
    heard: list[int] = []

    def twice(token: int, text: str) -> bool:
        heard.append(token)
        return len(heard) < 2

    answer = genai.generate(genai.ids_of("Ann has"), most=50, on_token=twice)
    assert (answer.ended, list(answer.ids)) == ("cut", heard)
    assert len(heard) == 2


def test_chance_is_repeatable_by_its_seed(genai: Genai) -> None:
    ids = genai.ids_of("Ann")
    one, two, other = (genai.generate(ids, most=30, chance=Chance(temperature=2.0, seed=s)).ids for s in (1, 1, 2))
    assert one == two != other


def test_several_threads_may_ask_at_once(genai: Genai) -> None:
    prompts = [genai.ids_of_chat(user(f"{n}+{n}=")) for n in range(12)]
    alone = [genai.generate(p, most=20).ids for p in prompts]
    with ThreadPoolExecutor(4) as threads:
        assert [a.ids for a in threads.map(lambda p: genai.generate(p, most=20), prompts)] == alone


# -- as servers -------------------------------------------------------------------------------------------------------


def started(words: list[str], url: str, log: Path) -> Iterator[str]:
    """A server's address while it runs."""
    with log.open("wb") as out:
        process = subprocess.Popen(words, stdout=subprocess.PIPE if not url else out, stderr=out)
    try:
        if not url:
            assert process.stdout is not None
            url = process.stdout.readline().decode().split()[1]
        limit = time.monotonic() + 60
        while time.monotonic() < limit:
            try:
                if httpx.get(f"{url}/health").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        else:
            pytest.fail(f"the server did not start: {log.read_text()[-500:]}")
        yield url
    finally:
        process.terminate()
        process.wait(30)
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture(scope="module")
def shell(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    asked = Start(model=str(folder), name="lm", port=0, at_once=2, more=("--waiting", "2"))
    words = known.find("genai").start(asked)
    log = tmp_path_factory.mktemp("log") / "shell.log"
    yield from started([sys.executable, *words[1:]], "", log)


@pytest.fixture(scope="module")
def llama(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from llama_server(folder, tmp_path_factory.mktemp("log") / "llama.log", context=256, at_once=2)


def llama_server(folder: Path, log: Path, *more: str, context: int, at_once: int) -> Iterator[str]:
    program = str(BUILT) if BUILT.exists() else which("llama-server")
    if program is None:
        pytest.skip("llama-server is not here: `make engines` builds it")
    port = free_port()
    # one place in memory for each answer, and keys and values as exact as the weights
    exact = ("-t", "1", "-ctk", "f32", "-ctv", "f32", "-fa", "off", *more)
    asked = Start(model=str(folder / "model.gguf"), name="lm", port=port, context=context, at_once=at_once, more=exact)
    words = known.find("llama_server").start(asked)
    yield from started([program, *words[1:]], f"http://127.0.0.1:{port}", log)


def free_port() -> int:
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def events(url: str, path: str, **body: Any) -> list[dict[str, Any]]:
    """A stream's events; it must end with [DONE]."""
    found = []
    with httpx.stream("POST", url + path, json={"temperature": 0, "stream": True, **body}, timeout=60) as reply:
        assert reply.status_code == 200, reply.read()
        for said in reply.iter_lines():
            if said.startswith("data: "):
                found.append(said[6:])
    assert found.pop() == "[DONE]"
    return [json.loads(event) for event in found]


def texts(found: Sequence[dict[str, Any]]) -> list[str]:
    """The text of each event that has some."""
    said = [c.get("text") or c.get("delta", {}).get("content") for e in found for c in e["choices"]]
    return [text for text in said if text]


@pytest.fixture(params=["shell", "llama"])
def server(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def test_its_adapter_reads_what_a_real_server_says(server: str, request: pytest.FixtureRequest) -> None:
    name = {"shell": "genai", "llama": "llama_server"}[request.node.callspec.params["server"]]
    engine = known.find(name)
    box = Server(name="box", tier=Tier.PREMISES, engine=name, address=server, models={})

    async def ask() -> tuple[Any, ...]:
        egress = Egress()
        found = await probe.models(egress, box, engine), await probe.load(egress, box, engine)
        there = await probe.is_up(egress, box, engine)
        egress.close()
        return *found, there

    before = asyncio.run(ask())[1].tokens
    events(server, "/v1/completions", prompt="Ann has", max_tokens=7)
    models, load, there = asyncio.run(ask())
    assert {n: (s.context, s.goes_on) for n, s in models.items()} == {"lm": (256, True)}
    assert (load.running, load.waiting, there) == (0, 0, True)
    assert 5 <= load.tokens - before <= 7


@pytest.mark.parametrize("text", ASKED)
def test_a_server_s_answer_is_pytorch_s_whole_and_in_pieces(server: str, genai: Genai, folder: Path, text: str) -> None:
    wanted = genai.text_of(greedy(folder, genai.ids_of_chat(user(text)), 40))
    body = {"messages": user(text), "max_tokens": 40, "temperature": 0}
    whole = httpx.post(f"{server}/v1/chat/completions", json=body, timeout=60).json()
    assert whole["choices"][0]["message"]["content"] == wanted
    assert "".join(texts(events(server, "/v1/chat/completions", messages=user(text), max_tokens=40))) == wanted
    prompt = greedy(folder, genai.ids_of(text), 20)
    done = "".join(texts(events(server, "/v1/completions", prompt=text, max_tokens=20)))
    assert done == genai.text_of(prompt)


def test_a_chat_that_broke_off_after_any_event_goes_on_to_the_same_text(server: str) -> None:
    asked = user(ASKED[2])
    said = texts(events(server, "/v1/chat/completions", messages=asked, max_tokens=40))
    assert len(said) > 5
    for at in range(1, len(said)):
        begun = [*asked, {"role": "assistant", "content": "".join(said[:at])}]
        going_on = {"continue_final_message": True, "add_generation_prompt": False}
        rest = events(server, "/v1/chat/completions", messages=begun, max_tokens=40 - at, **going_on)
        assert "".join(texts(rest)) == "".join(said[at:]), f"after {at} events"


def test_a_completion_that_broke_off_goes_on_from_its_text(server: str) -> None:
    said = texts(events(server, "/v1/completions", prompt="Ann has", max_tokens=20))
    for at in range(1, len(said)):
        rest = texts(events(server, "/v1/completions", prompt="Ann has" + "".join(said[:at]), max_tokens=20 - at))
        assert "".join(rest) == "".join(said[at:]), f"after {at} events"


def test_usage_stands_in_the_last_event(server: str, genai: Genai) -> None:
    options = {"include_usage": True}
    found = events(server, "/v1/chat/completions", messages=user("12+7="), max_tokens=3, stream_options=options)
    usage = found[-1]["usage"]
    assert usage["prompt_tokens"] == len(genai.ids_of_chat(user("12+7=")))
    assert 1 <= usage["completion_tokens"] <= 3


def test_too_long_a_prompt_is_refused_before_the_first_byte(server: str) -> None:
    body = {"prompt": "x y " * 400, "max_tokens": 5, "stream": True}
    assert httpx.post(f"{server}/v1/completions", json=body, timeout=60).status_code == 400


def test_an_unmodified_client_talks_to_the_shell(shell: str, genai: Genai) -> None:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{shell}/v1", api_key="none", max_retries=0) as client:
        asked: Any = {"model": "lm", "messages": user("12+7="), "max_tokens": 8, "temperature": 0}
        whole = client.chat.completions.create(**asked).choices[0].message.content
        parts = client.chat.completions.create(**asked, stream=True)
        assert "".join(p.choices[0].delta.content or "" for p in parts) == whole
        assert client.models.list().data[0].id == "lm"
        with pytest.raises(openai.BadRequestError, match="several answers"):
            client.chat.completions.create(**asked, n=2)


def test_the_shell_gives_ids_and_goes_on_from_them(shell: str, genai: Genai) -> None:
    asked = {"prompt": genai.ids_of("Ann has"), "return_token_ids": True}
    found = events(shell, "/v1/completions", max_tokens=20, **asked)
    ids = [i for e in found for i in e["choices"][0].get("token_ids", ())]
    assert ids == list(genai.generate(genai.ids_of("Ann has"), most=20).ids)
    for at in (1, len(ids) // 2):
        rest = events(shell, "/v1/completions", **asked | {"prompt": [*asked["prompt"], *ids[:at]]}, max_tokens=20 - at)
        assert [i for e in rest for i in e["choices"][0].get("token_ids", ())] == ids[at:]


def test_a_stop_word_ends_it_and_is_not_said(shell: str) -> None:
    body = {"prompt": "Ann has", "max_tokens": 20, "temperature": 0}
    plain = httpx.post(f"{shell}/v1/completions", json=body).json()["choices"][0]["text"]
    stop = plain[4:6]
    said = httpx.post(f"{shell}/v1/completions", json=body | {"stop": [stop, "zzz"]}).json()["choices"][0]
    assert said == {"index": 0, "text": plain[: plain.index(stop)], "finish_reason": "stop"}
    assert "".join(texts(events(shell, "/v1/completions", **body | {"stop": stop}))) == said["text"]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'{"messages": []}',
        b'{"messages": [{"role": "judge", "content": "x"}]}',
        b'{"messages": [{"role": "user", "content": "x"}], "continue_final_message": true}',
        b'{"messages": [{"role": "user", "content": "x"}], "tools": [{}]}',
        b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": 0}',
        b'{"messages": [{"role": "user", "content": "x"}], "stop": 5}',
    ],
)
def test_what_cannot_be_understood_is_refused_and_not_repeated(shell: str, body: bytes) -> None:
    reply = httpx.post(f"{shell}/v1/chat/completions", content=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["message"]


def test_more_than_may_wait_is_sent_away_and_who_hangs_up_is_not_answered_on(shell: str) -> None:
    hold, begun = threading.Event(), threading.Semaphore(0)

    def long() -> int:
        body = {"prompt": "Ann has", "max_tokens": 250, "stream": True, "temperature": 2, "seed": 1}
        with httpx.stream("POST", f"{shell}/v1/completions", json=body, timeout=60) as reply:
            begun.release()
            hold.wait(30)
            return reply.status_code

    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(long) for _ in range(8)]
        for _ in range(8):
            begun.acquire()
        hold.set()
        codes = sorted(done.result() for done in asked)
    assert set(codes) <= {200, 429}
    assert codes.count(200) >= 4  # two are made, two wait; a quick answer makes room for one more
    limit = time.monotonic() + 30
    while "running 0" not in httpx.get(f"{shell}/metrics").text and time.monotonic() < limit:
        time.sleep(0.05)
    assert "genai_requests_running 0\ngenai_requests_waiting 0" in httpx.get(f"{shell}/metrics").text


# -- behind the gateway -----------------------------------------------------------------------------------------------


class Behind:
    """A gateway before real servers, in a thread; it learns from them what they serve."""

    def __init__(self, *named: BackendSettings, **servers: str) -> None:
        found = [BackendSettings(name=engine, address=url, engine=engine) for engine, url in servers.items()]
        self._named = [*named, *found]
        self._up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    async def _run(self) -> None:
        self._stop, self._loop = asyncio.Event(), asyncio.get_running_loop()
        egress, pool = Egress(), Pool(clock=time.monotonic)
        watch = Roster(pool, egress, wanted=lambda: self._named, secrets=lambda found: {}, clock=time.monotonic)
        await watch.look()
        keys = OneKey(Tenant(name="t"))
        relay = Relay(pool, keys=keys, purse=Unlimited(), witness=Seen(), egress=egress)
        responses, connections = Responses(relay, keys), set[Connection]()

        async def handle(request: Any, reply: Any) -> None:
            await (responses if request.path == "/v1/responses" else relay).handle(request, reply)

        server = await self._loop.create_server(lambda: Connection(handle, connections), "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        self._up.set()
        await self._stop.wait()
        server.close()
        egress.close()
        for connection in list(connections):
            connection.cut()
        await asyncio.sleep(0)

    def __enter__(self) -> Behind:
        self._thread.start()
        assert self._up.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


def test_an_unmodified_client_before_the_gateway_and_a_real_engine(server: str, request: pytest.FixtureRequest) -> None:
    openai = pytest.importorskip("openai")
    name = {"shell": "genai", "llama": "llama_server"}[request.node.callspec.params["server"]]
    asked: Any = {"model": "lm", "messages": user(ASKED[2]), "max_tokens": 24, "temperature": 0}

    async def several(url: str) -> list[str]:
        async with openai.AsyncOpenAI(base_url=url, api_key=KEY) as client:
            found = await asyncio.gather(*(client.chat.completions.create(**asked) for _ in range(4)))
        return [f.choices[0].message.content for f in found]

    with Behind(**{name: server}) as behind, openai.OpenAI(base_url=behind.url, api_key=KEY, max_retries=0) as client:
        assert client.models.list().data[0].id == "lm"
        whole = client.chat.completions.create(**asked).choices[0].message.content
        pieces = [p.choices[0].delta.content or "" for p in client.chat.completions.create(**asked, stream=True)]
        assert whole
        assert "".join(pieces) == whole
        assert asyncio.run(several(behind.url)) == [whole] * 4
        said = client.completions.create(model="lm", prompt="Ann has", max_tokens=5, temperature=0).choices[0].text
        assert said

        response = {"model": "lm", "input": ASKED[2], "max_output_tokens": 24, "temperature": 0}
        assert client.responses.create(**response).output_text == whole
        events_ = list(client.responses.create(**response, stream=True))
        assert "".join(e.delta for e in events_ if e.type == "response.output_text.delta") == whole

        with pytest.raises(openai.BadRequestError, match="can do embeddings"):
            client.embeddings.create(model="lm", input="x")
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(**asked | {"model": "huge"})
        with pytest.raises(openai.BadRequestError, match="so long a text"):
            client.chat.completions.create(**asked | {"max_tokens": 5000})
        if name == "genai":  # no tools: the gateway knows, and asks nobody
            tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
            with pytest.raises(openai.BadRequestError, match="can do chat, tools"):
                client.chat.completions.create(**asked, tools=[tool])


WITH_TOOLS = """\
{%- if tools %}<|system|>{% for tool in tools %}{{ tool.function.name }}{% endfor %}<|end|>{% endif %}
{%- for message in messages %}<|{{ message.role }}|>{{ message.content or "" }}
{%- for call in message.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|end|>{% endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""


def test_a_client_s_tools_reach_a_real_engine_and_its_calls_come_back(tmp_path: Path) -> None:
    openai = pytest.importorskip("openai")
    call = '<tool_call>\n{"name": "stock", "arguments": {"shop": "%s"}}\n</tool_call>'
    chat = [(("system", "stock"), ("user", f"Eggs, {s}?"), ("assistant", call % s)) for s in ("north", "south")]
    said = [json.dumps({"messages": [{"role": r, "content": c} for r, c in turns]}) + "\n" for turns in chat]
    folder = trained(tmp_path, "".join(said * 32).encode(), steps=200)
    (tmp_path / "chat.jinja").write_text(WITH_TOOLS)
    parameters = {"type": "object", "properties": {"shop": {"enum": ["north", "south"]}}, "required": ["shop"]}
    tools = [{"type": "function", "function": {"name": "stock", "parameters": parameters}}]
    asked: Any = {"model": "lm", "max_tokens": 100, "temperature": 0, "tools": tools}
    more = ("--jinja", "--chat-template-file", str(tmp_path / "chat.jinja"))
    for url in llama_server(folder, tmp_path / "log", *more, context=256, at_once=1):
        with Behind(llama_server=url) as behind, openai.OpenAI(base_url=behind.url, api_key=KEY) as client:
            for shop in ("north", "south"):
                messages = user(f"Eggs, {shop}?")
                whole = client.chat.completions.create(**asked, messages=messages).choices[0]
                assert whole.finish_reason == "tool_calls"
                (made,) = whole.message.tool_calls
                assert (made.function.name, json.loads(made.function.arguments)) == ("stock", {"shop": shop})

                pieces = list(client.chat.completions.create(**asked, messages=messages, stream=True))
                calls = [c for p in pieces for choice in p.choices for c in choice.delta.tool_calls or []]
                assert "".join(c.function.arguments or "" for c in calls) == made.function.arguments

                told = {"role": "tool", "tool_call_id": made.id, "content": "12"}
                went_on = [*messages, whole.message.model_dump(exclude_none=True), told]
                assert client.chat.completions.create(**asked | {"max_tokens": 4}, messages=went_on).choices


def test_a_client_s_embeddings_are_pytorch_s(folder: Path, genai: Genai, tmp_path: Path) -> None:
    import torch

    openai = pytest.importorskip("openai")
    net = torch_net(folder)
    heard: list[torch.Tensor] = []
    net.model.norm.register_forward_hook(lambda module, given, out: heard.append(out))
    with torch.no_grad():
        for text in ASKED:
            net(torch.tensor([genai.ids_of(text)]))
    mean = torch.stack([h[0].mean(0) for h in heard])
    wanted = (mean / mean.norm(dim=1, keepdim=True)).numpy()

    for url in llama_server(folder, tmp_path / "log", "--embeddings", "--pooling", "mean", context=256, at_once=1):
        can = (ModelSettings(name="lm", capabilities=("embeddings",)),)
        box = BackendSettings(name="box", address=url, engine="llama_server", models=can)
        with Behind(box) as behind, openai.OpenAI(base_url=behind.url, api_key=KEY) as client:
            found = client.embeddings.create(model="lm", input=list(ASKED))
            np.testing.assert_allclose([e.embedding for e in found.data], wanted, atol=1e-4)
            with pytest.raises(openai.BadRequestError, match="can do chat"):
                client.chat.completions.create(model="lm", messages=user("x"))
