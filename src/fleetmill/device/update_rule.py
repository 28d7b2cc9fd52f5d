"""Which release a device takes, and why not the others: pure, the hand beside it is `update`.

Everything here comes out of metadata that python-tuf has verified. A signature says who said it, not that it fits this
machine or that it is news: that is what this file decides. A director, deltas and rollouts are further checks in
`_CHECKS` and further fields of `Machine`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from fleetmill.core.canonical import dumps, loads
from fleetmill.core.errors import InvalidInputError
from fleetmill.core.ids import checked_digest, checked_name, sha256
from fleetmill.core.plain import build, plain
from fleetmill.core.talk import Limits

MODEL = "model.onnx"
GOLDEN = "golden.npz"
_DECIMAL = re.compile(r"\d{1,9}(\.\d{1,18})?(e-?\d{1,2})?")


@dataclass(frozen=True, kw_only=True, slots=True)
class SignedTarget:
    """One entry of the verified targets metadata."""

    path: str
    length: int
    sha256: str
    custom: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The last part of the path: what the file is called in its slot."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True, slots=True)
class SignedFile:
    """One file of a release: where it is fetched, what it is called in its slot, what it must be."""

    path: str
    name: str
    length: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """One signed set of files that becomes one slot. `counter` only grows on a line."""

    counter: int
    line: str
    hardware: tuple[str, ...]
    io_contract_sha256: str
    model: str  # digest of the model version's manifest
    golden_sha256: str
    tolerance: float  # largest absolute difference from the golden outputs
    latency_ns: int  # p99 allowed
    memory_bytes: int  # growth of the process allowed
    files: tuple[SignedFile, ...]  # sorted by name
    talk: Limits | None = None  # of a model that is spoken with: when it is sure, how long it may speak

    def to_bytes(self) -> bytes:
        """Canonical JSON: what lies as release.json in the slot; without `talk` where there is none."""
        return dumps({name: value for name, value in plain(self).items() if value is not None})

    @staticmethod
    def from_bytes(data: bytes) -> Release:
        """Read `to_bytes` back.

        Raises:
            InvalidInputError: these bytes are no release.
        """
        return build(Release, loads(data))

    @property
    def digest(self) -> str:
        """Names the release by its content, and with it the slot's folder."""
        return sha256(self.to_bytes())


class Reason(str, Enum):
    """Why a release is not installed."""

    OTHER_LINE = "other line"
    OTHER_HARDWARE = "other hardware"
    OTHER_IO_CONTRACT = "other io contract"
    OLDER = "older release under newer metadata"
    INSTALLED = "installed"
    SUPERSEDED = "superseded"  # a higher counter is offered beside it
    MALFORMED = "malformed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """One release that was offered and not chosen; `detail` is one line of facts."""

    reason: Reason
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What to install (None: nothing), and each other release with the reason."""

    install: Release | None
    refusals: tuple[Refusal, ...]

    def has(self, reason: Reason) -> bool:
        """Whether something was refused for `reason`."""
        return any(refusal.reason is reason for refusal in self.refusals)


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What a device knows about itself when it chooses."""

    line: str
    hardware: str
    io_contract_sha256: str
    highest_counter: int = 0  # the highest release counter that was ever tried here, for this line
    installed: str | None = None  # digest of the active release
    unfinished: str | None = None  # digest of a trial that may be tried again: its counter is not news any more


def choose(targets: Sequence[SignedTarget], machine: Machine) -> Decision:
    """The release to install on `machine`, or why there is none.

    Of several that fit, the highest counter wins; two of the same counter are ordered by digest, so that all devices
    take the same one.
    """
    offered, refusals = releases(targets)
    fitting: list[Release] = []
    for release in offered:
        refusal = next(filter(None, (check(release, machine) for check in _CHECKS)), None)
        if refusal is None:
            fitting.append(release)
        else:
            refusals.append(refusal)
    best = max(fitting, key=lambda r: (r.counter, r.digest), default=None)
    for release in fitting:
        if best is not None and release is not best:
            refusals.append(Refusal(reason=Reason.SUPERSEDED, detail=f"release {release.counter} by {best.counter}"))
    return Decision(install=best, refusals=tuple(refusals))


def releases(targets: Sequence[SignedTarget]) -> tuple[list[Release], list[Refusal]]:
    """The releases among `targets`: each model that is signed with a counter, and the files that it names by digest."""
    by_digest = {target.sha256: target for target in targets}
    found: list[Release] = []
    refusals: list[Refusal] = []
    for target in targets:
        if "release_counter" not in target.custom:
            continue
        try:
            found.append(_release(target, by_digest))
        except InvalidInputError as error:
            refusals.append(Refusal(reason=Reason.MALFORMED, detail=f"{target.path}: {error}"))
    return found, refusals


def _release(target: SignedTarget, by_digest: Mapping[str, SignedTarget]) -> Release:
    """One file may belong to several releases, so it is the model's custom that names the others."""
    custom = dict(target.custom)
    if target.name != MODEL:
        raise InvalidInputError(f"only {MODEL} may carry a release counter")
    more = custom.get("files", {})
    if not isinstance(more, Mapping):
        raise InvalidInputError(f"files {more!r} must be digests by name")
    named = {**more, GOLDEN: custom.get("golden_sha256"), MODEL: target.sha256}
    custom["files"] = [plain(_file(name, digest, by_digest)) for name, digest in sorted(named.items())]
    custom["counter"] = custom["release_counter"]
    custom["tolerance"] = _number(custom.get("tolerance"), "tolerance")
    if isinstance(talk := custom.get("talk"), Mapping):
        custom["talk"] = {**talk, "sure": _number(talk.get("sure"), "talk.sure")}
    release = build(Release, custom)
    checked_name(release.line, "line")
    if not 0 < release.counter < 2**63:
        raise InvalidInputError(f"release_counter {release.counter} must be above 0 and below 2^63")
    if release.talk is not None and release.talk.tokens < 1:
        raise InvalidInputError(f"talk.tokens {release.talk.tokens} must be above 0")
    return release


def _number(text: object, what: str) -> float:
    """A number that travelled as decimal text; TUF's canonical JSON knows no floats."""
    if not isinstance(text, str) or not _DECIMAL.fullmatch(text):
        raise InvalidInputError(f"{what} {text!r} must be decimal text")
    return float(text)


def _file(name: str, digest: object, by_digest: Mapping[str, SignedTarget]) -> SignedFile:
    checked_name(name, "file name")  # no separators, no leading dot: it cannot leave its slot
    found = by_digest.get(checked_digest(str(digest), name))
    if found is None:
        raise InvalidInputError(f"{name} {digest} is named, but not signed beside it")
    return SignedFile(path=found.path, name=name, length=found.length, sha256=found.sha256)


def _fits_line(release: Release, machine: Machine) -> Refusal | None:
    if release.line == machine.line:
        return None
    return Refusal(
        reason=Reason.OTHER_LINE, detail=f"release {release.counter} is for {release.line}, this is {machine.line}"
    )


def _fits_hardware(release: Release, machine: Machine) -> Refusal | None:
    if machine.hardware in release.hardware:
        return None
    kinds = ", ".join(release.hardware)
    return Refusal(
        reason=Reason.OTHER_HARDWARE, detail=f"release {release.counter} is for {kinds}, this is {machine.hardware}"
    )


def _fits_contract(release: Release, machine: Machine) -> Refusal | None:
    if release.io_contract_sha256 == machine.io_contract_sha256:
        return None
    return Refusal(
        reason=Reason.OTHER_IO_CONTRACT,
        detail=f"release {release.counter} speaks {release.io_contract_sha256[:12]}, "
        f"this software {machine.io_contract_sha256[:12]}",
    )


def _is_news(release: Release, machine: Machine) -> Refusal | None:
    if machine.installed is not None and release.digest == machine.installed:
        return Refusal(reason=Reason.INSTALLED, detail=f"release {release.counter} is what runs")
    if release.counter > machine.highest_counter or release.digest == machine.unfinished:
        return None
    return Refusal(
        reason=Reason.OLDER,
        detail=f"release {release.counter} of line {release.line} is not above {machine.highest_counter}, "
        "the highest tried here",
    )


_CHECKS: tuple[Callable[[Release, Machine], Refusal | None], ...] = (
    _fits_line,
    _fits_hardware,
    _fits_contract,
    _is_news,
)
