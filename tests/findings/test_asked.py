"""Findings and receipts as people ask for them: the command line, and HTTP on this machine."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest

from finished import settings
from fleetmill import cli
from fleetmill.api.door import make_app
from fleetmill.core.signing import Signature
from fleetmill.home import init_home, open_home
from fleetmill.seams.ledger import Draft
from fleetmill.settings import Settings
from fleetmill.testing import Clock, in_process

HERE = {"host": "127.0.0.1"}


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command of ours in this process; (exit code, stdout, stderr)."""

    def ran(home, *words):
        monkeypatch.setattr(sys, "argv", ["fleetmill", *map(str, words), "--home", str(home)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return ended.value.code or 0, said.out, said.err

    return ran


@pytest.fixture
def empty(tmp_path):
    path = tmp_path / "empty"
    init_home(Settings(home=path), now_ns=Clock()())
    return path


# -- the command line -------------------------------------------------------------------------------------------------


def test_findings_are_printed_with_numbers_evidence_and_facts(run, finished):
    code, out, _ = run(finished, "findings", "--turn", 1)

    assert code == 0
    assert "line tiny, turn 1:" in out
    assert "signed by key" in out
    assert " 1. failures: " in out
    assert "per_lived_hour" in out
    assert "(fact " in out


def test_evidence_is_printed_so_that_fate_takes_it(run, finished):
    _, out, _ = run(finished, "findings", "--turn", 1)
    device, _, start, end, recording = next(line.split() for line in out.splitlines() if line.startswith("    d"))
    code, told, _ = run(finished, "fate", device, start, end)

    assert code == 0
    assert recording in told


def test_findings_as_json_are_the_signed_document(run, finished):
    told = json.loads(run(finished, "findings", "--line", "tiny", "--json")[1])

    with open_home(replace(settings(finished.parent), home=finished), own=False) as home:
        fact = home.ledger.get("findings", "tiny/2")
        document = json.loads(home.blobs.get(fact.record["document"]))
    assert told["document"] == document
    assert (told["fact"], told["digest"]) == (fact.seq, fact.record["document"])


def test_contact_sheets_are_written_into_a_folder(run, finished, tmp_path):
    code, out, _ = run(finished, "findings", "--turn", 1, "--sheets", tmp_path / "a" / "b")
    written = sorted((tmp_path / "a" / "b").iterdir())

    assert code == 0
    assert written
    assert all(p.suffix == ".svg" and str(p) in out for p in written)


def test_why_and_fate_are_printed(run, finished):
    code, out, _ = run(finished, "why", "champion", "--line", "tiny")
    assert code == 0
    assert "learned from:" in out
    assert "judged on:" in out
    assert "runs now on: d0, d1, d2" in out

    code, out, _ = run(finished, "fate", "d0", "+0s", "+100s")
    assert code == 0
    assert "not lived or not reported yet" in out
    assert "lived until 2026-01-01T00:00:" in out
    assert "held in turn 2" in out


def test_why_and_fate_as_json_are_one_value(run, finished):
    why = json.loads(run(finished, "why", "1", "--line", "tiny", "--json")[1])
    fate = json.loads(run(finished, "fate", "old", "2023-11-14T22:13:20Z", "+1s", "--json")[1])

    assert why["standing"]["releases"][0]["counter"] == 1
    assert fate["pieces"][0]["account"] == "refined"


def test_check_all_says_what_it_compared_and_ends_with_1_where_they_part(run, finished, tmp_path):
    import shutil
    import sqlite3

    code, out, _ = run(finished, "why", "--check-all")
    assert (code, out.startswith("agree: why and fate, over ")) == (0, True)

    shutil.copytree(finished, tmp_path / "home")
    with sqlite3.connect(tmp_path / "home" / "ledger.db") as connection:
        connection.execute("DELETE FROM member WHERE device = 1")
    connection.close()
    code, out, _ = run(tmp_path / "home", "why", "--check-all")
    assert code == 1
    assert "DISAGREE: d1 [" in out
    assert json.loads(run(tmp_path / "home", "why", "--check-all", "--json")[1])["disagreements"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("findings", "--turn", "7"), "turn 7 has not ended; findings are there of turns 0, 1, 2"),
        (("findings", "--line", "nowhere"), "line nowhere: no turn has ended"),
        (("why", "champion", "--line", "nowhere"), "has no champion"),
        (("why", "0123456789"), "0 found"),
        (("why", "9", "--line", "tiny"), "no release 9"),
        (("fate", "nobody", "0", "1"), "device 'nobody'"),
        (("fate", "d0", "+2s", "+1s"), "must be after START"),
        (("fate", "d0", "soon", "+1s"), "START 'soon'"),
        (("fate", "d0", "+1s", "2026-02-30"), "END 2026-02-30"),
    ],
)
def test_bad_input_is_one_clear_line(run, finished, words, said):
    code, out, err = run(finished, *words)
    (line,) = err.strip().splitlines()

    assert (code, out) == (2, "")
    assert line.startswith("fleetmill: ")
    assert said in line
    assert "internal error" not in line


def test_a_home_that_learned_nothing_yet_says_so(run, empty):
    code, _, err = run(empty, "findings")
    assert code == 2
    assert "no turn has ended" in err

    assert run(empty, "why", "--check-all")[0] == 0


def test_a_turn_of_before_there_were_findings_says_so(run, empty):
    with open_home(Settings(home=empty)) as home:
        record = {"line": "tiny", "turn": 0, "dataset": "", "candidate": "", "decision": "held", "release": 0}
        home.ledger.append([Draft(kind="turn_ended", key="tiny/0", record=record)])

    for words in (("findings",), ("findings", "--turn", "0")):
        code, _, err = run(empty, *words)
        assert code == 2
        assert "without findings, under a version that made none" in err


def test_two_lines_with_findings_want_a_name(run, finished, tmp_path):
    import shutil

    shutil.copytree(finished, tmp_path / "home")
    with open_home(replace(settings(tmp_path), home=tmp_path / "home")) as home:
        record = {**home.ledger.get("findings", "tiny/0").record, "line": "other"}
        home.ledger.append([Draft(kind="findings", key="other/0", record=record)])

    code, _, err = run(tmp_path / "home", "findings")
    assert code == 2
    assert "other, tiny. Name one with --line" in err


def test_why_wants_one_thing(run, finished):
    assert run(finished, "why")[0] == 2
    assert run(finished, "why", "champion", "--check-all")[0] == 2


# -- HTTP -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def factory(finished):
    with (
        open_home(replace(settings(finished.parent), home=finished), own=False) as home,
        in_process(make_app(home)) as client,
    ):
        yield home, client


def test_findings_come_with_the_text_that_was_signed(factory):
    home, client = factory
    told = client.get("/v1/findings", params={"line": "tiny", "turn": 1}, headers=HERE).json()

    home.repository.verify_statement(
        told["signed"].encode(), Signature(keyid=told["keyid"], sig=told["signature"]), what="it"
    )
    assert json.loads(told["signed"])["turn"] == told["document"]["turn"] == 1
    assert told["fact"] == home.ledger.get("findings", "tiny/1").seq


def test_nanoseconds_are_text_for_browsers(factory):
    _, client = factory
    told = client.get("/v1/findings", params={"turn": 1}, headers=HERE).json()
    shown = told["document"]["findings"][0]["evidence"][0]

    assert isinstance(shown["start_ns"], str)
    assert int(shown["start_ns"]) == json.loads(told["signed"])["findings"][0]["evidence"][0]["start_ns"]


def test_a_contact_sheet_comes_as_a_picture_that_runs_nothing(factory):
    home, client = factory
    digest = home.ledger.get("findings", "tiny/1").record["sheets"][0]
    answer = client.get(f"/v1/findings/sheet/{digest}", headers=HERE)

    assert answer.content == home.blobs.get(digest)
    assert answer.headers["content-type"] == "image/svg+xml"
    assert "default-src 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/findings?turn=9", 404),
        ("/v1/findings?line=nowhere", 404),
        ("/v1/findings?turn=soon", 400),
        (f"/v1/findings/sheet/{'0' * 64}", 404),
        ("/v1/findings/sheet/short", 400),
    ],
)
def test_what_is_not_there_is_a_problem_document(factory, path, status):
    answer = factory[1].get(path, headers=HERE)

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


def test_other_blobs_are_not_given_out(factory):
    home, client = factory
    model = next(iter(home.ledger.read(kind="model"))).record["files"]["model.onnx"]

    assert client.get(f"/v1/findings/sheet/{model}", headers=HERE).status_code == 404


@pytest.mark.parametrize("path", ["/v1/findings", f"/v1/findings/sheet/{'0' * 64}"])
def test_nobody_from_elsewhere_is_answered(factory, path):
    assert factory[1].get(path, headers={"host": "factory.example"}).status_code == 401
