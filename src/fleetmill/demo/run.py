"""The demo: a factory and a fleet as processes on loopback; the loop turns, the report says what came of it."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from fleetmill import lines
from fleetmill.core.errors import EngineError, FleetmillError, InvalidInputError
from fleetmill.core.line import Line, Recipe
from fleetmill.demo import answers, control, film, life, measure, pages, picture, premises, report, stock
from fleetmill.demo.fleet import Plan, Processes, invite, open_processes, write_settings
from fleetmill.demo.mishaps import Mishaps, open_mishaps
from fleetmill.demo.numbers import Source, open_source
from fleetmill.demo.premises import Prepared
from fleetmill.demo.stock import Dealt
from fleetmill.home import Home, init_home, open_home
from fleetmill.release import publish as release
from fleetmill.seams.files import write_whole
from fleetmill.seams.ledger import Fact
from fleetmill.settings import read_settings

Say = Callable[[str], None]
_LOOK_SECONDS = 0.3
_SIGN_SECONDS = 4.0
_GIVE_UP_SECONDS = 12.0  # after the last turn, for accidents whose moment has not come
_LIMIT_SECONDS = 180.0  # after the last turn, for everything
_FINAL_STATES = ("confirmed", "failed")
FILM, STILL = "report.gif", "report-still.png"
_AUDIT = Path(__file__).parents[3] / "scripts" / "audit.py"


def default_line(*, quick: bool) -> str:
    """The line that the demo shows: the one with the most to see, or with `quick` the one that takes least."""
    with_fleet = [line for line in _installed() if line.recipe is not None and line.world is not None]
    return min(with_fleet, key=lambda line: (line.recipe.shown if line.recipe else 0) * (-1 if not quick else 1)).name


def _installed() -> Iterator[Line]:
    """The lines that load. One of a broken package says why when it is asked for; it stops no other."""
    for name in lines.names():
        with suppress(FleetmillError):
            yield lines.find(name)


def make_plan(
    line: str,
    *,
    generations: int | None,
    devices: int | None,
    seed: int,
    labels: str,
    folder: Path | None,
    quick: bool,
    calm: bool = False,
    data: Path | None = None,
    sessions: int | None = None,
) -> Plan:
    """What is asked for, completed from the line's recipe.

    Raises:
        InvalidInputError: the line has no recipe, a number makes no sense, or the folder is not empty.
    """
    found: Line = lines.find(line)
    if found.recipe is None or (found.world is None and found.recipe.sample is None and data is None):
        raise InvalidInputError(
            f"line {line}: has no recipe for a fleet"
            if found.recipe is None
            else f"line {line}: has no world and makes up no recordings. Give some to replay with --data"
        )
    if found.world is not None and data is not None:
        raise InvalidInputError(f"--data {data}: line {line} lives in its own world. Leave --data out")
    recipe = found.recipe if sessions is None else _living(found.recipe, sessions)
    least = recipe.quick if quick else (recipe.generations, recipe.devices)
    plan = Plan(
        line=found,
        recipe=recipe,
        generations=generations if generations is not None else least[0],
        devices=devices if devices is not None else least[1],
        seed=seed,
        labels=labels,
        folder=folder or Path(f"demo-{line}-{seed}"),
        calm=calm,
        data=data,
    )
    fewest = 2 if found.split == "time" else 3  # else a device must be there to be held out
    if plan.generations < 1 or not fewest <= plan.devices <= 99 or not 0 <= plan.seed < 90:
        raise InvalidInputError(f"demo: give at least 1 generation, {fewest} to 99 devices, and a seed from 0 to 89")
    if plan.labels not in ("oracle", "driver"):
        raise InvalidInputError(f"--labels {plan.labels}: must be oracle or driver")
    if plan.folder.exists() and any(plan.folder.iterdir()):
        raise InvalidInputError(f"{plan.folder}: is not empty. Remove it, or choose another --out")
    return plan


def _living(recipe: Recipe, sessions: int) -> Recipe:
    """The same, with so many sessions for each device in every generation."""
    if not 1 <= sessions <= 100:
        raise InvalidInputError(f"--sessions {sessions}: give 1 to 100")
    first, then = (replace(asked, sessions=sessions) for asked in (recipe.first, recipe.then))
    return replace(recipe, first=first, then=then)


def demo(plan: Plan, *, say: Say) -> dict[str, Any]:
    """Run it to its end; the report, which also lies in the plan's folder.

    Raises:
        EngineError: a process of the demo ended early, or the audit disagrees.
    """
    began = time.monotonic()
    plan.folder.mkdir(parents=True, exist_ok=True)
    told, dealt = stock_up(plan, say)
    with open_processes(plan.folder) as processes:
        prepared = _before(plan, processes, dealt, say)
        settings = read_settings(home=plan.home)
        init_home(settings, now_ns=time.time_ns(), root_key=_root_key(plan, say))
        with open_home(settings, own=False, workers=settings.workers) as home:
            tokens = invite(plan, home)
            if prepared is not None:
                premises.enter(home, prepared)
                premises.start_gateway(plan, processes)
            lost = _turn_all(plan, home, processes, tokens, say)
    with open_home(settings, own=False, workers=settings.workers) as home:
        say("asking each generation's model and the control what the report asks")
        measure.measure(plan, home)
        if prepared is not None:
            answers.audit(plan, home, prepared)
    with open_home(settings, own=False) as home:  # workers have ended: what they used is counted
        audit = _audit(plan)
        report.close(
            plan, home, replayed=told, audit=audit, cpu_seconds=_cpu() + lost, wall_seconds=time.monotonic() - began
        )
        found = write(plan, home)
    if audit["exit_code"]:
        raise EngineError(f"the audit disagrees with the books: {audit['line']}")
    return found


def _before(plan: Plan, processes: Processes, dealt: Dealt | None, say: Say) -> Prepared | None:
    """The home's settings; where people ask, the larger model first, and the threshold. Its engine runs then."""
    if plan.recipe.asking is None or dealt is None:
        write_settings(plan)
        return None
    say("training the larger model, and fixing from when on a device's model is sure")
    prepared = premises.prepare(plan, dealt)
    fixed = prepared.fixed
    say(
        f"sure from {prepared.limits.sure:.4f} on: {fixed['kept']} of {fixed['asked']} answers kept, {fixed['wrong']} "
        f"of them wrong; with 95 % confidence at most {100 * fixed['bound']:.1f} %"
    )
    address = premises.start_engine(plan, processes, prepared)
    write_settings(plan, more=premises.settings(plan, prepared, address))
    return prepared


def stock_up(plan: Plan, say: Say) -> tuple[dict[str, Any], Dealt | None]:
    """Deal what the fleet replays, what it was and who got it; nothing where it lives in a world.

    Raises:
        InvalidInputError: too little was recorded for what is asked.
    """
    if plan.recordings is None:
        return {}, None
    path = plan.data or plan.folder / "sample"
    if plan.data is None and plan.recipe.sample is not None:
        for name, data in plan.recipe.sample(plan.seed).items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            write_whole(path / name, data)
    each = plan.recipe.first.sessions + (plan.generations - 1) * plan.recipe.then.sessions
    dealt = stock.deal(
        plan.line,
        stock.read_runs(plan.line, path, seconds=max(plan.recipe.first.seconds, plan.recipe.then.seconds)),
        names=plan.names,
        each=each,
        report=plan.recipe.report_trials,
        seed=plan.seed,
    )
    dealt = stock.asked(plan.line, dealt)
    stock.write(plan.line, dealt, plan.recordings)
    told = {**dealt.told(), "made_up": plan.data is None, "held_out": plan.line.split}
    say(
        f"replaying {'made-up recordings' if plan.data is None else plan.data}: {told['fleet_sessions']} sessions for "
        f"{plan.devices} devices, {told['report_sessions']} for the report, {told['spare_sessions']} not needed, "
        f"{told['short_sessions']} too short"
    )
    return told, dealt


def write(plan: Plan, home: Home) -> dict[str, Any]:
    """report.json, report.png, report.html and the films in the plan's folder, from the home's facts."""
    source = open_source(home)
    found, story = report.make(source, plan.line), life.life(home, plan.line, source.facts)
    films = _films(plan, source)
    for name, data in films.items():
        write_whole(plan.folder / name, data)
    html = pages.page(source, plan.line, film=(films.get(FILM, b""), films.get(STILL, b"")), life=story)
    write_whole(plan.folder / "report.png", picture.curve(found))
    write_whole(plan.folder / "report.html", html.encode())
    write_whole(plan.folder / "report.json", json.dumps(found, indent=1, allow_nan=False).encode())
    return found


def _films(plan: Plan, source: Source) -> dict[str, bytes]:
    """The first report world, the median and the worst, each driven by the first and by the last model in the field."""
    line, home = plan.line, source.home
    if film.drawn(line) is None:
        return {}
    ended = measure.turns(home, line)
    facts = [source.one("measured", f"{line.name}/generation {t['turn']}") for t in (ended[0], ended[-1])]
    titles, made = ("generation 0", "in the field now"), {}
    side = measure.side(home.blobs, facts[1])
    seeds = {FILM: measure.REPORT_SEEDS} | {
        name: measure.world(line, side, measure.REPORT_SEEDS, which)
        for name, which in ((pages.MEDIAN, "median"), (pages.WORST, "worst"))
    }
    for name, seed in seeds.items():
        takes = [
            film.take(
                line,
                home.runtime,
                title=title,
                model=home.blobs.get(fact.record["model_file"]),
                seed=seed,
                seconds=plan.recipe.report_seconds,
            )
            for title, fact in zip(titles, facts, strict=True)
        ]
        made[name] = film.animation(takes, rate_hz=line.model.rate_hz)
        if name == FILM:
            made[STILL] = film.still(takes)
    return made


def _root_key(plan: Plan, say: Say) -> Path:
    """Where the root key of a demo goes: outside the home, as everywhere, though on the same disk."""
    place = plan.folder / "root-key" / "root.pem"
    place.parent.mkdir(exist_ok=True)
    say(f"the root key is {place}; on a real factory it belongs on a medium that you lock away")
    return place


def _turn_all(plan: Plan, home: Home, processes: Processes, tokens: dict[str, str], say: Say) -> float:
    """The whole life of the fleet, with the control trained beside it; CPU seconds of what was killed in it."""
    processes.start_factory(plan)
    with open_mishaps(plan, home, processes, tokens, calm=plan.calm) as mishaps:
        for name, token in tokens.items():
            processes.start_device(plan, name, token, factory=mishaps.address(name))
        say(f"factory and {plan.devices} devices are up; watch them at {processes.address}/")
        chain = control.start(plan.home, plan.line.name, plan.controls, plan.generations)
        try:
            _watch(plan, home, processes, mishaps, say)
            control.wait(chain, plan.controls, measure.chain(home, plan.line))
        finally:
            chain.terminate()
            chain.wait()
        return mishaps.cpu_seconds


def _watch(plan: Plan, home: Home, processes: Processes, mishaps: Mishaps, say: Say) -> None:
    """Until every generation was turned, every accident has ended and every device runs the last release."""
    facts: list[Fact] = []
    told, signed, limit = 0, 0.0, float("inf")
    while True:
        if dead := processes.ended():
            raise EngineError(f"{', '.join(dead)} ended early; see the logs in {plan.folder}")
        facts += home.ledger.read(after=facts[-1].seq if facts else 0)
        turned = [f.record for f in facts if f.kind == "turn_ended"]
        for fact in turned[told:]:
            release = f", release {fact['release']}" if fact["release"] else ""
            say(f"generation {fact['turn']}: {fact['decision'].replace('_', ' ')}{release}")
        told = len(turned)
        mishaps.look(facts, say)
        if told >= plan.generations:
            unconfirmed = _unconfirmed(plan, home, facts)
            if not unconfirmed:
                mishaps.end_vain(facts, say)
            open_ends = [*mishaps.running(), *unconfirmed]
            if not open_ends and not mishaps.waiting(facts):
                mishaps.give_up()
                return
            limit = min(limit, time.monotonic() + _LIMIT_SECONDS)
            if not open_ends and time.monotonic() > limit - _LIMIT_SECONDS + _GIVE_UP_SECONDS:
                mishaps.give_up()
                return
            if time.monotonic() > limit:
                raise EngineError(f"{', '.join(open_ends)}: did not come to an end; see the logs in {plan.folder}")
            if time.monotonic() - signed > _SIGN_SECONDS:  # what comes after an attack: a list with higher numbers
                home.repository.sign_anew(now_ns=home.clock())
                signed = time.monotonic()
        time.sleep(_LOOK_SECONDS)


def _unconfirmed(plan: Plan, home: Home, facts: Sequence[Fact]) -> list[str]:
    """Devices that have not said what became of the last release."""
    champion = release.champion(home.ledger, plan.line.name)
    if champion is None:
        return []
    reports = [f.record["report"] for f in facts if f.kind == "deployment"]
    answered = {
        r["device"] for r in reports if r["release_counter"] == champion.counter and r["state"] in _FINAL_STATES
    }
    return [f.key for f in facts if f.kind == "device" and f.key not in answered]


def _audit(plan: Plan) -> dict[str, Any]:
    """Run the audit, which imports nothing of ours; without a checkout there is none to run."""
    if not _AUDIT.exists():
        return {"exit_code": 0, "line": "audit: not run, scripts/audit.py is not beside this installation"}
    period_ns = round(1e9 / plan.line.model.rate_hz)
    command = [sys.executable, str(_AUDIT), str(plan.folder), "--period-ns", str(period_ns)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    last = (found.stdout.strip().splitlines() or [found.stderr.strip()[-300:]])[-1]
    return {"exit_code": found.returncode, "line": last}


def _cpu() -> float:
    """CPU seconds of this process and of every child that has ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)
