"""The signed repository, seen by an independent python-tuf client."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import Metadata, Root
from tuf.ngclient import FetcherInterface, Updater

from fleetmill.core.errors import ConflictError, IntegrityError, InvalidInputError, NotFoundError, UnavailableError
from fleetmill.core.ids import sha256
from fleetmill.core.line import Judging, Line, ModelSpec
from fleetmill.release.keys import ROLES
from fleetmill.release.trust import LIFE_NS, Repository, Versions, create, open_repository
from fleetmill.release.trust_rule import Published, Target, merge, release_custom
from killing import every_death

NOW = 1_800_000_000 * 10**9
HOUR = 3600 * 10**9
DAY = 24 * HOUR


def release(counter: int, *, line: str = "driving", data: bytes = b"model", **custom: Any) -> Target:
    fields = {
        "release_counter": counter,
        "line": line,
        "hardware": ["pi5"],
        "io_contract_sha256": sha256(b"io"),
        "model": sha256(data),
        "golden_sha256": sha256(b"golden"),
        "tolerance": "0.0001",
        "latency_ns": 5_000_000,
        "memory_bytes": 64 << 20,
        **custom,
    }
    return Target(path=f"models/{sha256(data)}/model.onnx", length=len(data), sha256=sha256(data), custom=fields)


def campaign(data: bytes, **custom: Any) -> Target:
    return Target(path=f"campaigns/{sha256(data)}/c.json", length=len(data), sha256=sha256(data), custom=custom)


GOLDEN = Target(path=f"models/{sha256(b'golden')}/golden.npz", length=6, sha256=sha256(b"golden"))


class FolderFetcher(FetcherInterface):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = self.folder / url.rpartition("/")[2]
        if not path.exists():
            raise DownloadHTTPError("not there", 404)
        return iter([path.read_bytes()])


def client_sees(folder: Path, cache: Path, root: bytes, *, now_ns: int = NOW) -> set[str]:
    cache.mkdir(exist_ok=True)
    updater = Updater(str(cache), "http://x/", fetcher=FolderFetcher(folder), bootstrap=root)
    updater._trusted_set.reference_time = datetime.fromtimestamp(now_ns / 1e9, tz=timezone.utc)
    updater.refresh()
    return set(updater._trusted_set.targets.targets)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "trust"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def repository(folder: Path, keys: Path) -> Repository:
    create(folder, keys, now_ns=NOW)
    return open_repository(folder, keys)


def test_a_new_repository_has_four_keys_that_nobody_else_can_read(folder: Path, keys: Path) -> None:
    root = Metadata[Root].from_bytes(create(folder, keys, now_ns=NOW)).signed

    assert {path.name: path.stat().st_mode & 0o777 for path in keys.iterdir()} == {f"{r}.pem": 0o600 for r in ROLES}
    assert len({keyid for role in root.roles.values() for keyid in role.keyids}) == 4
    assert {key.keytype for key in root.keys.values()} == {"ed25519"}
    assert root.consistent_snapshot
    assert all((keys / f"{role}.pem").read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----") for role in ROLES)


def test_making_it_again_changes_nothing(folder: Path, keys: Path) -> None:
    root = create(folder, keys, now_ns=NOW)
    before = files(folder)

    assert create(folder, keys, now_ns=NOW + HOUR) == root
    assert files(folder) == before


def test_a_repository_whose_making_was_killed_anywhere_is_completed(tmp_path: Path) -> None:
    def home(nth: int) -> tuple[Path, Path]:
        (tmp_path / str(nth)).mkdir(exist_ok=True)
        return tmp_path / str(nth) / "trust", tmp_path / str(nth) / "keys"

    for nth in every_death(lambda nth: create(*home(nth), now_ns=NOW)):
        folder, keys = home(nth)
        root = create(folder, keys, now_ns=NOW)

        assert client_sees(folder, tmp_path / str(nth) / "cache", root) == set()
        assert not [name for name in (*files(folder), *files(keys)) if name.endswith(".part")]


def test_it_does_not_open_with_other_keys(repository: Repository, folder: Path, keys: Path, tmp_path: Path) -> None:
    create(tmp_path / "other", tmp_path / "other-keys", now_ns=NOW)

    with pytest.raises(ConflictError, match="is not the key that root names for targets"):
        create(folder, tmp_path / "other-keys", now_ns=NOW)
    with pytest.raises(ConflictError, match="is not here: the key of targets"):
        open_repository(folder, tmp_path)
    with pytest.raises(NotFoundError):
        open_repository(tmp_path, keys)


def test_a_client_sees_what_is_published(repository: Repository, folder: Path, tmp_path: Path) -> None:
    root = repository.root()
    offered = [release(1), GOLDEN, campaign(b"{}", line="driving")]

    versions = repository.publish(offered, now_ns=NOW)

    assert versions == Versions(root=1, targets=2, snapshot=2, timestamp=2)
    assert client_sees(folder, tmp_path / "cache", root) == {target.path for target in offered}
    assert repository.targets() == {target.path: target for target in offered}


def test_publishing_what_is_there_changes_nothing(repository: Repository, folder: Path) -> None:
    versions = repository.publish([release(1), GOLDEN], now_ns=NOW)
    before = files(folder)

    assert repository.publish([release(1), GOLDEN], now_ns=NOW + HOUR) == versions
    assert repository.publish([release(1), GOLDEN], now_ns=NOW + HOUR, retire=["models/gone"]) == versions
    assert files(folder) == before


def test_a_publish_that_was_killed_anywhere_is_old_or_new_and_is_repaired_by_the_next(tmp_path: Path) -> None:
    keys, seen = tmp_path / "keys", set()
    root = create(tmp_path / "new", keys, now_ns=NOW)

    def publish(nth: int) -> None:
        open_repository(tmp_path / str(nth), keys).publish([release(1), GOLDEN], now_ns=NOW)

    for nth in every_death(publish, before=lambda nth: copytree(tmp_path / "new", tmp_path / str(nth))):
        folder, cache = tmp_path / str(nth), tmp_path / f"{nth}-cache"
        repository = open_repository(folder, keys)
        found = client_sees(folder, cache, root)
        repository.publish([release(1), GOLDEN, campaign(b"{}")], now_ns=NOW + HOUR)

        assert found in (set(), {release(1).path, GOLDEN.path})
        assert client_sees(folder, cache, root) == {release(1).path, GOLDEN.path, campaign(b"{}").path}
        assert not [name for name in files(folder) if name.endswith(".part")]
        seen.add(frozenset(found))
    assert len(seen) == 2


def test_a_full_disk_publishes_nothing(
    repository: Repository, folder: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    before = files(folder)
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UnavailableError, match="No space left"):
        repository.publish([release(1), GOLDEN], now_ns=NOW)

    assert files(folder) == before


def test_release_counters_only_grow_also_after_the_highest_was_retired(repository: Repository) -> None:
    repository.publish(
        [GOLDEN, release(1, data=b"a"), release(5, data=b"b"), release(1, line="arm", data=b"c")], now_ns=NOW
    )
    repository.publish([], retire=[release(5, data=b"b").path], now_ns=NOW)

    with pytest.raises(ConflictError, match="counter 5 of line driving must be above 5"):
        repository.publish([release(5, data=b"d")], now_ns=NOW)
    repository.publish([release(6, data=b"d"), release(2, line="arm", data=b"e")], now_ns=NOW)
    assert repository.counters() == {"driving": 6, "arm": 2}


def test_a_fleet_is_rolled_back_by_a_new_release_of_old_bytes(repository: Repository) -> None:
    repository.publish([GOLDEN, release(1, data=b"old")], now_ns=NOW)
    repository.publish([release(2, data=b"new")], now_ns=NOW)

    repository.publish([release(3, data=b"old")], retire=[release(2, data=b"new").path], now_ns=NOW)

    assert repository.targets() == {t.path: t for t in (GOLDEN, release(3, data=b"old"))}


def test_a_release_is_published_with_everything_that_it_names(repository: Repository) -> None:
    with pytest.raises(InvalidInputError, match=r"names golden\.npz, tokenizer\.json, which must be published"):
        repository.publish([release(1, files={"tokenizer.json": sha256(b"words")})], now_ns=NOW)
    repository.publish([release(1), GOLDEN], now_ns=NOW)
    with pytest.raises(InvalidInputError, match=r"names golden\.npz, which must be published with it and kept"):
        repository.publish([], retire=[GOLDEN.path], now_ns=NOW)


def test_what_a_line_signs_for_a_release_is_accepted() -> None:
    line = Line(
        name="driving",
        features=(),
        model=ModelSpec(inputs=(), outputs=(), rate_hz=20.0, latency_ns=5_000_000, tolerance=3.3e-05),
        cut=lambda stretch: iter(()),
        train=lambda job, tracker: {},
        judging=Judging(score=lambda policy, episode: {}, metrics=lambda tallies: {}),
        checks=(),
    )
    custom = release_custom(
        line,
        release_counter=1,
        hardware=["pi5"],
        io_contract_sha256=sha256(b"io"),
        model=sha256(b"manifest"),
        golden_sha256=GOLDEN.sha256,
        memory_bytes=64 << 20,
        extra={"rollback_of": "none"},
    )
    target = replace(release(1), custom=custom)

    assert merge(Published(targets={}, counters={}), [target, GOLDEN], []).counters == {"driving": 1}
    assert float(custom["tolerance"]) == line.model.tolerance


def test_a_campaign_does_not_change_under_its_path() -> None:
    old = campaign(b"{}", seed=1)

    with pytest.raises(ConflictError, match="retire it"):
        merge(Published(targets={old.path: old}, counters={}), [campaign(b"{}", seed=2)], [])


@pytest.mark.parametrize(
    ("target", "fact"),
    [
        (Target(path="models/../x", length=1, sha256=sha256(b"")), "must be models/<sha256>/<name>"),
        (Target(path=f"models/{sha256(b'a')}/m.onnx", length=1, sha256=sha256(b"b")), "with the file's own SHA-256"),
        (Target(path=campaign(b"{}").path, length=-1, sha256=sha256(b"{}")), "length -1"),
        (campaign(b"{}", deep=[{"ratio": 0.5}]), r"custom.deep\[0\].ratio: 0.5 is a float"),
        (release(0), "release_counter: must be a whole number above 0"),
        (release(1, tolerance="nan"), "tolerance: must be decimal text"),
        (release(1, hardware=[]), "hardware: must be a list"),
        (release(1, golden_sha256="x"), "golden_sha256"),
        (release(1, line="A/B"), "line"),
        (release(1, latency_ns=True), "latency_ns"),
        (release(1, files={"../x": sha256(b"x")}), "file name"),
        (replace(GOLDEN, custom=release(1).custom), r"only model\.onnx carries a release"),
    ],
)
def test_what_may_not_be_signed_is_refused_with_the_field(repository: Repository, target: Target, fact: str) -> None:
    with pytest.raises(InvalidInputError, match=fact):
        repository.publish([target], now_ns=NOW)

    assert repository.targets() == {}


def test_only_what_has_less_than_half_of_its_life_left_is_signed_anew(repository: Repository, folder: Path) -> None:
    assert repository.refresh_timestamp(now_ns=NOW + 11 * HOUR) == Versions(root=1, targets=1, snapshot=1, timestamp=1)
    assert repository.refresh_timestamp(now_ns=NOW + 13 * HOUR) == Versions(root=1, targets=1, snapshot=1, timestamp=2)
    assert repository.refresh_timestamp(now_ns=NOW + 4 * DAY) == Versions(root=1, targets=1, snapshot=2, timestamp=3)
    assert repository.refresh_timestamp(now_ns=NOW + 46 * DAY) == Versions(root=1, targets=2, snapshot=3, timestamp=4)
    assert repository.refresh_timestamp(now_ns=NOW + 46 * DAY) == Versions(root=1, targets=2, snapshot=3, timestamp=4)


def test_a_client_of_the_first_root_follows_the_renewed_one(
    repository: Repository, folder: Path, tmp_path: Path
) -> None:
    first, late = repository.root(), NOW + LIFE_NS["root"] - 10 * DAY

    versions = repository.refresh_timestamp(now_ns=late)

    assert versions.root == 2
    assert client_sees(folder, tmp_path / "cache", first, now_ns=NOW + LIFE_NS["root"] - 9 * DAY - 13 * HOUR) == set()
    assert create(folder, tmp_path / "keys", now_ns=late) == repository.root() != first


def test_publishing_and_refreshing_need_no_root_key(repository: Repository, folder: Path, keys: Path) -> None:
    (keys / "root.pem").rename(keys.parent / "in-the-safe.pem")

    repository.publish([release(1), GOLDEN], now_ns=NOW)
    versions = repository.refresh_timestamp(now_ns=NOW + 360 * DAY)

    assert versions.root == 1
    assert create(folder, keys, now_ns=NOW) == repository.root()


@pytest.mark.parametrize("name", ["1.root.json", "timestamp.json", "2.snapshot.json", "2.targets.json"])
def test_damaged_metadata_is_not_signed_over(repository: Repository, folder: Path, name: str) -> None:
    repository.publish([release(1), GOLDEN], now_ns=NOW)
    (folder / name).write_bytes((folder / name).read_bytes().replace(b'"version":', b'"version": '))
    damaged = (folder / name).read_bytes().replace(b"2027", b"2028").replace(b"2028", b"2029")
    (folder / name).write_bytes(damaged)

    with pytest.raises(IntegrityError, match=name):
        repository.publish([release(2, data=b"b")], now_ns=NOW)


@pytest.mark.parametrize("role", ["snapshot", "targets"])
def test_an_old_file_in_the_place_of_a_new_one_is_seen(repository: Repository, folder: Path, role: str) -> None:
    repository.publish([release(1), GOLDEN], now_ns=NOW)
    repository.publish([release(2, data=b"b")], now_ns=NOW)
    (folder / f"3.{role}.json").write_bytes((folder / f"2.{role}.json").read_bytes())

    with pytest.raises(IntegrityError, match=f"3.{role}.json"):
        repository.targets()


def test_two_publishers_at_once_lose_nothing(repository: Repository, folder: Path, keys: Path) -> None:
    offered = [campaign(f"{i}".encode()) for i in range(8)]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda t: open_repository(folder, keys).publish([t], now_ns=NOW), offered))

    assert set(repository.targets()) == {target.path for target in offered}
    assert repository.versions().targets == 9
