"""The stream over a real socket: news come, nothing is lost on the way, and devices are never kept waiting."""

from __future__ import annotations

from contextlib import ExitStack

import httpx
import pytest
from serving import open_stream, serve

from finished import open_fleet, settings
from fleetmill.core.ids import sha256
from fleetmill.device.agent import open_agent
from fleetmill.device.enrolment import Token, enrol, read_token
from fleetmill.home import open_home
from fleetmill.receive import roll
from fleetmill.seams.ledger import Draft
from fleetmill.testing import tiny_line
from fleetmill.web import board


@pytest.fixture
def fleet(tmp_path):
    with open_fleet(tmp_path) as found:
        yield found


def test_a_new_fact_reaches_an_open_page(fleet):
    with serve(fleet.home, tiny_line) as address, open_stream(address) as stream:
        first, _ = stream.parts()
        roll.invite(fleet.home.ledger, "newcomer", line="tiny")

        seen = stream.part("main")

    assert {"top", "trouble", "main"} <= set(first)
    assert "newcomer" not in first["main"]
    assert "newcomer" in seen


def test_only_what_changed_is_sent(fleet):
    with serve(fleet.home, tiny_line) as address, open_stream(address) as stream:
        stream.parts()
        fleet.home.ledger.append([Draft(kind="of_tomorrow", key="x", record={})])
        while True:
            found, _ = stream.parts()
            if "facts" in found:
                break

    assert "of_tomorrow" in found["facts"]
    assert set(found) <= {"facts", "top"}


def test_a_client_that_comes_back_gets_what_it_missed_and_one_of_another_process_gets_all(fleet):
    with serve(fleet.home, tiny_line) as address, open_stream(address) as watching:
        with open_stream(address) as stream:
            _, known = stream.parts()
        fleet.home.ledger.append([Draft(kind="of_tomorrow", key="x", record={})])
        watching.part("facts")
        with open_stream(address, since=known) as stream:
            missed, _ = stream.parts()
        with open_stream(address, headers={"Last-Event-ID": known}) as stream:
            by_header, _ = stream.parts()
        with open_stream(address, since="0ther.5") as stream:
            everything, _ = stream.parts()

    assert "of_tomorrow" in missed["facts"]
    assert "main" not in missed
    assert by_header == missed
    assert "of_tomorrow" in everything["main"]


def test_the_page_and_its_stream_fit_together(fleet):
    with serve(fleet.home, tiny_line) as address:
        text = httpx.get(address).text
        since = text.partition('data-since="')[2].partition('"')[0]
        with open_stream(address, since=since) as stream:
            name, data, _ = stream.event()
            found, version = stream.parts()

    assert (name, data) == ("hello", text.partition('data-assets="')[2].partition('"')[0])
    assert "main" not in found
    assert version.partition(".")[0] == since.partition(".")[0]


def test_fifty_open_streams_do_not_stop_an_upload(fleet):
    home = fleet.home
    with serve(home, tiny_line) as address, ExitStack() as stack:
        streams = [stack.enter_context(open_stream(address)) for _ in range(50)]
        for stream in streams:
            stream.parts()
        client = stack.enter_context(httpx.Client(base_url=address, timeout=60))
        secret = roll.invite(home.ledger, "late", line="tiny")
        token = Token(name="late", secret=secret, root_sha256=sha256(home.repository.root()))
        enrol(fleet.folder / "late", read_token(token.text()), factory=address, hardware="cpu", client=client)
        with open_agent(fleet.folder / "late", tiny_line, client=client, clock=home.clock) as agent:
            agent.once()

        closed = [f.key for f in home.ledger.read(kind="session")]
        told = [stream.part("main") for stream in streams]

    assert closed == ["late/s00000"]
    assert all("late" in text for text in told)


def test_a_slow_reader_is_not_queued_for(fleet):
    """It is sent the newest of each part, once, however much went by while it did not read."""
    with serve(fleet.home, tiny_line) as address, open_stream(address) as slow, open_stream(address) as quick:
        _, known = slow.parts()
        quick.parts()
        for n in range(3):
            fleet.home.ledger.append([Draft(kind="of_tomorrow", key=f"x{n}", record={})])
            quick.part("facts")
        with open_stream(address, since=known) as late:
            found, _ = late.parts()

    assert all(f"<code>x{n}</code>" in found["facts"] for n in range(3))


def test_a_stream_too_many_is_refused_and_told_when_to_ask_again(fleet, monkeypatch):
    monkeypatch.setattr(board, "MOST_STREAMS", 1)
    with serve(fleet.home, tiny_line) as address, open_stream(address) as stream:
        stream.parts()

        answer = httpx.get(f"{address}/live", timeout=60)

    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"


def test_when_the_ledger_cannot_be_read_the_page_stands_and_says_so(finished, tmp_path):
    import shutil

    shutil.copytree(finished, tmp_path / "home")
    with open_home(settings(tmp_path)) as home, serve(home, tiny_line) as address, open_stream(address) as stream:
        stream.parts()
        with home.ledger.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE fact RENAME TO gone")
        trouble = stream.part("trouble")
        with home.ledger.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE gone RENAME TO fact")
        well = stream.part("trouble")

    assert "no such table: fact" in trouble
    assert "this page is of an earlier look" in trouble
    assert well == ""
