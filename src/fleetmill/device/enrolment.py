"""How a device comes to its factory: a token once, then a key of its own and the root of trust."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import httpx

from fleetmill.core import canonical
from fleetmill.core.errors import InvalidInputError, NotFoundError, TrustError, UnavailableError
from fleetmill.core.ids import sha256
from fleetmill.core.plain import build, plain
from fleetmill.core.signing import PROTOCOL, PROTOCOL_HEADER
from fleetmill.device.identity import open_identity
from fleetmill.seams.files import write_whole

_FILE = "device.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """What `fleetmill device enrol NAME` prints: it lets one device in, and pins the factory's root of trust."""

    name: str
    secret: str
    root_sha256: str

    def text(self) -> str:
        """One word to copy."""
        return base64.urlsafe_b64encode(canonical.dumps(plain(self))).decode()


@dataclass(frozen=True, kw_only=True, slots=True)
class Enrolled:
    """What a device knows about itself after enrolment."""

    name: str
    number: int
    line: str
    hardware: str
    factory: str  # base URL
    root: str  # the first root metadata, base64


def checked_address(text: str) -> str:
    """A factory's address without a slash at its end.

    Raises:
        InvalidInputError: it is none.
    """
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise InvalidInputError(f"factory {text!r}: must be an address like http://127.0.0.1:8787")
    return text.rstrip("/")


def read_token(text: str) -> Token:
    """The token in `text`.

    Raises:
        InvalidInputError: it is none.
    """
    try:
        return build(Token, canonical.loads(base64.urlsafe_b64decode(text.strip().encode())), "token")
    except (ValueError, InvalidInputError) as error:
        raise InvalidInputError("token: not a token of `fleetmill device enrol`; copy the whole word") from error


def enrol(folder: Path, token: Token, *, factory: str, hardware: str, client: httpx.Client) -> Enrolled:
    """Enrol with the factory and remember it in `folder`; a device that is enrolled is given back as it is.

    Raises:
        TrustError: the factory's root is not the one that the token pins.
        InvalidInputError: the factory refused the token.
        UnavailableError: the factory did not answer.
    """
    if (folder / _FILE).exists():
        return read_enrolled(folder)
    folder.mkdir(parents=True, exist_ok=True)
    identity = open_identity(folder / "key.pem", token.name)
    asked = {
        "name": token.name,
        "secret": token.secret,
        "public_key": identity.public_key,
        "hardware": hardware,
    }
    try:
        answer = client.post("/v1/enrol", content=canonical.dumps(asked), headers={PROTOCOL_HEADER: str(PROTOCOL)})
    except httpx.HTTPError as error:
        raise UnavailableError(f"{factory}: {type(error).__name__}: does not answer. Is it up?") from error
    if answer.status_code != httpx.codes.CREATED:
        raise InvalidInputError(f"{factory}: refused to enrol {token.name}: {problem(answer)}")
    told = answer.json()
    root = base64.b64decode(told["root"])
    if sha256(root) != token.root_sha256:
        raise TrustError(f"{factory}: its root {sha256(root)[:12]} is not the token's {token.root_sha256[:12]}")
    enrolled = build(Enrolled, {**told["device"], "factory": factory, "root": told["root"]}, "enrolment")
    write_whole(folder / _FILE, canonical.dumps(plain(enrolled)))
    return enrolled


def read_enrolled(folder: Path) -> Enrolled:
    """What the device in `folder` knows about itself.

    Raises:
        NotFoundError: it was never enrolled.
    """
    path = folder / _FILE
    if not path.exists():
        raise NotFoundError(f"{folder}: not enrolled. Give the token that `fleetmill device enrol NAME` printed")
    return build(Enrolled, canonical.loads(path.read_bytes()), str(path))


def problem(answer: httpx.Response) -> str:
    """The detail of a problem document (RFC 9457), or the status where the answer is none."""
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"status {answer.status_code}"


def title(answer: httpx.Response) -> str:
    """The title of a problem document: the name of the error; "" where the answer is none."""
    try:
        return str(answer.json()["title"])
    except (ValueError, KeyError, TypeError):
        return ""
