"""Every setting, read once at the edge: ``fleetmill.toml`` in the home, below the environment, below flags."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fleetmill.core.errors import InvalidInputError, NotFoundError
from fleetmill.core.plain import build
from fleetmill.core.talk import Limits, Talk
from fleetmill.logs import LEVELS

FILE = "fleetmill.toml"
APPROVALS = ("none", "required")
TIERS = ("device", "premises", "attested", "partner")


@dataclass(frozen=True, kw_only=True, slots=True)
class CampaignSettings:
    """What a standing campaign of a line asks of each device for each turn."""

    scenario: str = "field"  # of simulated machines
    sessions: int = 1  # per device and turn
    seconds: float = 25.0  # per session, at most
    budget_ratio: float = 0.35  # share of the recorded bytes that a device may keep


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnWhen:
    """When a line turns by itself."""

    sessions: int = 0  # new closed sessions that suffice; 0: all that the campaign asks, or one where there is none
    hours: float = 1.0  # turn with what there is once a session has waited so long; 0: never


@dataclass(frozen=True, kw_only=True, slots=True)
class TalkSettings:
    """What a device may spend on an answer, on a line whose model is spoken with. Signed with each release."""

    sure: float | None = None  # below it the device hands on where it may; none: as the line says
    tokens: int | None = None  # of an answer at most; none: as the line says


@dataclass(frozen=True, kw_only=True, slots=True)
class LineSettings:
    """How the factory runs one line."""

    turn_when: TurnWhen = field(default_factory=TurnWhen)  # when it turns by itself
    turns: int = 0  # stop turning after so many; 0: never
    trains: bool = True  # false: nothing is trained here; models that were made elsewhere are judged and released
    approval: str = "none"  # required: what the gate accepted goes out when a person has said yes
    campaign: CampaignSettings | None = None  # None: devices are asked nothing; recordings come as imports
    first_campaign: CampaignSettings | None = None  # of turn 0, before there is a model
    hardware: tuple[str, ...] = ("cpu",)  # kinds that the line's releases are for
    train: Mapping[str, Any] = field(default_factory=dict)  # over the settings that the line's recipe trains with
    base: str = ""  # folder of a model that the first turn begins from, seen from the home; "": from nothing
    talk: TalkSettings = field(default_factory=TalkSettings)  # with the model, on devices
    memory_mb: int = 512  # that a model may add to a device's process, signed with each release

    def limits(self, talk: Talk | None) -> Limits | None:
        """What is signed for a model that is spoken with; None where nobody speaks with it."""
        if talk is None:
            return None
        given = {name: v for name in ("sure", "tokens") if (v := getattr(self.talk, name)) is not None}
        return replace(talk.limits, **given)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSettings:
    """A model at a backend. Backends with equal `digest` and `template` go on with each other's broken answers."""

    name: str  # under which clients ask for it
    digest: str = ""  # "": its name says which model it is
    template: str = ""  # digest of its chat template
    context: int = 0  # tokens; 0: not known
    capabilities: tuple[str, ...] = ()  # chat, completions, tools, embeddings, responses, continue; (): the engine's


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendSettings:
    """A server that answers, table [[serve.backend]]. Its price is told, or follows from power and amortisation."""

    name: str  # of the server, one's own
    address: str  # http://host:port
    models: tuple[ModelSettings, ...] = ()  # (): what the server itself says
    tier: str = "premises"  # device, premises, attested or partner
    engine: str = "openai_url"  # kind of server, see docs/engines/index.md
    supplier: str = ""  # who made or runs it
    hardware: str = ""  # what it runs on
    capacity: int = 8  # requests at once
    key_env: str = ""  # environment variable with the key that it wants
    money_per_million_in: float = 0.0  # tokens, in the owner's unit
    money_per_million_out: float = 0.0  # the same
    watts: float = 0.0  # while it writes
    tokens_per_second: float = 0.0  # that it writes in all, when busy
    money_per_kwh: float = 0.0  # in the owner's unit
    money_per_hour: float = 0.0  # amortisation, rent
    may_train: bool = False  # its answers may become training data; a partner's only with a contract
    contract: str = ""  # where that stands


@dataclass(frozen=True, kw_only=True, slots=True)
class CandidateSettings:
    """What a line's candidate does at the endpoint: a model that the gate accepted and nobody has released yet."""

    shadow: bool = False  # it also answers what the champion was asked; nobody gets that, it is compared
    weight: float = 0.0  # share of the requests, 0 to 1, that it answers in the champion's place
    tolerance: float = 0.05  # two outputs farther apart than this differ; in the output's own unit


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeLineSettings:
    """How the endpoint serves one line, table [serve.lines.NAME]."""

    candidate: CandidateSettings = CandidateSettings()  # what it does before it is released


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeSettings:
    """The endpoint for models, table [serve]."""

    host: str = "127.0.0.1"  # address that the gateway listens on
    port: int = 8790  # 0: any free one
    workers: int = 1  # processes at the one port
    stall_seconds: float = 15.0  # between two pieces of an answer: longer counts as death
    wait_seconds: float = 30.0  # for a server with room, where the request gives no deadline
    waiting: int = 256  # requests that may wait when all servers are full; 0: none, they are refused at once
    hedge_share: float = 0.05  # of the requests: so many may be asked of a second server when the first is late
    providers: tuple[str, ...] = ("CPUExecutionProvider",)  # of ONNX Runtime, for the lines' models; first come first
    lines: Mapping[str, ServeLineSettings] = field(default_factory=dict)  # tables [serve.lines.NAME]
    backend: tuple[BackendSettings, ...] = ()  # tables [[serve.backend]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """One owner's factory."""

    home: Path = Path("fleetmill-home")  # ledger, blobs, keys and the signed repository lie here
    host: str = "127.0.0.1"  # address that the front door listens on
    port: int = 8787  # 0: any free one
    workers: int = 2  # processes that judge side by side
    seed: int = 0  # of training, gate and simulated fleets
    poll_seconds: float = 20.0  # how long a device's question may wait for news
    log_level: str = "info"  # of `fleetmill up`: debug, info, warning or error
    log_file: str = ""  # where its log lines go, the file turned over at 10 MB; "": to stderr
    metrics_open: bool = False  # true: /metrics answers other machines too, not this one alone
    serve: ServeSettings = field(default_factory=ServeSettings)  # table [serve]
    lines: Mapping[str, LineSettings] = field(default_factory=dict)  # tables [lines.NAME]

    def line(self, name: str) -> LineSettings:
        """The settings of a line; defaults where the file has no table for it."""
        return self.lines.get(name, LineSettings())


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One setting as it is in force, and where it came from."""

    name: str  # dotted, e.g. lines.NAME.turn_when.hours
    value: Any
    source: str  # default, fleetmill.toml, environment NAME, or flag


def read_settings(*, home: Path | None = None, environment: Mapping[str, str] = os.environ, **flags: Any) -> Settings:
    """Settings of the home that flag, ``FLEETMILL_HOME`` or the default names. A flag that is None was not given.

    Raises:
        InvalidInputError: an unknown or malformed setting; names it and where it stands.
    """
    return _read(home, environment, flags)[0]


def explain(*, home: Path | None = None, environment: Mapping[str, str] = os.environ, **flags: Any) -> list[Setting]:
    """Every setting in force with its source, those of each line that the file names too.

    Raises:
        InvalidInputError: see `read_settings`.
    """
    settings, sources = _read(home, environment, flags)
    return list(_explained(settings, sources, ""))


def _read(
    home: Path | None, environment: Mapping[str, str], flags: Mapping[str, Any]
) -> tuple[Settings, dict[str, str]]:
    """The settings, and by dotted name where each that is no default came from."""
    place = home or Path(environment.get("FLEETMILL_HOME", "fleetmill-home"))
    found = _file(place / FILE)
    sources = dict.fromkeys(_names(found, ""), FILE)
    if home or "FLEETMILL_HOME" in environment:
        sources["home"] = "flag" if home else "environment FLEETMILL_HOME"
    for f in fields(Settings):
        name = f"FLEETMILL_{f.name.upper()}"
        if f.name not in ("home", "lines", "serve") and name in environment:
            found[f.name] = _value(environment[name], f.type, name)
            sources[f.name] = f"environment {name}"
    try:
        settings = build(Settings, {**found, "home": place}, FILE)
    except InvalidInputError as error:
        raise InvalidInputError(f"{place / FILE}: {error}") from None
    given = {name: value for name, value in flags.items() if value is not None}
    settings = replace(settings, **given)
    sources.update(dict.fromkeys(given, "flag"))
    _check(settings)
    return settings, sources


def _names(table: Mapping[str, Any], above: str) -> Iterator[str]:
    """The dotted name of every value in the file, and of every table."""
    for name, value in table.items():
        yield f"{above}{name}"
        if isinstance(value, Mapping):
            yield from _names(value, f"{above}{name}.")


def _explained(record: Any, sources: Mapping[str, str], above: str) -> Iterator[Setting]:
    pairs = (
        record.items() if isinstance(record, Mapping) else ((f.name, getattr(record, f.name)) for f in fields(record))
    )
    for name, value in pairs:
        dotted = f"{above}{name}"
        if value and (isinstance(value, Mapping) or is_dataclass(value)):
            yield from _explained(value, sources, f"{dotted}.")
        else:
            yield Setting(name=dotted, value=value, source=sources.get(dotted, "default"))


def _check(settings: Settings) -> None:
    if not 0 <= settings.port < 65536:
        raise InvalidInputError(f"port {settings.port}: must be from 0 (any free one) to 65535")
    if settings.workers < 1:
        raise InvalidInputError(f"workers {settings.workers}: must be at least 1")
    if settings.log_level not in LEVELS:
        raise InvalidInputError(f"log_level {settings.log_level!r}: must be one of {', '.join(LEVELS)}")
    for name, line in settings.lines.items():
        _check_line(name, line)
    serve = settings.serve
    if not (serve.wait_seconds > 0 and serve.waiting >= 0 and 0 <= serve.hedge_share <= 1):
        raise InvalidInputError(
            f"[serve] wait_seconds = {serve.wait_seconds}, waiting = {serve.waiting}, hedge_share = "
            f"{serve.hedge_share}: must be above 0, 0 or more, and from 0 to 1"
        )
    for backend in settings.serve.backend:
        check_backend(backend)
    for name, served in settings.serve.lines.items():
        asked = served.candidate
        if not (0 <= asked.weight <= 1 and asked.tolerance >= 0):
            raise InvalidInputError(
                f"[serve.lines.{name}] candidate.weight = {asked.weight}, candidate.tolerance = {asked.tolerance}: "
                f"must be from 0 to 1, and 0 or more"
            )


def _file(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10 runs devices, which have no such file
        raise NotFoundError(f"{path}: reading it needs Python 3.11 or newer") from None
    try:
        found = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path}: {error}") from error
    _modern(found)
    _check_names(found, Settings, str(path))
    return found


def _modern(found: dict[str, Any]) -> None:
    """Spell as today what the files of format 1 said: ``sessions`` and ``deadline_seconds`` of a line."""
    lines = found.get("lines", {})
    for table in lines.values() if isinstance(lines, dict) else ():
        if not isinstance(table, dict) or "turn_when" in table:
            continue
        sessions, seconds = table.pop("sessions", None), table.pop("deadline_seconds", None)
        old = {} if sessions is None or "campaign" in table else {"sessions": sessions}
        if isinstance(seconds, (int, float)):
            old["hours"] = seconds / 3600.0
        if old:
            table["turn_when"] = old


def _check_line(name: str, line: LineSettings) -> None:
    if line.approval not in APPROVALS:
        raise InvalidInputError(f"[lines.{name}] approval = {line.approval!r}: must be one of {', '.join(APPROVALS)}")
    if not line.hardware:
        raise InvalidInputError(f"[lines.{name}] hardware: is empty, so no device could take a release. Name a kind")
    for what, asked in (("campaign", line.campaign), ("first_campaign", line.first_campaign)):
        if asked is not None and not (asked.sessions >= 1 and asked.seconds > 0 and 0 < asked.budget_ratio <= 1):
            raise InvalidInputError(
                f"[lines.{name}.{what}] sessions = {asked.sessions}, seconds = {asked.seconds}, budget_ratio = "
                f"{asked.budget_ratio}: must be at least 1, above 0, and above 0 up to 1"
            )
    talk = line.talk
    if not 0 <= (0 if talk.sure is None else talk.sure) <= 1.01 or (talk.tokens or 1) < 1 or line.memory_mb < 1:
        raise InvalidInputError(
            f"[lines.{name}] memory_mb = {line.memory_mb}, talk.sure = {talk.sure}, talk.tokens = {talk.tokens}: "
            "must be at least 1, 0 to 1 (1.01: never sure), and at least 1"
        )
    for what, number in (("sessions", line.turn_when.sessions), ("hours", line.turn_when.hours)):
        if not number >= 0:
            raise InvalidInputError(f"[lines.{name}] turn_when.{what} = {number}: must be 0 or more")


def check_backend(backend: BackendSettings) -> None:
    """Refuse a server that makes no sense.

    Raises:
        InvalidInputError: names the server, the value and the rule.
    """
    where = f"[[serve.backend]] {backend.name}"
    if backend.tier not in TIERS:
        raise InvalidInputError(f"{where}: tier = {backend.tier!r}: must be one of {', '.join(TIERS)}")
    if not _is_address(backend.address):
        raise InvalidInputError(f"{where}: address = {backend.address!r}: must be http://host:port, or https://")
    if backend.capacity < 1:
        raise InvalidInputError(f"{where}: capacity = {backend.capacity}: must be at least 1")
    if backend.may_train and backend.tier in ("attested", "partner") and not backend.contract:
        raise InvalidInputError(f"{where}: may_train = true: name the contract that allows it, contract = ...")
    for setting in fields(backend):
        value = getattr(backend, setting.name)
        if isinstance(value, float) and not 0.0 <= value < math.inf:
            raise InvalidInputError(f"{where}: {setting.name} = {value:g}: must be 0 or more")
    if backend.watts and not backend.tokens_per_second:
        raise InvalidInputError(f"{where}: watts need tokens_per_second, else no price per token follows from them")


def _is_address(text: str) -> bool:
    try:
        at = urlsplit(text)
        return at.scheme in ("http", "https") and bool(at.hostname) and (at.port is None or at.port > 0)
    except ValueError:  # a port that is none
        return False


def _check_names(table: Any, cls: type, where: str) -> None:
    """Refuse what `cls` has no setting for, also in the tables below: a slip of the pen must not be passed over."""
    if not isinstance(table, Mapping):
        raise InvalidInputError(f"{where}: must be a table, is {table!r}. See docs/settings.md")
    unknown = sorted(set(table) - {f.name for f in fields(cls)} | (set(table) & {"home"}))
    if unknown:
        raise InvalidInputError(f"{where}: no such setting: {', '.join(unknown)}. See docs/settings.md")
    if cls is Settings:
        lines = table.get("lines", {})
        if not isinstance(lines, Mapping):
            raise InvalidInputError(f"{where}: lines must be tables [lines.NAME], is {lines!r}")
        for name, line in lines.items():
            _check_names(line, LineSettings, f"{where}: [lines.{name}]")
        _check_names(table.get("serve", {}), ServeSettings, f"{where}: [serve]")
    if cls is ServeSettings:
        for backend in table.get("backend", ()):
            _check_names(backend, BackendSettings, f"{where}: [[serve.backend]]")
        for name, line in dict(table.get("lines", {})).items():
            _check_names(line, ServeLineSettings, f"{where}: [serve.lines.{name}]")
            _check_names(line.get("candidate", {}), CandidateSettings, f"{where}: [serve.lines.{name}] candidate")
    if cls is LineSettings:
        for name in ("campaign", "first_campaign"):
            _check_names(table.get(name, {}), CampaignSettings, f"{where}: {name}")
        _check_names(table.get("turn_when", {}), TurnWhen, f"{where}: turn_when")
        _check_names(table.get("talk", {}), TalkSettings, f"{where}: talk")


def _value(text: str, kind: Any, name: str) -> Any:
    """What stands in an environment variable, as the setting's type."""
    try:
        return _READ[str(kind)](text)
    except (ValueError, KeyError):
        raise InvalidInputError(f"{name}={text!r}: must be {kind}") from None


def _truth(text: str) -> bool:
    return {"true": True, "1": True, "false": False, "0": False}[text.lower()]


_READ: Mapping[str, Callable[[str], Any]] = {"str": str, "int": int, "float": float, "bool": _truth}
