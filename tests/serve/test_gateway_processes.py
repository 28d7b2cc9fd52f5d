"""The gateway as two processes at one port: nodes join and leave by command, and a restart knows them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import httpx
import pytest
from test_nodes import Box
from typer.testing import CliRunner

from fleetmill.cli import app
from fleetmill.home import init_home
from fleetmill.settings import read_settings
from simulated import answer_to, threaded

SETTINGS = """
[serve]
port = 0
workers = {workers}
"""


@pytest.fixture
def box():
    """An engine in a thread of its own."""
    with threaded(Box("b", delay=0.002)) as made:
        yield made


def command(*words, code=0):
    found = CliRunner().invoke(app, ["serve", *map(str, words)])
    assert found.exit_code == code, (found.output, found.exception)
    return found.output


class Gateway:
    """`fleetmill serve` as a process."""

    def __init__(self, home):
        self._home = home

    def __enter__(self):
        words = [sys.executable, "-m", "fleetmill.cli", "serve", "--home", str(self._home)]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL)
        self.address = self.process.stdout.readline().split()[1]
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(30)
        self.process.stdout.close()

    def until(self, holds, what):
        """Wait for what the processes say of themselves."""
        limit = time.monotonic() + 30
        while time.monotonic() < limit:
            found = CliRunner().invoke(app, ["serve", "status", "--home", str(self._home), "--json"])
            told = json.loads(found.stdout) if found.stdout.strip() else []
            if holds(told):
                return told
            time.sleep(0.1)
        pytest.fail(f"{what}: {told}")


def servers(told):
    return sorted((s["name"], s["state"]) for one in told for s in one["servers"])


def test_nodes_join_and_leave_two_processes_and_are_there_after_a_kill(tmp_path, box):
    home = tmp_path / "home"
    init_home(read_settings(home=home), now_ns=time.time_ns(), root_key=tmp_path / "root.pem")
    (home / "fleetmill.toml").write_text(SETTINGS.format(workers=2))
    command("tenant", "set", "t", "--home", home)
    key = command("key", "add", "t", "--home", home).strip()
    asked = {"model": "small", "max_tokens": 60, "messages": [{"role": "user", "content": "hello"}], "stream": True}
    headers, address = {"authorization": f"Bearer {key}"}, f"http://127.0.0.1:{box.port}"
    wrong = CliRunner().invoke(app, ["serve", "join", "b", "no-address", "--home", str(home)])
    assert "must be http://host:port" in str(wrong.exception)  # before anybody is asked
    command("status", "--home", home, code=1)  # nobody runs; `main` makes 4 of it

    with Gateway(home) as gateway:
        gateway.until(lambda told: len(told) == 2, "two processes")
        box.health = 503
        refused = CliRunner().invoke(app, ["serve", "join", "b", address, "--engine", "genai", "--home", str(home)])
        assert "not ready" in str(refused.exception)
        box.health = 200
        assert "joins with small" in command("join", "b", address, "--engine", "genai", "--home", home)
        gateway.until(lambda told: servers(told) == [("b", "up")] * 2, "joined in both")
        assert "small" in command("status", "--home", home)
        with httpx.Client(base_url=gateway.address, headers=headers) as client:
            assert [m["id"] for m in client.get("/v1/models").json()["data"]] == ["small"]
            with client.stream("POST", "/v1/chat/completions", json=asked) as answer:
                pieces = answer.iter_lines()
                begun = next(pieces)
                assert "has left" in command("leave", "b", "--home", home)
                whole = [begun, *pieces]
            events = [json.loads(p[6:]) for p in whole if p.startswith("data: {")]
            said = "".join(c["delta"].get("content") or "" for e in events for c in e["choices"])
            assert (said, whole[-2]) == ("".join(answer_to("hello", 60)), "data: [DONE]")
            assert client.get("/v1/models").json()["data"] == []
        price = ["--watts", "360", "--tokens-per-second", "100", "--money-per-kwh", "1000", "--model", "small=abc"]
        wrong = CliRunner().invoke(app, ["serve", "join", "b", address, "--price-out", "-1", "--home", str(home)])
        assert "money_per_million_out = -1" in str(wrong.exception)
        command("join", "b", address, "--engine", "genai", *price, "--home", home)
        gateway.process.send_signal(signal.SIGKILL)

    (home / "fleetmill.toml").write_text(SETTINGS.format(workers=1))
    with Gateway(home) as gateway:
        gateway.until(lambda told: ("b", "up") in servers(told), "there after the kill")
        with httpx.Client(base_url=gateway.address, headers=headers) as client:
            found = client.post("/v1/chat/completions", json={**asked, "stream": False})
    answer, used = found.json(), json.loads(command("usage", "--home", home, "--json"))
    assert answer["choices"][0]["message"]["content"] == "".join(answer_to("hello", 60))
    per_token = 360 / 100 / 3.6e6 * 1000  # watts over tokens a second are joules a token
    written = answer["usage"]["completion_tokens"] + answer["usage"]["prompt_tokens"] / 10
    assert used[-1]["money"] == pytest.approx(per_token * written * 1e6, rel=0.01)
    assert json.loads((home / "serve" / "nodes" / "b.json").read_bytes())["models"][0]["digest"] == "abc"
