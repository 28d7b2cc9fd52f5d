"""Our signed requests are RFC 9421: another library verifies ours, we verify another library's."""

from __future__ import annotations

import datetime
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from http_message_signatures import HTTPMessageSigner, HTTPMessageVerifier, HTTPSignatureKeyResolver, algorithms
from http_message_signatures.resolvers import HTTPSignatureComponentResolver

from fleetmill.api.identity import Gatekeeper
from fleetmill.core.errors import InvalidInputError, TrustError
from fleetmill.core.fleet import Device
from fleetmill.core.ids import sha256
from fleetmill.core.signing import (
    COVERED,
    LABEL,
    Params,
    content_digest,
    read_content_digest,
    read_params,
    read_signature,
    request_base,
    signature_field,
)
from fleetmill.device.identity import SignedRequests, open_identity
from fleetmill.seams.signatures import verify

URL = "http://factory:8787/v1/wait?timestamp=3&empty="


class Keys(HTTPSignatureKeyResolver):
    def __init__(self, private: Ed25519PrivateKey | None = None, public: str = "") -> None:
        self._private, self._public = private, public

    def resolve_private_key(self, key_id: str) -> Ed25519PrivateKey:
        assert self._private is not None
        return self._private

    def resolve_public_key(self, key_id: str) -> Ed25519PublicKey:
        assert key_id == "d0"
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(self._public))


def signed(tmp_path: Path, method: str, url: str, body: bytes = b"") -> tuple[httpx.Request, str]:
    """A request as our devices sign it, and the device's public key."""
    identity = open_identity(tmp_path / "key.pem", "d0")
    request = httpx.Request(method, url, content=body)
    return next(SignedRequests(identity).auth_flow(request)), identity.public_key


@pytest.mark.parametrize(
    ("method", "url", "body"),
    [
        ("GET", URL, b""),
        ("POST", "http://factory/v1/journal", b'{"signed":{}}'),
        ("PUT", "http://factory/v1/recordings/" + "a" * 64, b"mcap"),
    ],
)
def test_another_library_verifies_what_our_device_signed(tmp_path: Path, method: str, url: str, body: bytes) -> None:
    request, public = signed(tmp_path, method, url, body)
    verifier = HTTPMessageVerifier(
        signature_algorithm=algorithms.ED25519,
        key_resolver=Keys(public=public),
        component_resolver_class=HTTPSignatureComponentResolver,
    )

    (result,) = verifier.verify(request, max_age=datetime.timedelta(seconds=60))

    assert result.label == LABEL
    assert result.parameters["keyid"] == "d0"
    assert {name.split(";")[0].strip('"') for name in result.covered_components} >= set(COVERED)
    assert read_content_digest(request.headers["content-digest"]) == sha256(body)


def test_we_verify_what_another_library_signed(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    request = httpx.Request("POST", URL, content=b"body")
    request.headers["Content-Digest"] = content_digest(sha256(b"body"))
    signer = HTTPMessageSigner(signature_algorithm=algorithms.ED25519, key_resolver=Keys(private=key))

    signer.sign(
        request, key_id="d0", label=LABEL, nonce="0" * 32, include_alg=True, covered_component_ids=COVERED,
        use_existing_digest=True,
        created=datetime.datetime.fromtimestamp(1_800_000_000),
    )  # fmt: skip

    label, _, value = request.headers["Signature-Input"].partition("=")
    params = read_params(f"{label}={value}")
    base = request_base(
        params,
        method="POST",
        path="/v1/wait",
        query="timestamp=3&empty=",
        digest_field=request.headers["Content-Digest"],
    )
    verify(key.public_key().public_bytes_raw().hex(), base, read_signature(request.headers["Signature"]), what="it")
    assert (params.key, params.nonce, params.created) == ("d0", "0" * 32, 1_800_000_000)


def test_the_base_is_that_of_the_specification() -> None:
    params = Params(created=1, nonce="0" * 32, key="d0")

    base = request_base(params, method="get", path="/a", query="", digest_field="sha-256=:x=:")

    assert base.decode().splitlines() == [
        '"@method": GET',
        '"@path": /a',
        '"@query": ?',
        '"content-digest": sha-256=:x=:',
        f'"@signature-params": {params.text()}',
    ]
    assert read_params(f"{LABEL}={params.text()}") == params
    assert read_signature(signature_field(bytes(64))) == bytes(64)


@pytest.mark.parametrize(
    "field",
    [
        "",
        'fleet=("@method");created=1;nonce="0";keyid="d0";alg="ed25519"',
        'fleet=("@method" "@path" "@query" "content-digest");created=1;keyid="d0";alg="ed25519"',
        'fleet=("@method" "@path" "@query" "content-digest");created=-1;nonce="{0}";keyid="d0";alg="ed25519"',
        'fleet=("@method" "@path" "@query" "content-digest");created=1;nonce="{0}";keyid="d0";alg="hmac-sha256"',
        'other=("@method" "@path" "@query" "content-digest");created=1;nonce="{0}";keyid="d0";alg="ed25519"',
    ],
)
def test_a_signature_that_covers_less_or_otherwise_is_refused(field: str) -> None:
    with pytest.raises(InvalidInputError, match="Signature-Input: must be"):
        read_params(field.format("0" * 32))


@pytest.mark.parametrize("field", ["", "sha-512=:AA==:", "sha-256=AA==", "sha-256=:AA==:"])
def test_a_digest_field_of_another_kind_is_refused(field: str) -> None:
    with pytest.raises(InvalidInputError, match="Content-Digest"):
        read_content_digest(field)


class Asked:
    """What the gatekeeper looks at of a request."""

    def __init__(self, request: httpx.Request) -> None:
        self.method, self.headers, self.url = request.method, request.headers, self
        raw, _, self.query = request.url.raw_path.decode().partition("?")
        self.path, self.scope = raw, {"raw_path": raw.encode()}


def a_gate(public: str, now: float) -> Gatekeeper:
    device = Device(name="d0", number=0, line="tiny", hardware="cpu", public_key=public)
    return Gatekeeper(lambda name: device, clock=lambda: now)


def test_the_gate_lets_a_request_in_once_while_it_is_fresh_and_as_it_was_signed(tmp_path: Path) -> None:
    request, public = signed(tmp_path, "POST", URL, b"body")
    created = read_params(request.headers["signature-input"]).created
    gate = a_gate(public, created + 200.0)

    device, digest = gate.device(Asked(request))  # type: ignore[arg-type]

    assert (device.name, digest) == ("d0", sha256(b"body"))
    with pytest.raises(TrustError, match="its nonce is used"):
        gate.device(Asked(request))  # type: ignore[arg-type]
    with pytest.raises(TrustError, match="Set its clock"):
        a_gate(public, created + 301.0).device(Asked(request))  # type: ignore[arg-type]
    for name, value in (("method", "PUT"), ("query", "timestamp=4"), ("path", "/v1/journal")):
        asked = Asked(request)
        setattr(asked, name, value)
        asked.scope = {"raw_path": asked.path.encode()}
        with pytest.raises(TrustError, match="not signed by the key"):
            a_gate(public, created).device(asked)  # type: ignore[arg-type]
    for name in ("signature", "signature-input", "content-digest"):
        asked = Asked(request)
        asked.headers = httpx.Headers({k: v for k, v in request.headers.items() if k != name})
        with pytest.raises(TrustError, match=f"{name} is missing"):
            a_gate(public, created).device(asked)  # type: ignore[arg-type]
