"""Pages from values: the live page's parts, the page around them, and the report; one base, one style, one script."""

from __future__ import annotations

import datetime
import hashlib
from base64 import b64encode
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fleetmill.web.curve import short
from fleetmill.web.look import Seen
from fleetmill.web.number import Link, Mark, Number, pieces
from fleetmill.web.report import Opening, Sections

_FOLDER = Path(__file__).parent
_BRIEF = 46  # characters of a fact's key


class Parts:
    """The parts of the live page by their id; one whose value did not change is not rendered again."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Any, str]] = {}

    def render(self, seen: Seen) -> dict[str, str]:
        """HTML of every part, in the order of the page."""
        found = {}
        macros = _templates().get_template("parts.html").module
        for id, macro, value in _plan(seen):
            known = self._known.get(id)
            if known is None or known[0] != value:
                known = value, getattr(macros, macro)(value)
            found[id] = known
        self._known = found
        return {id: html for id, (_, html) in found.items()}


def frame(seen: Seen, parts: dict[str, str]) -> str:
    """What stands in the page's main part: the lines, their devices, and all parts in them."""
    lines = [(n.id, n.name, n.devices, [(t.id, t.name) for t in n.tiles]) for n in seen.lines]
    macros: Any = _templates().get_template("parts.html").module
    made: str = macros.main(lines, parts, seen.home)  # marked as escaped, like the parts
    return made


def live(seen: Seen, parts: dict[str, str], main: str, *, since: str) -> str:
    """The live page."""
    return (
        _templates()
        .get_template("live.html")
        .render(seen=seen, parts=parts, main=main, since=since, assets=assets(), style=_style(), script=_script())
    )


def render_report(found: Opening, sections: Sections) -> str:
    """A page that stands for itself: no script, every picture inside."""
    policy = f"default-src 'none'; img-src data:; style-src {_hash(_style())}; base-uri 'none'; form-action 'none'"
    return (
        _templates().get_template("report.html").render(found=found, sections=sections, policy=policy, style=_style())
    )


@cache
def headers() -> dict[str, str]:
    """Of the live page: nothing from elsewhere, nothing kept, nothing framed."""
    policy = (
        "default-src 'none'; img-src data:; connect-src 'self'; "
        f"style-src {_hash(_style())}; script-src {_hash(_script())}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {"Content-Security-Policy": policy, **PLAIN_HEADERS}


PLAIN_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@cache
def assets() -> str:
    """Names style, script and templates: an open page of another version loads itself anew."""
    files = sorted(p for p in _FOLDER.iterdir() if p.suffix in (".html", ".css", ".js"))
    return hashlib.sha256(b"".join(p.read_bytes() for p in files)).hexdigest()[:12]


def _plan(seen: Seen) -> list[tuple[str, str, Any]]:
    """(id, macro, value) of every part."""
    lines = tuple((n.name, n.turns, n.turn, n.release) for n in seen.lines)
    top = {"seq": seen.seq, "head": seen.head, "faults": seen.faults, "lines": lines}
    found: list[tuple[str, str, Any]] = [("top", "top", top), ("trouble", "plain", seen.trouble)]
    for n in seen.lines:
        found += [
            (f"{n.id}-now", "plain", n.now),
            (f"{n.id}-hint", "hint", (n.hint, n.command)),
            (f"{n.id}-steps", "steps", n.steps),
            (f"{n.id}-curve", "curve", n.chart),
            *((f"{t.id}-sight", "sight", t.sight) for t in n.tiles),
            *((f"{t.id}-words", "words", t.words) for t in n.tiles),
            (f"{n.id}-findings", "findings", n.findings),
        ]
    return [*found, ("facts", "facts", seen.facts)]


@cache
def _templates() -> Environment:
    made = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "pieces": pieces,
        "short": short,
        "clock": lambda ns: f"{_moment(ns):%H:%M:%S}",
        "iso": lambda ns: f"{_moment(ns):%Y-%m-%dT%H:%M:%SZ}",
        "day": lambda ns: f"{_moment(ns):%Y-%m-%d %H:%M:%S}",
        "thousands": lambda number: f"{number:,}".replace(",", "\u202f"),
        "brief": lambda text: text if len(text) <= _BRIEF else f"{text[: _BRIEF - 1]}…",
    }
    made.tests |= {
        "number_piece": lambda x: isinstance(x, Number),
        "mark_piece": lambda x: isinstance(x, Mark),
        "link_piece": lambda x: isinstance(x, Link),
    }
    return made


def _moment(ns: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(ns // 10**9, tz=datetime.timezone.utc)


@cache
def _style() -> str:
    return (_FOLDER / "style.css").read_text()


@cache
def _script() -> str:
    return (_FOLDER / "live.js").read_text()


def _hash(text: str) -> str:
    """As a Content-Security-Policy names an inline style or script.

    Source: CSP Level 3, 2.3.1.
    """
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
