"""A home of format 1, as version 0.1 wrote it: it works as it is, is upgraded, and survives a kill between."""

from __future__ import annotations

import base64
import json
import os
import signal
import sqlite3
import sys

import httpx
import pytest
from house import V1_NS, Fleet, confirmed, find, old_settings
from sqlalchemy import Engine, event

from fleetmill import loop
from fleetmill.api.door import make_app
from fleetmill.care.upgrade import upgrade
from fleetmill.cli import app
from fleetmill.core import canonical
from fleetmill.core.errors import ConflictError, InvalidInputError, NotFoundError, TooNewError, UnavailableError
from fleetmill.home import open_home
from fleetmill.seams import schema
from fleetmill.seams.ledger import Draft, bring_up, open_ledger, revisions
from fleetmill.settings import TurnWhen
from fleetmill.testing import Clock, in_process, tiny_line
from killing import every_death


def later():
    return Clock(V1_NS + 3600 * 10**9)


def mark(old):
    return canonical.loads((old / "home" / "home.json").read_bytes())


def whole(old):
    """Chain and books hold; the number of facts."""
    with open_home(old_settings(old), clock=later()) as home:
        assert home.books.faults() == home.books.verify() == []
        return home.ledger.verify()


def turn_once(old):
    """The fleet of the archive goes on: d2 brings what it owes, the loop turns, all confirm."""
    fleet = Fleet(old_settings(old), old, later())
    turned = fleet.round()
    with open_home(fleet.settings, clock=fleet.clock) as home:
        assert home.books.faults() == home.books.verify() == []
        newest = turned.release.counter
        assert [c for c in confirmed(home) if c[1] == newest] == [("d0", newest), ("d1", newest), ("d2", newest)]
    return turned


def test_a_home_of_format_1_is_opened_as_it_is_and_turns_on(old):
    before = (old / "home" / "home.json").read_bytes()

    assert whole(old) == 118
    assert turn_once(old).number == 1
    assert (old / "home" / "home.json").read_bytes() == before == b'{"format":1}'


def test_its_settings_are_read_in_the_words_of_then(old):
    line = old_settings(old).lines["tiny"]

    assert line.turn_when == TurnWhen(sessions=0, hours=2.0)  # a campaign says how many sessions
    assert line.campaign.seconds == 6.0


def test_upgraded_it_keeps_every_fact_and_turns_on(old):
    settings = old_settings(old)
    with open_home(settings, own=False) as home:
        before = [(f.seq, f.digest, f.record) for f in home.ledger.read()]

    done = upgrade(settings, now_ns=V1_NS)

    assert (done.format_before, done.format, done.tables_before, done.tables, done.facts) == (1, 2, "1", "2", 118)
    with open_home(settings, own=False) as home:
        assert [(f.seq, f.digest, f.record) for f in home.ledger.read()] == before
        assert revisions(home.ledger) == ("2", "2")
    assert mark(old)["format"] == 2
    assert turn_once(old).number == 1


def test_the_copy_is_the_home_of_before(old, tmp_path):
    copied = (old / "home" / "home.json").read_bytes(), (old / "home" / "fleetmill.toml").read_bytes()
    facts = whole(old)

    backup = tmp_path / upgrade(old_settings(old), now_ns=V1_NS).backup
    turn_once(old)
    for name in ("home.json", "fleetmill.toml", "ledger.db"):
        (old / "home" / name).write_bytes((backup / name).read_bytes())

    assert backup.name == "format-1-20261122T034320Z"
    assert sorted(p.name for p in backup.iterdir()) == ["fleetmill.toml", "home.json", "ledger.db"]
    assert ((old / "home" / "home.json").read_bytes(), (old / "home" / "fleetmill.toml").read_bytes()) == copied
    assert whole(old) == facts


def test_a_second_upgrade_does_nothing(old):
    upgrade(old_settings(old), now_ns=V1_NS)
    before = {p: p.read_bytes() for p in (old / "home").rglob("*") if p.is_file() and "ledger" not in p.name}

    again = upgrade(old_settings(old), now_ns=V1_NS + 10**9)

    assert (again.backup, again.format_before) == ("", 2)
    assert {p: p.read_bytes() for p in (old / "home").rglob("*") if p.is_file() and "ledger" not in p.name} == before


def test_a_home_that_a_factory_runs_on_is_not_upgraded(old):
    with open_home(old_settings(old)), pytest.raises(ConflictError, match="another factory runs on this home"):
        upgrade(old_settings(old), now_ns=V1_NS)

    with open_home(old_settings(old), own=False), pytest.raises(ConflictError, match="another command has it open"):
        upgrade(old_settings(old), now_ns=V1_NS)

    assert mark(old) == {"format": 1}


def test_a_disk_without_space_for_the_copy_changes_nothing(old, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UnavailableError, match="no copy could be made"):
        upgrade(old_settings(old), now_ns=V1_NS)
    monkeypatch.undo()

    assert mark(old) == {"format": 1}
    with open_home(old_settings(old), own=False) as home:
        assert revisions(home.ledger) == ("1", "2")


def test_killed_at_any_effect_on_the_disk_it_works_and_is_upgraded_by_the_next(old):
    deaths = 0
    for _ in every_death(lambda nth: upgrade(old_settings(old), now_ns=V1_NS), before=lambda nth: None):
        deaths += 1
        assert whole(old) == 118

    assert deaths > 8
    assert mark(old)["format"] == 2
    assert not [p for p in (old / "home" / "backups").iterdir() if not p.name.startswith("format-1-")]
    assert turn_once(old).number == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_killed_with_minus_9_before_any_statement_it_works_and_is_upgraded_by_the_next(old):
    def upgrade_and_die(nth):
        left = nth

        def count(*_):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        event.listen(Engine, "before_cursor_execute", count)
        upgrade(old_settings(old), now_ns=V1_NS + nth * 10**9)

    killed = 0
    for nth in range(1, 200):
        if in_child(lambda nth=nth: upgrade_and_die(nth)) != -signal.SIGKILL:
            break
        killed += 1
        assert whole(old) == 118
        with open_home(old_settings(old), own=False) as home:
            tables = revisions(home.ledger)[0]
        assert (mark(old)["format"], tables) in ((1, "1"), (1, "2"))

    assert killed > 10
    assert (mark(old)["format"], mark(old)["upgraded_by"] != "") == (2, True)
    assert turn_once(old).number == 1


def in_child(act):
    """What a forked child ends with that acts: 0, or minus the signal that killed it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            act()
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


# devices of then


@pytest.mark.parametrize("upgraded", [False, True], ids=["as it is", "upgraded"])
def test_requests_of_devices_of_then_are_answered(old, upgraded):
    if upgraded:
        upgrade(old_settings(old), now_ns=V1_NS)
    kept = json.loads((old / "requests.json").read_text())
    with open_home(old_settings(old), clock=later()) as home:
        with in_process(make_app(home, find=find, clock=lambda: kept["at_seconds"])) as client:
            answers = [ask(client, asked) for asked in kept["requests"]]
        session = [f.key for f in home.ledger.read(kind="session")]
        assert home.books.faults() == home.books.verify() == []

    assert "Fleet-Protocol" not in {name for asked in kept["requests"] for name in asked["headers"]}
    assert [a.status_code for a in answers] == [asked["status"] for asked in kept["requests"]]
    assert {a.status_code for a in answers} == {200, 201}
    assert [asked["path"] for asked in kept["requests"]][-2:] == ["/v1/sessions", "/v1/enrol"]
    assert "d2/s00001" in session
    assert answers[-1].json()["device"]["name"] == "d3"


def ask(client, asked):
    body = base64.b64decode(asked["body"])
    return client.send(
        httpx.Request(asked["method"], f"http://factory{asked['path']}", headers=asked["headers"], content=body)
    )


# a home of tomorrow


def commands(group, words=()):
    """Every command with a --home, with something for each argument and option that it asks for."""
    for name, command in group.commands.items():
        if getattr(command, "commands", None):
            yield from commands(command, (*words, name))
        elif name != "report" and any("--home" in p.opts for p in command.params):  # that one reads a page first
            given = []
            for p in command.params:
                if p.param_type_name == "argument":
                    given += ["x"]
                elif p.required:
                    given += [p.opts[-1], "arm" if "--line" in p.opts else "x"]
            yield (*words, name, *given)


def command_group():
    import typer.main

    return typer.main.get_command(app)


@pytest.mark.parametrize("words", list(commands(command_group())), ids=" ".join)
def test_a_home_of_a_newer_version_is_refused_by_every_command(old, words, monkeypatch):
    (old / "home" / "home.json").write_text('{"format":3}')
    before = {p: p.read_bytes() for p in (old / "home").rglob("*") if p.is_file()}
    monkeypatch.setenv("FLEETMILL_HOME", str(old / "home"))
    monkeypatch.chdir(old)
    (old / "x").write_text("x")

    if words[0] == "doctor":  # it looks at everything and says so in its own form
        from typer.testing import CliRunner

        ran = CliRunner().invoke(app, list(words))
        assert (ran.exit_code, "format 3, this version reads up to 2" in ran.output) == (1, True)
    else:
        with pytest.raises(TooNewError, match=r"format 3, this version reads up to 2\. Update fleetmill"):
            app(list(words), standalone_mode=False)

    assert {p: p.read_bytes() for p in (old / "home").rglob("*") if p.is_file()} == before


# the tables


def tables(path_or_url):
    with sqlite3.connect(path_or_url) if not hasattr(path_or_url, "engine") else path_or_url.engine.connect() as c:
        run = c.execute if isinstance(c, sqlite3.Connection) else c.exec_driver_sql
        rows = run("SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE '%alembic%'").fetchall()
    return sorted((kind, name, " ".join(sql.split()) if sql else "") for kind, name, sql in rows)


def test_revisions_lead_to_the_tables_that_the_code_describes(tmp_path):
    made, described = open_ledger(f"sqlite:///{tmp_path / 'ledger.db'}"), open_ledger("sqlite://")

    assert tables(made) == tables(described)
    assert revisions(made) == ("2", "2")
    assert {t.name for t in schema.metadata.tables.values()} <= {name for _, name, _ in tables(made)}
    made.close()
    described.close()


def test_revision_1_is_what_version_0_1_made(old, tmp_path):
    ledger = open_ledger("sqlite://")
    without = [row for row in tables(ledger) if row[1] != "fact_digest"]
    ledger.close()

    assert tables(old / "home" / "ledger.db") == without


def test_tables_of_tomorrow_are_refused(tmp_path):
    ledger = open_ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    with ledger.engine.connect() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num='7'")

    with pytest.raises(TooNewError, match="ledger tables: format 7, this version reads up to 2"):
        bring_up(ledger)
    ledger.close()


@pytest.mark.parametrize("upgraded", [False, True], ids=["searched through", "by the index"])
def test_a_fact_is_found_by_its_digest_or_a_beginning_of_it(old, upgraded):
    if upgraded:
        upgrade(old_settings(old), now_ns=V1_NS)
    with open_home(old_settings(old), own=False) as home:
        for fact in home.ledger.read():
            assert home.ledger.find(fact.digest) == fact
            assert home.ledger.find(fact.digest[:9]) == fact
        plan = str(
            home.ledger.engine.connect()
            .exec_driver_sql("EXPLAIN QUERY PLAN SELECT * FROM fact WHERE digest BETWEEN x'00' AND x'01'")
            .fetchall()
        )

        assert ("fact_digest" in plan) == upgraded
        with pytest.raises(NotFoundError, match="no fact 'ffffffffff'"):
            home.ledger.find("f" * 10)
        for poor in ("", "abcde", "ABCDEF", "xyzxyz", "0" * 65):
            with pytest.raises(InvalidInputError, match="give 6 to 64"):
                home.ledger.find(poor)


def test_a_beginning_that_two_facts_share_names_neither(tmp_path):
    ledger = open_ledger("sqlite://", clock=iter(range(10**6)).__next__)
    facts = ledger.append([Draft(kind="note", key=str(i), record={}) for i in range(12_000)])
    seen: dict[str, int] = {}
    shared = next(f.digest[:6] for f in facts if seen.setdefault(f.digest[:6], f.seq) != f.seq)

    with pytest.raises(ConflictError, match="begin so"):
        ledger.find(shared)
    ledger.close()


def test_turning_on_an_upgraded_home_needs_no_more_than_the_loop(old):
    upgrade(old_settings(old), now_ns=V1_NS)
    with open_home(old_settings(old), clock=later()) as home:
        assert loop.turn(home, tiny_line) is None  # d2 still owes a session
