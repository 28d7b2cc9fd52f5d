"""Renew the root of trust with the key that its owner keeps, and put new keys in the place of lost or stolen ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fleetmill.core.errors import InvalidInputError, NotFoundError
from fleetmill.home import KEYS, REPOSITORY, check_format, root_key_beside
from fleetmill.release.keys import ONLINE, Role
from fleetmill.release.trust import Repository, Versions
from fleetmill.settings import Settings

AHEAD = 10_000  # a factory signs twice a day and at each publish: more than ten years


@dataclass(frozen=True, kw_only=True, slots=True)
class Renewed:
    """The root's new version, what was replaced, and until when what is signed is good."""

    root: int
    replaced: tuple[str, ...]
    root_key: str  # "": it was not needed
    expires_ns: dict[str, int]


def renew(settings: Settings, *, now_ns: int, root_key: Path | None = None, replace: Sequence[str] = ()) -> Renewed:
    """Sign a new root for another year; `replace` names roles that get a new key. A running factory goes on.

    `root_key`: None where it lies beside the home, or in it as version 0.1 left it.

    Raises:
        ConflictError: no key there, or another one than root names.
        InvalidInputError: a role that has no online key.
        NotFoundError: no home, or no root key was found.
    """
    folder = settings.home
    check_format(folder)
    roles: list[Role] = []
    for name in dict.fromkeys(replace):
        role = next((r for r in ONLINE if r == name), None)
        if role is None:
            raise InvalidInputError(f"--replace {name}: must be one of {', '.join(ONLINE)}")
        roles.append(role)
    key = root_key or _found(folder)
    repository = Repository(folder / REPOSITORY, folder / KEYS)
    versions = repository.renew(key, now_ns=now_ns, replace=roles)
    return _told(repository, versions, roles, str(key))


def go_ahead(settings: Settings, *, now_ns: int) -> Renewed:
    """Raise every number that devices remember above what they may have seen; needs no root key.

    Raises:
        NotFoundError: no home.
        IntegrityError: the signed list is damaged.
    """
    folder = settings.home
    check_format(folder)
    repository = Repository(folder / REPOSITORY, folder / KEYS)
    return _told(repository, repository.go_ahead(AHEAD, now_ns=now_ns), (), "")


def _told(repository: Repository, versions: Versions, roles: Sequence[Role], key: str) -> Renewed:
    return Renewed(
        root=versions.root,
        replaced=tuple(roles),
        root_key=key,
        expires_ns={str(role): ns for role, ns in repository.expiries().items()},
    )


def _found(folder: Path) -> Path:
    for path in (root_key_beside(folder), folder / KEYS / "root.pem"):
        if path.exists():
            return path
    raise NotFoundError(
        f"{folder}: its root key is not beside it. Bring the medium that it is on, and give --root-key PATH"
    )
