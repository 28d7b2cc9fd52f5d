"""The commands that keep a home, as a person runs them: what they print, and what they say to wrong input."""

from __future__ import annotations

import json
import shutil
from typing import NamedTuple

import pytest

from fleetmill.cli import main

DONE, BAD_INPUT, INTEGRITY = 0, 2, 3


class Ran(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLEETMILL_DEBUG", raising=False)

    def one(*words):
        monkeypatch.setattr("sys.argv", ["fleetmill", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return Ran(ended.value.code or 0, said.out, said.err)

    return one


@pytest.fixture
def medium(tmp_path):
    (tmp_path / "medium").mkdir()
    return tmp_path / "medium" / "root.pem"


def test_init_puts_the_root_key_beside_the_home_and_says_what_it_is_for(run, tmp_path):
    ran = run("init", "--home", "home")

    assert ran.code == DONE
    assert "home home is ready" in ran.out
    assert "medium that you lock away" in ran.err
    assert "If it is lost" in ran.err
    assert str(tmp_path / "home-root-key.pem") in ran.err
    assert (tmp_path / "home-root-key.pem").stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "home" / "keys" / "root.pem").exists()
    assert "PRIVATE KEY" not in ran.out + ran.err


def test_init_puts_it_where_it_is_told_to(run, tmp_path, medium):
    assert run("init", "--home", "home", "--root-key", medium).code == DONE
    assert medium.stat().st_mode & 0o777 == 0o600
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home", "medium"]
    again = run("init", "--home", "home", "--root-key", tmp_path / "elsewhere.pem")
    assert (again.code, again.out) == (DONE, "home home is there already; nothing was changed\n")
    assert not (tmp_path / "elsewhere.pem").exists()


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("home/root.pem", "lies inside the home"),
        ("home/keys/../root.pem", "lies inside the home"),
        ("away/root.pem", "no such folder for the root key. Is the medium in?"),
        ("medium", "is a folder. Give the name of a file"),
    ],
)
def test_a_place_where_the_root_key_must_not_be_is_refused_and_nothing_is_made(run, tmp_path, medium, place, told):
    ran = run("init", "--home", "home", "--root-key", place)

    assert (ran.code, ran.err.count("\n")) == (BAD_INPUT, 1)
    assert told in ran.err
    assert list(medium.parent.iterdir()) == []
    assert not (tmp_path / "home" / "home.json").exists()


def test_a_link_into_the_home_is_seen_through(run, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "home")

    assert "lies inside the home" in run("init", "--home", "home", "--root-key", "link/root.pem").err


def test_a_second_home_in_the_place_of_one_that_was_deleted_does_not_take_its_root_key(run, tmp_path):
    run("init", "--home", "home")
    before = (tmp_path / "home-root-key.pem").read_bytes()
    shutil.rmtree(tmp_path / "home")

    ran = run("init", "--home", "home")

    assert ran.code == BAD_INPUT
    assert "home-root-key.pem: exists already, of another home. Move it away" in ran.err
    assert (tmp_path / "home-root-key.pem").read_bytes() == before
    (tmp_path / "home-root-key.pem").rename(tmp_path / "old.pem")
    assert run("init", "--home", "home").code == DONE


def test_renew_with_the_key_from_its_medium(run, tmp_path, medium):
    run("init", "--home", "home", "--root-key", medium)
    targets = (tmp_path / "home" / "keys" / "targets.pem").read_bytes()

    lost = run("renew", "--home", "home")
    done = run("renew", "--home", "home", "--root-key", medium, "--replace", "targets", "--replace", "targets")
    told = run("renew", "--home", "home", "--root-key", medium, "--json")

    assert (lost.code, "its root key is not beside it. Bring the medium" in lost.err) == (BAD_INPUT, True)
    assert done.code == DONE
    assert f"root 2 is signed with {medium}; new keys: targets\n" in done.out
    assert "  timestamp is good until 20" in done.out
    assert (tmp_path / "home" / "keys" / "targets.pem").read_bytes() != targets
    assert (json.loads(told.out)["root"], json.loads(told.out)["replaced"]) == (3, [])


def test_renew_ahead_needs_no_root_key_and_takes_none(run, tmp_path):
    run("init", "--home", "home")
    (tmp_path / "home-root-key.pem").rename(tmp_path / "locked-away.pem")

    done = run("renew", "--home", "home", "--ahead")
    wrong = run("renew", "--home", "home", "--ahead", "--root-key", "locked-away.pem")

    assert (done.code, "higher numbers" in done.out) == (DONE, True)
    assert (wrong.code, "--ahead goes alone" in wrong.err) == (BAD_INPUT, True)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--replace", "root"], BAD_INPUT, "--replace root: must be one of targets, snapshot, timestamp"),
        (["--root-key", "absent.pem"], BAD_INPUT, "absent.pem: there is no key here"),
        (["--root-key", "text.pem"], INTEGRITY, "text.pem: is no PKCS8 PEM private key"),
        (["--root-key", "other-root-key.pem"], BAD_INPUT, "is not the root key that"),
        (["--home", "nowhere"], BAD_INPUT, "nowhere: no home here. Run: fleetmill init --home nowhere"),
    ],
)
def test_renew_with_what_is_wrong_is_one_line_and_changes_nothing(run, tmp_path, words, code, told):
    run("init", "--home", "home")
    run("init", "--home", "other")
    (tmp_path / "text.pem").write_text("no key")
    before = {p.name: p.read_bytes() for p in (tmp_path / "home" / "repository").iterdir()}

    ran = run("renew", "--home", "home", *words)

    assert (ran.code, ran.err.count("\n")) == (code, 1)
    assert told in ran.err
    assert {p.name: p.read_bytes() for p in (tmp_path / "home" / "repository").iterdir()} == before


def test_upgrade_says_what_it_did_and_where_the_copy_is(run, old):
    first = run("upgrade", "--home", old / "home")
    again = run("upgrade", "--home", old / "home")
    told = run("upgrade", "--home", old / "home", "--json")

    assert (first.code, again.code) == (DONE, DONE)
    assert "format 1 became 2, 118 facts, chain whole" in first.out
    assert "backups/format-1-" in first.out
    assert "is of format 2 already; nothing was changed" in again.out
    assert json.loads(told.out)["backup"] == ""
    assert run("books", "--verify", "--home", old / "home").code == DONE


def test_gc_shows_before_it_deletes(run, grown):
    home = grown.settings.home
    orphan = home / "blobs" / "ab" / ("ab" * 32)
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"x" * 1000)

    young = run("gc", "--home", home)
    shown = run("gc", "--home", home, "--older-than", "0")
    there = orphan.exists()
    done = run("gc", "--home", home, "--older-than", "0", "--delete")
    told = run("gc", "--home", home, "--json")

    assert "nothing can go" in young.out
    assert ("can go: run again with --delete" in shown.out, orphan.name in shown.out, there) == (True, True, True)
    assert ("are deleted" in done.out, orphan.exists()) == (True, False)
    assert json.loads(told.out)["waste"] == []
    assert {r.code for r in (young, shown, done, told)} == {DONE}


@pytest.mark.parametrize("words", [["gc", "--older-than", "-1"], ["gc", "--older-than", "day"], ["doctor", "--fast"]])
def test_a_wrong_option_is_bad_input(run, words):
    assert run(*words).code == BAD_INPUT


@pytest.mark.parametrize("command", ["gc", "upgrade", "doctor", "renew"])
def test_without_a_home_there_is_one_line(run, command):
    ran = run(command, "--home", "nowhere")

    assert (ran.code, ran.err) == (BAD_INPUT, "fleetmill: nowhere: no home here. Run: fleetmill init --home nowhere\n")


def test_a_log_file_that_cannot_be_written_is_one_line(run, tmp_path):
    run("init", "--home", "home")
    ran = run("up", "--home", "home", "--log-file", tmp_path)

    assert (ran.code, ran.err.count("\n")) == (4, 1)
    assert run("up", "--home", "home", "--log-level", "loud").code == BAD_INPUT
    words = ["device", "run", "--factory", "http://127.0.0.1:1", "--line", "arm", "--device-home", "d"]
    assert run(*words, "--log-level", "loud").code == BAD_INPUT
