"""One suite for every store of bytes."""

from __future__ import annotations

import pytest

from fleetmill.core.errors import IntegrityError, InvalidInputError, NotFoundError
from fleetmill.core.ids import sha256
from fleetmill.seams.blobs import FolderBlobs, MemoryBlobs


@pytest.fixture(params=[FolderBlobs, MemoryBlobs], ids=lambda c: c.__name__)
def blobs(request, tmp_path):
    return request.param(tmp_path)


def test_putting_the_same_bytes_twice_keeps_one(blobs):
    first, second = blobs.put(b"abc"), blobs.put(b"abc")

    assert first == second == sha256(b"abc")
    assert list(blobs) == [first]
    assert blobs.get(first) == blobs.path(first).read_bytes() == b"abc"


def test_a_stream_with_another_digest_leaves_nothing(blobs, tmp_path):
    with pytest.raises(IntegrityError, match="Send it again"):
        blobs.put_stream([b"ab", b"d"], sha256(b"abc"))

    assert list(blobs) == []
    assert not blobs.has(sha256(b"abc"))
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_what_is_not_here_is_not_found(blobs):
    with pytest.raises(NotFoundError):
        blobs.get(sha256(b"nothing"))
    with pytest.raises(InvalidInputError, match="64 lower-case hex"):
        blobs.get("../../etc/passwd")


def test_a_stream_that_breaks_leaves_nothing(blobs, tmp_path):
    def broken():
        yield b"ab"
        raise EOFError

    with pytest.raises(EOFError):
        blobs.put_stream(broken(), sha256(b"abc"))

    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
