"""As a service: the units are sound; a factory and a device in processes of their own log, answer and end."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import typer.main

from fleetmill.cli import app
from fleetmill.core.errors import ConflictError, IntegrityError, InvalidInputError

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
NAMES = {"fleetmill.service": "fleetmill.service", "fleetmill-device@.service": "fleetmill-device@car-0.service"}
EXPOSURE = 2.0  # of systemd's 0 (nothing) to 10 (everything)


def value(unit, key):
    return re.findall(rf"^{key}=(.*)$", (UNITS / unit).read_text(), re.MULTILINE)


@pytest.mark.parametrize("unit", NAMES)
def test_a_unit_starts_a_command_that_there_is_with_options_that_there_are(unit):
    (start,) = value(unit, "ExecStart")
    words, command = start.split()[1:], typer.main.get_command(app)
    while words and not words[0].startswith("-"):
        command = command.commands[words.pop(0)]

    options = {opt for p in command.params for opt in p.opts}
    assert set(words[::2]) <= options
    assert value(unit, "KillSignal") == ["SIGINT"]  # what Ctrl-C is: the one end that is tested


def test_the_factory_is_not_started_again_where_only_a_person_can_help():
    codes = {int(code) for code in value("fleetmill.service", "RestartPreventExitStatus")[0].split()}

    assert codes == {kind.exit_code for kind in (InvalidInputError, ConflictError, IntegrityError)}


@pytest.fixture
def placed(tmp_path):
    """The units as systemd wants to see them, with a command that is there."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here: units can be verified on Linux with systemd only")
    for unit, name in NAMES.items():
        text = (UNITS / unit).read_text().replace("/opt/fleetmill/bin/fleetmill", sys.executable)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("name", NAMES.values())
def test_systemd_finds_no_fault_in_a_unit(placed, name):
    ran = subprocess.run(["systemd-analyze", "verify", "--man=no", str(placed / name)], capture_output=True, text=True)

    assert (ran.returncode, [line for line in ran.stderr.splitlines() if name in line]) == (0, [])


@pytest.mark.parametrize("name", NAMES.values())
def test_systemd_finds_little_that_a_unit_could_do_to_the_machine(placed, name):
    ran = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(placed / name)],
        capture_output=True, text=True,
    )  # fmt: skip
    found = re.search(r"exposure level for \S+: ([\d.]+)", ran.stdout)
    if found is None:
        pytest.skip(f"this systemd-analyze cannot judge a file: {ran.stderr.strip()[:200]}")

    assert float(found[1]) <= EXPOSURE


# processes


def until(condition, what, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not come about"
        time.sleep(0.05)
    return found


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def asked(address, path):
    with urllib.request.urlopen(f"{address}{path}", timeout=10) as answer:
        return answer.headers, answer.read().decode()


def run(*words, **more):
    command = [sys.executable, "-m", "fleetmill.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, **more)


@pytest.mark.slow
def test_a_factory_and_a_device_are_kept_an_eye_on(tmp_path):
    home, log = tmp_path / "home", tmp_path / "logs" / "factory.log"
    assert run("init", "--home", home).returncode == 0
    (home / "fleetmill.toml").write_text(
        "port = 0\nworkers = 1\n[lines.arm]\n[lines.arm.first_campaign]\nseconds = 1.0\nbudget_ratio = 1.0\n"
    )
    token = run("device", "enrol", "a-0", "--line", "arm", "--home", home).stdout.strip()
    command = ["up", "--home", str(home), "--log-file", str(log), "--log-level", "debug"]
    factory = subprocess.Popen(
        [sys.executable, "-m", "fleetmill.cli", *command],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        address = factory.stdout.readline().split()[1]
        until(lambda: 'fleetmill_facts_total{kind="campaign"}' in asked(address, "/metrics")[1], "the first campaign")
        words = ["--factory", address, "--line", "arm", "--device-home", tmp_path / "d", "--token", token, "--once"]
        device = run("device", "run", *words)
        port = {**os.environ, "FLEETMILL_PORT": address.rpartition(":")[2]}
        well, second = run("doctor", "--home", home, "--json", env=port), run("gc", "--home", home)
        headers, health = asked(address, "/health")
        metrics = asked(address, "/metrics")[1]
    finally:
        os.killpg(factory.pid, signal.SIGINT)
        out, err = factory.communicate(timeout=60)

    assert factory.returncode == 130
    assert (out, err) == ("", "")  # what goes to a file does not go to the screen
    assert {"the factory is up", "answered", "the factory is down"} <= {line["event"] for line in lines(log)}
    assert headers["X-Request-Id"] in {line.get("request") for line in lines(log)}
    assert json.loads(health)["loop"] == "running"
    assert "fleetmill_loop_up 1.0" in metrics
    assert 'fleetmill_sessions_total{line="arm"} 1.0' in metrics
    assert not [s for s in json.loads(well.stdout) if s["where"].startswith("http")]  # it is ours
    assert (second.returncode, "another factory runs on this home" in second.stderr) == (2, True)
    (said,) = [json.loads(line) for line in device.stderr.splitlines()]
    assert (said["event"], said["device"], said["line"]) == ("session s00000 is handed over", "a-0", "arm")
    assert token not in log.read_text() + device.stderr
    assert until(lambda: (log.parent / "factory-loop.log").exists(), "the loop's own file")
