"""The ledger appends all or nothing, once, in a chain; the books follow from it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from fleetmill.core.custody import MOVES, NEEDS_REASON, Posting
from fleetmill.core.errors import ConflictError, IntegrityError, NotFoundError
from fleetmill.core.plain import plain
from fleetmill.seams.books import Books
from fleetmill.seams.ledger import Draft, open_ledger


@pytest.fixture(params=["memory", "file"])
def ledger(request, tmp_path):
    url = "sqlite://" if request.param == "memory" else f"sqlite:///{tmp_path / 'ledger.db'}"
    found = open_ledger(url, clock=iter(range(1, 10**6)).__next__)
    yield found
    found.close()


def draft(key="a", **record):
    return Draft(kind="note", key=key, record=record)


def moved(posting):
    return Draft(kind="moved", key=posting.key, record=plain(posting))


def test_facts_come_back_in_order_and_the_chain_holds(ledger):
    facts = ledger.append([draft("a", n=1), draft("b", n=2**60)])

    assert [f.seq for f in facts] == [1, 2]
    assert list(ledger.read()) == facts
    assert ledger.get("note", "b").record == {"n": 2**60}
    assert ledger.head() == (2, facts[-1].digest)
    assert ledger.verify() == 2


def test_a_second_append_of_the_same_fact_is_a_no_op(ledger):
    first = ledger.append([draft("a", n=1)])

    assert ledger.append([draft("a", n=1)]) == first
    assert ledger.head()[0] == 1


def test_other_content_under_a_known_key_is_a_conflict_and_nothing_is_written(ledger):
    ledger.append([draft("a", n=1)])

    with pytest.raises(ConflictError, match="fact 1 says otherwise"):
        ledger.append([draft("new"), draft("a", n=2)])

    with pytest.raises(NotFoundError):
        ledger.get("note", "new")


@pytest.mark.parametrize("damage", ["UPDATE fact SET record='{}' WHERE seq=2", "DELETE FROM fact WHERE seq=2"])
def test_a_changed_or_missing_fact_is_found(ledger, damage):
    ledger.append([draft(str(i), n=i) for i in range(3)])
    with ledger.engine.connect() as connection:
        connection.execute(text(damage))

    with pytest.raises(IntegrityError, match=r"fact [23]"):
        ledger.verify()


def test_a_changed_balance_is_found_by_verify(tmp_path):
    ledger = open_ledger(f"sqlite:///{tmp_path / 'l.db'}")
    p = Posting(device=0, track=0, start_ns=0, end_ns=10, bytes=5, messages=1, source="lived", to="buffered", entry=0)
    ledger.append([moved(p)])
    books = Books(ledger)
    assert (books.verify(), books.faults()) == ([], [])

    with ledger.engine.connect() as connection:
        connection.execute(text("UPDATE balance SET bytes=6 WHERE account='buffered'"))

    assert any("balance" in fault for fault in books.verify())
    assert books.faults() == ["device 0, day 0: accounts differ by 0 ns and 1 bytes"]
    ledger.close()


def test_the_books_must_meet_what_the_device_signed():
    ledger = open_ledger("sqlite://")
    p = Posting(device=3, track=0, start_ns=0, end_ns=10, bytes=5, messages=1, source="lived", to="buffered", entry=0)
    totals = {"device": 3, "entry": 0, "digest": "d", "lived_until_ns": 10, "lived_ns": 11, "lived_bytes": 5}
    ledger.append([moved(p), Draft(kind="journal", key="3/0", record=totals)])

    assert Books(ledger).faults() == ["device 3: signed 11 ns and 5 bytes lived, the books hold 10 ns and 5 bytes"]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_whatever_moves_the_books_balance_and_follow_from_the_facts(seed):
    rng, ledger = random.Random(seed), open_ledger("sqlite://")
    books, at = Books(ledger), rng.randrange(0, 10**15)
    start = at
    for entry in range(25):
        spans = books.spans(0, 0, 10**18)
        if not spans or rng.random() < 0.3:
            end = at + rng.randrange(1, 10**13)
            p = Posting(
                device=0,
                track=0,
                start_ns=at,
                end_ns=end,
                bytes=rng.randrange(10**6),
                messages=rng.randrange(99),
                source="lived",
                to="buffered",
                entry=entry,
            )
            at = end
        else:
            span = rng.choice(spans)
            targets = MOVES.get(span.account, ())
            if not targets:
                continue
            to = rng.choice(targets)
            p = Posting(
                device=0,
                track=0,
                start_ns=span.start_ns,
                end_ns=span.end_ns,
                bytes=span.bytes,
                messages=span.messages,
                source=span.account,
                to=to,
                entry=entry,
                reason="why" if to in NEEDS_REASON else "",
            )
        ledger.append([moved(p)])

    assert books.faults() == []
    assert books.verify() == []
    spans = books.spans(0, 0, 10**18)
    assert sum(s.end_ns - s.start_ns for s in spans) == at - start
    totals = {b.account: 0 for b in books.balances()}
    for b in books.balances():
        totals[b.account] += b.ns
    assert sum(totals.values()) == 0
