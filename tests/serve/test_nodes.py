"""Servers come and go while gateways run, and say themselves what they serve, whether they are there, how busy."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from typer.testing import CliRunner

from fleetmill.cli import app
from fleetmill.core.errors import ConflictError, InvalidInputError, NotFoundError
from fleetmill.core.serve import Label, Tier
from fleetmill.serve.egress import Egress
from fleetmill.serve.http import Connection
from fleetmill.serve.pool import Pool
from fleetmill.serve.relay import Relay
from fleetmill.serve.servers import backends
from fleetmill.serve.servers.nodes import Nodes
from fleetmill.serve.servers.roster import Roster
from fleetmill.serve.words import Tenant, Unlimited
from fleetmill.settings import BackendSettings, ModelSettings
from simulated import Engine, OneKey, Seen, Stage, answer_to

MODELS = (ModelSettings(name="small", digest="m", template="t", capabilities=("chat", "completions", "continue")),)


@dataclass
class Box(Engine):
    """A simulated engine that also says what it is: as our shell around GenAI words it."""

    health: int = 200
    running: int = 0
    asked: list[str] = field(default_factory=list)
    hold: asyncio.Event | None = None  # an answer waits for it

    async def handle(self, request, reply):
        if request.method == "GET":
            self.asked.append(request.path)
            if not self.health:
                reply.abort()
            elif request.path == "/health":
                reply.whole(self.health, b"{}")
            elif request.path == "/metrics":
                text = f"genai_requests_running {self.running}\ngenai_requests_waiting 0\ngenai_tokens_total 9\n"
                reply.whole(200, text.encode())
            else:
                reply.whole(200, b'{"data": [{"id": "small", "max_model_len": 4096}]}')
            return
        if self.hold is not None:
            await self.hold.wait()
        await super().handle(request, reply)


class Clock:
    """Seconds that a test moves."""

    def __init__(self):
        self.now = 1.0

    def __call__(self):
        return self.now


@asynccontextmanager
async def watched(folder, boxes, named):
    """Boxes up, and a gateway that follows `named(box)` and the folder; gives (stage, watch, clock, nodes)."""
    loop, servers = asyncio.get_running_loop(), []
    for box in boxes:
        servers.append(await loop.create_server(lambda b=box: Connection(b.handle, set()), "127.0.0.1", 0))
        box.port = servers[-1].sockets[0].getsockname()[1]
    clock, egress, nodes = Clock(), Egress(), Nodes(folder)
    settings = [named(box) for box in boxes if named(box) is not None]
    pool = Pool(clock=time.monotonic)
    watch = Roster(
        pool,
        egress,
        wanted=lambda: nodes.wanted(settings),
        secrets=lambda found: backends.secrets(found, {"KEY": "k"}),
        clock=clock,
    )
    who = Tenant(name="t", label=Label.OPEN, consent=True)
    relay = Relay(pool, keys=OneKey(who), purse=Unlimited(), witness=Seen(), egress=egress, secrets=watch.keys)
    front: set[Connection] = set()
    servers.append(await loop.create_server(lambda: Connection(relay.handle, front), "127.0.0.1", 0))
    port = servers[-1].sockets[0].getsockname()[1]
    try:
        yield Stage(engines=boxes, relay=relay, seen=Seen(), port=port, front=front), watch, clock, nodes
    finally:
        egress.close()
        for server in servers:
            server.close()


def backend(box, **changes):
    made = {"name": box.name, "address": f"http://127.0.0.1:{box.port}", "engine": "genai"}
    return BackendSettings(**(made | changes))


CHAT = {"model": "small", "max_tokens": 5, "messages": [{"role": "user", "content": "hello"}]}


def text_of(body):
    return json.loads(body)["choices"][0]["message"]["content"]


def test_a_server_whose_models_nobody_named_says_them_itself(tmp_path):
    async def go():
        async with watched(tmp_path, [Box("a")], backend) as (stage, watch, _, _):
            assert (await stage.ask(CHAT))[0] == 404  # it has not spoken yet
            await watch.look()
            status, headers, body = await stage.ask(CHAT)
            assert (status, headers["x-fleetmill-server"]) == (200, "a")
            assert text_of(body) == "".join(answer_to("hello", 5))
            served = stage.relay.pool.server("a").models["small"]
            assert (served.context, served.goes_on) == (4096, True)
            assert watch.seen()[0].load.tokens == 9

    asyncio.run(go())


def test_a_partner_is_asked_for_its_models_once_and_never_watched(tmp_path):
    async def go():
        tiers = {"own": "premises", "partner": "partner", "named": "partner"}
        named = lambda box: backend(box, tier=tiers[box.name], models=MODELS if box.name == "named" else ())  # noqa: E731
        boxes = [Box("own"), Box("partner"), Box("named")]
        async with watched(tmp_path, boxes, named) as (stage, watch, clock, _):
            for _ in range(4):
                await watch.look()
                clock.now += 60.0
            assert stage.relay.pool.server("partner").tier == Tier.PARTNER
            assert boxes[0].asked.count("/health") == 4
            assert boxes[1].asked == ["/v1/models"]
            assert boxes[2].asked == []
            assert "named" not in stage.relay.egress.opened

    asyncio.run(go())


def test_who_says_503_or_nothing_twice_is_not_asked_until_it_says_otherwise(tmp_path):
    async def go():
        box = Box("a")
        async with watched(tmp_path, [box], lambda b: backend(b, models=MODELS)) as (stage, watch, clock, _):
            for health, status in ((200, 200), (503, 503), (200, 200), (0, 200), (0, 503), (200, 200)):
                box.health = health
                clock.now += 60.0
                await watch.look()
                assert (await stage.ask(CHAT))[0] == status, health
                assert watch.seen()[0].state == ("up" if status == 200 else "down")

    asyncio.run(go())


def test_a_name_that_comes_back_at_another_address_is_asked_there(tmp_path):
    async def go():
        boxes = [Box("a"), Box("b")]
        async with watched(tmp_path, boxes, lambda b: None) as (stage, watch, clock, nodes):
            for box in boxes:
                nodes.join(backend(box, name="one"), [])
                watch.follow()
                clock.now += 60.0
                await watch.look()
                assert (await stage.ask(CHAT))[0] == 200
                nodes.leave("one", [])
                watch.follow()
            assert [len(box.seen) for box in boxes] == [1, 1]

    asyncio.run(go())


def test_what_a_server_has_from_elsewhere_counts_against_its_capacity(tmp_path):
    async def go():
        box = Box("a", running=2)
        async with watched(tmp_path, [box], lambda b: backend(b, capacity=2)) as (stage, watch, clock, _):
            await watch.look()
            assert (await stage.ask(CHAT, headers={"x-fleetmill-deadline-ms": "50"}))[0] in (429, 503)
            assert box.seen == []
            box.running, clock.now = 0, 60.0
            await watch.look()
            assert (await stage.ask(CHAT))[0] == 200

    asyncio.run(go())


def test_a_node_joins_by_its_file_gets_requests_and_leaves_when_its_last_answer_is_whole(tmp_path):
    async def go():
        box = Box("b")
        async with watched(tmp_path, [box], lambda b: None) as (stage, watch, _, nodes):
            nodes.join(backend(box), [])
            watch.follow()
            await watch.look()
            assert (await stage.ask(CHAT))[0] == 200

            box.hold = asyncio.Event()
            last = asyncio.create_task(stage.ask(CHAT))
            while not stage.relay.pool.in_flight("b"):
                await asyncio.sleep(0)
            nodes.leave("b", [])
            watch.follow()
            assert [(s.name, s.state) for s in watch.seen()] == [("b", "leaving")]
            assert (await stage.ask(CHAT))[0] == 503  # nothing new
            box.hold.set()
            status, _, body = await last
            assert (status, text_of(body)) == (200, "".join(answer_to("hello", 5)))
            assert watch.seen() == []
            assert stage.relay.pool.servers == []

    asyncio.run(go())


def test_one_that_changes_waits_until_what_had_its_name_has_gone(tmp_path):
    async def go():
        box = Box("b")
        async with watched(tmp_path, [box], lambda b: None) as (stage, watch, clock, nodes):
            nodes.join(backend(box, models=MODELS), [])
            watch.follow()
            box.hold = asyncio.Event()
            last = asyncio.create_task(stage.ask(CHAT))
            while not stage.relay.pool.in_flight("b"):
                await asyncio.sleep(0)
            nodes.leave("b", [])
            nodes.join(backend(box, models=MODELS, capacity=3), [])
            watch.follow()
            assert watch.seen()[0].why
            box.hold.set()
            assert (await last)[0] == 200
            clock.now += 60.0
            await watch.look()
            assert stage.relay.pool.server("b").capacity == 3

    asyncio.run(go())


def test_one_without_its_key_is_not_used_and_says_why_and_the_others_are(tmp_path):
    async def go():
        boxes = [Box("a"), Box("b")]
        keys = {"a": "ABSENT", "b": "KEY"}
        async with watched(tmp_path, boxes, lambda b: backend(b, key_env=keys[b.name])) as (stage, watch, _, _):
            await watch.look()
            assert (await stage.ask(CHAT))[1]["x-fleetmill-server"] == "b"
            assert {s.name: s.state for s in watch.seen()} == {"a": "not joined", "b": "up"}
            assert "ABSENT is not set" in watch.seen()[0].why

    asyncio.run(go())


def test_what_joined_is_there_after_a_restart_and_names_are_one_s_own(tmp_path):
    one, named = BackendSettings(name="one", address="http://x:1"), [BackendSettings(name="two", address="http://y:1")]
    nodes = Nodes(tmp_path)
    nodes.join(one, named)
    nodes.join(one, named)  # again is nothing
    assert Nodes(tmp_path).wanted(named) == [*named, one]
    for other in (BackendSettings(name="one", address="http://z:1"), BackendSettings(name="two", address="http://z:1")):
        with pytest.raises(ConflictError, match="another one has that name"):
            nodes.join(other, named)
    nodes.leave("two", named)
    assert Nodes(tmp_path).wanted(named) == [one]
    nodes.come_back("two", named)
    nodes.leave("one", named)
    assert Nodes(tmp_path).wanted(named) == named
    for nobody in ("one", "three"):
        with pytest.raises(NotFoundError, match="is not in the pool"):
            nodes.leave(nobody, named)
    with pytest.raises(InvalidInputError):
        nodes.join(BackendSettings(name="../x", address="http://x:1"), named)
    with pytest.raises(InvalidInputError, match="tier"):
        nodes.join(BackendSettings(name="x", address="http://x:1", tier="moon"), named)


def test_an_unknown_engine_is_refused_with_the_list_before_anything_listens():
    with pytest.raises(InvalidInputError, match=r"\[\[serve.backend\]\] a: engine 'tgi': is not known. Choose of"):
        backends.servers([BackendSettings(name="a", address="http://x:1", engine="tgi", models=MODELS)])


def test_a_file_that_is_no_node_leaves_the_pool_as_it_is(tmp_path):
    async def go():
        async with watched(tmp_path, [Box("a")], backend) as (_, watch, _, _):
            await watch.look()
            (tmp_path / "broken.json").write_text('{"name": 5}')
            with pytest.raises(InvalidInputError, match=r"broken.json: is no server"):
                watch.follow()
            assert [s.state for s in watch.seen()] == ["up"]

    asyncio.run(go())


@pytest.mark.parametrize(("goes_on", "found"), [(True, True), (False, False)])
def test_only_who_goes_on_with_a_begun_answer_is_asked_to(goes_on, found):
    from fleetmill.serve.policy import same_answer

    more = ("chat", "continue") if goes_on else ("chat",)
    models = (ModelSettings(name="small", digest="m", capabilities=more),)
    one, other = (
        backends.server(BackendSettings(name=n, address="http://x:1", engine="mlx_server", models=models)) for n in "ab"
    )
    assert same_answer(one, other, "small") is found


def test_one_that_leaves_while_it_is_asked_does_not_come_in(tmp_path):
    async def go():
        async with watched(tmp_path, [Box("a")], lambda b: None) as (stage, watch, _, nodes):
            nodes.join(backend(stage.engines[0]), [])
            watch.follow()
            looking = asyncio.create_task(watch.look())
            await asyncio.sleep(0)
            nodes.leave("a", [])
            watch.follow()
            await looking
            assert stage.relay.pool.servers == []

    asyncio.run(go())


def test_a_key_is_never_sent_to_who_has_the_name_after_its_owner(tmp_path):
    class Asked(Box):
        async def handle(self, request, reply):
            self.seen.append(request.headers.get(b"authorization"))
            reply.whole(200, b'{"data": [{"id": "small"}]}')

    async def go():
        boxes = [Asked("a"), Asked("b")]
        async with watched(tmp_path, boxes, lambda b: None) as (_, watch, _, nodes):
            for box, key_env in zip(boxes, ("KEY", "")):
                nodes.join(backend(box, name="one", key_env=key_env, engine="openai_url"), [])
                watch.follow()
                await watch.look()
                nodes.leave("one", [])
                watch.follow()
            assert [set(box.seen) for box in boxes] == [{b"Bearer k"}, {None}]

    asyncio.run(go())


def test_a_server_that_hangs_holds_up_nobody_else(tmp_path, monkeypatch):
    from fleetmill.serve.servers import roster as watching

    monkeypatch.setattr(watching, "LOOK_SECONDS", 0.01)

    class Hanging(Box):
        async def handle(self, request, reply):
            self.asked.append(request.path)
            await asyncio.Event().wait()

    async def go():
        boxes = [Hanging("a"), Box("b")]
        async with watched(tmp_path, boxes, lambda b: backend(b) if b.name == "a" else None) as (
            stage,
            watch,
            _,
            nodes,
        ):
            running = asyncio.create_task(watch.run())
            while not boxes[0].asked:
                await asyncio.sleep(0)
            nodes.join(backend(boxes[1]), [])
            while not stage.relay.pool.servers:
                await asyncio.sleep(0)
            assert (await stage.ask(CHAT))[1]["x-fleetmill-server"] == "b"
            running.cancel()

    asyncio.run(asyncio.wait_for(go(), 30))


@pytest.mark.parametrize("address", ["http://", "box:80", "http://box:x", "http://box:0", "ftp://box:80", "http://:80"])
def test_an_address_that_is_none_is_refused(tmp_path, address):
    with pytest.raises(InvalidInputError, match="must be http://host:port"):
        Nodes(tmp_path).join(BackendSettings(name="x", address=address), [])


def test_the_start_command_is_printed_with_what_follows_the_dashes():
    runner = CliRunner()
    listed = runner.invoke(app, ["serve", "engine"])
    assert all(name in listed.stdout for name in ("llama_server", "vllm", "sglang", "mlx_server", "genai", "coreml"))
    words = [
        "serve",
        "engine",
        "llama_server",
        "--model",
        "a b.gguf",
        "--name",
        "small",
        "--port",
        "9",
        "--",
        "-t",
        "8",
    ]
    printed = runner.invoke(app, words).stdout.strip()
    assert printed == "llama-server -m 'a b.gguf' --host 127.0.0.1 --port 9 --metrics --alias small -t 8"
    unknown = runner.invoke(app, ["serve", "engine", "tgi", "--model", "x"])
    assert "is not known. Choose of" in str(unknown.exception)
    absent = runner.invoke(app, ["serve", "engine", "mlx_server", "--model", "/m", "--run"])
    assert "mlx_lm.server: is not on the PATH" in str(absent.exception)
