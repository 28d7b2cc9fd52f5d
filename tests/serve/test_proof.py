"""The proof: every planted change is found, and what is not there is not claimed."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from fleetmill.cli.serving import app
from fleetmill.core import canonical
from fleetmill.core.errors import InvalidInputError, NotFoundError
from fleetmill.core.serve import Label, Tier
from fleetmill.home import init_home
from fleetmill.serve.accounts import export, journal
from fleetmill.serve.accounts.book import Use, fake_accounts
from fleetmill.serve.accounts.journal import Head, Journal, read_head
from fleetmill.serve.accounts.proof import Proof, prove
from fleetmill.serve.words import Sent
from fleetmill.settings import Settings

NOON = 1_770_000_000 * 10**9
DAY = 86_400 * 10**9
SENT = Sent(
    time_ns=NOON,
    request="r1",
    tenant="t",
    key="k" * 64,
    label=Label.PREMISES,
    tier=Tier.PREMISES,
    server="box",
    model="m",
    consent=False,
    tokens_in=10,
    tokens_out=5,
    used={"requests": 1, "tokens": 15, "money": 3, "energy": 2},
    resumed=0,
    outcome="whole",
)


def keep(folder: Path, *sents: Sent) -> Head:
    mine = Journal(folder)
    for sent in sents:
        mine.saw(sent)
    mine.close()
    return mine.head()


def ask(folder: Path, **more) -> Proof:
    return prove(folder, **{"label": Label.PREMISES, "tier": Tier.PREMISES, **more})


def many(number: int) -> list[Sent]:
    return [replace(SENT, request=f"r{n}", time_ns=NOON + n) for n in range(number)]


def test_nothing_that_stayed_is_a_breach_and_the_sentence_says_how_much_was_looked_at(tmp_path):
    keep(tmp_path, *many(20), replace(SENT, label=Label.OPEN, tier=Tier.PARTNER, consent=True))
    found = ask(tmp_path)
    assert found.holds
    assert found.sentence() == "no record with label >= premises left tier premises: 21 records of 1 chains"
    assert (found.chains[0].head.records, found.chains[0].is_ended) == (23, True)  # began, 21 sent, ended


def test_each_breach_is_listed_with_whether_the_rule_forbids_it(tmp_path):
    allowed = replace(SENT, request="fine", label=Label.ATTESTED, tier=Tier.ATTESTED, consent=True)
    forbidden = replace(SENT, request="leak", label=Label.DEVICE, tier=Tier.PARTNER, server="far")
    keep(tmp_path, *many(3), allowed, forbidden)
    found = ask(tmp_path, label=Label.ATTESTED)
    assert not found.holds
    assert [(b.request, b.is_against_rule, b.number) for b in found.breaches] == [("fine", False, 4), ("leak", True, 5)]
    assert ask(tmp_path, label=Label.DEVICE).breached == 1


def test_a_period_counts_only_what_was_sent_in_it(tmp_path):
    leak = replace(SENT, tier=Tier.PARTNER, time_ns=NOON + DAY)
    keep(tmp_path, SENT, leak)
    assert ask(tmp_path, until_ns=NOON + DAY).holds
    found = ask(tmp_path, since_ns=NOON + DAY)
    assert (found.records, found.breached) == (1, 1)


def lines_of(folder: Path) -> tuple[Path, list[bytes]]:
    (path,) = folder.glob("*.jsonl")
    return path, path.read_bytes().splitlines(keepends=True)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(at=st.integers(0, 10), to=st.integers(0, 10), how=st.sampled_from(["change", "remove", "swap", "double"]))
def test_a_changed_removed_or_reordered_record_is_found(tmp_path_factory, at, to, how):
    folder = tmp_path_factory.mktemp("sent")
    keep(folder, *many(10))
    path, lines = lines_of(folder)
    before = list(lines)
    if how == "change":
        lines[at] = lines[at].replace(b'"n":', b'"m":1,"n":', 1)
    elif how == "remove":
        del lines[at]
    elif how == "swap":
        lines[at], lines[to] = lines[to], lines[at]
    else:
        lines.insert(to, lines[at])
    path.write_bytes(b"".join(lines))
    assert bool(ask(folder).faults) == (lines != before)


def test_a_tier_that_was_rewritten_is_found(tmp_path):
    keep(tmp_path, replace(SENT, tier=Tier.PARTNER), *many(3))
    path, lines = lines_of(tmp_path)
    path.write_bytes(b"".join(lines).replace(b'"tier":"partner"', b'"tier":"premises"'))
    found = ask(tmp_path)
    assert not found.holds
    assert "record 2 does not follow" in found.faults[0]


def test_an_end_that_was_cut_off_is_seen_only_with_a_head_that_was_noted(tmp_path):
    head = keep(tmp_path, *many(5))
    path, lines = lines_of(tmp_path)
    path.write_bytes(b"".join(lines[:-2]))
    assert ask(tmp_path).holds
    assert not ask(tmp_path).chains[0].is_ended
    assert "7 records were noted, 5 are there" in ask(tmp_path, noted=[head]).faults[0]


def test_a_chain_that_was_written_anew_is_seen_with_a_head_that_was_noted(tmp_path):
    head = keep(tmp_path, *many(5))
    path, lines = lines_of(tmp_path)
    prev, out = "0" * 64, []
    for line in lines:
        record = {**canonical.loads(line), "prev": prev}
        if "sent" in record:
            record["sent"]["tenant"] = "other"
        out.append(canonical.dumps(record))
        prev = hashlib.sha256(out[-1]).hexdigest()
    path.write_bytes(b"\n".join(out) + b"\n")
    assert ask(tmp_path).holds
    assert "record 6 is not the one that was noted" in ask(tmp_path, noted=[head]).faults[0]


def test_a_noted_head_that_the_chain_goes_on_from_is_met(tmp_path):
    mine = Journal(tmp_path)
    mine.saw(replace(SENT, outcome=journal.BEGUN))
    head = mine.head()
    assert head.records == 2
    for sent in many(3):
        mine.saw(sent)
    mine.close()
    assert ask(tmp_path, noted=[read_head(str(head))]).holds


def test_a_later_chain_names_the_ends_of_earlier_ones_so_that_their_loss_is_seen(tmp_path):
    first, second = keep(tmp_path, *many(5)), keep(tmp_path, *many(2))
    third = keep(tmp_path, SENT)
    begun = {
        h.chain: canonical.loads(next(tmp_path.glob(f"{h.chain}*")).read_bytes().split(b"\n")[0])
        for h in (second, third)
    }
    assert begun[second.chain]["began"]["others"] == {first.chain: [first.records, first.digest]}
    assert begun[third.chain]["began"]["others"] == {second.chain: [second.records, second.digest]}
    (path,) = tmp_path.glob(f"{first.chain}*")
    whole = path.read_bytes()
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    assert "the end was cut off" in ask(tmp_path).faults[0]
    path.unlink()
    assert f"chain {first.chain}: is gone" in ask(tmp_path).faults[0]


def test_a_full_file_is_gone_on_from_in_the_next_and_a_lost_one_is_seen(tmp_path):
    mine = Journal(tmp_path, full_bytes=600)
    for sent in many(9):
        mine.saw(replace(sent, outcome=journal.BEGUN))
    mine.close()
    paths = sorted(tmp_path.glob("*.jsonl"))
    assert len(paths) > 3
    assert ask(tmp_path).holds
    assert ask(tmp_path).records == 9
    paths[1].unlink()
    assert ask(tmp_path).faults


def test_a_record_with_a_label_that_is_not_known_proves_nothing(tmp_path):
    keep(tmp_path, SENT)
    path, lines = lines_of(tmp_path)
    record = canonical.loads(lines[1])
    record["sent"]["label"] = "top"
    last = {"n": 2, "prev": hashlib.sha256(canonical.dumps(record)).hexdigest(), "ended": {"time_ns": 0}}
    path.write_bytes(lines[0] + canonical.dumps(record) + b"\n" + canonical.dumps(last) + b"\n")
    assert "no label or tier that this version knows" in ask(tmp_path).faults[0]


DYING = """
import os, signal, sys, time
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_proof import SENT, journal
mine = journal.Journal(Path(sys.argv[1]))
for n in range(50):
    mine.saw(replace(SENT, request=f"r{n}"))
time.sleep(1.5)
mine.saw(replace(SENT, request="last", outcome=journal.BEGUN))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_kill_9_loses_nothing_that_was_kept_for_a_moment_nor_what_was_said_to_begin(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", DYING, tmp_path, Path(__file__).parent], capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    found = ask(tmp_path)
    assert (found.holds, found.records, found.chains[0].is_ended) == (True, 51, False)


def test_a_record_that_was_broken_off_by_a_crash_is_told_and_nothing_may_follow_it(tmp_path):
    keep(tmp_path, *many(3))
    path, lines = lines_of(tmp_path)
    path.write_bytes(b"".join(lines[:3]) + lines[3][:50])
    found = ask(tmp_path)
    assert (found.holds, found.records, found.chains[0].torn_bytes) == (True, 2, 50)
    path.write_bytes(b"".join(lines[:3]) + lines[3][:50] + b"\n" + b"".join(lines[4:]))
    assert ask(tmp_path).faults


def test_records_wait_while_the_disk_refuses_and_come_whole_afterwards(tmp_path, monkeypatch, caplog):
    mine = Journal(tmp_path)
    real, left = os.write, [1]

    def full(handle: int, data: bytes) -> int:
        if left[0]:
            left[0] -= 1
            return real(handle, bytes(data)[:40])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal.os, "write", full)
    mine.saw(replace(SENT, outcome=journal.BEGUN))
    assert "No space left" in mine.fault
    monkeypatch.setattr(journal.os, "write", real)
    mine.saw(replace(SENT, outcome=journal.BEGUN))
    assert mine.fault == ""
    mine.close()
    assert ask(tmp_path).holds
    assert ask(tmp_path).records == 2
    assert "No space left" in caplog.text


def test_lines_are_canonical_json_whatever_names_hold(tmp_path):
    keep(tmp_path, replace(SENT, server='ü "\\ \x00\x1f\x7f\u2028 \U0001f600', used={"tokens": 2**62}))
    for line in lines_of(tmp_path)[1]:
        assert canonical.dumps(canonical.loads(line)) + b"\n" == line


def test_no_record_has_a_place_for_content():
    assert set(Sent.__dataclass_fields__) == {
        *("time_ns", "request", "tenant", "key", "label", "tier", "server", "model", "consent"),
        *("tokens_in", "tokens_out", "used", "resumed", "outcome"),
    }


def test_the_command_ends_with_what_it_found(tmp_path):
    home = tmp_path / "home"
    init_home(Settings(home=home), now_ns=time.time_ns())
    folder = home / "serve" / "sent"

    def run(*words: str) -> tuple[int, str]:
        given = ["prove", "--label", "premises", "--tier", "premises", *words, "--home", str(home)]
        done = CliRunner().invoke(app, given, catch_exceptions=False)
        return done.exit_code, done.stdout

    with pytest.raises(NotFoundError, match="no gateway has kept records"):
        run()
    head = keep(folder, *many(3))
    code, text = run("--head", str(head))
    assert (code, f"head {head}" in text) == (0, True)
    with pytest.raises(InvalidInputError, match="CHAIN:RECORDS:DIGEST"):
        run("--head", "nonsense")
    keep(folder, replace(SENT, tier=Tier.PARTNER))
    code, text = run("--json")
    assert (code, json.loads(text)["breached"]) == (1, 1)
    path = next(folder.glob(f"{head.chain}*"))
    path.write_bytes(path.read_bytes().replace(b'"r1"', b'"r7"'))
    code, text = run()
    assert (code, "FAULT" in text) == (3, True)


def test_what_was_sent_is_summed_for_the_bill_by_tier_and_server(tmp_path):
    late = replace(SENT, time_ns=NOON + DAY, tier=Tier.PARTNER, server="=far", consent=True)
    keep(tmp_path, SENT, SENT, late, replace(SENT, outcome=journal.BEGUN))
    rows = export.sent(tmp_path, since_ns=0, until_ns=2**62)
    assert [(r["day"], r["tier"], r["server"], r["requests"], r["tokens"]) for r in rows] == [
        ("2026-02-02", "premises", "box", 2, 30),
        ("2026-02-03", "partner", "=far", 1, 15),
    ]
    assert json.loads(export.as_json(rows)) == rows
    read = list(csv.DictReader(io.StringIO(export.as_csv(rows))))
    assert [r["server"] for r in read] == ["box", "'=far"]  # no spreadsheet takes it for a formula
    assert export.sent(tmp_path, since_ns=NOON + DAY, until_ns=2**62) == rows[1:]


def test_the_accounts_tell_each_keys_days(tmp_path):
    now = [NOON]
    accounts = fake_accounts(lambda: now[0])
    for days, tokens in ((0, 5), (0, 6), (1, 7)):
        now[0] = NOON + days * DAY
        accounts.turn("p", [], [Use(tenant="t", key="k", used=(1, tokens, 0, 0), overrun=(0, 1, 0, 0))])
    rows = export.booked(accounts, since_ns=0, until_ns=2**62)
    accounts.close()
    assert [(r["tenant"], r["key"], r["day"], r["tokens"], r["overrun_tokens"]) for r in rows] == [
        ("t", "k", "2026-02-02", 11, 2),
        ("t", "k", "2026-02-03", 7, 1),
    ]
    assert export.day_ns("2026-02-03") == NOON + DAY - (NOON % DAY)
