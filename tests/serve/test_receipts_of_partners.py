"""What went to a partner has a receipt, signed by the home, without content; what did not go there has none."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from typer.testing import CliRunner

from fleetmill.cli import app
from fleetmill.core.errors import IntegrityError, TrustError
from fleetmill.core.serve import Label, Price, Tier
from fleetmill.home import init_home
from fleetmill.serve.accounts.journal import Journal
from fleetmill.serve.accounts.receipts import UNKNOWN, receipts
from fleetmill.serve.words import Tenant
from fleetmill.settings import read_settings
from simulated import Engine, stage

SECRET = "canary-11d0"


@pytest.fixture
def home(tmp_path):
    """A home whose gateway asked an own server once, and a partner twice: one whole, one broken and gone on with."""
    place = tmp_path / "home"
    init_home(read_settings(home=place), now_ns=time.time_ns(), root_key=tmp_path / "root.pem")
    journal = Journal(place / "serve" / "sent")

    async def go():
        price = Price(tokens_in=3_000_000, tokens_out=10_000_000)
        partner = {"tier": Tier.PARTNER, "price": price}
        own = Engine("own")
        who = Tenant(name="acme", label=Label.OPEN, consent=True)
        async with stage([own, Engine("far", faults=[("", 0), ("die", 3)])], tenant=who, far=partner) as found:
            found.seen.saw = journal.saw  # the stage's witness writes to the disk
            body = {"model": "small", "max_tokens": 6, "messages": [{"role": "user", "content": SECRET}]}
            await found.ask(body)
            found.relay.pool.leave("own")
            _, headers, _ = await found.ask(body)
            await found.ask({**body, "stream": True})
            return headers["x-request-id"]

    request = asyncio.run(go())
    journal.close()
    return place, request


def command(*words, code=0):
    found = CliRunner().invoke(app, ["serve", "receipts", *map(str, words)])
    assert found.exit_code == code, (found.output, found.exception)
    return found


def test_each_sending_to_a_partner_has_a_signed_receipt_that_says_what_left_and_for_what_price(home, tmp_path):
    place, request = home
    printed = command("--home", place).stdout
    told = [json.loads(line)["receipt"] for line in printed.splitlines()]

    assert [(t["server"], t["tier"], t["outcome"]) for t in told] == [
        ("far", "partner", "whole"),
        ("far", "partner", "broken"),
    ]
    first = told[0]
    assert (first["request"], first["tenant"], first["label"], first["consent"]) == (request, "acme", "open", True)
    assert (first["tokens_in"], first["tokens_out"]) == (7, 6)
    assert first["used"] == {"requests": 1, "tokens": 13, "money": 7 * 3 + 6 * 10, "energy": 0}
    assert SECRET not in printed
    assert command("--home", place, "--request", request).stdout.splitlines() == printed.splitlines()[:1]

    file = tmp_path / "receipts.jsonl"
    file.write_text(printed)
    assert command("--home", place, "--check", file).stdout.startswith("2 receipts are this home's")
    for wrong in (printed.replace('"money": 81', '"money": 80'), printed.replace('"label": "open"', '"label": "x"')):
        file.write_text(wrong)
        assert isinstance(command("--home", place, "--check", file, code=1).exception, TrustError)
    for wrong in ("{", "[]", '{"receipt": 5, "signature": 5}'):
        file.write_text(wrong)
        assert "is no receipt" in str(command("--home", place, "--check", file, code=1).exception)
    assert "nothing of it went to a partner" in str(command("--home", place, "--request", "x", code=1).exception)


def test_another_home_signed_none_of_them(home, tmp_path):
    place, _ = home
    file = tmp_path / "receipts.jsonl"
    file.write_text(command("--home", place).stdout)
    other = tmp_path / "other"
    init_home(read_settings(home=other), now_ns=time.time_ns(), root_key=tmp_path / "other.pem")
    assert isinstance(command("--home", other, "--check", file, code=1).exception, TrustError)


def test_no_receipt_is_given_from_records_that_were_touched(home):
    place, _ = home
    path = next((place / "serve" / "sent").glob("*.jsonl"))
    path.write_bytes(path.read_bytes().replace(b'"partner"', b'"premises"', 1))
    with pytest.raises(IntegrityError, match="does not follow"):
        list(receipts(place / "serve" / "sent"))


def test_what_was_begun_when_the_process_died_is_told_as_unknown(home):
    place, _ = home
    path = next((place / "serve" / "sent").glob("*.jsonl"))
    lines = path.read_bytes().splitlines(keepends=True)
    begun = max(n for n, line in enumerate(lines) if b'"begun"' in line)
    path.write_bytes(b"".join(lines[: begun + 1]))
    assert [r.outcome for r in receipts(place / "serve" / "sent")] == ["whole", UNKNOWN]
