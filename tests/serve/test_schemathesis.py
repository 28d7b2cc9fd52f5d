"""Schemathesis before the gateway and before the front door: every answer is one that the document tells of."""

from __future__ import annotations

import time
import warnings
from dataclasses import replace

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import schemathesis
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

from test_candidates import served

from fleetmill.api.door import make_app
from fleetmill.home import init_home, open_home
from fleetmill.settings import BackendSettings, ModelSettings, Settings
from simulated import Engine, threaded

CONFORMS = [content_type_conformance, response_schema_conformance, status_code_conformance]
TRIED = settings(
    max_examples=5,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)


class Sturdy(Engine):
    """An engine that takes whatever is JSON."""

    async def handle(self, request, reply):
        self.seen.append({})
        if b'"stream":true' in request.body.replace(b" ", b""):
            reply.begin(200, kind=b"text/event-stream")
            reply.piece(b'data: {"choices": [{"delta": {"content": "yes"}, "finish_reason": "stop"}]}\n\n')
            reply.piece(b"data: [DONE]\n\n")
            reply.end()
            return
        reply.whole(200, b'{"object": "x", "choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}]}')


@pytest.fixture
def gateway(tmp_path):
    """(address, key) of a gateway with one engine."""
    with threaded(Sturdy("a")) as engine:
        can = ("chat", "completions", "embeddings", "tools")
        server = BackendSettings(
            name="a",
            address=f"http://127.0.0.1:{engine.port}",
            models=tuple(ModelSettings(name=n, capabilities=can) for n in ("small", "0", "")),
        )
        made = Settings(home=tmp_path / "home")
        init_home(made, now_ns=time.time_ns(), root_key=tmp_path / "root.pem")
        asked = replace(made, serve=replace(made.serve, backend=(server,)))
        with open_home(asked, clock=time.time_ns) as home, served(home) as (at, key):
            yield f"http://{at}", key, engine


def conform(document, address, headers, *, passed_over=(), checks=CONFORMS):
    """Ask every operation of a document what it may be asked; gives the status codes seen."""
    found = set()
    schema = schemathesis.openapi.from_dict(document)
    operations = [o for o in (result.ok() for result in schema.get_all_operations()) if o.path not in passed_over]
    assert operations
    for operation in operations:

        @TRIED
        @given(case=operation.as_strategy())
        def ask(case):
            answer = case.call(base_url=address, headers=headers)
            found.add(answer.status_code)
            case.validate_response(answer, checks=checks)

        ask()
    return found


@pytest.mark.filterwarnings("ignore")
def test_the_gateway_answers_as_its_document_says(gateway):
    address, key, engine = gateway
    document = httpx.get(f"{address}/openapi.json").json()
    bearer = {"authorization": f"Bearer {key}"}
    checks = [*CONFORMS, not_a_server_error]
    assert {200, 404} <= conform(document, address, bearer, checks=checks)
    stranger = {"authorization": "Bearer sk-wrong"}
    open_ones = ("/health", "/metrics", "/v1/models")
    assert conform(document, address, stranger, passed_over=open_ones, checks=checks) == {401}
    chat = {"model": "small", "messages": [{"role": "user", "content": "x"}]}
    assert httpx.post(f"{address}/v1/chat/completions", json=chat, headers=bearer).status_code == 200
    assert engine.seen


@pytest.mark.filterwarnings("ignore")
def test_the_front_door_never_fails_whatever_its_document_lets_ask(tmp_path):
    made = Settings(home=tmp_path / "home", poll_seconds=0.0)
    init_home(made, now_ns=time.time_ns(), root_key=tmp_path / "root.pem")
    with open_home(made, clock=time.time_ns) as home:
        app = make_app(home)
        schema = schemathesis.openapi.from_asgi("/openapi.json", app)
        found = set()
        operations = [result.ok() for result in schema.get_all_operations()]
        for operation in operations:

            @TRIED
            @given(case=operation.as_strategy())
            def ask(case):
                answer = case.call()
                found.add(answer.status_code)
                case.validate_response(answer, checks=[not_a_server_error])

            ask()
    assert len(operations) > 10
    assert {200, 401} <= found
