"""What was sent where, as chains of records on the disk: one chain per gateway process, without content.

A line is canonical JSON with its number `n`, the SHA-256 `prev` of the line before (zeros for the first), and one of
`began` (first: chain, time, the last lines of chains that no chain has named so yet), `sent`, `ended` (last, when the
process ended in order). A chain goes on in further files `CHAIN-000002.jsonl`, ... when one is full.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from fleetmill.core import canonical
from fleetmill.core.errors import InvalidInputError, UnavailableError
from fleetmill.core.ids import sha256
from fleetmill.seams.files import sync_file, sync_folder
from fleetmill.serve.words import Sent

FOLDER = "sent"  # in a home's `serve`
GENESIS = "0" * 64
BEGUN = "begun"  # outcome of a record that is made before something is sent: on its way to the disk before that
WAIT_SECONDS = 0.2  # between a record and its fsync, at most
_FULL_BYTES = 64 * 2**20
_MOST_WAITING = 100_000
_TAIL_BYTES = 2**20  # more than any line has
_NAME = re.compile(r"(?P<chain>[0-9A-Za-z-]+)-(?P<part>[0-9]{6})\.jsonl")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """The end of a chain: who notes it sees later whether it goes on from there."""

    chain: str
    records: int
    digest: str  # of the last one

    def __str__(self) -> str:
        return f"{self.chain}:{self.records}:{self.digest}"


def read_head(text: str) -> Head:
    """A head as `prove` prints it.

    Raises:
        InvalidInputError: it is none.
    """
    chain, _, rest = text.rpartition(":")[0].rpartition(":")
    digest = text.rpartition(":")[2]
    if not chain or not rest.isdigit() or not re.fullmatch("[0-9a-f]{64}", digest):
        raise InvalidInputError(f"head {text[:120]!r}: must be CHAIN:RECORDS:DIGEST as `serve prove` prints it")
    return Head(chain=chain, records=int(rest), digest=digest)


def chains(folder: Path) -> dict[str, list[Path]]:
    """The files of each chain, in order."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        if match := _NAME.fullmatch(path.name):
            found.setdefault(match["chain"], []).append(path)
    return found


def lines(paths: list[Path]) -> Iterator[bytes]:
    """The lines of a chain; one that does not end in a newline was being written when the process died."""
    for path in paths:
        with path.open("rb") as file:
            yield from file


class Journal:
    """`words.Witness`: writes a chain. One per process; records of a thread come in its order.

    Raises:
        UnavailableError: the disk refused.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], int] = time.time_ns, full_bytes: int = _FULL_BYTES) -> None:
        self.folder, self._clock, self._full = folder, clock, full_bytes
        moment = time.strftime("%Y%m%dT%H%M%S", time.gmtime(clock() // 10**9))
        self.chain = f"{moment}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.fault = ""  # why records wait in memory; "": they do not. Nothing should be sent while it lasts
        self._lock = threading.Lock()
        self._waiting: list[dict[str, Any]] = []
        self._number, self._digest, self._part, self._size, self._file = 0, GENESIS, 0, 0, -1
        self._some, self._is_closed = threading.Event(), False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            others = _unnamed(folder)
            self._turn_over()
        except OSError as error:
            raise UnavailableError(f"{folder}: cannot be written: {error.strerror}") from error
        self._put({"began": {"chain": self.chain, "time_ns": clock(), "others": others}}, at_once=True)
        if self.fault:
            raise UnavailableError(self.fault)
        self._thread = threading.Thread(target=self._write_forever, name="journal", daemon=True)
        self._thread.start()

    def saw(self, sent: Sent) -> None:
        """Keep a record. One with outcome `begun` is with the kernel when this returns, so kill -9 does not lose it.

        Raises:
            UnavailableError: the disk has refused for so long that no more can wait.
        """
        if len(self._waiting) >= _MOST_WAITING:
            raise UnavailableError(f"{self.fault or self.folder}: {_MOST_WAITING} records wait; no more are taken")
        self._put({"sent": sent}, at_once=sent.outcome == BEGUN)

    def head(self) -> Head:
        """The end of the chain as it is written."""
        with self._lock:
            return Head(chain=self.chain, records=self._number, digest=self._digest)

    def close(self) -> None:
        """Write what waits, and that this is the end. May be called twice.

        Raises:
            UnavailableError: the disk refused; what waited is lost.
        """
        if self._is_closed:
            return
        self._is_closed = True
        self._some.set()
        self._thread.join()
        self._put({"ended": {"time_ns": self._clock()}}, at_once=True)
        self._sync()
        os.close(self._file)
        if self.fault:
            raise UnavailableError(self.fault)

    def _put(self, record: dict[str, Any], *, at_once: bool) -> None:
        self._waiting.append(record)
        if at_once:
            self._write()
        if not self._some.is_set():
            self._some.set()

    def _write_forever(self) -> None:
        while not self._is_closed:
            self._some.wait()
            if not self._is_closed:
                time.sleep(WAIT_SECONDS / 2)
            self._some.clear()
            self._write()
            self._sync()
            if self.fault:
                self._some.set()

    def _write(self) -> None:
        """Hand everything that waits to the kernel, whole lines or none."""
        with self._lock:
            records = self._waiting[:]
            out, number, digest = [], self._number, self._digest
            for record in records:
                whole = {"n": number, "prev": digest, **_plain(record)}
                line = orjson.dumps(whole, option=orjson.OPT_SORT_KEYS)  # canonical: strings, whole numbers, booleans
                out.append(line)
                number, digest = number + 1, sha256(line)
            if not out:
                return
            data = b"".join(line + b"\n" for line in out)
            try:
                if self._size >= self._full:
                    self._turn_over()
                _write_all(self._file, data, self._size)
            except OSError as error:
                self.fault = f"{self.folder}: records of what was sent cannot be written: {error.strerror}"
                _log.error("%s", self.fault)
                return
            self._number, self._digest, self._size, self.fault = number, digest, self._size + len(data), ""
            del self._waiting[: len(records)]

    def _sync(self) -> None:
        try:
            os.fsync(self._file)
        except OSError as error:
            self.fault = f"{self.folder}: records of what was sent are not durable: {error.strerror}"
            _log.error("%s", self.fault)

    def _turn_over(self) -> None:
        """Begin the next file."""
        path = self.folder / f"{self.chain}-{self._part + 1:06d}.jsonl"
        new = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        sync_folder(self.folder)
        if self._file >= 0:
            os.fsync(self._file)
            os.close(self._file)
        self._file, self._size, self._part = new, 0, self._part + 1


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    sent = record.get("sent")
    if not isinstance(sent, Sent):
        return record
    return {
        "sent": {
            "time_ns": sent.time_ns,
            "request": sent.request,
            "tenant": sent.tenant,
            "key": sent.key,
            "label": sent.label.name.lower(),
            "tier": sent.tier.name.lower(),
            "server": sent.server,
            "model": sent.model,
            "consent": sent.consent,
            "tokens_in": sent.tokens_in,
            "tokens_out": sent.tokens_out,
            "used": dict(sent.used),
            "resumed": sent.resumed,
            "outcome": sent.outcome,
        }
    }


def _write_all(handle: int, data: bytes, size: int) -> None:
    """Append to a file of `size` bytes; where that fails, make it what it was."""
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(handle, rest) :]
    except OSError:
        os.ftruncate(handle, size)
        os.lseek(handle, size, os.SEEK_SET)
        raise


def _unnamed(folder: Path) -> dict[str, list[Any]]:
    """Ends of chains that no chain has named so yet: chain -> [records, digest]."""
    ends: dict[str, list[Any]] = {}
    named: dict[str, list[Any]] = {}
    known = chains(folder)
    for chain, paths in known.items():
        if end := _end(paths):
            ends[chain] = end
        named.update(others(paths))
    found = {chain: end for chain, end in ends.items() if named.get(chain) != end}
    for chain in found:
        sync_file(known[chain][-1])  # what is named here must not be lost in a power cut
    return found


def others(paths: list[Path]) -> dict[str, list[Any]]:
    """The ends of other chains that a chain's first line names."""
    try:
        first = canonical.loads(next(lines(paths), b""))
        return dict(first["began"]["others"])
    except (InvalidInputError, KeyError, TypeError, ValueError):
        return {}  # damaged: `prove` says so


def _end(paths: list[Path]) -> list[Any] | None:
    """[records, digest] of a chain's last whole line, read from its last file that has one."""
    for path in reversed(paths):
        whole = [line for line in _tail(path).split(b"\n")[:-1] if line]
        for line in reversed(whole):
            try:
                return [int(canonical.loads(line)["n"]) + 1, sha256(line)]
            except (InvalidInputError, KeyError, TypeError, ValueError):
                break
    return None


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        return file.read()
