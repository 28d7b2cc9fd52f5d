"""What the factory says of itself: /health, /metrics, and which protocol it speaks."""

from __future__ import annotations

from dataclasses import replace

import httpx
import pytest
from house import Fleet, find
from prometheus_client.parser import text_string_to_metric_families

from fleetmill.api.door import make_app
from fleetmill.core.errors import InvalidInputError, TooNewError
from fleetmill.core.signing import PROTOCOL, checked_protocol
from fleetmill.home import open_home
from fleetmill.receive import roll
from fleetmill.seams.ledger import Draft
from fleetmill.testing import in_process

HERE = "http://127.0.0.1"


def scraped(client):
    """Every sample by name and labels, read by the reference parser."""
    answer = client.get(f"{HERE}/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_what_a_fleet_did_is_counted(fleet):
    fleet.round()
    with fleet.open() as (home, client):
        found, again = scraped(client), scraped(client)
        facts = {kind: len(list(home.ledger.read(kind=kind))) for kind in ("session", "moved", "release")}
        stored = sum(f.record["stored_bytes"] for f in home.ledger.read(kind="recording"))
        lived = sum(j.lived_ns for j in home.books.journals()) / 1e9
        ended_ns = next(home.ledger.read(kind="turn_ended")).time_ns

    assert {kind: found["fleetmill_facts_total", kind] for kind in facts} == facts
    assert found["fleetmill_devices",] == 3
    assert found["fleetmill_sessions_total", "tiny"] == facts["session"] > 0
    assert found["fleetmill_turns_total", "accepted", "tiny"] == 1
    assert found["fleetmill_release", "tiny"] == 1
    assert found["fleetmill_recording_bytes_total",] == stored > 0
    assert found["fleetmill_last_turn_timestamp_seconds", "tiny"] == pytest.approx(ended_ns / 1e9)
    assert found["fleetmill_turns_in_progress",] == 0
    balances = {key[1:]: value for key, value in found.items() if key[0] == "fleetmill_balance_seconds"}
    assert balances["", "lived"] == pytest.approx(-lived)
    assert sum(balances.values()) == pytest.approx(0.0)
    assert again["fleetmill_facts_total", "moved"] == facts["moved"]  # each fact is counted once


def test_requests_are_counted_by_route_and_status_not_by_path(fleet):
    with fleet.open() as (_, client):
        for path in ("/health", "/health", "/no/such", "/nor/this"):
            client.get(path)
        client.request("INVENTED", "/health")
        found = scraped(client)

    assert found["fleetmill_requests_total", "/health", "200", "GET"] == 2
    assert found["fleetmill_requests_total", "(none)", "404", "GET"] == 2
    assert found["fleetmill_requests_total", "/health", "405", "other"] == 1
    assert found["fleetmill_request_seconds_count", "/health", "GET"] == 2
    assert not any("such" in str(key) for key in found)


def test_the_device_that_is_silent_the_longest_is_told(fleet):
    fleet.round(turn=False)
    fleet.clock.forward(1000.0)
    with fleet.open() as (home, client):
        fleet.once("d0", client)
        home.ledger.append(
            [Draft(kind="device", key="never", record={"number": 9, "line": "tiny", "public_key": "ab"})]
        )
        fleet.clock.forward(500.0)
        before = scraped(client)["fleetmill_oldest_unreported_seconds",]

    assert before == pytest.approx(1500.0, abs=1.0)


def test_metrics_are_for_this_machine_alone_unless_the_settings_say_otherwise(fleet):
    with fleet.open() as (_, client):
        refused = client.get("http://factory.example/metrics")
    wide = Fleet(replace(fleet.settings, metrics_open=True), fleet.folder, fleet.clock)
    with wide.open() as (_, client):
        answered = client.get("http://factory.example/metrics")

    assert (refused.status_code, refused.json()["title"]) == (401, "TrustError")
    assert answered.status_code == 200


@pytest.mark.parametrize(
    ("alive", "status", "loop"), [(None, "ok", "none"), (True, "ok", "running"), (False, "failing", "ended")]
)
def test_health_says_whether_the_loop_lives_and_what_it_turns(fleet, alive, status, loop):
    with open_home(fleet.settings, clock=fleet.clock) as home:
        home.ledger.append([Draft(kind="turn_begun", key="tiny/0", record={"line": "tiny"})])
        with in_process(make_app(home, find=find, loop_alive=lambda: alive)) as client:
            said = client.get("/health").json()
            up = scraped(client).get(("fleetmill_loop_up",))

        assert said == {
            "status": status,
            "facts": home.ledger.head()[0],
            "head": home.ledger.head()[1],
            "loop": loop,
            "turning": ["tiny/0"],
        }
        assert up == {None: None, True: 1.0, False: 0.0}[alive]


# the protocol


def test_a_request_without_a_version_speaks_the_first():
    assert checked_protocol(None) == checked_protocol("1") == 1


@pytest.mark.parametrize("said", ["", "0", "-1", "one", "1.5", "9999999"])
def test_what_is_no_version_is_refused(said):
    with pytest.raises(InvalidInputError, match="Fleet-Protocol"):
        checked_protocol(said)


def test_a_device_of_a_newer_protocol_is_told_to_wait_for_the_factory(fleet):
    with pytest.raises(TooNewError, match="device protocol: format 2, this version reads up to 1"):
        checked_protocol(str(PROTOCOL + 1))
    with fleet.open() as (home, client):
        secret = roll.invite(home.ledger, "new", line="tiny")
        asked = {"name": "new", "secret": secret, "public_key": "ab" * 32, "hardware": "cpu"}
        enrolling = client.post("/v1/enrol", json=asked, headers={"Fleet-Protocol": "2"})
        waiting = client.get("/v1/wait", headers={"Fleet-Protocol": "2"})
        current = client.get("/v1/wait", headers={"Fleet-Protocol": "1"})

    assert [(a.status_code, a.json()["title"]) for a in (enrolling, waiting)] == [(400, "TooNewError")] * 2
    assert current.status_code == 401  # only then is it asked who that is


def test_devices_and_factory_say_which_protocol_they_speak(fleet):
    seen = set()
    with fleet.open() as (_, client):
        carry = client._transport.handle_request

        def noted(request: httpx.Request) -> httpx.Response:
            answer = carry(request)
            seen.add((request.headers.get("fleet-protocol"), answer.headers.get("fleet-protocol")))
            return answer

        client._transport.handle_request = noted
        fleet.once("d0", client)

    assert seen == {("1", "1")}
