"""The device agent: it keeps its model up to date, lives what campaigns ask for, and hands over what it kept.

Choose / do / once / forever. `once` finds its place in journal, spool and slots, so that it may be killed anywhere.
"""

from __future__ import annotations

import base64
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from fleetmill.core import canonical
from fleetmill.core.errors import (
    EngineError,
    IntegrityError,
    InvalidInputError,
    TrustError,
    UnavailableError,
    last_words,
)
from fleetmill.core.fleet import Campaign
from fleetmill.core.line import Line, World
from fleetmill.core.plain import build, plain
from fleetmill.core.release import Report, State, io_contract
from fleetmill.device import asked, live, update
from fleetmill.device.asking import Desk
from fleetmill.device.enrolment import Enrolled, checked_address, read_enrolled
from fleetmill.device.health import check_health
from fleetmill.device.health_rule import HEALTHY
from fleetmill.device.identity import SignedRequests, open_identity
from fleetmill.device.journal import Journal, open_journal
from fleetmill.device.slots import Slots, open_slots
from fleetmill.device.spool import Spool, open_spool
from fleetmill.device.update_rule import Machine, Reason, Release, SignedFile, SignedTarget, choose
from fleetmill.device.upload import Outbox, Uploader
from fleetmill.seams.files import write_whole
from fleetmill.seams.runtime import RunningPolicy, Runtime, policies

ASKED = "asked"  # the folder of what people asked and let us learn from
METADATA, TARGETS = "/v1/repository/metadata/", "/v1/repository/targets/"
_RETRY_SECONDS = (0.2, 10.0)
_REPORTED = (Reason.OTHER_LINE, Reason.OTHER_HARDWARE, Reason.OTHER_IO_CONTRACT, Reason.OLDER, Reason.MALFORMED)
Open = Callable[[str, int], World]


@dataclass(kw_only=True, slots=True)
class Agent:
    """One device at work. Made by `open_agent`."""

    me: Enrolled
    line: Line
    folder: Path
    client: httpx.Client
    slots: Slots
    spool: Spool
    journal: Journal
    outbox: Outbox
    uploader: Uploader
    runtime: Runtime
    world: Open | None  # None: it takes releases and lives nothing here
    clock: Callable[[], int]
    say: Callable[[str], None]
    desk: Desk | None = None  # where people ask; None: nobody does
    running: Release | None = None
    policy: RunningPolicy | None = None
    asked_nothing: bool = False  # it was said that no campaign is there
    heard: int = 0  # the newest metadata version that an unsigned answer named

    def start(self) -> None:
        """After power-on: run what is proven whole, report what was given up, close what a crash left open."""
        start = self.slots.boot()
        if start.run:
            self._run(self._load(start.run), start.run)
            self._report("confirmed", start.run, HEALTHY)  # again, if a crash came between the flip and the report
        for line in start.damaged:
            self._report("failed", None, f"a slot is damaged: {line}")
        if start.given_up:
            self._report("failed", None, f"release {start.given_up[:12]} was tried too often without a confirmation")

    def once(self) -> bool:
        """Everything that can be done now; True when something was done.

        Raises:
            UnavailableError: the factory did not answer.
        """
        for session in live.recover(self.journal, self.spool):
            self.say(f"session {session} was cut short; what was durable is kept")
        self._take_up()
        done = self._hand_over()
        targets = self._refresh()
        done = self._update(targets) or done
        campaign = self._campaign(targets)
        if campaign is not None and self.world and live.begun(self.journal, campaign) < campaign.sessions:
            self._live(campaign, self.world)
            done = True
        live.settle(self.me, self.line, self.journal, self.spool, self._known_campaign)
        done = self._hand_over() or done
        self.outbox.send(self.uploader)
        return done

    def forever(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Work until stopped; when there is nothing to do, wait for news. The one place that retries.

        A factory that does not know this device (another one at its address, a clock that is wrong) is asked again too:
        what runs goes on, and what was recorded stays here.
        """
        wait = _RETRY_SECONDS[0]
        while not stop():
            try:
                if not self.once():
                    self._wait()
                wait = _RETRY_SECONDS[0]
            except (UnavailableError, TrustError, OSError) as error:
                self.say(f"{last_words(error)[0]}; again in {wait:.1f} s")
                time.sleep(wait * random.uniform(0.8, 1.2))  # noqa: S311 - jitter, no secret
                wait = min(2 * wait, _RETRY_SECONDS[1])

    def _refresh(self) -> tuple[SignedTarget, ...]:
        try:
            return update.refresh(
                self.client,
                url=self.me.factory + METADATA,
                cache=self.folder / "tuf",
                bootstrap=base64.b64decode(self.me.root),
                memory=self.slots,
                now_ns=self.clock(),
            )
        except IntegrityError as error:  # refused: what runs goes on running
            self._report("refused", None, str(error))
            return ()

    def _update(self, targets: tuple[SignedTarget, ...]) -> bool:
        """Install what is newer. Only between sessions, when the machine stands still: `Line.safe` is not asked."""
        state = self.slots.state
        decision = choose(
            targets,
            Machine(
                line=self.line.name,
                hardware=self.me.hardware,
                io_contract_sha256=io_contract(self.line),
                highest_counter=state.counters.get(self.line.name, 0),
                installed=state.active,
                unfinished=state.unfinished,
            ),
        )
        for refusal in decision.refusals:
            if refusal.reason in _REPORTED:
                self._report("refused", None, f"{refusal.reason.value}: {refusal.detail}")
        if decision.install is None:
            return False
        try:
            self._install(decision.install)
        except IntegrityError as error:
            self._report("refused", decision.install, str(error))
            return False
        return True

    def _install(self, release: Release) -> None:
        """Fetch, stage, try, flip, confirm from the slot that runs. A failed check leaves the old model at work."""
        into = self.slots.fetching(release)
        for file in release.files:
            update.download(self.client, url=self.me.factory + TARGETS, file=file, into=into)
        slot = self.slots.stage(release)
        self.slots.begin_trial(release)
        health = check_health(slot, release)
        try:
            policy = self._load(release) if health.passed else None
        except (EngineError, IntegrityError, InvalidInputError) as error:
            health, policy = replace(health, failure=str(error)), None
        if policy is None:
            self.slots.reject(release.digest)
            self._report("failed", release, f"health check: {health.line}")
            return
        self.slots.confirm(release.digest)
        self._run(policy, release)
        self._report("confirmed", release, health.line)
        self.outbox.send(self.uploader)

    def _run(self, policy: RunningPolicy, release: Release) -> None:
        self.policy, self.running = policy, release
        if self.desk is not None:
            self.desk.runs(policy, release.model, release.talk)

    def _load(self, release: Release) -> RunningPolicy:
        """The policy of a slot, from bytes that are verified as they are read."""
        model = self.slots.read(release.digest, "model.onnx")
        return policies(self.line, self.runtime, {"model.onnx": model})

    def _campaign(self, targets: tuple[SignedTarget, ...]) -> Campaign | None:
        """The newest campaign of this device's line that the factory signed."""
        mine = [t for t in targets if t.path.startswith("campaigns/") and t.custom.get("line") == self.line.name]
        if not mine:
            if not self.asked_nothing:
                self.asked_nothing = True
                self.say(f"the factory asks nothing of line {self.line.name}: set [lines.NAME.campaign] there")
            return None
        target = max(mine, key=lambda t: int(t.custom.get("number", -1)))
        try:
            return self._fetched(target)
        except IntegrityError as error:  # other bytes than were signed: nothing is lived for them
            self._report("refused", None, str(error))
            return None

    def _fetched(self, target: SignedTarget) -> Campaign:
        into = self.folder / "campaigns" / target.sha256
        into.mkdir(parents=True, exist_ok=True)
        file = SignedFile(path=target.path, name=target.name, length=target.length, sha256=target.sha256)
        data = update.download(self.client, url=self.me.factory + TARGETS, file=file, into=into).read_bytes()
        return build(Campaign, canonical.loads(data), "campaign")

    def _known_campaign(self, digest: str) -> Campaign:
        """A campaign that was verified and kept when its first session was begun."""
        path = self.folder / "campaigns" / digest / "campaign.json"
        campaign = build(Campaign, canonical.loads(path.read_bytes()), "campaign")
        if campaign.digest != digest:
            raise IntegrityError(f"{path}: is not the campaign that was signed; remove it, it is fetched again")
        return campaign

    def _live(self, campaign: Campaign, world: Open) -> None:
        while live.begun(self.journal, campaign) < campaign.sessions:
            live.live(
                self.me,
                self.line,
                self.journal,
                self.spool,
                campaign,
                policy=self.policy if self.desk is None else None,  # the desk asks the model, nobody else needs to
                model=self.running.model if self.running else "",
                world=world,
            )

    def _take_up(self) -> None:
        """Make a session of what people asked since; a crash in the middle lives it again, as another session."""
        talk, paths = self.line.talk, asked.waiting(self.folder / ASKED)
        if talk is None or not paths:
            return
        campaign = asked.campaign(self.line, paths, 0)
        while tries := live.begun(self.journal, campaign):
            campaign = replace(campaign, sessions=campaign.sessions + tries)
        into = self.folder / "campaigns" / campaign.digest
        into.mkdir(parents=True, exist_ok=True)
        write_whole(into / "campaign.json", canonical.dumps(plain(campaign)))
        spoken = asked.Spoken(talk, paths, period_ns=round(1e9 / self.line.model.rate_hz))
        live.live(
            self.me,
            self.line,
            self.journal,
            self.spool,
            campaign,
            policy=None,  # it was answered already
            model=self.running.model if self.running else "",
            world=lambda scenario, seed: spoken,
        )
        for path in paths:
            path.unlink()
        live.settle(self.me, self.line, self.journal, self.spool, self._known_campaign)

    def _hand_over(self) -> bool:
        done = False
        for begin in self.spool.sessions():
            settled = self.spool.settled(begin.session)
            if settled is not None:
                self.uploader.hand_over(self.journal, self.spool, begin.session, settled)
                self.say(f"session {begin.session} is handed over")
                done = True
        return done

    def _wait(self) -> None:
        """Ask to be answered when there is newer metadata; the answer is only a hint, nothing in it is believed."""
        known = max(self.slots.state.seen.timestamp, self.heard)  # also of a list that was refused: it is no news
        try:
            answer = self.client.get("/v1/wait", params={"timestamp": known}, timeout=60.0)
            self.heard = int(answer.raise_for_status().json()["timestamp"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise UnavailableError(f"{self.me.factory}: {type(error).__name__}") from error

    def _report(self, state: State, release: Release | None, reason: str) -> None:
        file = next((f.sha256 for f in release.files if f.name == "model.onnx"), "") if release else ""
        runs = next((f.sha256 for f in self.running.files if f.name == "model.onnx"), "") if self.running else ""
        report = Report(
            device=self.me.name,
            line=self.line.name,
            state=state,
            release_counter=release.counter if release else 0,
            model_file=file,
            running=runs,
            reason=reason,
        )
        if self.outbox.put(report):
            self.say(f"{state}: {reason}")


@contextmanager
def open_agent(
    folder: Path,
    line: Line,
    *,
    factory: str = "",
    world: Open | None = None,
    desk: Desk | None = None,
    client: httpx.Client | None = None,
    clock: Callable[[], int] = time.time_ns,
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[Agent]:
    """The agent of the device in `folder`; the only place that chooses a device's engines.

    `world`: the machine to live in, else the line's; without either the device takes releases and records nothing.
    `desk`: where people ask; it is told what runs. `factory`: where the factory is now; "": where it was at enrolment.
    Its root of trust stays the one of then.

    Raises:
        NotFoundError: not enrolled.
        ConflictError: another process runs this device.
        InvalidInputError: it was enrolled for another line.
    """
    from fleetmill.engines.runtime_onnx import OnnxRuntime

    me = read_enrolled(folder)
    me = replace(me, factory=checked_address(factory or me.factory))
    if me.line != line.name:
        raise InvalidInputError(f"{folder}: is enrolled for line {me.line}, not {line.name}")
    identity = open_identity(folder / "key.pem", me.name)
    with ExitStack() as stack:
        http = client or stack.enter_context(httpx.Client(base_url=me.factory, timeout=30.0))
        http.auth = SignedRequests(identity)
        agent = Agent(
            me=me,
            line=line,
            folder=folder,
            client=http,
            slots=stack.enter_context(open_slots(folder / "slots")),
            spool=open_spool(folder / "spool"),
            journal=open_journal(folder / "journal.jsonl"),
            outbox=Outbox(folder / "outbox"),
            uploader=Uploader(http, identity, me.number),
            runtime=OnnxRuntime(),
            world=world or line.world,
            desk=desk,
            clock=clock,
            say=say,
        )
        agent.start()
        yield agent
