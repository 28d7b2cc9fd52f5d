"""A device takes what the factory signed and nothing else; the factory here is the real one, the wire is in process."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import httpx
import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from fleetmill.core.errors import IntegrityError, TrustError, UnavailableError
from fleetmill.core.ids import sha256
from fleetmill.device.slots import Slots, open_slots
from fleetmill.device.slots_rule import Seen, rolled_back
from fleetmill.device.update import download, refresh
from fleetmill.device.update_rule import (
    Machine,
    Reason,
    Release,
    SignedFile,
    SignedTarget,
    choose,
)
from fleetmill.release.keys import Keys
from fleetmill.release.trust import Repository, create, open_repository
from fleetmill.release.trust_rule import Target
from killing import every_death, watched

NOW = 1_800_000_000 * 10**9
HOUR = 3600 * 10**9
DAY = 24 * HOUR
META, BYTES = "http://factory/meta/", "http://factory/bytes/"
MODEL, GOLDEN = b"model" * 20_000, b"golden" * 100
MACHINE = Machine(line="driving", hardware="pi5", io_contract_sha256=sha256(b"io"))


def files_of(counter: int, *, model: bytes = MODEL, golden: bytes = GOLDEN, **custom: Any) -> list[Target]:
    fields = {
        "release_counter": counter,
        "line": "driving",
        "hardware": ["pi5", "x86"],
        "io_contract_sha256": sha256(b"io"),
        "model": sha256(model),
        "golden_sha256": sha256(golden),
        "tolerance": "0.0001",
        "latency_ns": 5_000_000,
        "memory_bytes": 64 << 20,
        **custom,
    }
    return [
        Target(path=f"models/{sha256(data)}/{name}", length=len(data), sha256=sha256(data), custom=extra)
        for name, data, extra in (("model.onnx", model, fields), ("golden.npz", golden, {}))
    ]


class Factory:
    """The real repository behind an in-process wire that an attacker may bend."""

    def __init__(self, home: Path) -> None:
        self.folder, self.keys = home / "trust", home / "keys"
        self.root = create(self.folder, self.keys, now_ns=NOW)
        self.blobs: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.bend: Callable[[httpx.Request], httpx.Response | None] = lambda request: None
        self.client = httpx.Client(transport=httpx.MockTransport(self.answer))

    @property
    def repository(self) -> Repository:
        return open_repository(self.folder, self.keys)

    def publish(self, *targets: Target, now_ns: int = NOW, **kwargs: Any) -> None:
        self.repository.publish(targets, now_ns=now_ns, **kwargs)

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append((request.url.path, request.headers.get("Range")))
        if (bent := self.bend(request)) is not None:
            return bent
        _, kind, path = request.url.path.split("/", 2)
        if kind == "bytes":
            return ranged(self.blobs.get(path), request)
        data = self.folder / path
        return httpx.Response(200, content=data.read_bytes()) if data.is_file() else httpx.Response(404)


def ranged(data: bytes | None, request: httpx.Request) -> httpx.Response:
    if data is None:
        return httpx.Response(404)
    if "Range" not in request.headers:
        return httpx.Response(200, content=data)
    start = int(request.headers["Range"].removeprefix("bytes=").removesuffix("-"))
    if start >= len(data):
        return httpx.Response(416, headers={"Content-Range": f"bytes */{len(data)}"})
    return httpx.Response(
        206, content=data[start:], headers={"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
    )


@pytest.fixture
def factory(tmp_path: Path) -> Iterator[Factory]:
    found = Factory(tmp_path / "factory")
    with found.client:
        yield found


@pytest.fixture
def slots(tmp_path: Path) -> Iterator[Slots]:
    with open_slots(tmp_path / "device") as found:
        yield found


@pytest.fixture
def look(factory: Factory, slots: Slots, tmp_path: Path) -> Callable[..., tuple[SignedTarget, ...]]:
    def look(now_ns: int = NOW, **changed: Any) -> tuple[SignedTarget, ...]:
        known = {"url": META, "cache": tmp_path / "cache", "bootstrap": factory.root, "memory": slots}
        return refresh(factory.client, now_ns=now_ns, **{**known, **changed})

    return look


Look = Callable[..., tuple[SignedTarget, ...]]


def serve_old(factory: Factory, tmp_path: Path) -> Callable[[], None]:
    """Remember the repository as it is; calling the result makes the wire serve that for ever."""
    copytree(factory.folder, tmp_path / "old")

    def replay() -> None:
        factory.folder = tmp_path / "old"

    return replay


# Metadata


def test_a_device_sees_what_was_signed(factory: Factory, look: Look, slots: Slots) -> None:
    factory.publish(*files_of(1))

    found = look()

    assert {(t.path, t.length, t.sha256) for t in found} == {(t.path, t.length, t.sha256) for t in files_of(1)}
    assert [t.custom.get("release_counter") for t in found if t.name == "model.onnx"] == [1]
    assert (slots.state.seen.targets, slots.state.time_ns) == (2, NOW)


def test_nothing_new_costs_two_requests(factory: Factory, look: Look) -> None:
    look()
    factory.asked.clear()

    look(NOW + HOUR)

    assert [path for path, _ in factory.asked] == ["/meta/2.root.json", "/meta/timestamp.json"]


def test_only_python_tuf_parses_metadata(factory: Factory, look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    callers: set[str] = set()

    def watched(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            callers.add(sys._getframe(1).f_globals["__name__"])
            return real(*args, **kwargs)

        return call

    factory.publish(*files_of(1))
    monkeypatch.setattr(json, "loads", watched(json.loads))
    monkeypatch.setattr(Metadata, "from_bytes", watched(Metadata.from_bytes))
    look()

    assert callers == {"tuf.ngclient._internal.trusted_metadata_set", "tuf.api.serialization.json"}


def test_metadata_of_another_key_is_refused(factory: Factory, look: Look, slots: Slots, tmp_path: Path) -> None:
    factory.publish(*files_of(1))
    look()
    before = slots.state
    attacker = Factory(tmp_path / "attacker")
    attacker.publish(*files_of(9, model=b"evil"))
    attacker.publish(*files_of(10, model=b"eviler"))
    factory.folder = attacker.folder

    with pytest.raises(TrustError, match="not signed by enough of the right keys: timestamp was signed by 0/1 keys"):
        look()
    assert slots.state == before


def test_another_root_is_refused_also_by_a_device_that_is_new(factory: Factory, look: Look, tmp_path: Path) -> None:
    attacker = Factory(tmp_path / "attacker")

    with pytest.raises(TrustError, match="not signed"):
        look(bootstrap=attacker.root)


def test_a_frozen_list_is_believed_for_a_day_and_no_longer(factory: Factory, look: Look, tmp_path: Path) -> None:
    factory.publish(*files_of(1))
    freeze = serve_old(factory, tmp_path)
    factory.publish(*files_of(2, model=b"fixed"), now_ns=NOW + HOUR)
    freeze()

    assert {t.custom.get("release_counter") for t in look(NOW + 23 * HOUR)} == {1, None}
    with pytest.raises(TrustError, match=r"expired: timestamp\.json is expired"):
        look(NOW + 25 * HOUR)


def test_setting_the_clock_back_does_not_revive_an_expired_list(factory: Factory, look: Look) -> None:
    look()
    factory.repository.refresh_timestamp(now_ns=NOW + 2 * DAY)
    look(NOW + 2 * DAY + HOUR)

    assert look(0) == ()  # 1970: judged at the time of the last good answer, when this list was valid
    factory.publish(*files_of(1), now_ns=NOW)  # newer, but its day was over before
    with pytest.raises(TrustError, match="expired"):
        look(0)


def test_a_clock_far_ahead_is_not_remembered(factory: Factory, look: Look, slots: Slots) -> None:
    look()
    with pytest.raises(TrustError, match="or this clock is wrong"):
        look(NOW + 365 * DAY)

    assert slots.state.time_ns == NOW
    assert look(NOW + HOUR) == ()


@pytest.mark.parametrize("lost", ["nothing", "the cache", "a torn cache"])
def test_older_metadata_is_refused(factory: Factory, look: Look, tmp_path: Path, lost: str) -> None:
    factory.publish(*files_of(1))
    replay = serve_old(factory, tmp_path)
    factory.publish(*files_of(2, model=b"fixed"))
    look()
    replay()
    if lost == "the cache":
        rmtree(tmp_path / "cache")
    if lost == "a torn cache":
        for path in (tmp_path / "cache").rglob("*.json"):
            path.write_bytes(b"")

    with pytest.raises(TrustError, match="rolled back"):
        look()


def sign(factory: Factory, role: str, signed: Any) -> bytes:
    metadata = Metadata(signed)
    metadata.sign(
        CryptoSigner.from_priv_key_uri(f"file2:{factory.keys / role}.pem", None) if False else key(factory, role)
    )
    data = metadata.to_bytes()
    name = "timestamp.json" if role == "timestamp" else f"{signed.version}.{role}.json"
    (factory.folder / name).write_bytes(data)
    return data


def key(factory: Factory, role: str) -> CryptoSigner:
    return Keys(factory.keys).signer(role)  # type: ignore[arg-type]


def test_a_thief_of_the_online_keys_cannot_bring_back_old_targets(factory: Factory, look: Look) -> None:
    factory.publish(*files_of(1))
    factory.publish(*files_of(2, model=b"fixed"))
    look()
    later = datetime.fromtimestamp(NOW / 1e9, tz=timezone.utc) + timedelta(hours=5)
    old = MetaFile.from_data(2, (factory.folder / "2.targets.json").read_bytes(), ["sha256"])
    snapshot = sign(factory, "snapshot", Snapshot(version=9, expires=later, meta={"targets.json": old}))
    meta = MetaFile.from_data(9, snapshot, ["sha256"])
    sign(factory, "timestamp", Timestamp(version=9, expires=later, snapshot_meta=meta))

    with pytest.raises(TrustError, match=r"rolled back: Expected targets\.json version"):
        look()


def test_new_online_keys_under_a_new_root_end_a_lockout_by_huge_versions(
    factory: Factory, look: Look, slots: Slots
) -> None:
    later = datetime.fromtimestamp(NOW / 1e9, tz=timezone.utc) + timedelta(days=30)
    root_key = key(factory, "root")
    look()
    named = MetaFile.from_data(1, (factory.folder / "1.targets.json").read_bytes(), ["sha256"])
    huge = 2**40
    for version in (huge, 2):
        if version == 2:  # the owner answers: new online keys, a new root, versions that begin anew
            root = Metadata[Root].from_bytes(factory.root).signed
            for role in ("snapshot", "timestamp"):
                (factory.keys / f"{role}.pem").write_bytes(CryptoSigner.generate_ed25519().private_bytes)
                root.revoke_key(root.roles[role].keyids[0], role)
                root.add_key(key(factory, role).public_key, role)
            root.version = 2
            metadata = Metadata(root)
            metadata.sign(root_key)
            (factory.folder / "2.root.json").write_bytes(metadata.to_bytes())
        snapshot = sign(factory, "snapshot", Snapshot(version=version, expires=later, meta={"targets.json": named}))
        meta = MetaFile.from_data(version, snapshot, ["sha256"])
        sign(factory, "timestamp", Timestamp(version=version, expires=later, snapshot_meta=meta))
        look()
        assert slots.state.seen.timestamp == version


def test_an_older_root_is_refused() -> None:
    known = Seen(root=2, timestamp=5, snapshot=5, targets=5, keys=b"new.keys")

    assert "root version 1" in str(rolled_back(known, Seen(root=1, timestamp=9, snapshot=9, targets=9)))
    assert "targets version 4" in str(
        rolled_back(known, Seen(root=3, timestamp=9, snapshot=9, targets=4, keys=b"new.keys"))
    )


def test_metadata_without_an_end_is_cut_off(factory: Factory, look: Look) -> None:
    factory.bend = lambda request: httpx.Response(200, content=(b"x" * 65536 for _ in range(10**9)))

    with pytest.raises(IntegrityError, match="too long"):
        look()


@pytest.mark.parametrize(
    ("answer", "error", "fact"),
    [
        (httpx.Response(503), UnavailableError, "status 503"),
        (httpx.Response(302, headers={"Location": "http://elsewhere/"}), UnavailableError, "status 302"),
        (
            httpx.Response(200, content=b"<html>hotel login</html>"),
            IntegrityError,
            "Failed to deserialize JSON",
        ),
    ],
)
def test_what_is_no_metadata_is_told_apart(
    factory: Factory, look: Look, answer: httpx.Response, error: type[Exception], fact: str
) -> None:
    factory.bend = lambda request: answer if request.url.path.endswith("timestamp.json") else None

    with pytest.raises(error, match=fact) as raised:
        look()
    assert "\n" not in str(raised.value)
    assert type(raised.value) is error


def test_no_network_is_not_an_attack(factory: Factory, look: Look) -> None:
    def gone(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no route to host")

    factory.bend = gone
    with pytest.raises(UnavailableError, match="ConnectError: no route to host"):
        look()


def test_a_refresh_that_was_killed_anywhere_is_done_again(factory: Factory, tmp_path: Path) -> None:
    factory.publish(*files_of(1))

    def look(nth: int) -> tuple[SignedTarget, ...]:
        with open_slots(tmp_path / f"device-{nth}") as slots:
            cache = tmp_path / f"cache-{nth}"
            return refresh(
                factory.client, url=META, cache=cache, bootstrap=factory.root, memory=slots, now_ns=NOW + DAY // 2
            )

    for nth in every_death(look):
        assert len(look(nth)) == 2


# Bytes


def file_of(data: bytes, **changed: Any) -> SignedFile:
    known = {"path": f"models/{sha256(data)}/m", "name": "m", "length": len(data), "sha256": sha256(data)}
    return SignedFile(**{**known, **changed})


@pytest.fixture
def fetch(factory: Factory, tmp_path: Path) -> Callable[[SignedFile], Path]:
    factory.blobs[file_of(MODEL).path] = MODEL
    (tmp_path / "into").mkdir()
    return lambda file: download(factory.client, url=BYTES, file=file, into=tmp_path / "into")


Fetch = Callable[[SignedFile], Path]


def test_a_download_is_whole_or_not_there(fetch: Fetch, factory: Factory) -> None:
    with watched() as effects:
        path = fetch(file_of(MODEL))

    assert [effect for effect in effects if effect != "replace"] == ["fsync", "open", "fsync"]
    assert path.read_bytes() == MODEL
    assert [p.name for p in path.parent.iterdir()] == ["m"]
    assert fetch(file_of(MODEL)) == path
    assert len(factory.asked) == 1


def test_a_file_that_changed_on_the_disk_is_fetched_anew(fetch: Fetch, factory: Factory) -> None:
    fetch(file_of(MODEL)).write_bytes(b"changed")

    assert fetch(file_of(MODEL)).read_bytes() == MODEL
    assert len(factory.asked) == 2


def test_bytes_that_were_changed_on_the_wire_are_dropped(fetch: Fetch, factory: Factory, tmp_path: Path) -> None:
    factory.blobs[file_of(MODEL).path] = MODEL[:-1] + b"!"

    with pytest.raises(IntegrityError, match=r"SHA-256 .* signed is"):
        fetch(file_of(MODEL))
    assert list((tmp_path / "into").iterdir()) == []


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("off", [-1, 1])
def test_the_right_digest_with_a_wrong_length_is_refused(
    fetch: Fetch, factory: Factory, off: int, chunked: bool
) -> None:
    if chunked:
        factory.bend = lambda r: httpx.Response(200, content=iter([MODEL])) if "Range" not in r.headers else None
    wrong = file_of(MODEL, length=len(MODEL) + off)
    if chunked and off > 0:  # an answer of unknown length that ends early may be a broken line: asked once more
        with pytest.raises(UnavailableError, match="call again"):
            fetch(wrong)

    with pytest.raises(IntegrityError, match="signed"):
        fetch(wrong)


def cut_after(size: int) -> httpx.Response:
    def body() -> Iterator[bytes]:
        yield MODEL[:size]
        raise httpx.ReadError("connection reset")

    return httpx.Response(200, content=body(), headers={"Content-Length": str(len(MODEL))})


def cut_once(factory: Factory, size: int) -> None:
    answers = [cut_after(size)]
    factory.bend = lambda request: answers.pop() if answers else None


def test_a_cut_download_goes_on_where_it_ended(fetch: Fetch, factory: Factory) -> None:
    cut_once(factory, 70_000)
    with pytest.raises(UnavailableError, match="connection reset"):
        fetch(file_of(MODEL))

    assert fetch(file_of(MODEL)).read_bytes() == MODEL
    assert [asked for _, asked in factory.asked] == [None, "bytes=70000-"]


def test_a_server_that_knows_no_ranges_sends_all_again(fetch: Fetch, factory: Factory) -> None:
    cut_once(factory, 70_000)
    with pytest.raises(UnavailableError):
        fetch(file_of(MODEL))
    factory.bend = lambda request: httpx.Response(200, content=MODEL)

    assert fetch(file_of(MODEL)).read_bytes() == MODEL


@pytest.mark.parametrize("torn", [bytes(70_000), bytes(len(MODEL)), bytes(len(MODEL) + 5)])
def test_a_piece_that_a_power_cut_tore_is_fetched_anew(fetch: Fetch, tmp_path: Path, torn: bytes) -> None:
    (tmp_path / "into" / "m.part").write_bytes(torn)

    assert fetch(file_of(MODEL)).read_bytes() == MODEL


def test_a_download_that_was_killed_anywhere_is_done_again(factory: Factory, tmp_path: Path) -> None:
    factory.blobs[file_of(MODEL).path] = MODEL

    def fetch(nth: int) -> Path:
        (tmp_path / str(nth)).mkdir(exist_ok=True)
        return download(factory.client, url=BYTES, file=file_of(MODEL), into=tmp_path / str(nth))

    for nth in every_death(fetch, before=lambda nth: (tmp_path / str(nth)).mkdir()):
        whole = tmp_path / str(nth) / "m"
        assert not whole.exists() or whole.read_bytes() == MODEL
        assert fetch(nth).read_bytes() == MODEL


# The rule


def offer(*targets: Target) -> list[SignedTarget]:
    return [SignedTarget(path=t.path, length=t.length, sha256=t.sha256, custom=t.custom) for t in targets]


def machine(**changed: Any) -> Machine:
    known = {name: getattr(MACHINE, name) for name in ("line", "hardware", "io_contract_sha256")}
    return Machine(**{**known, **changed})


def release_of(counter: int, **kwargs: Any) -> Release:
    release = choose(offer(*files_of(counter, **kwargs)), MACHINE).install
    assert release is not None
    return release


def test_the_highest_counter_that_fits_is_taken() -> None:
    targets = [*files_of(1), *files_of(3, model=b"c"), *files_of(2, model=b"b"), *files_of(9, model=b"d", line="arm")]

    decision = choose(offer(*targets), MACHINE)

    assert decision.install is not None
    assert decision.install.counter == 3
    assert [file.name for file in decision.install.files] == ["golden.npz", "model.onnx"]
    assert decision.install.tolerance == 0.0001
    assert sorted(r.reason.value for r in decision.refusals) == ["other line", "superseded", "superseded"]


@pytest.mark.parametrize(
    ("changed", "reason", "fact"),
    [
        ({"line": "arm"}, Reason.OTHER_LINE, "release 5 is for driving, this is arm"),
        ({"hardware": "jetson"}, Reason.OTHER_HARDWARE, "release 5 is for pi5, x86, this is jetson"),
        ({"io_contract_sha256": sha256(b"new")}, Reason.OTHER_IO_CONTRACT, "release 5 speaks"),
        ({"highest_counter": 5}, Reason.OLDER, "release 5 of line driving is not above 5"),
        ({"highest_counter": 7}, Reason.OLDER, "release 5 of line driving is not above 7"),
        ({"highest_counter": 5, "installed": release_of(5).digest}, Reason.INSTALLED, "release 5 is what runs"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(changed: dict[str, Any], reason: Reason, fact: str) -> None:
    decision = choose(offer(*files_of(5)), machine(**changed))

    assert decision.install is None
    assert decision.has(reason)
    assert fact in decision.refusals[0].detail


def test_an_unfinished_trial_may_be_taken_again_though_its_counter_is_not_news() -> None:
    digest = release_of(5).digest

    assert choose(offer(*files_of(5)), machine(highest_counter=5, unfinished=digest)).install == release_of(5)


@pytest.mark.parametrize(
    "custom",
    [
        {"tolerance": "much"},
        {"tolerance": "inf"},
        {"release_counter": 2**64},
        {"latency_ns": "5"},
        {"memory_bytes": None},
        {"hardware": "pi5"},
        {"line": "A/B"},
        {"files": ["x"]},
    ],
)
def test_signed_nonsense_is_refused_and_hurts_nothing_else(custom: dict[str, Any]) -> None:
    decision = choose(offer(*files_of(5, model=b"x", **custom), *files_of(2)), MACHINE)

    assert decision.install == release_of(2)
    assert decision.has(Reason.MALFORMED)


def test_a_release_without_its_golden_frames_is_refused() -> None:
    assert choose(offer(files_of(1)[0]), MACHINE).has(Reason.MALFORMED)


def test_a_signed_name_cannot_leave_its_slot() -> None:
    model, golden = offer(*files_of(1))
    custom = {**model.custom, "files": {"../../state.a": golden.sha256}}
    evil = SignedTarget(path=model.path, length=model.length, sha256=model.sha256, custom=custom)

    assert choose([golden, evil], MACHINE).has(Reason.MALFORMED)


def test_two_releases_may_share_a_file() -> None:
    words = Target(path=f"models/{sha256(b'words')}/tokenizer.json", length=5, sha256=sha256(b"words"))
    files = {"tokenizer.json": words.sha256}

    decision = choose(offer(words, *files_of(1, files=files), *files_of(2, model=b"b", files=files)), MACHINE)

    assert decision.install is not None
    assert [file.name for file in decision.install.files] == ["golden.npz", "model.onnx", "tokenizer.json"]
    assert choose(offer(*files_of(1, files=files)), MACHINE).has(Reason.MALFORMED)


def test_a_release_is_read_back_as_it_was_written() -> None:
    assert Release.from_bytes(release_of(1).to_bytes()) == release_of(1)


# All together


def install(factory: Factory, slots: Slots, look: Look) -> Release | None:
    """What the agent will do: look, choose, fetch, stage, try, flip."""
    counters, state = slots.state.counters, slots.state
    here = machine(highest_counter=counters.get("driving", 0), installed=state.active, unfinished=state.unfinished)
    release = choose(look(), here).install
    if release is not None:
        for file in release.files:
            download(factory.client, url=BYTES, file=file, into=slots.fetching(release))
        slots.stage(release)
        slots.begin_trial(release)
        slots.confirm(release.digest)
    return release


def test_an_older_release_under_newer_metadata_is_refused(factory: Factory, slots: Slots, look: Look) -> None:
    factory.blobs.update(zip((t.path for t in files_of(1, model=b"new")), (b"new", GOLDEN)))
    factory.publish(*files_of(2, model=b"new"))
    assert install(factory, slots, look) is not None
    # the factory's own rule is gone round: signed with the real keys, as a thief of all online keys would
    expires = datetime.fromtimestamp(NOW / 1e9, tz=timezone.utc) + timedelta(hours=5)
    targets = Metadata[Targets].from_bytes((factory.folder / "2.targets.json").read_bytes()).signed
    for file in targets.targets.values():
        if file.custom:
            file.unrecognized_fields["custom"]["release_counter"] = 1
    targets.version, targets.expires = 9, expires
    named = MetaFile.from_data(9, sign(factory, "targets", targets), ["sha256"])
    snapshot = sign(factory, "snapshot", Snapshot(version=9, expires=expires, meta={"targets.json": named}))
    meta = MetaFile.from_data(9, snapshot, ["sha256"])
    sign(factory, "timestamp", Timestamp(version=9, expires=expires, snapshot_meta=meta))

    decision = choose(look(), machine(highest_counter=slots.state.counters["driving"], installed=slots.state.active))

    assert decision.install is None
    assert decision.has(Reason.OLDER)
    assert install(factory, slots, look) is None


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_it_works_through_a_real_server(factory: Factory, slots: Slots, tmp_path: Path) -> None:
    factory.publish(*files_of(1))
    for target, data in zip(files_of(1), (MODEL, GOLDEN)):
        path = factory.folder / target.path
        path.parent.mkdir(parents=True)
        path.write_bytes(data)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(factory.folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/"
        with httpx.Client(trust_env=False) as client:
            known = {"url": url, "cache": tmp_path / "cache", "bootstrap": factory.root, "memory": slots}
            release = choose(refresh(client, now_ns=NOW, **known), MACHINE).install
            assert release is not None
            for file in release.files:
                download(client, url=url, file=file, into=slots.fetching(release))
        server.shutdown()
        thread.join()

    assert (slots.stage(release) / "model.onnx").read_bytes() == MODEL
