"""Tenants and their API keys. A key is shown once, when it is made; what is kept is its SHA-256."""

from __future__ import annotations

import logging
import secrets
import time
from dataclasses import dataclass

from sqlalchemy import delete, insert, select, update

from fleetmill.core import canonical
from fleetmill.core.errors import ConflictError, FleetmillError, InvalidInputError, NotFoundError
from fleetmill.core.ids import checked_name, sha256
from fleetmill.core.serve import Label
from fleetmill.serve import detect
from fleetmill.serve.accounts.book import Accounts
from fleetmill.serve.accounts.schema import api_key, reading, rules_changed, tenant, writing
from fleetmill.serve.words import Tenant

PREFIX = "fm-"  # begins every key, so that people and scanners know one
LEAST_DIGITS = 6  # of a digest's beginning that may name a key
_LOOK_SECONDS = 1.0  # a revoked key works for so long at most
_BLIND_SECONDS = 30.0  # without the accounts, keys are believed for so long
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """An API key without itself."""

    digest: str
    tenant: str
    note: str
    made_ns: int
    revoked_ns: int | None


def set_tenant(accounts: Accounts, given: Tenant) -> None:
    """Make a tenant, or change one.

    Raises:
        InvalidInputError: the name cannot be used in keys and files, or a detector does not exist.
    """
    checked_name(given.name, "tenant")
    detect.check(given.detectors)
    values = {
        "label": int(given.label),
        "consent": int(given.consent),
        "detectors": canonical.dumps(list(given.detectors)).decode(),
    }
    with writing(accounts.engine) as connection:
        found = connection.execute(update(tenant).where(tenant.c.name == given.name).values(**values))
        if not found.rowcount:
            connection.execute(insert(tenant).values(name=given.name, made_ns=accounts.clock(), **values))
        rules_changed(connection)


def tenants(accounts: Accounts) -> list[Tenant]:
    """All, by name."""
    with reading(accounts.engine) as connection:
        rows = connection.execute(select(tenant).order_by(tenant.c.name)).fetchall()
    return [
        Tenant(
            name=row.name,
            label=Label(row.label),
            consent=bool(row.consent),
            detectors=tuple(canonical.loads(row.detectors)),
        )
        for row in rows
    ]


def new_key(accounts: Accounts, of: str, *, note: str = "") -> str:
    """A new key of a tenant: the only time that it is shown.

    Raises:
        NotFoundError: there is no such tenant.
        InvalidInputError: the note is longer than 200 characters.
    """
    if len(note) > 200:
        raise InvalidInputError(f"note: {len(note)} characters, at most 200")
    key = PREFIX + secrets.token_urlsafe(32)
    with writing(accounts.engine) as connection:
        if connection.execute(select(tenant).where(tenant.c.name == of)).first() is None:
            raise NotFoundError(f"tenant {of!r}: there is none. Make it: fleetmill serve tenant set {of}")
        row = {"digest": sha256(key.encode()), "tenant": of, "note": note, "made_ns": accounts.clock()}
        connection.execute(insert(api_key).values(**row, revoked_ns=None))
        rules_changed(connection)
    return key


def keys(accounts: Accounts) -> list[Key]:
    """All keys, revoked ones too, in the order in which they were made."""
    with reading(accounts.engine) as connection:
        rows = connection.execute(select(api_key).order_by(api_key.c.made_ns, api_key.c.digest)).fetchall()
    return [
        Key(digest=r.digest, tenant=r.tenant, note=r.note, made_ns=r.made_ns, revoked_ns=r.revoked_ns) for r in rows
    ]


def find_key(accounts: Accounts, begins: str) -> Key:
    """The key whose digest begins so.

    Raises:
        InvalidInputError: fewer than 6 digits.
        NotFoundError: none begins so.
        ConflictError: several do.
    """
    if len(begins) < LEAST_DIGITS:
        raise InvalidInputError(f"key {begins!r}: give at least {LEAST_DIGITS} digits of its digest, see key list")
    found = [key for key in keys(accounts) if key.digest.startswith(begins.lower())]
    if not found:
        raise NotFoundError(f"key {begins[:16]!r}: no digest begins so. See: fleetmill serve key list")
    if len(found) > 1:
        raise ConflictError(f"key {begins!r}: {len(found)} digests begin so. Give more digits")
    return found[0]


def revoke_key(accounts: Accounts, digest: str) -> None:
    """From now on nobody may ask with it; gateways know within a second. Revoking twice changes nothing."""
    with writing(accounts.engine) as connection:
        is_open = (api_key.c.digest == digest, api_key.c.revoked_ns.is_(None))
        connection.execute(update(api_key).where(*is_open).values(revoked_ns=accounts.clock()))
        rules_changed(connection)


def remove_tenant(accounts: Accounts, name: str) -> None:
    """Take a tenant away: its keys open nothing any more; what it used stays in the accounts.

    Raises:
        NotFoundError: there is none.
    """
    with writing(accounts.engine) as connection:
        if not connection.execute(delete(tenant).where(tenant.c.name == name)).rowcount:
            raise NotFoundError(f"tenant {name!r}: there is none")
        is_open = (api_key.c.tenant == name, api_key.c.revoked_ns.is_(None))
        connection.execute(update(api_key).where(*is_open).values(revoked_ns=accounts.clock()))
        rules_changed(connection)


class StoredKeys:
    """`words.Keys`: a copy in memory, looked at again once a second and read anew when something has changed.

    While the accounts do not answer, the copy is believed for half a minute; then nobody may ask.

    Raises:
        UnavailableError: the accounts cannot be read.
    """

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        self._rules = accounts.rules()
        self._tenants = self._read()
        self._looked = self._seen = time.monotonic()

    def tenant(self, key: str) -> Tenant | None:
        """Whose key has this digest; None: nobody's, or it was revoked."""
        now = time.monotonic()
        if now - self._looked >= _LOOK_SECONDS:
            self._looked = now
            self._look(now)
        return self._tenants.get(key)

    def _look(self, now: float) -> None:
        try:
            number = self._accounts.rules()
            if number != self._rules:
                self._tenants = self._read()
                self._rules = number
            self._seen = now
        except FleetmillError as error:
            if now - self._seen > _BLIND_SECONDS:
                self._tenants, self._rules = {}, -1
            _log.warning("%s. Keys are as they were %.0f s ago", error, now - self._seen)

    def _read(self) -> dict[str, Tenant]:
        by_name = {one.name: one for one in tenants(self._accounts)}
        found = [key for key in keys(self._accounts) if key.revoked_ns is None and key.tenant in by_name]
        return {key.digest: by_name[key.tenant] for key in found}
