"""What may stand in the signed list of targets: pure, the hand beside it is `trust`.

A target's path names its content (``models/<sha256>/model.onnx``), so a path never means two files, and any server or
CDN may keep it for ever.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fleetmill.core.canonical import Json
from fleetmill.core.errors import ConflictError, InvalidInputError
from fleetmill.core.ids import checked_digest, checked_name
from fleetmill.core.line import Line
from fleetmill.core.talk import Limits

_PATH = re.compile(r"(models|campaigns)/([0-9a-f]{64})/([a-z0-9][a-z0-9._-]{0,62})")

_DECIMAL = re.compile(r"\d{1,9}(\.\d{1,18})?(e-?\d{1,2})?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """One file that devices may take: its path, length in bytes, SHA-256, and what else is signed with it."""

    path: str
    length: int
    sha256: str
    custom: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """What the signed targets metadata says. `counters`: line -> the highest release counter it ever had."""

    targets: Mapping[str, Target]  # by path
    counters: Mapping[str, int]


def release_custom(
    line: Line,
    *,
    release_counter: int,
    hardware: Sequence[str],
    io_contract_sha256: str,
    model: str,
    golden_sha256: str,
    memory_bytes: int,
    files: Mapping[str, str] | None = None,
    talk: Limits | None = None,
    extra: Mapping[str, Json] | None = None,
) -> dict[str, Json]:
    """The signed `custom` of a release's model.onnx, which is what makes it a release.

    `model` is the digest of the model version's manifest; `files` names what else goes into the slot (a tokenizer), by
    name and SHA-256: targets without custom, since one file may belong to several releases. `talk`: from when on a
    model that is spoken with is sure, and how many ids an answer may have. Numbers with a fraction
    travel as decimal text, because TUF's canonical JSON knows no floats (specification 1.0.34, 4.2.1).
    """
    return {
        **(extra or {}),
        **({"files": dict(files)} if files else {}),
        **({"talk": {"sure": repr(talk.sure), "tokens": talk.tokens}} if talk else {}),
        "release_counter": release_counter,
        "line": line.name,
        "hardware": sorted(hardware),
        "io_contract_sha256": io_contract_sha256,
        "model": model,
        "golden_sha256": golden_sha256,
        "tolerance": repr(line.model.tolerance),
        "latency_ns": line.model.latency_ns,
        "memory_bytes": memory_bytes,
    }


def checked(target: Target) -> Target:
    """`target` itself when it may be signed.

    Raises:
        InvalidInputError: path, length or digest is malformed, a release's field is missing, a float stands in it.
    """
    found = _PATH.fullmatch(target.path)
    if not found or found[2] != target.sha256:
        raise InvalidInputError(
            f"target path {target.path[:120]!r}: must be models/<sha256>/<name> or campaigns/<sha256>/<name>, "
            f"with the file's own SHA-256 {target.sha256}"
        )
    if type(target.length) is not int or target.length < 0:
        raise InvalidInputError(f"{target.path}: length {target.length!r} must be a number of bytes")
    _refuse_floats(target.custom, f"{target.path}: custom")
    if "release_counter" in target.custom:
        if found[3] != "model.onnx":
            raise InvalidInputError(f"{target.path}: only model.onnx carries a release; publish others without custom")
        _check_release(target.custom, f"{target.path}: custom")
    return target


def merge(published: Published, added: Sequence[Target], retire: Sequence[str]) -> Published:
    """What is to be signed next. Equal to `published` when there is nothing new to say.

    A path that stands there already may be said again with the same custom, or with a higher release counter: that is
    how a fleet is rolled back, as a new release of old bytes.

    Raises:
        InvalidInputError: a target may not be signed (`checked`), or a release names a file that is not among them.
        ConflictError: a release counter is not above the line's highest, or a path would change its custom.
    """
    targets = {path: target for path, target in published.targets.items() if path not in set(retire)}
    counters = dict(published.counters)
    for target in map(checked, added):
        if published.targets.get(target.path) == target:
            targets[target.path] = target
            continue
        line, counter = target.custom.get("line"), target.custom.get("release_counter")
        if counter is None and target.path in targets:
            raise ConflictError(
                f"{target.path}: is published with other custom; retire it or give it a release counter"
            )
        if counter is not None:
            highest = published.counters.get(str(line), 0)
            if counter <= highest:
                raise ConflictError(
                    f"{target.path}: release counter {counter} of line {line} must be above {highest}, "
                    "which was published before"
                )
            counters[str(line)] = max(counter, counters.get(str(line), 0))
        targets[target.path] = target
    _check_whole(targets)
    return Published(targets=targets, counters=counters)


def is_due(*, expires_ns: int, life_ns: int, now_ns: int) -> bool:
    """Whether metadata must be signed anew: less than half of its life is left."""
    return expires_ns - now_ns < life_ns // 2


def _check_whole(targets: Mapping[str, Target]) -> None:
    signed = {target.sha256 for target in targets.values()}
    for path, target in targets.items():
        if "release_counter" in target.custom:
            named = {**target.custom.get("files", {}), "golden.npz": target.custom["golden_sha256"]}
            if missing := sorted(name for name, digest in named.items() if digest not in signed):
                raise InvalidInputError(f"{path}: names {', '.join(missing)}, which must be published with it and kept")


def _check_release(custom: Mapping[str, Json], where: str) -> None:
    for name in ("release_counter", "latency_ns", "memory_bytes"):
        if type(custom.get(name)) is not int or custom[name] <= 0:
            raise InvalidInputError(f"{where}.{name}: must be a whole number above 0, is {custom.get(name)!r}")
    for name in ("io_contract_sha256", "model", "golden_sha256"):
        checked_digest(str(custom.get(name)), f"{where}.{name}")
    checked_name(str(custom.get("line")), f"{where}.line")
    files = custom.get("files", {})
    if not isinstance(files, Mapping):
        raise InvalidInputError(f"{where}.files: must be digests by name, is {files!r}")
    for name, digest in files.items():
        checked_digest(str(digest), f"{where}.files.{checked_name(name, 'file name')}")
    hardware = custom.get("hardware")
    if not isinstance(hardware, list) or not hardware or not all(isinstance(kind, str) for kind in hardware):
        raise InvalidInputError(f"{where}.hardware: must be a list of hardware kinds, is {hardware!r}")
    tolerance = custom.get("tolerance")
    if not isinstance(tolerance, str) or not _DECIMAL.fullmatch(tolerance):
        raise InvalidInputError(f"{where}.tolerance: must be decimal text like '0.0001', is {tolerance!r}")
    if "talk" in custom:
        _check_talk(custom["talk"], f"{where}.talk")


def _check_talk(talk: Json, where: str) -> None:
    sure, tokens = (talk.get("sure"), talk.get("tokens")) if isinstance(talk, Mapping) else (None, None)
    if not isinstance(sure, str) or not _DECIMAL.fullmatch(sure) or type(tokens) is not int or tokens < 1:
        raise InvalidInputError(f"{where}: must hold sure as decimal text and tokens above 0, is {talk!r}")


def _refuse_floats(value: Json, where: str) -> None:
    if isinstance(value, float):
        raise InvalidInputError(f"{where}: {value!r} is a float, which cannot be signed; give decimal text")
    if isinstance(value, Mapping):
        for key, item in value.items():
            _refuse_floats(item, f"{where}.{key}")
    if isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _refuse_floats(item, f"{where}[{index}]")
