"""Who may ask the gateway, how much, what it took, and where it went: tenant, key, budget, usage, prove."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fleetmill.cli.shown import HomeOption, JsonOption, table
from fleetmill.core.errors import InvalidInputError
from fleetmill.core.plain import plain
from fleetmill.core.serve import MEASURES, Label, Measure, Tier

if TYPE_CHECKING:
    from fleetmill.serve.accounts.book import Accounts
    from fleetmill.serve.accounts.proof import Proof

app = typer.Typer(help="Models behind one endpoint.", rich_markup_mode=None)
tenant_app = typer.Typer(help="Who pays, and what its content is worth.", no_args_is_help=True, rich_markup_mode=None)
key_app = typer.Typer(help="API keys of tenants.", no_args_is_help=True, rich_markup_mode=None)
budget_app = typer.Typer(help="How much may be used.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(tenant_app, name="tenant")
app.add_typer(key_app, name="key")
app.add_typer(budget_app, name="budget")

TenantArgument = Annotated[str, typer.Argument(help="Name of the tenant.")]
KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="First digits of the key's digest, see `key list`.")]
SinceOption = Annotated[str, typer.Option(help="First day, UTC, as 2026-01-31. [all]")]
UntilOption = Annotated[str, typer.Option(help="First day that does not count any more. [all]")]
_FOLDER = "serve"
_MICRO = 1_000_000


@tenant_app.command("set")
def tenant_set(
    name: TenantArgument,
    label: Annotated[str, typer.Option(help="Of all that it asks: open, attested, premises or device.")] = "premises",
    consent: Annotated[bool, typer.Option("--consent", help="Its requests may go to partners.")] = False,
    detector: Annotated[
        list[str] | None, typer.Option(help="email, iban, card or secret: raises the label; may be repeated.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a tenant, or change one: label, consent and detectors become what is given here."""
    from fleetmill.serve.accounts.keys import set_tenant
    from fleetmill.serve.words import Tenant

    tenant = Tenant(name=name, label=_label(label), consent=consent, detectors=tuple(detector or ()))
    with _accounts(home) as accounts:
        set_tenant(accounts, tenant)
    partners = "may go to partners" if consent else "not to partners"
    sees = f", detectors {', '.join(tenant.detectors)}" if tenant.detectors else ""
    typer.echo(json.dumps(plain(tenant)) if as_json else f"tenant {name}: label {label}, {partners}{sees}")


@tenant_app.command("list")
def tenant_list(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show all tenants."""
    from fleetmill.serve.accounts.keys import tenants

    with _accounts(home) as accounts:
        found = tenants(accounts)
    if as_json:
        typer.echo(json.dumps(plain(found)))
        return
    rows = [[t.name, t.label.name.lower(), "yes" if t.consent else "no", ", ".join(t.detectors)] for t in found]
    table(["tenant", "label", "partners", "detectors"], rows)


@tenant_app.command("remove")
def tenant_remove(name: TenantArgument, home: HomeOption = None) -> None:
    """Take a tenant away and revoke its keys. What it used stays in the accounts."""
    from fleetmill.serve.accounts.keys import remove_tenant

    with _accounts(home) as accounts:
        remove_tenant(accounts, name)
    typer.echo(f"tenant {name} is removed; gateways know within a second")


@key_app.command("add")
def key_add(
    tenant: TenantArgument,
    note: Annotated[str, typer.Option(help="What it is for.")] = "",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an API key and print it. It is shown this once; only its digest is kept."""
    from fleetmill.core.ids import sha256
    from fleetmill.serve.accounts.keys import new_key

    with _accounts(home) as accounts:
        key = new_key(accounts, tenant, note=note)
    typer.echo(json.dumps({"key": key, "digest": sha256(key.encode()), "tenant": tenant}) if as_json else key)


@key_app.command("list")
def key_list(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show all keys by their digests, revoked ones too."""
    from fleetmill.serve.accounts.export import day
    from fleetmill.serve.accounts.keys import keys

    with _accounts(home) as accounts:
        found = keys(accounts)
    if as_json:
        typer.echo(json.dumps(plain(found)))
        return
    rows = [[k.digest[:12], k.tenant, k.note, day(k.made_ns), day(k.revoked_ns) if k.revoked_ns else ""] for k in found]
    table(["key", "tenant", "note", "made", "revoked"], rows)


@key_app.command("revoke")
def key_revoke(key: KeyArgument, home: HomeOption = None) -> None:
    """Nobody may ask with this key any more."""
    from fleetmill.serve.accounts.keys import find_key, revoke_key

    with _accounts(home) as accounts:
        digest = find_key(accounts, key).digest
        revoke_key(accounts, digest)
    typer.echo(f"key {digest[:12]} is revoked; gateways know within a second")


@budget_app.command("set")
def budget_set(
    tenant: TenantArgument,
    measure: Annotated[str, typer.Argument(help="requests, tokens, money or energy (joules).")],
    most: Annotated[str, typer.Argument(help="At most so much; money in the unit of prices, e.g. 12.50; or `none`.")],
    period: Annotated[str, typer.Option(help="none, day or month (UTC).")] = "none",
    key: Annotated[str, typer.Option(help="Of one key: first digits of its digest. [of the whole tenant]")] = "",
    home: HomeOption = None,
) -> None:
    """Limit a tenant or a key in one measure. What it used before counts. `none` takes the limit away."""
    from fleetmill.serve.accounts.keys import find_key

    with _accounts(home) as accounts:
        known = _measure(measure)
        digest = find_key(accounts, key).digest if key else ""
        accounts.set_budget(tenant, digest, known, period, _amount(known, most))
    whom = f"tenant {tenant}" + (f", key {digest[:12]}" if digest else "")
    per = "" if period == "none" else f" per {period}"
    typer.echo(f"{whom}: no limit on {measure}{per}" if most == "none" else f"{whom}: at most {most} {measure}{per}")


@budget_app.command("show")
def budget_show(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show every budget and how it stands in its current period."""
    with _accounts(home) as accounts:
        accounts.expire()
        balances = {(b.tenant, b.key, b.period): b for b in accounts.balances()}
        budgets = accounts.budgets()
    rows = []
    for b in budgets:
        found = balances.get((b.tenant, b.key, b.period))
        stands = {
            name: getattr(found, name)[b.measure] if found else 0
            for name in ("spent", "reserved", "presumed", "overrun")
        }
        left = max(0, b.most - stands["spent"] - stands["reserved"])
        rows.append({**plain(b), **stands, "left": left})
    if as_json:
        typer.echo(json.dumps(rows))
        return
    names = ["tenant", "key", "measure", "period", "most", "spent", "reserved", "left", "presumed", "overrun"]
    table(names, [[_shown(name, row[name], row["measure"]) for name in names] for row in rows])


@app.command()
def usage(
    since: SinceOption = "",
    until: UntilOption = "",
    by_server: Annotated[
        bool, typer.Option("--by-server", help="From the records of what was sent: per tier, server and model too.")
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print what was used per tenant, key and day as CSV. Money in millionths of the unit, energy in joules."""
    from fleetmill.serve.accounts import export
    from fleetmill.serve.accounts.journal import FOLDER

    since_ns, until_ns = _days(since, until)
    if by_server:
        rows = export.sent(_folder(home) / FOLDER, since_ns=since_ns or 0, until_ns=until_ns or 2**62)
    else:
        with _accounts(home) as accounts:
            rows = export.booked(accounts, since_ns=since_ns or 0, until_ns=until_ns or 2**62)
    typer.echo(export.as_json(rows) if as_json else export.as_csv(rows), nl=as_json)


@app.command()
def prove(
    label: Annotated[str, typer.Option(help="At least: open, attested, premises or device.")],
    tier: Annotated[str, typer.Option(help="It did not leave: device, premises, attested or partner.")],
    since: SinceOption = "",
    until: UntilOption = "",
    head: Annotated[
        list[str] | None, typer.Option(help="CHAIN:RECORDS:DIGEST noted before: is it still so? May be repeated.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check the records of what was sent where. Exit code 1: something went farther; 3: the records were touched."""
    from fleetmill.core.errors import IntegrityError
    from fleetmill.serve.accounts import proof
    from fleetmill.serve.accounts.journal import FOLDER, read_head

    since_ns, until_ns = _days(since, until)
    found = proof.prove(
        _folder(home) / FOLDER,
        label=_label(label),
        tier=_tier(tier),
        since_ns=since_ns,
        until_ns=until_ns,
        noted=[read_head(text) for text in head or ()],
    )
    if as_json:
        typer.echo(json.dumps({**plain(found), "holds": found.holds}))
    else:
        _print_proof(found)
    if found.faults:
        raise typer.Exit(IntegrityError.exit_code)
    if found.breached:
        raise typer.Exit(1)


def _print_proof(found: Proof) -> None:
    typer.echo(found.sentence())
    for fault in found.faults:
        typer.echo(f"FAULT: {fault}")
    names = ["time", "request", "tenant", "label", "tier", "server", "consent", "against rule"]
    rows = [
        [
            time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(b.time_ns // 10**9)),
            *(b.request, b.tenant, b.label, b.tier, b.server),
            *("yes" if b.consent else "no", "yes" if b.is_against_rule else "no"),
        ]
        for b in found.breaches
    ]
    if rows:
        table(names, rows)
    for chain in found.chains:
        end = "ended" if chain.is_ended else "open: the process runs or died, or the end was cut off"
        torn = f", {chain.torn_bytes} bytes of an unfinished record" if chain.torn_bytes else ""
        typer.echo(f"head {chain.head}  {end}{torn}")
    typer.echo("keep the heads elsewhere: with --head a cut-off end and a rewritten chain are seen")


def _folder(home: Path | None) -> Path:
    from fleetmill.home import check_format
    from fleetmill.settings import read_settings

    place = read_settings(home=home).home
    check_format(place)
    return place / _FOLDER


@contextmanager
def _accounts(home: Path | None) -> Iterator[Accounts]:
    from fleetmill.serve.accounts.book import open_accounts

    accounts = open_accounts(_folder(home))
    try:
        yield accounts
    finally:
        accounts.close()


def _label(text: str) -> Label:
    if text.upper() not in Label.__members__:
        raise InvalidInputError(f"label {text!r}: choose of {', '.join(one.name.lower() for one in Label)}")
    return Label[text.upper()]


def _tier(text: str) -> Tier:
    if text.upper() not in Tier.__members__:
        raise InvalidInputError(f"tier {text!r}: choose of {', '.join(one.name.lower() for one in Tier)}")
    return Tier[text.upper()]


def _measure(text: str) -> Measure:
    for measure in MEASURES:
        if text == measure:
            return measure
    raise InvalidInputError(f"measure {text!r}: choose of {', '.join(MEASURES)}")


def _amount(measure: Measure, text: str) -> int | None:
    """A limit; money is written in units and kept in millionths of one."""
    from decimal import Decimal, InvalidOperation

    if text == "none":
        return None
    try:
        value = Decimal(text) * (_MICRO if measure == "money" else 1)
    except InvalidOperation:
        raise InvalidInputError(f"limit {text!r}: write a number, or `none`") from None
    if not value.is_finite() or value != int(value):
        raise InvalidInputError(f"limit {text!r}: must be whole" + (" millionths" if measure == "money" else ""))
    return int(value)


def _days(since: str, until: str) -> tuple[int | None, int | None]:
    from fleetmill.serve.accounts.export import day_ns

    return day_ns(since) if since else None, day_ns(until) if until else None


def _shown(name: str, value: object, measure: str) -> str:
    if name == "key":
        return str(value)[:12] or "all"
    if isinstance(value, int) and measure == "money":
        return f"{value / _MICRO:.6f}".rstrip("0").rstrip(".")
    return str(value)
