"""Handing over: recordings, journal and manifest go to the factory; only its digest frees the local copy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from fleetmill.core import canonical
from fleetmill.core.custody import Posting
from fleetmill.core.errors import (
    ConflictError,
    FleetmillError,
    IntegrityError,
    InvalidInputError,
    TooNewError,
    TrustError,
    UnavailableError,
)
from fleetmill.core.journal import line_of, totals
from fleetmill.core.plain import build, plain
from fleetmill.core.recording import Session
from fleetmill.core.release import Report
from fleetmill.core.signing import content_digest
from fleetmill.device.enrolment import problem, title
from fleetmill.device.identity import Identity
from fleetmill.device.journal import Journal
from fleetmill.device.spool import Spool
from fleetmill.seams.files import write_whole

_CHUNK = 1 << 20
_REFUSED: dict[int, type[FleetmillError]] = {
    httpx.codes.UNAUTHORIZED: TrustError,  # a factory that does not know us, or not at this hour
    httpx.codes.CONFLICT: ConflictError,
    httpx.codes.UNPROCESSABLE_ENTITY: IntegrityError,
}


class Uploader:
    """Speaks to the factory's front door for one device. Every method may be called again."""

    def __init__(self, client: httpx.Client, identity: Identity, number: int) -> None:
        self._client, self._identity, self._number = client, identity, number

    def hand_over(self, journal: Journal, spool: Spool, session: str, settled: Mapping[str, Any]) -> None:
        """Send a settled session; when this returns the factory holds all of it and the local copy is gone.

        Raises:
            UnavailableError: the factory did not answer; call again.
            TrustError: it does not know this device, or not at this hour; nothing is freed.
            IntegrityError, ConflictError, InvalidInputError: it refused; nothing is freed.
        """
        manifest = build(Session, settled["manifest"])
        sent = {p["recording"] for p in journal.postings() if p["to"] == "sent"}
        for ref in manifest.recordings:
            if ref.digest not in sent:
                self._put(spool.clip(session, ref.digest), ref.digest)
                posting = Posting(
                    device=self._number,
                    track=0,
                    start_ns=ref.start_ns,
                    end_ns=ref.end_ns,
                    bytes=ref.bytes,
                    messages=ref.messages,
                    source="kept",
                    to="sent",
                    recording=ref.digest,
                )
                journal.append([("moved", plain(posting))])
        self.send_journal(journal)
        self._post("/v1/sessions", self._identity.statement(settled["manifest"]))
        spool.forget(session)

    def send_journal(self, journal: Journal) -> None:
        """Send what the factory has not posted yet: it says from which entry on."""
        if not journal.entries:
            return
        first = int(self._get("/v1/journal")["entry"]) + 1
        new = journal.entries[first:]
        if new:
            signed = {
                "totals": plain(totals(self._number, journal.entries)),
                "entries": [line_of(e) for e in new],
            }
            self._post("/v1/journal", self._identity.statement(signed))

    def report(self, report: Report) -> None:
        """Say, signed, what became of a release."""
        self._post("/v1/reports", self._identity.statement(plain(report)))

    def _put(self, path: Path, digest: str) -> None:
        answer = self._send(
            "PUT",
            f"/v1/recordings/{digest}",
            content=_chunks(path),
            headers={"Content-Digest": content_digest(digest), "Content-Length": str(path.stat().st_size)},
        )
        if answer.json().get("digest") != digest:  # a refusal, or anybody else's answer, is never a success
            raise IntegrityError(f"recording {digest[:12]}: the factory does not say that it holds these bytes")

    def _post(self, path: str, body: bytes) -> None:
        self._send("POST", path, content=body)

    def _get(self, path: str) -> Any:
        return self._send("GET", path).json()

    def _send(self, method: str, path: str, **more: Any) -> httpx.Response:
        try:
            answer = self._client.request(method, path, **more)
        except httpx.HTTPError as error:
            raise UnavailableError(f"{method} {path}: {type(error).__name__}") from error
        if answer.status_code in (httpx.codes.OK, httpx.codes.CREATED):
            return answer
        what = f"{method} {path}: {problem(answer)}"
        is_older = title(answer) == TooNewError.__name__  # a factory that must be updated first: it will be
        if is_older or answer.status_code >= 500 or answer.status_code in (httpx.codes.TOO_MANY_REQUESTS, 408):
            raise UnavailableError(what)
        raise _REFUSED.get(answer.status_code, InvalidInputError)(what)


class Outbox:
    """Reports that the factory has not taken yet; they survive a power cut and are sent again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, report: Report) -> bool:
        """Keep a report; an equal one is kept once, also after it was sent. True when it is new."""
        self._folder.mkdir(parents=True, exist_ok=True)
        name = canonical.digest(plain(report))[:32]
        if any((self._folder / f"{name}.{ending}").exists() for ending in ("json", "sent")):
            return False
        write_whole(self._folder / f"{name}.json", canonical.dumps(plain(report)))
        return True

    def send(self, uploader: Uploader) -> None:
        """Send every report that was not taken yet, oldest first."""
        waiting = sorted(self._folder.glob("*.json"), key=lambda p: p.stat().st_mtime_ns)
        for path in waiting:
            uploader.report(build(Report, canonical.loads(path.read_bytes())))
            path.rename(path.with_suffix(".sent"))


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
