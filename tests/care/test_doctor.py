"""The doctor: each thing that it can find is brought about in a real home, and is found with what to do about it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from dataclasses import replace

import pytest
from house import find, old_settings
from typer.testing import CliRunner

from fleetmill.care.doctor import examine
from fleetmill.care.doctor_rule import FULL_BYTES, SILENT_NS, TIGHT_BYTES, is_well
from fleetmill.care.host import ThisHost
from fleetmill.cli import app
from fleetmill.core.errors import NotFoundError
from fleetmill.home import init_home, open_home
from fleetmill.lines import find as find_installed
from fleetmill.release.trust import LIFE_NS
from fleetmill.release.trust_rule import Target
from fleetmill.seams.ledger import Draft
from fleetmill.settings import Settings
from fleetmill.testing import tiny_line

DAY_NS = 86_400 * 10**9


class Machine:
    """A machine on which all is well, unless a test says otherwise."""

    def __init__(self):
        self.free, self.kept, self.said, self.port_free, self.missing = 10**12, True, None, True, {}

    def free_bytes(self, path):
        return self.free

    def clock_is_kept(self):
        return self.kept

    def health(self, address):
        return self.said

    def is_free(self, host, port):
        return self.port_free

    def lacks(self, extra):
        return self.missing.get(extra, [])


class Patient:
    """A home that has turned twice, its machine, and the doctor's eye on both."""

    def __init__(self, fleet):
        self.fleet, self.home, self.machine = fleet, fleet.settings.home, Machine()
        self.settings, self.now_ns, self.find = fleet.settings, fleet.clock(), find

    def symptoms(self):
        return examine(self.settings, now_ns=self.now_ns, find=self.find, host=self.machine)

    def open(self, **how):
        return open_home(self.settings, clock=self.fleet.clock, **how)

    def only(self):
        """The one thing that is wrong: (severity, where, what and what to do)."""
        (found,) = self.symptoms()
        assert found.do
        return found.severity, found.where, f"{found.what}: {found.do}"


@pytest.fixture
def patient(grown):
    return Patient(grown)


def test_a_home_on_which_all_is_well_has_nothing(patient):
    assert patient.symptoms() == []
    assert is_well(patient.symptoms())


def test_looking_changes_nothing(patient):
    before = {p: p.read_bytes() for p in patient.home.rglob("*") if p.is_file() and "ledger.db-" not in p.name}

    patient.symptoms()

    assert {p: p.read_bytes() for p in patient.home.rglob("*") if p.is_file() and "ledger.db-" not in p.name} == before


# disk and clock


@pytest.mark.parametrize(("free", "severity"), [(FULL_BYTES - 1, "error"), (TIGHT_BYTES - 1, "warning")])
def test_a_disk_that_is_nearly_full(patient, free, severity):
    patient.machine.free = free

    found, where, told = patient.only()

    assert (found, where) == (severity, str(patient.home))
    assert "MB are free" in told
    assert "fleetmill gc" in told


def test_blobs_on_another_disk_are_looked_at_too(patient, tmp_path):
    (patient.home / "blobs").rename(tmp_path / "elsewhere")
    (patient.home / "blobs").symlink_to(tmp_path / "elsewhere")
    patient.machine.free = 0

    assert {s.where for s in patient.symptoms()} == {str(patient.home), str(patient.home / "blobs")}


def test_a_clock_behind_the_newest_fact(patient):
    patient.now_ns -= 3600 * 10**9

    severity, where, told = patient.only()

    assert (severity, where) == ("error", "clock")
    assert "3600 s behind the newest fact" in told


def test_a_clock_behind_the_newest_file(patient):
    ahead = patient.now_ns / 1e9 + 7200
    os.utime(patient.home / "home.json", (ahead, ahead))

    severity, where, told = patient.only()

    assert (severity, where) == ("warning", "clock")
    assert "7200 s behind the newest file" in told


def test_a_clock_that_nobody_keeps(patient):
    patient.machine.kept = False
    assert patient.only()[:2] == ("warning", "clock")
    patient.machine.kept = None  # where nobody can say, nothing is said
    assert patient.symptoms() == []


# the address


def test_something_else_at_our_address(patient):
    patient.machine.port_free = False
    assert patient.only()[:2] == ("error", "http://127.0.0.1:8787")
    patient.machine.said = {"facts": 3, "head": "ab" * 32}  # another home's factory
    assert patient.only()[:2] == ("error", "http://127.0.0.1:8787")


def test_our_own_factory_at_our_address_is_well(patient):
    with patient.open() as home:
        number, head = home.ledger.head()
        patient.machine.said, patient.machine.port_free = {"facts": number, "head": head}, False
        assert patient.symptoms() == []
        patient.machine.said = {"facts": 3, "head": next(f.digest for f in home.ledger.read(after=2))}
        assert patient.symptoms() == []  # it has gone on since it was asked


@pytest.mark.parametrize("free", [True, False], ids=["nobody listens", "nobody answers"])
def test_a_lock_whose_holder_does_not_answer(patient, free):
    patient.machine.port_free = free
    with patient.open():
        severity, where, told = patient.only()

    assert (severity, where) == ("warning", "http://127.0.0.1:8787")
    assert f"process {os.getpid()} holds the home" in told
    patient.machine.port_free = True
    assert patient.symptoms() == []


# keys and signatures


@pytest.mark.parametrize("role", ["targets", "snapshot", "timestamp"])
@pytest.mark.parametrize("how", ["lost", "another", "damaged"])
def test_a_key_that_root_names_and_nobody_has(patient, role, how):
    key = patient.home / "keys" / f"{role}.pem"
    if how == "lost":
        key.unlink()
    elif how == "another":
        init_home(Settings(home=patient.home.parent / "other"), now_ns=patient.now_ns)
        shutil.copy(patient.home.parent / "other" / "keys" / f"{role}.pem", key)
    else:
        key.write_text("rubbish")

    severity, where, told = patient.only()

    assert (severity, where) == ("error", str(key))
    assert f"fleetmill renew --root-key PATH --replace {role}" in told


def test_a_key_that_others_can_read(patient):
    (patient.home / "keys" / "targets.pem").chmod(0o640)

    severity, where, told = patient.only()

    assert (severity, where) == ("warning", "keys/targets.pem")
    assert "chmod go= " in told


def test_a_root_key_inside_the_home(patient):
    shutil.move(patient.home.parent / "home-root-key.pem", patient.home / "keys" / "root.pem")

    severity, where, told = patient.only()

    assert (severity, where) == ("warning", str(patient.home / "keys" / "root.pem"))
    assert "Move it to a medium that you lock away" in told


@pytest.mark.parametrize(
    ("days", "severity", "said"),
    [(320, "warning", "root expires in 45 days"), (370, "error", "root expired 5 days ago")],
)
def test_a_root_that_ends(patient, days, severity, said):
    with patient.open() as home:
        home.repository.refresh_timestamp(now_ns=patient.now_ns + days * DAY_NS)
    patient.now_ns += days * DAY_NS - 10**12
    patient.fleet.clock.now_ns = patient.now_ns

    (found,) = [s for s in patient.symptoms() if s.where == "root"]

    assert (found.severity, said in found.what) == (severity, True)
    assert "fleetmill renew --root-key PATH" in found.do


def test_signatures_that_are_over_and_nobody_renews(patient):
    patient.now_ns += LIFE_NS["timestamp"] + 3600 * 10**9

    (off,) = [s for s in patient.symptoms() if s.where == "timestamp"]
    with patient.open():
        patient.machine.port_free = False
        (on,) = [s for s in patient.symptoms() if s.where == "timestamp"]

    assert (off.severity, "Start the factory" in off.do) == ("warning", True)
    assert (on.severity, "factory's log" in on.do) == ("error", True)


@pytest.mark.parametrize("name", ["timestamp.json", "1.root.json"])
@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_a_signed_list_that_is_damaged(patient, name, how):
    path = patient.home / "repository" / name
    path.unlink() if how == "gone" else path.write_bytes(b"{}")

    severity, where, told = patient.only()

    assert (severity, where) == ("error", "repository")
    assert "Bring the file back from a copy" in told


def test_a_model_in_the_list_that_no_fact_knows(patient):
    with patient.open() as home:
        known = next(t for t in home.repository.targets().values() if "release_counter" in t.custom)
        custom = {**known.custom, "release_counter": 99}
        bad = Target(path=f"models/{'ab' * 32}/model.onnx", length=3, sha256="ab" * 32, custom=custom)
        home.repository.publish([bad], now_ns=patient.now_ns)

    severity, where, told = patient.only()

    assert (severity, where) == ("error", bad.path)
    assert "keys were stolen" in told
    with patient.open() as home:  # a turn that was killed between its signature and its fact explains it
        home.ledger.append([Draft(kind="turn_begun", key="tiny/9", record={"line": "tiny"})])
    assert [s.severity for s in patient.symptoms()] == ["warning", "note"]


# lines and libraries


def test_a_line_in_use_that_is_not_installed(patient):
    patient.find = find_installed

    severity, where, told = patient.only()

    assert (severity, where) == ("error", "tiny")
    assert "is not installed" in told


@pytest.mark.parametrize("extra", ["factory", "train", "sim"])
def test_an_extra_that_the_lines_in_use_need(patient, extra):
    patient.machine.missing = {extra: ["some-library"], "web": ["not needed"]}

    severity, where, told = patient.only()

    assert (severity, where) == ("error", f"extra {extra}")
    assert f"not installed: some-library: Run: pip install 'fleetmill[{extra}]'" in told


def test_a_line_that_is_replayed_needs_no_simulator(patient):
    patient.find = lambda name: replace(tiny_line, world=None)
    patient.machine.missing = {"sim": ["some-library"]}

    assert patient.symptoms() == []


# the ledger, the books, the blobs


def test_a_ledger_that_is_gone(patient):
    for path in patient.home.glob("ledger.db*"):
        path.unlink()

    found = [s for s in patient.symptoms() if s.where == "ledger.db"]

    assert [(s.severity, s.what, s.do) for s in found] == [
        ("error", "the ledger is gone", "Restore the home from a copy")
    ]
    assert not (patient.home / "ledger.db").exists()


def test_a_ledger_that_is_no_ledger(patient):
    for path in patient.home.glob("ledger.db*"):
        path.unlink()
    (patient.home / "ledger.db").write_bytes(b"not a database, but long enough to be taken for one" * 100)

    assert [s.severity for s in patient.symptoms() if s.where == "ledger.db"] == ["error"]
    assert not any("stolen" in s.do for s in patient.symptoms())  # nobody knows what its facts would have known


def sql(patient, statement):
    with patient.open() as home, home.ledger.engine.connect() as connection:
        connection.exec_driver_sql(statement)


def test_a_fact_that_was_changed(patient):
    sql(patient, "UPDATE fact SET time_ns = time_ns + 1 WHERE seq = 5")

    severity, where, told = patient.only()

    assert (severity, where) == ("error", "ledger.db")
    assert "fact 5 (" in told


def test_a_fact_that_cannot_be_read(patient):
    sql(patient, "UPDATE fact SET record = '{' WHERE seq = 5")

    assert any(s.where == "ledger.db" and "fact 5" in s.what for s in patient.symptoms())


def test_books_that_do_not_balance(patient):
    sql(patient, "UPDATE balance SET ns = ns + 7 WHERE account = 'refined' AND device = 0")

    found = patient.symptoms()

    assert {(s.severity, s.where) for s in found} == {("error", "books")}
    assert any("accounts differ by 7 ns" in s.what for s in found)


def test_a_row_that_does_not_follow_from_the_facts(patient):
    sql(patient, "UPDATE span SET recording = 'x' WHERE device = 0 AND account = 'dropped' AND start_ns = "
                 "(SELECT max(start_ns) FROM span WHERE device = 0 AND account = 'dropped')")  # fmt: skip

    found = patient.symptoms()

    assert {(s.severity, s.where) for s in found} == {("error", "books")}
    assert any("is not in the books" in s.what for s in found)


@pytest.mark.parametrize(
    ("kind", "named", "said"),
    [
        ("recording", lambda fact: fact.key, "recording "),
        ("model", lambda fact: fact.record["files"]["model.onnx"], "model.onnx of model "),
        ("release", lambda fact: fact.record["golden"], "golden frames"),
    ],
    ids=["recording", "model", "release"],
)
def test_bytes_that_a_fact_names_and_nobody_has(patient, kind, named, said):
    with patient.open() as home:
        home.blobs.path(named(next(home.ledger.read(kind=kind)))).unlink()

    severity, where, told = patient.only()

    assert (severity, where.startswith(said)) == ("error", True)
    assert "is gone" in told


# format, and what was cut short


def test_a_home_of_format_1(old):
    settings = old_settings(old)
    with open_home(settings, own=False) as home:
        now_ns = max(f.time_ns for f in home.ledger.read())

    found = examine(settings, now_ns=now_ns, find=find, host=Machine())

    assert [(s.severity, s.where) for s in found] == [
        ("warning", "home.json"),
        ("warning", str(old / "home" / "keys" / "root.pem")),
    ]
    assert found[0].do == "Stop the factory and run: fleetmill upgrade"


def test_an_upgrade_that_was_cut_short(patient):
    (patient.home / "home.json").write_text('{"format":1}')
    assert patient.only()[:2] == ("warning", "home.json")


@pytest.mark.parametrize(
    ("mark", "do"),
    [('{"format":3}', "Update fleetmill"), ("{}", "Restore the file, or the home from a copy")],
)
def test_a_mark_of_tomorrow_or_of_nobody(patient, mark, do):
    (patient.home / "home.json").write_text(mark)

    (found,) = patient.symptoms()

    assert (found.severity, found.where, found.do) == ("error", "home.json", do)


def test_a_home_whose_making_was_cut_short(patient, tmp_path):
    (patient.home / "home.json").unlink()

    severity, where, told = patient.only()

    assert (severity, where) == ("error", str(patient.home))
    assert "fleetmill init --home" in told
    with pytest.raises(NotFoundError, match="no home here"):
        examine(Settings(home=tmp_path / "nothing"), now_ns=0)


def test_what_was_half_written(patient):
    (patient.home / "blobs" / "ab").mkdir(exist_ok=True)
    (patient.home / "blobs" / "ab" / ".incoming.x").write_bytes(b"x")

    severity, where, told = patient.only()

    assert (severity, where) == ("note", "blobs/ab/.incoming.x")
    assert "fleetmill gc --delete" in told
    assert is_well(patient.symptoms())


def test_a_turn_that_was_cut_short_is_told_while_nobody_works_on_it(patient):
    with patient.open() as home:
        home.ledger.append([Draft(kind="turn_begun", key="tiny/2", record={"line": "tiny"})])
        patient.machine.said = dict(zip(("facts", "head"), home.ledger.head(), strict=True))
        assert patient.symptoms() == []
    patient.machine.said = None

    severity, where, told = patient.only()

    assert (severity, where) == ("note", "tiny/2")
    assert "It goes on where it was" in told


def test_devices_that_are_silent(patient):
    patient.now_ns += SILENT_NS + 3600 * 10**9

    found = [s for s in patient.symptoms() if s.where.startswith("device")]

    assert [s.where for s in found] == ["device d0", "device d1", "device d2"]
    assert all("has not reported for 25 hours" in s.what for s in found)


# this machine, and the command


def test_this_machine_answers(tmp_path):
    host = ThisHost()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not host.is_free("127.0.0.1", port)
    assert host.is_free("127.0.0.1", port)
    assert host.health(f"http://127.0.0.1:{port}") is None
    assert host.free_bytes(tmp_path) > 0
    assert host.clock_is_kept() in (True, False, None)
    assert host.lacks("factory") == []
    assert "no-such-extra" not in host.lacks("web")


def test_the_command_ends_with_0_for_a_home_that_is_well_and_1_for_one_that_is_not(tmp_path, monkeypatch):
    monkeypatch.setenv("FLEETMILL_PORT", "0")
    init_home(Settings(home=tmp_path / "home"), now_ns=time.time_ns())
    run = CliRunner()

    well = run.invoke(app, ["doctor", "--home", str(tmp_path / "home")])
    (tmp_path / "home" / "keys" / "targets.pem").unlink()
    ill = run.invoke(app, ["doctor", "--home", str(tmp_path / "home")])
    told = run.invoke(app, ["doctor", "--home", str(tmp_path / "home"), "--json"])

    errors = [s for s in json.loads(told.output) if s["severity"] == "error"]
    assert well.exit_code == (0 if "is well" in well.output else 1)  # this machine's clock or disk may not be
    assert (ill.exit_code, told.exit_code) == (1, 1)
    assert "targets.pem: the targets key that root names is lost" in ill.output
    assert [set(s) for s in errors] == [{"severity", "what", "where", "do"}]
