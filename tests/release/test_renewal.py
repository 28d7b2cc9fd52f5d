"""The root key lies outside; with it the root is renewed, and lost or stolen keys are replaced."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree

import pytest
from test_trust import DAY, GOLDEN, NOW, client_sees, files, release
from tuf.api.exceptions import UnsignedMetadataError

from fleetmill.core.errors import ConflictError, IntegrityError
from fleetmill.release.keys import ONLINE, ROLES, Keys
from fleetmill.release.trust import LIFE_NS, Repository, create, open_repository
from killing import every_death

LATE = NOW + 300 * DAY


@pytest.fixture
def safe(tmp_path: Path) -> Path:
    (tmp_path / "safe").mkdir()
    return tmp_path / "safe" / "root.pem"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "trust"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def repository(folder: Path, keys: Path, safe: Path) -> Repository:
    create(folder, keys, now_ns=NOW, root_key=safe)
    made = open_repository(folder, keys)
    made.publish([release(1), GOLDEN], now_ns=NOW)
    return made


def test_the_root_key_is_where_it_was_asked_for_and_nowhere_else(
    repository: Repository, folder: Path, keys: Path, safe: Path
) -> None:
    secret = safe.read_bytes()

    assert safe.stat().st_mode & 0o777 == 0o600
    assert sorted(files(keys)) == [f"{role}.pem" for role in sorted(ONLINE)]
    assert not [p for p in (*folder.iterdir(), *keys.iterdir()) if secret in p.read_bytes()]


def test_another_homes_root_key_is_not_taken(repository: Repository, safe: Path, tmp_path: Path) -> None:
    before = safe.read_bytes()

    with pytest.raises(ConflictError, match="exists already, of another home"):
        create(tmp_path / "other", tmp_path / "other-keys", now_ns=NOW, root_key=safe)

    assert safe.read_bytes() == before


def test_a_making_that_was_killed_anywhere_is_completed_with_the_key_outside(tmp_path: Path) -> None:
    def make(nth: int) -> bytes:
        (tmp_path / f"{nth}-safe").mkdir(exist_ok=True)
        place = tmp_path / str(nth)
        place.mkdir(exist_ok=True)
        return create(place / "trust", place / "keys", now_ns=NOW, root_key=tmp_path / f"{nth}-safe" / "root.pem")

    for nth in every_death(make):
        root = make(nth)

        assert client_sees(tmp_path / str(nth) / "trust", tmp_path / str(nth) / "cache", root) == set()
        assert not (tmp_path / str(nth) / "keys" / "root.pem").exists()


def test_a_renewed_root_lives_another_year_and_clients_follow(
    repository: Repository, folder: Path, safe: Path, tmp_path: Path
) -> None:
    first = repository.root()
    assert repository.refresh_timestamp(now_ns=LATE).root == 1  # without its key nobody renews it

    versions = repository.renew(safe, now_ns=LATE)

    assert versions.root == 2
    assert repository.expiries()["root"] == LATE + LIFE_NS["root"]
    long_after = NOW + LIFE_NS["root"] + 200 * DAY
    repository.refresh_timestamp(now_ns=long_after)
    assert client_sees(folder, tmp_path / "cache", first, now_ns=long_after) == {release(1).path, GOLDEN.path}


@pytest.mark.parametrize("roles", [[role] for role in ONLINE] + [list(ONLINE)], ids=lambda roles: "+".join(roles))
@pytest.mark.parametrize("lost", [True, False], ids=["lost", "stolen"])
def test_a_lost_or_stolen_key_is_replaced_and_everything_goes_on(
    repository: Repository, folder: Path, keys: Path, safe: Path, tmp_path: Path, roles: list, lost: bool
) -> None:
    first, old = repository.root(), {role: (keys / f"{role}.pem").read_bytes() for role in ONLINE}
    assert client_sees(folder, tmp_path / "cache", first) == {release(1).path, GOLDEN.path}
    for role in roles if lost else ():
        (keys / f"{role}.pem").unlink()
    assert sorted(repository.key_faults()) == (sorted(roles) if lost else [])
    if lost:
        with pytest.raises(ConflictError, match=f"fleetmill renew --root-key PATH --replace {roles[0]}"):
            open_repository(folder, keys)

    Repository(folder, keys).renew(safe, now_ns=NOW, replace=roles)

    assert {role for role in ONLINE if (keys / f"{role}.pem").read_bytes() != old[role]} == set(roles)
    assert (repository.key_faults(), sorted(files(keys))) == ({}, [f"{r}.pem" for r in sorted(ONLINE)])
    again = open_repository(folder, keys)
    again.publish([release(2, data=b"b")], now_ns=NOW)
    assert client_sees(folder, tmp_path / "cache", first) == {release(1).path, release(2, data=b"b").path, GOLDEN.path}


def test_what_a_thief_signs_with_a_replaced_key_is_refused(
    repository: Repository, folder: Path, keys: Path, safe: Path, tmp_path: Path
) -> None:
    first = repository.root()
    copytree(folder, tmp_path / "thief")
    copytree(keys, tmp_path / "stolen")
    thief = open_repository(tmp_path / "thief", tmp_path / "stolen")
    repository.renew(safe, now_ns=NOW, replace=ONLINE)
    client_sees(folder, tmp_path / "cache", first)
    for counter in range(5, 11):  # so that his versions are above ours
        thief.publish([release(counter, data=b"evil")], now_ns=NOW)

    with pytest.raises(UnsignedMetadataError, match="signed by 0/1 keys"):
        client_sees(tmp_path / "thief", tmp_path / "cache", first)


def test_another_key_is_not_taken_for_the_root_key(
    repository: Repository, folder: Path, keys: Path, tmp_path: Path
) -> None:
    before = files(folder)
    create(tmp_path / "other", tmp_path / "other-keys", now_ns=NOW, root_key=tmp_path / "other-root.pem")
    (tmp_path / "text.pem").write_text("no key")

    with pytest.raises(ConflictError, match=r"other-root\.pem: is not the root key"):
        repository.renew(tmp_path / "other-root.pem", now_ns=NOW, replace=["targets"])
    with pytest.raises(ConflictError, match="there is no key here"):
        repository.renew(tmp_path / "absent.pem", now_ns=NOW)
    with pytest.raises(IntegrityError, match=r"text\.pem: is no PKCS8 PEM private key"):
        repository.renew(tmp_path / "text.pem", now_ns=NOW)
    assert files(folder) == before


@pytest.mark.parametrize("roles", [[], ["timestamp"], list(ONLINE)], ids=["none", "timestamp", "all"])
def test_a_renewal_that_was_killed_anywhere_is_done_by_the_next(
    repository: Repository, folder: Path, keys: Path, safe: Path, tmp_path: Path, roles: list
) -> None:
    first = repository.root()

    def place(nth: int) -> Path:
        return tmp_path / "renewed" / str(nth)

    def before(nth: int) -> None:
        copytree(folder, place(nth) / "trust")
        copytree(keys, place(nth) / "keys")

    def renew(nth: int) -> None:
        Repository(place(nth) / "trust", place(nth) / "keys").renew(safe, now_ns=NOW, replace=roles)

    deaths, cut_short = 0, 0
    for nth in every_death(renew, before=before):
        deaths += 1
        between = open_repository(place(nth) / "trust", place(nth) / "keys")
        assert between.key_faults() == {}
        try:
            found = set(between.targets())
        except IntegrityError as error:
            found, cut_short = (
                {release(1).path, GOLDEN.path},
                cut_short + str(error).count("fleetmill renew --root-key"),
            )
        assert found == {release(1).path, GOLDEN.path}
        renew(nth)
        after = open_repository(place(nth) / "trust", place(nth) / "keys")
        after.publish([release(2, data=b"b")], now_ns=NOW)

        seen = client_sees(place(nth) / "trust", place(nth) / "cache", first)
        assert seen == {release(1).path, release(2, data=b"b").path, GOLDEN.path}
        assert sorted(files(place(nth) / "keys")) == [f"{r}.pem" for r in sorted(ONLINE)]
        changed = {
            r for r in ONLINE if (place(nth) / "keys" / f"{r}.pem").read_bytes() != (keys / f"{r}.pem").read_bytes()
        }
        assert changed == set(roles)
    assert deaths > 10
    assert bool(cut_short) == bool(roles)


def test_a_root_key_that_lies_in_the_home_as_before_still_renews_by_itself(tmp_path: Path) -> None:
    create(tmp_path / "trust", tmp_path / "keys", now_ns=NOW)
    repository = open_repository(tmp_path / "trust", tmp_path / "keys")

    assert sorted(files(tmp_path / "keys")) == [f"{role}.pem" for role in sorted(ROLES)]
    assert repository.refresh_timestamp(now_ns=LATE).root == 2
    assert repository.renew(Keys(tmp_path / "keys").path("root"), now_ns=LATE).root == 3


def test_the_files_in_force_are_what_the_timestamp_leads_to_and_every_root(
    repository: Repository, folder: Path, safe: Path
) -> None:
    repository.renew(safe, now_ns=NOW)

    assert repository.files() == {"timestamp.json", "3.snapshot.json", "3.targets.json", "1.root.json", "2.root.json"}
    assert {"1.targets.json", "2.targets.json"} <= set(files(folder)) - repository.files()
