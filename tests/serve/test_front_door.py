"""`fleetmill up` serves pages, devices and models at one address; a connection changes hands between two requests."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_gateway_processes import box, command  # noqa: F401 - a fixture

from fleetmill.api.front import OURS, whose
from fleetmill.home import init_home
from fleetmill.serve.asked import WANTS
from fleetmill.serve.openapi import PATHS
from fleetmill.settings import read_settings
from simulated import answer_to

ASKED = {"model": "small", "max_tokens": 60, "messages": [{"role": "user", "content": "hello"}], "stream": True}
SETTINGS = """
port = 0
[[serve.backend]]
name = "b"
address = "http://127.0.0.1:{port}"
engine = "genai"
models = [{{name = "small", capabilities = ["chat", "completions"]}}]
"""
LINES = [b"POST /v1/chat/completions HTTP/1.1", b"GET /v2 HTTP/1.1", b"GET /v2/models HTTP/1.1", b"GET /v2?x HTTP/1.1"]
LINES += [b"GET /v1/models/small HTTP/1.1", b"POST /v1/completions?x HTTP/1.1"]
OTHERS = [
    b"GET / HTTP/1.1",
    b"GET /v1 HTTP/1.1",
    b"PUT /v1/modelsx HTTP/1.1",
    b"GET /v22 HTTP/1.1",
    b"GET http://x/v2 H",
]
OTHERS += [
    b"GET http://x/v2 HTTP/1.1",
    b"POST /v1/recordings/x HTTP/1.1",
    b"GET /v1/wait HTTP/1.1",
    b"POST /v1/chat HTTP/1.1",
]


@given(st.sampled_from([(line, True) for line in LINES] + [(line, False) for line in OTHERS]), st.integers(0, 40))
def test_what_is_said_of_the_first_bytes_never_changes_with_more_of_them(line, cut):
    begun, ours = line[0][:cut], line[1]
    assert whose(begun) in (None, ours)
    assert whose(b"\r\n" + line[0]) is ours


def test_the_gateway_has_all_its_paths_and_no_other():
    assert {path.decode() for path in OURS} == {*WANTS, "/v1/models", PATHS[1], "/v2"}


@pytest.mark.parametrize("odd", [b"x" * 40, b"\x16\x03\x01 \x00" * 9, b"GET\n" + b"x" * 40])
def test_what_is_no_request_is_the_applications_to_refuse(odd):
    assert whose(odd) is False


class Factory:
    """`fleetmill up` as a process, without its loop."""

    def __init__(self, home, *words):
        command = [sys.executable, "-m", "fleetmill.cli", "up", "--no-loop", "--home", str(home), *words]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.address = self.process.stdout.readline().split()[1]
        self.port = int(self.address.rpartition(":")[2])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(40)
        self.process.stdout.close()

    def raw(self, pieces):
        """All that comes back when these are sent one after another."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in pieces:
                sock.sendall(piece)
            found = b""
            while data := sock.recv(65536):
                found += data
        return found


def request(method, path, *, key="", body=b"", more=""):
    head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {key}\r\n{more}"
    return f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body


def text_of(lines):
    events = [json.loads(p[6:]) for p in lines if p.startswith("data: {")]
    return "".join(c["delta"].get("content") or "" for e in events for c in e["choices"])


def test_pages_devices_and_models_have_one_address(tmp_path, box):  # noqa: F811
    home = tmp_path / "home"
    init_home(read_settings(home=home), now_ns=time.time_ns(), root_key=tmp_path / "root.pem")
    (home / "fleetmill.toml").write_text(SETTINGS.format(port=box.port))
    command("tenant", "set", "t", "--home", home)
    key = command("key", "add", "t", "--home", home).strip()
    wanted = "".join(answer_to("hello", 60))
    with Factory(home) as factory:
        limits = httpx.Limits(max_connections=1)  # every request goes over the one connection
        headers = {"authorization": f"Bearer {key}"}
        with httpx.Client(base_url=factory.address, headers=headers, limits=limits, timeout=20) as client:
            for _ in range(3):
                assert client.get("/health").json()["status"] == "ok"  # the door's
                assert client.get("/v2/health/live").json() == {"live": True}
                answer = client.post("/v1/chat/completions", json={**ASKED, "stream": False})
                assert answer.json()["choices"][0]["message"]["content"] == wanted
                assert client.get("/").headers["content-type"].startswith("text/html")
                assert client.post("/v1/enrol", content=b"{").status_code == 400
                assert text_of(client.post("/v1/chat/completions", json=ASKED).iter_lines()) == wanted
                assert client.get("/v1/models/x").json()["error"]["code"] == "no_route"
            told = client.get("/metrics").text
            assert "\nfleetmill_requests_total" in told
            assert '\nfleetmill_serve_answered{server="b"} 6\n' in told
            assert client.get("/openapi.json").json()["info"]["title"] == "Fleetmill"
            assert client.get("/v1/openapi.json").json()["info"]["title"] == "Fleetmill gateway"

            # what is for this machine alone stays so
            for path in ("/", "/metrics"):
                assert client.get(path, headers={"host": "evil.example"}).status_code == 401

        asked = request("POST", "/v1/chat/completions", key=key, body=json.dumps({**ASKED, "stream": False}).encode())
        assert wanted.encode()[:9] in factory.raw([asked[n : n + 1] for n in range(len(asked))])
        assert b'"status":"ok"' in factory.raw([b"G", b"ET ", b"/healt", request("GET", "/health")[10:]])
        smuggled = request("POST", "/v1/chat/completions", key=key, more="transfer-encoding: chunked\r\n")
        assert factory.raw([smuggled]).startswith(b"HTTP/1.1 400")

        with (
            httpx.Client(base_url=factory.address, headers=headers, timeout=20) as client,
            client.stream("POST", "/v1/chat/completions", json=ASKED) as answer,
        ):
            pieces = answer.iter_lines()
            begun = next(pieces)
            factory.process.send_signal(signal.SIGTERM)  # what was begun is finished
            whole = [begun, *pieces]
        assert (text_of(whole), whole[-2]) == (wanted, "data: [DONE]")
        assert factory.process.wait(30) == -signal.SIGTERM  # as uvicorn ends


def test_without_models_to_serve_there_is_no_gateway(tmp_path):
    home = tmp_path / "home"
    init_home(read_settings(home=home), now_ns=time.time_ns(), root_key=tmp_path / "root.pem")
    with Factory(home, "--port", "0") as factory:
        assert httpx.get(f"{factory.address}/v2/health/live").status_code == 404
        assert httpx.get(f"{factory.address}/health").json()["status"] == "ok"
    assert not (home / "serve").exists()
