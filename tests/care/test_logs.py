"""The log: events with fields and ids, and never a secret or anything that was recorded."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import re
import subprocess
import sys

import pytest
from house import find

from fleetmill import logs
from fleetmill.api import up
from fleetmill.api.door import make_app
from fleetmill.core.errors import InvalidInputError, UnavailableError
from fleetmill.core.ids import sha256
from fleetmill.device.agent import open_agent
from fleetmill.device.enrolment import Token, enrol, read_token
from fleetmill.home import open_home
from fleetmill.receive import roll
from fleetmill.testing import in_process, tiny_line

ID = re.compile(r"[0-9a-f]{16}")


@pytest.fixture
def screen():
    """Where log lines go; whatever was set up before is put back."""
    root = logging.getLogger("fleetmill")
    before = root.handlers, root.propagate, root.level
    out = io.StringIO()
    logs.set_up("debug", stream=out)
    yield out
    logs.set_up("debug", stream=io.StringIO())
    root.handlers, root.propagate = before[0], before[1]
    root.setLevel(before[2])


def lines(screen):
    return [json.loads(line) for line in screen.getvalue().splitlines()]


def test_an_event_is_one_json_line_with_its_fields_and_the_ids_around_it(screen):
    with logs.bound(turn="tiny/3"), logs.bound(request="abc"):
        logging.getLogger("fleetmill.anything").info("it %s", "happened", extra={"device": "d0", "bytes": 12})
    logging.getLogger("fleetmill.anything").warning("later")

    first, second = lines(screen)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("time"))
    assert first == {
        "level": "info",
        "logger": "fleetmill.anything",
        "event": "it happened",
        "turn": "tiny/3",
        "request": "abc",
        "device": "d0",
        "bytes": 12,
    }
    assert (second["level"], set(second)) == ("warning", {"time", "level", "logger", "event"})


def test_a_line_break_in_a_field_makes_no_second_line(screen):
    logging.getLogger("fleetmill.x").info("a", extra={"device": 'd\n{"level":"error"}'})

    assert len(screen.getvalue().splitlines()) == 1


def test_bytes_keys_and_long_texts_are_not_written_out(screen):
    logging.getLogger("fleetmill.x").info(
        "careless",
        extra={"body": b"recorded", "pem": "-----BEGIN PRIVATE KEY-----\nMC4C", "long": "x" * 5000},
    )

    (line,) = lines(screen)
    assert (line["body"], line["pem"]) == ("8 bytes", "(a private key: not logged)")
    assert len(line["long"]) < 500


def test_an_error_is_told_by_kind_and_place_not_by_its_text(screen, monkeypatch):
    monkeypatch.delenv("FLEETMILL_DEBUG", raising=False)
    try:
        int("CANARY")
    except ValueError:
        logging.getLogger("fleetmill.x").exception("failed")

    (line,) = lines(screen)
    assert line["error"] == "ValueError"
    assert line["at"][-1].startswith("test_logs.py:")
    assert "CANARY" not in screen.getvalue()


def test_what_is_below_the_level_is_not_written(screen):
    logs.set_up("warning", stream=screen)
    logging.getLogger("fleetmill.x").info("quiet")
    logging.getLogger("fleetmill.x").warning("loud")

    assert [line["event"] for line in lines(screen)] == ["loud"]
    with pytest.raises(InvalidInputError, match="log level 'loud': must be one of debug, info, warning, error"):
        logs.set_up("loud")


def test_at_a_terminal_a_line_is_for_a_person(screen):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    logs.set_up("info", stream=terminal)
    logging.getLogger("fleetmill.door").warning("stale", extra={"ahead_seconds": 400})

    assert re.fullmatch(r"\d\d:\d\d:\d\d door     warning: stale  ahead_seconds=400\n", terminal.getvalue())


def test_a_file_takes_everything_and_is_turned_over_and_warnings_are_on_the_screen_too(screen, tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "MOST_BYTES", 2000)
    path = tmp_path / "new" / "factory.log"
    logs.set_up("info", str(path), stream=screen)
    for number in range(200):
        logging.getLogger("fleetmill.x").info("counted", extra={"number": number})
    logging.getLogger("fleetmill.x").warning("last")

    files = sorted(path.parent.iterdir())
    assert [p.name for p in files] == ["factory.log", *(f"factory.log.{n}" for n in range(1, logs.KEPT + 1))]
    assert all(p.stat().st_size <= 2000 for p in files)
    assert json.loads(path.read_text().splitlines()[-1])["event"] == "last"
    assert [line["event"] for line in lines(screen)] == ["last"]


def test_a_full_disk_sends_the_line_to_the_screen(screen, tmp_path, monkeypatch, capsys):
    logs.set_up("info", str(tmp_path / "a.log"), stream=screen)
    (handler,) = [h for h in logging.getLogger("fleetmill").handlers if hasattr(h, "baseFilename")]

    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(handler, "stream", Full())
    logging.getLogger("fleetmill.x").info("important")

    said = capsys.readouterr().err
    assert "No space left on device" in said
    assert '"event": "important"' in said


# the front door


@pytest.fixture
def door(fleet, screen):
    with fleet.open() as (home, client):
        yield home, client


def test_each_request_has_an_id_that_its_answer_and_its_line_carry(door, screen):
    _, client = door
    answers = [client.get("/health"), client.get("/nothing"), client.post("/v1/enrol", content=b"{}")]

    ids = [a.headers["x-request-id"] for a in answers]
    found = {line["request"]: (line["route"], line["status"]) for line in lines(screen) if line["event"] == "answered"}
    assert all(ID.fullmatch(i) for i in ids)
    assert len(set(ids)) == 3
    assert [found[i] for i in ids] == [("/health", 200), ("(none)", 404), ("/v1/enrol", 400)]
    assert [a.json().get("request") for a in answers] == [None, *ids[1:]]


def test_an_error_that_nobody_foresaw_is_a_problem_document_with_an_id_and_a_line_with_its_place(door, screen):
    home, client = door
    home.ledger.engine.dispose()
    (home.settings.home / "repository" / "1.root.json").unlink()
    (home.settings.home / "repository").rename(home.settings.home / "away")  # no root at all: an IndexError inside

    token = roll.invite(home.ledger, "late", line="tiny")
    asked = {"name": "late", "secret": token, "public_key": "ab" * 32, "hardware": "cpu"}
    answer = client.post("/v1/enrol", json=asked)

    (line,) = [entry for entry in lines(screen) if entry["event"] == "internal error"]
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["request"] == line["request"] == answer.headers["x-request-id"]
    assert (line["level"], bool(line["at"])) == ("error", True)
    assert token not in screen.getvalue()


def test_a_stale_request_says_by_how_much_the_devices_clock_is_wrong(fleet, screen):
    with open_home(fleet.settings, clock=fleet.clock) as home:
        app = make_app(home, find=find, clock=lambda: 1000.0)
        with in_process(app) as client, pytest.raises(UnavailableError, match="status 401"):
            fleet.once("d0", client)

    assert any(
        line["event"].startswith("a request is stale") and line["ahead_seconds"] > 10**6 for line in lines(screen)
    )


def test_no_secret_and_nothing_recorded_is_ever_logged(fleet, tmp_path, screen, monkeypatch):
    """Enrolment, upload, errors with bodies, and turns, with canaries in token, key, tag, recording and error."""
    monkeypatch.delenv("FLEETMILL_DEBUG", raising=False)
    canary = "CANARY-5f1e"
    words = [canary]
    with fleet.open() as (home, client):
        root = sha256(home.repository.root())
        token = Token(name="d9", secret=roll.invite(home.ledger, "d9", line="tiny"), root_sha256=root)
        enrol(tmp_path / "d9", read_token(token.text()), factory="http://factory", hardware="cpu", client=client)
        words += [token.secret, token.text(), *secrets_of(tmp_path / "d9" / "key.pem")]
        for role in ("targets", "snapshot", "timestamp"):
            words += secrets_of(home.settings.home / "keys" / f"{role}.pem")
        for body in (
            canary.encode(),
            json.dumps({"name": canary, "secret": canary}).encode(),
            b'{"name": "' + canary.encode(),
        ):
            assert client.post(f"/v1/enrol?{canary}", content=body, headers={"X-Request-Id": canary}).status_code == 400
        assert client.get(f"/v1/{canary}").status_code == 404
        with open_agent(tmp_path / "d9", tiny_line, client=client, clock=fleet.clock, say=said) as agent:
            me = agent.uploader._identity
            for path, statement in (
                ("/v1/sessions", {"device": canary}),
                ("/v1/sessions", canary),
                ("/v1/reports", {"state": canary, "device": canary}),
                ("/v1/journal", {"totals": {"device": canary}, "entries": canary}),
            ):
                answer = client.post(path, content=me.statement(statement))
                assert answer.status_code == 400
            wrong = client.put(f"/v1/recordings/{'0' * 64}", content=canary.encode())
            assert wrong.status_code == 422
            agent.once()
    fleet.round(turn=False)
    with open_home(fleet.settings, clock=fleet.clock) as home:
        up._turn(home, tiny_line)
        (recording, *_) = [f.key for f in home.ledger.read(kind="recording")]
        words += [base64.b64encode(home.blobs.get(recording)[:48]).decode(), repr(home.blobs.get(recording)[:24])[2:-1]]

    text = screen.getvalue()
    assert {line["event"] for line in lines(screen)} >= {"answered", "the turn ended"}
    assert len([line for line in lines(screen) if line["event"] == "answered" and line["status"] >= 400]) >= 8
    assert [word for word in words if word in text] == []


def said(text):
    """As `fleetmill device run` does."""
    logging.getLogger("fleetmill.device").info("%s", text)


def secrets_of(pem):
    """The private key in each form that it could be printed in."""
    body = "".join(pem.read_text().splitlines()[1:-1])
    raw = base64.b64decode(body)[-32:]
    return [body, raw.hex(), base64.b64encode(raw).decode()]


def test_a_turn_is_one_event_with_its_decision_and_its_id(fleet, screen):
    fleet.round(turn=False)
    with open_home(fleet.settings, clock=fleet.clock) as home, logs.bound(turn="tiny/0"):
        up._turn(home, tiny_line)
        ended = home.ledger.get("turn_ended", "tiny/0").record

    (line,) = [entry for entry in lines(screen) if entry["event"] == "the turn ended"]
    assert (line["turn"], line["decision"], line["release"]) == ("tiny/0", "accepted", 1)
    assert (line["candidate"], line["dataset"]) == (ended["candidate"], ended["dataset"])
    assert all(isinstance(reason, str) for reason in line["reasons"])


# processes


def test_the_loops_process_writes_a_file_of_its_own_and_its_end_is_logged_without_what_it_quotes(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "home.json").write_text('{"format":"CANARY"}')
    environment = {**os.environ, "FLEETMILL_LOG_FILE": str(tmp_path / "f-loop.log"), "FLEETMILL_LOG_LEVEL": "info"}

    ended = subprocess.run(
        [sys.executable, "-m", "fleetmill.api.up", str(os.getpid()), str(tmp_path / "home")],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip

    (line,) = [json.loads(text) for text in (tmp_path / "f-loop.log").read_text().splitlines()]
    assert ended.returncode == 2
    assert (line["event"], line["error"], line["logger"]) == ("the loop ended", "InvalidInputError", "fleetmill.up")
    assert "format '...' is none" in line["why"]
    assert "CANARY" not in ended.stderr
    assert logs.beside("/var/log/f.log", "loop") == "/var/log/f-loop.log"
