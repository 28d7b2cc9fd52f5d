"""Devices and factory in one process: real agents, the real door, real signatures, a clock turned by hand."""

from __future__ import annotations

import resource
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace

import pytest

from fleetmill import loop
from fleetmill.api.door import make_app
from fleetmill.core.errors import InvalidInputError, UnavailableError
from fleetmill.core.ids import sha256
from fleetmill.device.agent import open_agent
from fleetmill.device.enrolment import Token, enrol, read_token
from fleetmill.home import init_home, open_home
from fleetmill.receive import inbox, roll
from fleetmill.settings import CampaignSettings, LineSettings, Settings
from fleetmill.testing import in_process, tiny_line

ASKED = LineSettings(
    first_campaign=CampaignSettings(scenario="default", seconds=3.0, budget_ratio=1.0),
    campaign=CampaignSettings(scenario="field", seconds=6.0, budget_ratio=0.35),
)


class Fleet:
    """Three devices and their factory."""

    def __init__(self, home, client, folder):
        self.home, self.client, self.folder = home, client, folder
        self.said, self.tokens = [], {}

    def enrol(self, *names):
        root = sha256(self.home.repository.root())
        for name in names:
            self.tokens[name] = token = Token(
                name=name, secret=roll.invite(self.home.ledger, name, line="tiny"), root_sha256=root
            )
            enrol(
                self.folder / name,
                read_token(token.text()),
                factory="http://factory",
                hardware="cpu",
                client=self.client,
            )

    @contextmanager
    def device(self, name, **more):
        with open_agent(
            self.folder / name, tiny_line, client=self.client, clock=self.home.clock, say=self.said.append, **more
        ) as agent:
            yield agent

    def everyone_once(self):
        for name in ("d0", "d1", "d2"):
            with self.device(name) as agent:
                agent.once()


@pytest.fixture
def fleet(tmp_path):
    settings = Settings(home=tmp_path / "home", lines={"tiny": ASKED}, poll_seconds=0.0)
    with ExitStack() as stack:
        init_home(settings, now_ns=time.time_ns())
        home = stack.enter_context(open_home(settings))
        client = stack.enter_context(in_process(make_app(home, find=lambda name: tiny_line)))
        fleet = Fleet(home, client, tmp_path)
        fleet.enrol("d0", "d1", "d2")
        loop.start(home, tiny_line)
        yield fleet


def reports(home, state):
    return [f.record["report"] for f in home.ledger.read(kind="deployment") if f.record["report"]["state"] == state]


def test_the_fleet_lives_learns_and_confirms(fleet):
    fleet.everyone_once()
    first = loop.turn(fleet.home, tiny_line)
    fleet.everyone_once()
    second = loop.turn(fleet.home, tiny_line)
    fleet.everyone_once()

    assert first.release.counter == 1
    assert second.release.counter == 2
    confirmed = reports(fleet.home, "confirmed")
    assert sorted((r["device"], r["release_counter"]) for r in confirmed) == sorted(
        (d, n) for d in ("d0", "d1", "d2") for n in (1, 2)
    )
    assert all(r["running"] == r["model_file"] for r in confirmed)
    assert fleet.home.books.faults() == fleet.home.books.verify() == []


def test_the_books_account_for_every_lived_second_and_the_budget_holds(fleet):
    fleet.everyone_once()
    loop.turn(fleet.home, tiny_line)
    fleet.everyone_once()

    lived = {j.device: j.lived_ns for j in fleet.home.books.journals()}
    totals = {}
    for row in fleet.home.books.balances():
        if row.account != "lived":
            totals.setdefault(row.device, {}).setdefault((row.account, row.reason), 0)
            totals[row.device][row.account, row.reason] += row.ns
    sessions = [s for s in inbox.sessions(fleet.home.ledger, "tiny") if s.number == 1]

    assert lived == dict.fromkeys(range(3), 9000000000)
    assert {d: sum(t.values()) for d, t in totals.items()} == lived
    assert all(("dropped", "not_triggered") in t for t in totals.values())
    assert len(sessions) == 3
    for session in sessions:
        assert 0 < sum(r.bytes for r in session.recordings) <= 0.35 * session.recorded_bytes


def test_a_device_that_is_asked_twice_lives_once(fleet):
    fleet.everyone_once()
    fleet.everyone_once()

    assert len(inbox.sessions(fleet.home.ledger, "tiny")) == 3


def test_a_token_lets_one_key_in_and_a_device_serves_the_line_of_its_enrolment(fleet):
    token = fleet.tokens["d0"]

    with pytest.raises(InvalidInputError, match="is enrolled with another key"):
        enrol(fleet.folder / "thief", token, factory="http://factory", hardware="cpu", client=fleet.client)
    wrong = replace(token, secret="0" * 32)
    with pytest.raises(InvalidInputError, match="the token's secret is wrong"):
        enrol(fleet.folder / "guess", wrong, factory="http://factory", hardware="cpu", client=fleet.client)
    with (
        pytest.raises(InvalidInputError, match="is enrolled for line tiny, not other"),
        open_agent(fleet.folder / "d0", replace(tiny_line, name="other"), client=fleet.client),
    ):
        pass


class Killed(BaseException):
    """Stands for kill -9."""


@pytest.mark.parametrize("at", [0, 7, 25])
def test_a_device_killed_while_it_lives_loses_at_most_a_tail_and_the_books_balance(fleet, at):
    class Dying:
        def __init__(self, scenario, seed):
            self._world, self._acts = tiny_line.world(scenario, seed), 0

        def begin(self):
            if at == 0:
                raise Killed
            return self._world.begin()

        def act(self, action):
            self._acts += 1
            if self._acts == at:
                raise Killed
            return self._world.act(action)

        def close(self):
            pass

    with pytest.raises(Killed), fleet.device("d0", world=Dying) as agent:
        agent.once()
    fleet.everyone_once()

    session = next(s for s in inbox.sessions(fleet.home.ledger, "tiny") if s.device == "d0")
    rows = {(r.account, r.reason): r.ns for r in fleet.home.books.balances() if r.device == 0}
    assert session.ended == "crash"
    assert rows["dropped", "crash"] == 100_000_000
    assert rows["lived", ""] == -(at + 1) * 100_000_000
    assert fleet.home.books.faults() == []
    assert loop.turn(fleet.home, tiny_line).verdict.reasons


@pytest.mark.parametrize("size", [500, 2_000, 4_000, 6_000, 9_000])
@pytest.mark.parametrize("restarts", [False, True], ids=["goes on", "restarts"])
def test_a_device_whose_disk_is_full_loses_what_it_says_it_lost_and_goes_on(fleet, size, restarts):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with fleet.device("d0") as agent:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))  # no file of this process gets longer
        try:
            with suppress(UnavailableError, OSError):
                agent.once()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        if not restarts:
            agent.once()
    fleet.everyone_once()

    lived = {j.device: j.lived_ns for j in fleet.home.books.journals()}
    assert sorted(lived) == [0, 1, 2]
    assert 0 < lived[0] <= 3_100_000_000
    assert fleet.home.books.faults() == fleet.home.books.verify() == []
    assert len(inbox.sessions(fleet.home.ledger, "tiny")) == 3


def test_a_device_killed_after_any_request_hands_over_everything_once(fleet):
    def killed_after(requests):
        with fleet.device("d0") as agent:
            agent.uploader._client = DyingClient(agent.client, requests)
            agent.once()

    for requests in range(1, 12):
        with suppress(Killed):
            killed_after(requests)
    fleet.everyone_once()

    assert len(inbox.sessions(fleet.home.ledger, "tiny")) == 3
    assert fleet.home.books.faults() == []
    assert loop.turn(fleet.home, tiny_line).dataset.rows("train") > 0


class DyingClient:
    """Passes requests on, and dies right after the nth was answered: the factory knows, the device does not."""

    def __init__(self, client, at):
        self._client, self._left = client, at

    def request(self, *args, **more):
        answer = self._client.request(*args, **more)
        self._left -= 1
        if self._left == 0:
            raise Killed
        return answer


def test_what_is_not_signed_by_an_enrolled_key_is_refused(fleet):
    unsigned = fleet.client.post("/v1/reports", content=b"{}", auth=None)
    with fleet.device("d0") as agent:
        agent.uploader._identity = replace_key(agent, fleet)
        before = fleet.home.ledger.head()

        answer = agent.client.post("/v1/journal", content=agent.uploader._identity.statement({"entries": []}))

    assert unsigned.status_code == 401
    assert unsigned.headers["content-type"] == "application/problem+json"
    assert answer.status_code == 401
    assert fleet.home.ledger.head() == before


def replace_key(agent, fleet):
    from fleetmill.device.identity import open_identity

    return open_identity(fleet.folder / "other.pem", agent.me.name)


def test_a_device_killed_between_flip_and_report_confirms_when_it_is_back(fleet):
    class Dying:
        """Dies when it is given a confirmation."""

        def __init__(self, outbox):
            self._outbox = outbox

        def put(self, report):
            if report.state == "confirmed":
                raise Killed
            return self._outbox.put(report)

        def send(self, uploader):
            self._outbox.send(uploader)

    def killed():
        with fleet.device("d0") as agent:
            agent.outbox = Dying(agent.outbox)
            agent.once()

    fleet.everyone_once()
    loop.turn(fleet.home, tiny_line)
    with pytest.raises(Killed):
        killed()
    assert reports(fleet.home, "confirmed") == []

    fleet.everyone_once()

    assert sorted(r["device"] for r in reports(fleet.home, "confirmed")) == ["d0", "d1", "d2"]


def test_a_request_is_used_once(fleet):
    with fleet.device("d0") as agent:
        request = agent.client.build_request("GET", "/v1/journal")
        agent.client.send(request)
        replayed = agent.client.build_request("GET", "/v1/journal", headers=request.headers)

        first = fleet.client._transport.handle_request(request)
        second = fleet.client._transport.handle_request(replayed)

    assert first.status_code == 401
    assert second.status_code == 401


def test_settings_with_a_turn_limit_stop_asking(fleet):
    home = replace(fleet.home, settings=replace(fleet.home.settings, lines={"tiny": replace(ASKED, turns=1)}))
    fleet.everyone_once()
    loop.turn(home, tiny_line)

    assert loop.next_campaign(home, tiny_line, 1) is None


def test_a_device_that_is_ahead_of_its_factory_asks_again_instead_of_ending(fleet, monkeypatch):
    fleet.everyone_once()
    with fleet.device("d0") as agent:
        monkeypatch.setattr("fleetmill.device.identity.PROTOCOL", 2)
        with pytest.raises(UnavailableError, match=r"device protocol: format 2, this version reads up to 1"):
            agent.uploader.send_journal(agent.journal)
        monkeypatch.undo()
        agent.uploader.send_journal(agent.journal)
