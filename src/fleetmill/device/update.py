"""Fetch what the factory signed: python-tuf verifies, the rule beside this hand is `update_rule`.

The fetcher only carries bytes: nothing here looks into metadata before python-tuf has accepted it (TUF 1.0.34, 5).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Protocol

import httpx
from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Root  # type: ignore[attr-defined]
from tuf.ngclient.fetcher import FetcherInterface
from tuf.ngclient.updater import Updater

from fleetmill.core.errors import IntegrityError, TrustError, UnavailableError
from fleetmill.device.slots_rule import Seen, State, rolled_back
from fleetmill.device.update_rule import SignedFile, SignedTarget
from fleetmill.seams.files import sync_folder

_CHUNK = 1 << 20
_AS_IT_IS = {"Accept-Encoding": "identity"}  # lengths and ranges are those of the signed bytes
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+)")  # RFC 9110, 14.4


class Memory(Protocol):
    """Where it is remembered what was seen, across power cuts. `slots.Slots` is one."""

    state: State

    def saw(self, seen: Seen, *, time_ns: int) -> State: ...


class HttpFetcher(FetcherInterface):
    """Carries metadata bytes over the caller's client, with its timeouts, its base and its identity."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            with self._client.stream("GET", url, headers=_AS_IT_IS) as answer:
                if answer.status_code != httpx.codes.OK:
                    raise DownloadHTTPError(f"{url}: status {answer.status_code}", answer.status_code)
                yield from answer.iter_bytes()
        except httpx.HTTPError as error:
            raise DownloadError(f"{url}: {type(error).__name__}: {error}") from error


def refresh(
    client: httpx.Client, *, url: str, cache: Path, bootstrap: bytes, memory: Memory, now_ns: int
) -> tuple[SignedTarget, ...]:
    """What the factory offers now, every signature verified, in path order.

    `url` is the folder of the metadata; `bootstrap` the root bytes given at enrolment; `cache` keeps what was trusted.
    A clock that runs behind what was seen before is not believed, so an old, expired list stays expired.

    Raises:
        TrustError: expired, rolled back, or not signed by enough of the right keys.
        IntegrityError: bytes that are no metadata, or not the ones that were named.
        UnavailableError: network or disk did not answer; try again later.
    """
    time_ns = max(now_ns, memory.state.time_ns)
    with _translated(url):
        cache.mkdir(parents=True, exist_ok=True)
        updater = Updater(str(cache), url, fetcher=HttpFetcher(client), bootstrap=bootstrap)
        # Its public face gives neither the clock nor the list of targets, so this is the one place that reaches in.
        trusted = updater._trusted_set
        trusted.reference_time = _EPOCH + timedelta(microseconds=time_ns // 1000)
        updater.refresh()
    seen = Seen(
        root=trusted.root.version,
        timestamp=trusted.timestamp.version,
        snapshot=trusted.snapshot.version,
        targets=trusted.targets.version,
        keys=_fingerprint(trusted.root),
    )
    if complaint := rolled_back(memory.state.seen, seen):
        raise TrustError(f"{url}: rolled back: {complaint}")
    memory.saw(seen, time_ns=time_ns)
    return tuple(
        SignedTarget(
            path=path,
            length=file.length,
            sha256=file.hashes.get("sha256", ""),
            custom=file.custom if isinstance(file.custom, dict) else {},
        )
        for path, file in sorted(trusted.targets.targets.items())
    )


def download(client: httpx.Client, *, url: str, file: SignedFile, into: Path) -> Path:
    """Bring `file` to the folder `into` and give its path; `url` is the folder that signed paths are relative to.

    Goes on where a broken transfer ended. The name appears only when length and digest are right and the bytes are
    durable; until then they lie as ``<name>.part``. Already there and right: nothing is fetched.

    Raises:
        IntegrityError: the server has other bytes than were signed; what came is dropped.
        UnavailableError: network or disk did not answer; what came stays, call again.
    """
    whole, part = into / file.name, into / f"{file.name}.part"
    where = f"{url.rstrip('/')}/{file.path}"
    try:
        if whole.exists():
            if _digest(whole) == file.sha256:
                return whole
            whole.unlink()  # it changed on the disk since it came
        resumed = _fetch_rest(client, where, file, part)
        if resumed and _digest(part) != file.sha256:  # the piece from before may have been torn by a power cut
            part.unlink()
            _fetch_rest(client, where, file, part)
        _commit(part, whole, file, where)
    except OSError as error:
        raise UnavailableError(f"{whole}: cannot be written: {error.strerror}") from error
    return whole


def _fetch_rest(client: httpx.Client, where: str, file: SignedFile, part: Path) -> bool:
    """Fetch what is missing of `part`; True when it had something before."""
    have = part.stat().st_size if part.exists() else 0
    if have > file.length:
        part.unlink()
        have = 0
    if have == file.length and part.exists():
        return True
    headers = {**_AS_IT_IS, **({"Range": f"bytes={have}-"} if have else {})}
    try:
        with client.stream("GET", where, headers=headers) as answer:
            start = _starts_at(answer, where, file, have)
            _append(answer, where, file, part, start)
    except httpx.HTTPError as error:
        raise UnavailableError(f"{where}: {type(error).__name__}: {error}") from error
    came = part.stat().st_size
    if came < file.length:
        raise UnavailableError(f"{where}: {came} of {file.length} bytes came; call again to go on")
    return have > 0


def _starts_at(answer: httpx.Response, where: str, file: SignedFile, have: int) -> int:
    """At which byte the answer's body begins: 0, or `have`. The server's total must be the signed length."""
    if (coding := answer.headers.get("Content-Encoding", "identity")) != "identity":
        raise UnavailableError(f"{where}: came as {coding}; a proxy between changes what the server sends")
    found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    length = answer.headers.get("Content-Length", "")
    total = int(found[2]) if found else int(length) if answer.status_code == 200 and length.isdecimal() else None
    if answer.status_code in (200, 206, 416) and total is not None and total != file.length:
        raise IntegrityError(f"{where}: the server has {total} bytes, signed are {file.length}")
    if answer.status_code == 206 and found and found[1] and int(found[1]) == have:
        return have
    if answer.status_code == 200:
        return 0
    raise UnavailableError(f"{where}: status {answer.status_code}")


def _append(answer: httpx.Response, where: str, file: SignedFile, part: Path, start: int) -> None:
    at = start
    with part.open("r+b" if start else "wb") as out:
        out.seek(start)
        for chunk in answer.iter_bytes():  # as they come: what a cut line had sent is on the disk
            at += len(chunk)
            if at > file.length:
                break
            out.write(chunk)
    if at > file.length:
        part.unlink()
        raise IntegrityError(f"{where}: more than the {file.length} bytes that are signed")


def _commit(part: Path, whole: Path, file: SignedFile, where: str) -> None:
    found = _digest(part)
    if found != file.sha256:
        part.unlink()
        raise IntegrityError(f"{where}: SHA-256 {found[:12]}, signed is {file.sha256[:12]}")
    with part.open("rb") as source:
        os.fsync(source.fileno())
    part.replace(whole)
    sync_folder(whole.parent)


def _digest(path: Path) -> str:
    hasher = hashlib.sha256()
    with path.open("rb") as source:
        while chunk := source.read(_CHUNK):
            hasher.update(chunk)
    return hasher.hexdigest()


def _fingerprint(root: Root) -> bytes:
    """Eight bytes that change when the timestamp or snapshot keys are others (TUF 1.0.34, 5.3.11)."""
    keys = [sorted(root.roles[role].keyids) for role in ("timestamp", "snapshot")]
    return hashlib.sha256(repr(keys).encode()).digest()[:8]


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """python-tuf's errors as ours, each one line of facts. The order matters: some are kinds of others."""
    try:
        yield
    except ExpiredMetadataError as error:
        raise TrustError(f"{url}: expired: {error}; the factory must sign anew, or this clock is wrong") from error
    except UnsignedMetadataError as error:
        raise TrustError(f"{url}: not signed by enough of the right keys: {error}") from error
    except BadVersionNumberError as error:
        raise TrustError(f"{url}: rolled back: {error}") from error
    except RepositoryError as error:
        raise IntegrityError(f"{url}: not the metadata that was named: {error}") from error
    except DownloadLengthMismatchError as error:
        raise IntegrityError(f"{url}: too long: {error}") from error
    except DownloadError as error:
        raise UnavailableError(f"{url}: did not answer: {error}") from error
    except OSError as error:
        raise UnavailableError(f"{url}: cache cannot be written: {error.strerror}") from error
