"""API keys: shown once, kept as digests, known to a running gateway within a second."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fleetmill.cli.serving import app
from fleetmill.core.errors import ConflictError, FleetmillError, InvalidInputError, NotFoundError
from fleetmill.core.serve import Label
from fleetmill.home import init_home
from fleetmill.serve.accounts import keys as stored
from fleetmill.serve.accounts.book import Accounts, open_accounts
from fleetmill.serve.accounts.keys import (
    StoredKeys,
    find_key,
    keys,
    new_key,
    remove_tenant,
    revoke_key,
    set_tenant,
    tenants,
)
from fleetmill.serve.words import Tenant
from fleetmill.settings import Settings

ACME = Tenant(name="acme", label=Label.OPEN, consent=True, detectors=("email",))


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Accounts]:
    accounts = open_accounts(tmp_path / "serve")
    yield accounts
    accounts.close()


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def wait_until(holds) -> bool:
    until = time.monotonic() + 10
    while not holds() and time.monotonic() < until:
        time.sleep(0.05)
    return holds()


def test_a_key_opens_its_tenant_and_is_itself_nowhere_on_the_disk(books, tmp_path):
    set_tenant(books, ACME)
    key = new_key(books, "acme", note="ci")
    assert StoredKeys(books).tenant(digest(key)) == ACME
    assert StoredKeys(books).tenant(digest(key + "x")) is None
    assert all(key.encode() not in path.read_bytes() for path in (tmp_path / "serve").rglob("*") if path.is_file())


def test_a_running_gateway_knows_new_revoked_and_changed_within_a_second_or_so(books):
    set_tenant(books, ACME)
    known = StoredKeys(books)
    key = digest(new_key(books, "acme"))
    assert wait_until(lambda: known.tenant(key) == ACME)
    set_tenant(books, Tenant(name="acme"))
    assert wait_until(lambda: known.tenant(key) == Tenant(name="acme"))
    revoke_key(books, key)
    assert wait_until(lambda: known.tenant(key) is None)
    assert [k.revoked_ns is not None for k in keys(books)] == [True]


def test_a_removed_tenants_keys_open_nothing_even_when_it_is_made_again(books):
    set_tenant(books, ACME)
    key = digest(new_key(books, "acme"))
    remove_tenant(books, "acme")
    set_tenant(books, ACME)
    assert StoredKeys(books).tenant(key) is None
    with pytest.raises(NotFoundError):
        remove_tenant(books, "nobody")


def test_without_the_accounts_keys_are_believed_for_a_while_and_then_nobody_may_ask(books, monkeypatch, caplog):
    set_tenant(books, ACME)
    key = digest(new_key(books, "acme"))
    known = StoredKeys(books)
    now = time.monotonic()

    def down() -> int:
        raise FleetmillError("accounts: gone")

    with monkeypatch.context() as patch:
        patch.setattr(books, "rules", down)
        patch.setattr(stored.time, "monotonic", lambda: now + 20)
        assert known.tenant(key) == ACME
        patch.setattr(stored.time, "monotonic", lambda: now + 40)
        assert known.tenant(key) is None
    monkeypatch.setattr(stored.time, "monotonic", lambda: now + 50)
    assert known.tenant(key) == ACME


def test_bad_tenants_and_keys_are_refused_with_what_to_do(books):
    with pytest.raises(InvalidInputError, match="tenant 'A/B'"):
        set_tenant(books, Tenant(name="A/B"))
    with pytest.raises(InvalidInputError, match="detector 'nose'"):
        set_tenant(books, Tenant(name="a", detectors=("nose",)))
    with pytest.raises(NotFoundError, match="serve tenant set nobody"):
        new_key(books, "nobody")
    assert tenants(books) == []
    with pytest.raises(InvalidInputError, match="at least 6"):
        find_key(books, "abc")
    with pytest.raises(NotFoundError):
        find_key(books, "abcdef")


def test_a_key_is_found_by_the_first_digits_of_its_digest_when_only_one_begins_so(books, monkeypatch):
    set_tenant(books, ACME)
    made = digest(new_key(books, "acme"))
    assert find_key(books, made[:8]).digest == made
    monkeypatch.setattr(stored, "LEAST_DIGITS", 0)
    new_key(books, "acme")
    with pytest.raises(ConflictError, match="2 digests begin so"):
        find_key(books, "")


def test_the_commands_make_tenants_keys_and_budgets_and_tell_what_was_used(tmp_path):
    home = tmp_path / "home"
    init_home(Settings(home=home), now_ns=time.time_ns())

    def run(*words: str) -> str:
        done = CliRunner().invoke(app, [*words, "--home", str(home)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    run("tenant", "set", "acme", "--label", "open", "--consent", "--detector", "email")
    made = json.loads(run("key", "add", "acme", "--note", "ci", "--json"))
    run("budget", "set", "acme", "money", "12.50", "--period", "month")
    run("budget", "set", "acme", "tokens", "1000", "--key", made["digest"][:8])
    assert json.loads(run("tenant", "list", "--json"))[0]["detectors"] == ["email"]
    rows = {row["measure"]: row for row in json.loads(run("budget", "show", "--json"))}
    assert (rows["money"]["most"], rows["money"]["left"], rows["tokens"]["key"]) == (
        12_500_000,
        12_500_000,
        made["digest"],
    )
    assert "12.5" in run("budget", "show")
    run("budget", "set", "acme", "money", "none", "--period", "month")
    assert [row["measure"] for row in json.loads(run("budget", "show", "--json"))] == ["tokens"]
    assert run("usage") == ""
    run("key", "revoke", made["digest"][:8])
    assert json.loads(run("key", "list", "--json"))[0]["revoked_ns"]


@pytest.mark.parametrize(
    "words",
    [
        ["tenant", "set", "a", "--label", "secret"],
        ["budget", "set", "acme", "coins", "5"],
        ["budget", "set", "acme", "tokens", "1.5"],
        ["budget", "set", "acme", "money", "0.0000001"],
        ["budget", "set", "acme", "money", "much"],
        ["usage", "--since", "yesterday"],
    ],
)
def test_bad_words_are_refused(tmp_path, words):
    home = tmp_path / "home"
    init_home(Settings(home=home), now_ns=time.time_ns())
    with pytest.raises(InvalidInputError):
        CliRunner().invoke(app, [*words, "--home", str(home)], catch_exceptions=False)
