"""The signed list of what devices may take: a TUF repository in a folder. The rule beside this hand is `trust_rule`.

``timestamp.json`` is the commit point: it names one snapshot by digest, which names one targets file by digest, and it
is written last. So a crash between any two writes leaves the old repository or the new one, and files that nothing
names yet, which the next publish overwrites. Specification: TUF 1.0.34, consistent snapshots (6.2).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]
from securesystemslib.signer import Signature as SslibSignature  # type: ignore[attr-defined]
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (  # type: ignore[attr-defined]
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    Targets,
    Timestamp,
)

from fleetmill.core import canonical
from fleetmill.core.errors import ConflictError, IntegrityError, InvalidInputError, NotFoundError, TrustError
from fleetmill.core.signing import Signature
from fleetmill.release import keys as key_files
from fleetmill.release.forms import COUNTERS, LIFE_NS, expiry, ns, published_of, targets_of
from fleetmill.release.keys import ONLINE, Keys, Role
from fleetmill.release.trust_rule import Published, Target, is_due, merge
from fleetmill.seams.files import sweep, write_whole

_Signed = TypeVar("_Signed", Root, Targets, Snapshot, Timestamp)


@dataclass(frozen=True, kw_only=True, slots=True)
class Versions:
    """Which version of each role's metadata is the published one."""

    root: int
    targets: int
    snapshot: int
    timestamp: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Current:
    """The metadata that timestamp.json leads to, every signature and digest verified."""

    root: Root
    targets: Targets
    snapshot: Snapshot
    timestamp: Timestamp


def create(folder: Path, keys: Path, *, now_ns: int, root_key: Path | None = None) -> bytes:
    """Make the repository in `folder` and its keys in `keys`; gives the newest root, which devices are born with.

    `root_key`: the file that root's key is written to, instead of ``keys/root.pem``. It signs only roots, so it may be
    moved offline once this has returned. May be called again: a half-made repository is completed, a whole one is left
    as it is.

    Raises:
        ConflictError: `folder` holds a repository of other keys, or `root_key` the key of another.
        IntegrityError: what lies in `folder` is damaged.
        UnavailableError: the disk refused.
    """
    keys.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    repository = Repository(folder, keys, root_key)
    with repository._alone():
        if not _root_versions(folder):
            repository._begin(now_ns)
        root = repository.root()
        if not (folder / "timestamp.json").exists():
            repository._fill(now_ns)
    return root


def open_repository(folder: Path, keys: Path) -> Repository:
    """The repository in `folder`. Holds nothing open: each call reads what is there, alone on this machine.

    Raises:
        NotFoundError: there is none; make it with `create`.
        ConflictError: its root names other keys than `keys` holds.
    """
    if not (folder / "timestamp.json").exists():
        raise NotFoundError(f"{folder}: no signed repository here; make one first")
    repository = Repository(folder, keys)
    repository.root()
    return repository


class Repository:
    """Publishes targets under signatures. Safe for several processes: one writes at a time, readers never wait."""

    def __init__(self, folder: Path, keys: Path, root_key: Path | None = None) -> None:
        self._folder, self._keys = folder, Keys(keys, root_key)

    def publish(self, targets: Sequence[Target], *, now_ns: int, retire: Sequence[str] = ()) -> Versions:
        """Add `targets` and drop the paths in `retire`, in one new targets version.

        What is already published changes nothing and gives the same versions. A path that is retired and not there is
        fine. When this returns, the new list is durable; the targets' bytes must be served before it is called.

        Raises:
            InvalidInputError: a target may not be signed.
            ConflictError: a release counter is not above the line's highest, or a path would change its custom.
            IntegrityError: the metadata on disk is damaged.
            UnavailableError: the disk refused; nothing was published.
        """
        with self._alone():
            current = self._current()
            wanted = merge(published_of(current.targets), targets, retire)
            if wanted != published_of(current.targets):
                current = self._commit(current, now_ns, targets=wanted)
            return _versions(current)

    def targets(self) -> dict[str, Target]:
        """What is published now, by path.

        Raises:
            IntegrityError: the metadata on disk is damaged.
        """
        return dict(published_of(self._look().targets).targets)

    def counters(self) -> dict[str, int]:
        """The highest release counter that each line ever had, retired releases included: the next one is above it."""
        return dict(published_of(self._look().targets).counters)

    def versions(self) -> Versions:
        """Which version of each role's metadata is the published one."""
        return _versions(self._look())

    def refresh_timestamp(self, *, now_ns: int) -> Versions:
        """Sign anew what has less than half of its life left; call it every few hours. Nothing due: nothing changes.

        The root and the targets are renewed too where their keys lie in the keys folder.

        Raises:
            IntegrityError: the metadata on disk is damaged.
            UnavailableError: the disk refused.
        """
        with self._alone():
            current = self._current()
            if self._is_due(current.root, "root", now_ns):
                self._renew_root(current.root, now_ns, self._keys.signer("root", current.root.roles["root"].keyids))
            if self._is_due(current.targets, "targets", now_ns):
                current = self._commit(current, now_ns, targets=published_of(current.targets))
            elif self._is_due(current.snapshot, "snapshot", now_ns):
                current = self._commit(current, now_ns)
            elif self._is_due(current.timestamp, "timestamp", now_ns):
                self._stamp(current.timestamp.snapshot_meta, current.timestamp.version + 1, now_ns)
            return _versions(self._current())

    def sign_anew(self, *, now_ns: int) -> Versions:
        """Sign the same list again under higher numbers: what devices believe after somebody has used stolen keys once.

        Raises:
            IntegrityError: the metadata on disk is damaged.
            UnavailableError: the disk refused.
        """
        with self._alone():
            return _versions(self._commit(self._current(), now_ns))

    def renew(self, root_key: Path, *, now_ns: int, replace: Sequence[Role] = ()) -> Versions:
        """Sign root for another life with `root_key`, with new keys for the roles in `replace`; then all below.

        Needs no online key that is replaced: it may be lost, or another's. Killed anywhere it is called again; until
        then devices take nothing new, and lose nothing.

        Raises:
            ConflictError: `root_key` is not the one that root names.
            IntegrityError: the metadata on disk is damaged.
            UnavailableError: the disk refused.
        """
        with self._alone():
            root, _ = self._root()
            signer = key_files.read(root_key)
            if signer.public_key.keyid not in root.roles["root"].keyids:
                raise ConflictError(f"{root_key}: is not the root key that {self._folder} trusts. Give the right one")
            try:
                current = self._under(root)
            except IntegrityError:
                current = self._before() or self._under(root)
            for role in ONLINE:
                self._keys.settle(role, root.roles[role].keyids)
            for role in replace:
                for old in list(root.roles[role].keyids):
                    root.revoke_key(old, role)
                root.add_key(self._keys.draw(role).public_key, role)
            self._renew_root(root, now_ns, signer)
            renewed = self._commit(current, now_ns, targets=published_of(current.targets))
            for role in ONLINE:
                self._keys.settle(role, root.roles[role].keyids)
            return _versions(renewed)

    def go_ahead(self, by: int, *, now_ns: int) -> Versions:
        """Raise every number that devices remember, versions and release counters, by so many.

        For a home that was restored from an older copy: its next list is then newer than what devices have seen since.

        Raises:
            IntegrityError: the metadata on disk is damaged.
            UnavailableError: the disk refused.
        """
        with self._alone():
            current = self._current()
            published = published_of(current.targets)
            counters = {line: counter + by for line, counter in published.counters.items()}
            raised = Published(targets=published.targets, counters=counters)
            return _versions(self._commit(current, now_ns, targets=raised, step=by))

    def expiries(self) -> dict[Role, int]:
        """Until when each role's metadata is good, in ns since 1970.

        Raises:
            IntegrityError: the metadata on disk is damaged.
        """
        c = self._look()
        signed: dict[Role, Root | Targets | Snapshot | Timestamp] = {
            "root": c.root,
            "targets": c.targets,
            "snapshot": c.snapshot,
            "timestamp": c.timestamp,
        }
        return {role: ns(metadata.expires) for role, metadata in signed.items()}

    def key_faults(self) -> dict[Role, str]:
        """Online keys that are missing, damaged, or not the ones that root names; why, by role.

        Raises:
            IntegrityError: root itself is damaged.
        """
        root, _ = self._root()
        found: dict[Role, str] = {}
        for role in ONLINE:
            try:
                self._keys.signer(role, root.roles[role].keyids)
            except (ConflictError, IntegrityError) as error:
                found[role] = str(error)
        return found

    def files(self) -> set[str]:
        """Names of the metadata files that are in force: what timestamp.json leads to, and every root."""
        c = self._look()
        roots = {f"{n}.root.json" for n in _root_versions(self._folder)}
        return {"timestamp.json", f"{c.snapshot.version}.snapshot.json", f"{c.targets.version}.targets.json", *roots}

    def root(self) -> bytes:
        """The newest root's bytes; checks that the keys at hand are the ones that it names.

        Raises:
            ConflictError: an online key is missing or is not the one that root names.
            IntegrityError: the root on disk is damaged.
        """
        root, data = self._root()
        for role in ONLINE:
            self._keys.signer(role, root.roles[role].keyids)
        return data

    def sign_statement(self, data: bytes) -> Signature:
        """Sign something that is no metadata with the targets key. The same bytes have the same signature (RFC 8032).

        No client takes it for metadata, which is an object with a ``_type``: such an object is refused here.

        Raises:
            InvalidInputError: `data` could be taken for metadata, or is no JSON.
            ConflictError: the targets key is not here, or is not the one that root names.
        """
        value = canonical.loads(data)
        if not isinstance(value, dict) or "_type" in value:
            raise InvalidInputError("statement: must be an object without _type, or it could be taken for metadata")
        self.root()
        made = self._keys.signer("targets", self._root()[0].roles["targets"].keyids).sign(data)
        return Signature(keyid=made.keyid, sig=made.signature)

    def verify_statement(self, data: bytes, signature: Signature, *, what: str) -> None:
        """Pass when `signature` is one over `data` by a targets key that this repository's root names, or named once.

        A key that was replaced since still says who signed what in its time.

        Raises:
            TrustError: it is not.
        """
        roots = [self._read(Root, f"{n}.root.json", None) for n in _root_versions(self._folder)]
        root = next((r for r in reversed(roots) if signature.keyid in r.roles["targets"].keyids), None)
        if root is None:
            raise TrustError(f"{what}: key {signature.keyid[:16]} is no targets key of any root. Restore from a copy")
        try:
            root.keys[signature.keyid].verify_signature(SslibSignature(signature.keyid, signature.sig), data)
        except UnverifiedSignatureError as error:
            key = signature.keyid[:16]
            raise TrustError(f"{what}: is not what key {key} signed. Restore the home from a copy") from error

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the repository's lock, also against other processes; the kernel frees it when a holder dies."""
        handle = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            sweep(self._folder)
            self._keys.sweep()
            yield
        finally:
            os.close(handle)

    def _begin(self, now_ns: int) -> None:
        """Make the keys that are missing and the first root. Only for `create`."""
        root = Root(version=1, expires=expiry("root", now_ns), consistent_snapshot=True)
        self._keys.make()
        for role in key_files.ROLES:
            root.add_key(self._keys.signer(role).public_key, role)
        self._write("root", root, self._keys.signer("root"))

    def _fill(self, now_ns: int) -> None:
        """Version 1 of everything below the root. Only for `create`."""
        targets = Targets(version=1, expires=expiry("targets", now_ns), unrecognized_fields={COUNTERS: {}})
        snapshot = Snapshot(version=1, expires=expiry("snapshot", now_ns))
        snapshot.meta["targets.json"] = _named(targets, self._write("targets", targets))
        self._stamp(_named(snapshot, self._write("snapshot", snapshot)), 1, now_ns)

    def _commit(self, current: _Current, now_ns: int, *, targets: Published | None = None, step: int = 1) -> _Current:
        """Targets if they are given, then snapshot, then timestamp: the last write is what makes it so."""
        named = current.snapshot.meta["targets.json"]
        if targets is not None:
            signed = targets_of(targets, version=current.targets.version + step, now_ns=now_ns)
            named = _named(signed, self._write("targets", signed))
        snapshot = Snapshot(
            version=current.snapshot.version + step, expires=expiry("snapshot", now_ns), meta={"targets.json": named}
        )
        self._stamp(_named(snapshot, self._write("snapshot", snapshot)), current.timestamp.version + step, now_ns)
        return self._current()

    def _stamp(self, snapshot: MetaFile, version: int, now_ns: int) -> None:
        timestamp = Timestamp(version=version, expires=expiry("timestamp", now_ns), snapshot_meta=snapshot)
        self._write("timestamp", timestamp)

    def _renew_root(self, root: Root, now_ns: int, signer: CryptoSigner) -> None:
        """This root for another life, signed by the key that signed the one before."""
        root.version, root.expires = root.version + 1, expiry("root", now_ns)
        self._write("root", root, signer)

    def _is_due(self, signed: Root | Targets | Snapshot | Timestamp, role: Role, now_ns: int) -> bool:
        has_key = self._keys.has(role)  # root's, later targets', may be offline
        return has_key and is_due(expires_ns=ns(signed.expires), life_ns=LIFE_NS[role], now_ns=now_ns)

    def _look(self) -> _Current:
        """What is published, without the lock; a renewal that is at work is waited for."""
        try:
            return self._current()
        except IntegrityError:
            with self._alone():
                return self._current()

    def _current(self) -> _Current:
        root, _ = self._root()
        try:
            return self._under(root)
        except IntegrityError:
            if self._before() is None:
                raise
            raise IntegrityError(
                f"{self._folder}: a renewal was cut short. Run again: fleetmill renew --root-key PATH"
            ) from None

    def _before(self) -> _Current | None:
        """What was published under an older root, where a renewal was cut short and nothing is under the newest."""
        for version in reversed(_root_versions(self._folder)[:-1]):
            with suppress(IntegrityError):
                return self._under(self._read(Root, f"{version}.root.json", None))
        return None

    def _under(self, root: Root) -> _Current:
        timestamp = self._read(Timestamp, "timestamp.json", root)
        snapshot = self._read(
            Snapshot, f"{timestamp.snapshot_meta.version}.snapshot.json", root, timestamp.snapshot_meta
        )
        named = snapshot.meta["targets.json"]
        targets = self._read(Targets, f"{named.version}.targets.json", root, named)
        return _Current(root=root, targets=targets, snapshot=snapshot, timestamp=timestamp)

    def _root(self) -> tuple[Root, bytes]:
        name = f"{_root_versions(self._folder)[-1]}.root.json"
        root = self._read(Root, name, None)
        return root, (self._folder / name).read_bytes()

    def _read(self, kind: type[_Signed], name: str, root: Root | None, meta: MetaFile | None = None) -> _Signed:
        try:
            data = (self._folder / name).read_bytes()
            if meta is not None:
                meta.verify_length_and_hashes(data)
            found: Metadata[Any] = Metadata.from_bytes(data)
            signed = found.signed
            if not isinstance(signed, kind):
                raise IntegrityError(f"{self._folder / name}: is {signed.type}, expected {kind.type}")
            judge = signed if isinstance(signed, Root) else root  # a root is signed by its own keys
            assert judge is not None
            judge.verify_delegate(kind.type, found.signed_bytes, found.signatures)
        except (RepositoryError, FileNotFoundError) as error:
            raise IntegrityError(f"{self._folder / name}: {error}; bring the file back from a copy") from error
        return signed

    def _write(self, role: Role, signed: _Signed, signer: CryptoSigner | None = None) -> bytes:
        metadata = Metadata(signed)
        metadata.sign(signer or self._keys.signer(role, self._root()[0].roles[role].keyids))
        data = metadata.to_bytes()
        write_whole(self._folder / ("timestamp.json" if role == "timestamp" else f"{signed.version}.{role}.json"), data)
        return data


def _versions(current: _Current) -> Versions:
    return Versions(
        root=current.root.version,
        targets=current.targets.version,
        snapshot=current.snapshot.version,
        timestamp=current.timestamp.version,
    )


def _named(signed: Targets | Snapshot, data: bytes) -> MetaFile:
    return MetaFile.from_data(signed.version, data, ["sha256"])


def _root_versions(folder: Path) -> list[int]:
    return sorted(int(path.name.partition(".")[0]) for path in folder.glob("[0-9]*.root.json"))
