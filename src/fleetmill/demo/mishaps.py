"""The hands of `accidents`: they kill, plant and bend at the moments that the rule names, and write down what came."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from fleetmill.core.errors import EngineError
from fleetmill.demo import accidents, forgery
from fleetmill.demo.accidents import PROMISES, Accident, Ending, Kind
from fleetmill.demo.fleet import Plan, Processes, command
from fleetmill.demo.wire import Wire, honest, open_wire
from fleetmill.device.spool import Spool
from fleetmill.home import Home
from fleetmill.seams.files import write_whole
from fleetmill.seams.ledger import Draft, Fact

_FACTORY_SECONDS = 3.0  # the factory is killed within so long after its turn began
_LONGEST_SECONDS = 20.0  # a device that does not live so long is killed where it stands


@dataclass(kw_only=True, slots=True)
class _Course:
    """How far one accident has come."""

    number: int
    accident: Accident
    from_now: float | None = None  # monotonic seconds at which its moment came
    instants: int = 0  # what the device had lived then
    since: int | None = None  # the ledger's head when it was done
    subject: str = ""
    ended: bool = False


class Mishaps:
    """All accidents of one demo. `look` is called again and again, with every fact that there is."""

    def __init__(
        self, plan: Plan, home: Home, processes: Processes, tokens: dict[str, str], found: Sequence[Accident]
    ) -> None:
        self._plan, self._home, self._processes, self._tokens = plan, home, processes, tokens
        self._courses = [_Course(number=n, accident=a) for n, a in enumerate(found)]
        self.wires: dict[str, Wire] = {}
        self.cpu_seconds = 0.0  # of processes that were killed and that nobody waited for

    def address(self, device: str) -> str:
        """What a device takes for the factory: its wire where it has one."""
        return self.wires[device].address if device in self.wires else self._processes.address

    def attacked(self) -> set[str]:
        """Devices whose wire is in somebody's hands."""
        return {c.accident.device for c in self._courses if c.accident.kind in accidents.ATTACKS}

    def look(self, facts: Sequence[Fact], say: Callable[[str], None]) -> None:
        """Do what is due, and enter what has ended."""
        for course in self._courses:
            if course.since is None:
                if accidents.is_time(course.accident, self._plan.line.name, facts) and self._is_ripe(course, facts):
                    self._do(course, facts)
                    say(f"accident: {_what(course.accident)}")
            elif not course.ended:
                self._watch(course, facts, say)

    def running(self) -> list[str]:
        """Those that were done and have not ended."""
        return [_what(c.accident) for c in self._courses if c.since is not None and not c.ended]

    def waiting(self, facts: Sequence[Fact]) -> list[str]:
        """Those that were not done and may still be, when every device has said what became of the last release."""
        line = self._plan.line.name
        return [
            _what(c.accident) for c in self._courses if c.since is None and accidents.may_come(c.accident, line, facts)
        ]

    def give_up(self) -> None:
        """What has not come up by now never will: that is entered too."""
        for course in self._courses:
            if course.since is None and not course.ended:
                course.since = self._home.ledger.head()[0]
                self._enter(course, "its moment never came")
                self._end(course, Ending(kept=None, sentence="it never came up", facts=()))

    def end_vain(self, facts: Sequence[Fact], say: Callable[[str], None]) -> None:
        """After the last turn: end what was done and can have no effect any more, since no model goes out."""
        for course in self._courses:
            if course.since is None or course.ended or not accidents.is_vain(course.accident, facts, course.since):
                continue
            self.wires[course.accident.device].bend = honest
            self._end(course, Ending(kept=None, sentence="no release came after it", facts=()))
            say(f"{_what(course.accident)}: never came up: no release came after it")

    def _is_ripe(self, course: _Course, facts: Sequence[Fact]) -> bool:
        now, accident = time.monotonic(), course.accident
        if course.from_now is None:
            course.from_now, course.instants = now, self._lived(accident.device)
        if accident.kind is Kind.FACTORY_KILLED:
            return now - course.from_now >= accident.moment * _FACTORY_SECONDS
        if accident.kind is Kind.DEVICE_KILLED:
            steps = self._plan.recipe.then.seconds * self._plan.line.model.rate_hz
            wanted = course.instants + 3 + (0.1 + 0.3 * accident.moment) * steps
            enough = self._lived(accident.device) >= wanted
            return (enough and self._stopped_in_a_session(accident.device)) or now - course.from_now > _LONGEST_SECONDS
        if accident.kind is Kind.BAD_CANDIDATE:
            return any(f.kind == "turn_ended" for f in facts)
        return True

    def _stopped_in_a_session(self, device: str) -> bool:
        """Hold the device still and look whether it is in the middle of a session; if not, let it go on."""
        process = self._processes.devices[device]
        process.send_signal(signal.SIGSTOP)
        spool = Spool(self._plan.folder / "devices" / device / "spool")
        if any(spool.ended(begin.session) is None for begin in spool.sessions()):
            return True
        process.send_signal(signal.SIGCONT)
        return False

    def _lived(self, device: str) -> int:
        log = self._plan.folder / "devices" / device / "simulator.log"
        return log.read_bytes().count(b"\n") if device and log.exists() else 0

    def _do(self, course: _Course, facts: Sequence[Fact]) -> None:
        accident = course.accident
        done = {
            Kind.FACTORY_KILLED: self._kill_factory,
            Kind.DEVICE_KILLED: self._kill_device,
            Kind.BAD_CANDIDATE: self._plant,
        }.get(accident.kind, self._bend)(course, facts)
        if course.since is None:
            course.since = facts[-1].seq
        self._enter(course, done)

    def _kill_factory(self, course: _Course, facts: Sequence[Fact]) -> str:  # noqa: ARG002
        port = int(self._processes.address.rpartition(":")[2])
        self.cpu_seconds += self._processes.kill_factory()
        course.since = self._home.ledger.head()[0]
        self._processes.start_factory(self._plan, port=port)
        return "SIGKILL, and started again at the same address"

    def _kill_device(self, course: _Course, facts: Sequence[Fact]) -> str:  # noqa: ARG002
        name = course.accident.device
        self._processes.kill_device(name)
        self._processes.start_device(self._plan, name, self._tokens[name], factory=self.address(name))
        return "SIGKILL while it lived, and started again"

    def _plant(self, course: _Course, facts: Sequence[Fact]) -> str:
        first = next(f for f in facts if f.kind == "turn_ended").record["candidate"]
        model = self._home.blobs.get(self._home.ledger.get("model", first).record["files"]["model.onnx"])
        path = self._plan.folder / "planted" / "bad.onnx"
        path.parent.mkdir(exist_ok=True)
        write_whole(path, forgery.bad_model(model, seed=self._plan.seed))
        words = ["model", "add", str(path), "--line", self._plan.line.name, "--home", str(self._plan.home)]
        made_by = "the demo: the first model with its weights shuffled"
        told = subprocess.run(
            [*command(), *words, "--made-by", made_by, "--json"], capture_output=True, text=True, check=False
        )
        if told.returncode:
            raise EngineError(f"planting a bad candidate failed: {told.stderr.strip()[-300:]}")
        course.subject = json.loads(told.stdout)["model"]
        return f"the first model's weights shuffled, entered as candidate {course.subject[:8]}"

    def _bend(self, course: _Course, facts: Sequence[Fact]) -> str:  # noqa: ARG002
        accident, newest = course.accident, self._home.repository.versions().timestamp
        keys, repository = self._plan.home / "keys", self._plan.home / "repository"
        bend, said = {
            Kind.FLIPPED_BYTE: (
                forgery.flipped_byte(accident.moment),
                "one bit of the next model is flipped on the way",
            ),
            Kind.WRONG_KEY: (forgery.wrong_key(newest), "the next metadata is signed by a key that no root names"),
            Kind.OLDER_RELEASE: (
                forgery.older_release(repository, keys, self._plan.line.name, newest),
                "the next metadata, signed with stolen keys, offers the oldest release again",
            ),
        }[accident.kind]
        self.wires[accident.device].bend = bend
        return said

    def _watch(self, course: _Course, facts: Sequence[Fact], say: Callable[[str], None]) -> None:
        accident, since = course.accident, course.since or 0
        if accident.kind in accidents.ATTACKS and accidents.was_refused(accident, facts, since):
            self.wires[accident.device].bend = honest
        ending = accidents.ending(accident, self._plan.line.name, facts, since=since, subject=course.subject)
        if ending is not None:
            self._end(course, ending)
            say(f"{_what(accident)}: {'as promised' if ending.kept else 'NOT AS PROMISED'}: {ending.sentence}")

    def _enter(self, course: _Course, done: str) -> None:
        a = course.accident
        record = {
            "line": self._plan.line.name,
            "what": a.kind.value,
            "device": a.device,
            "generation": a.generation,
            "done": done,
            "promise": PROMISES[a.kind],
            "head": course.since,
        }
        self._home.ledger.append([Draft(kind="accident", key=self._key(course), record=record)])

    def _end(self, course: _Course, ending: Ending) -> None:
        """Enter how it ended; chain and books are checked at this very moment."""
        course.ended = True
        record = {
            "kept": ending.kept,
            "sentence": ending.sentence,
            "facts": list(ending.facts),
            "chain": self._home.ledger.verify(),
            "faults": self._home.books.faults(),
        }
        self._home.ledger.append([Draft(kind="accident_ended", key=self._key(course), record=record)])

    def _key(self, course: _Course) -> str:
        return f"{self._plan.line.name}/{course.number}"


@contextmanager
def open_mishaps(
    plan: Plan, home: Home, processes: Processes, tokens: dict[str, str], *, calm: bool
) -> Iterator[Mishaps]:
    """The accidents of a demo, with a wire to each device that is attacked; `calm`: none. The factory must be up."""
    found = () if calm else accidents.plan(plan.seed, sorted(tokens), plan.generations)
    mishaps = Mishaps(plan, home, processes, tokens, found)
    with ExitStack() as stack:
        for device in sorted(mishaps.attacked()):
            mishaps.wires[device] = stack.enter_context(open_wire(processes.address))
        yield mishaps


def _what(accident: Accident) -> str:
    where = f" at {accident.device}" if accident.device else ""
    return f"{accident.kind.value}{where}, generation {accident.generation}"
