"""Write the parts of the docs that follow from the code: commands, settings, errors.

Usage: scripts/make_docs.py [--check]

Each such part stands between `<!-- generated: NAME -->` and `<!-- /generated -->`; what is around it is written by
hand. With --check nothing is written, and the exit code is 1 when a page is old.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
from pathlib import Path
from typing import Any

import typer.main

from fleetmill import settings
from fleetmill.api.door import _STATUS
from fleetmill.cli import app
from fleetmill.core import errors

DOCS = Path(__file__).parents[1] / "docs"


def main() -> int:
    """Write, or check, every page that has a generated part."""
    old = []
    for name, (page, make) in PARTS.items():
        path = DOCS / page
        text = path.read_text()
        fresh = put(text, name, make())
        if fresh != text:
            old.append(page)
            if "--check" not in sys.argv:
                path.write_text(fresh)
    for page in old:
        print(f"docs/{page}: {'is old; run scripts/make_docs.py' if '--check' in sys.argv else 'written'}")
    return 1 if old and "--check" in sys.argv else 0


def put(text: str, name: str, part: str) -> str:
    """`text` with the generated part called `name` replaced."""
    pattern = re.compile(rf"(<!-- generated: {name} -->\n).*?(<!-- /generated -->)", re.DOTALL)
    if not pattern.search(text):
        sys.exit(f"docs: no part `generated: {name}` on its page")
    return pattern.sub(lambda m: f"{m[1]}{part}\n{m[2]}", text)


def commands() -> str:
    """Every command with its arguments and options."""
    group: Any = typer.main.get_command(app)
    return "\n".join(_command(name, command) for name, command in _leaves(group, "fleetmill"))


def _leaves(group: Any, path: str) -> list[tuple[str, Any]]:
    found = []
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        found += _leaves(command, f"{path} {name}") if inner else [(f"{path} {name}", command)]
    return sorted(found, key=lambda pair: pair[0])


def _command(name: str, command: Any) -> str:
    rows = [f"## `{name}`\n", f"{command.help}\n", "| what | meaning | default |", "|---|---|---|"]
    for p in command.params:
        names = ", ".join([*p.opts, *p.secondary_opts])
        shown = names.upper() if p.param_type_name == "argument" else names
        default = "must be given" if p.required else _default(p)
        rows.append(f"| `{shown}` | {(p.help or '').replace('|', '/')} | {default} |")
    return "\n".join(rows) + "\n"


def _default(p: Any) -> str:
    if p.is_flag if hasattr(p, "is_flag") else False:
        return "on" if p.default else "off"
    return "" if p.default in (None, [], ()) else f"`{p.default}`"


def setting_tables() -> str:
    """Every setting with its type, default and meaning."""
    kinds = (
        settings.Settings,
        settings.LineSettings,
        settings.TurnWhen,
        settings.CampaignSettings,
        settings.ServeSettings,
        settings.BackendSettings,
        settings.ModelSettings,
        settings.ServeLineSettings,
        settings.CandidateSettings,
    )
    heads = (
        "The file's top level. Each but `home` and `lines` is also an environment variable: `FLEETMILL_PORT` etc.",
        "Tables `[lines.NAME]`.",
        "`turn_when = { sessions = 12, hours = 24 }` in `[lines.NAME]`.",
        "Tables `[lines.NAME.campaign]` and `[lines.NAME.first_campaign]`.",
        "See [serving](serve.md).",
        "See [engines](engines/index.md).",
        "In `models` of a `[[serve.backend]]`.",
        "See [the lines' models](inference.md).",
        "`candidate = { shadow = true }` in `[serve.lines.NAME]`.",
    )
    return "\n".join(_table(kind, head) for kind, head in zip(kinds, heads, strict=True))


def _table(kind: Any, head: str) -> str:
    comments = _comments(kind)
    rows = [
        f"## {kind.__name__}\n",
        f"{inspect.getdoc(kind)} {head}\n",
        "| setting | default | meaning |",
        "|---|---|---|",
    ]
    for f in dataclasses.fields(kind):
        rows.append(f"| `{f.name}` | {_value(f)} | {comments.get(f.name, '').replace('|', '/')} |")
    return "\n".join(rows) + "\n"


def _comments(kind: Any) -> dict[str, str]:
    """The comment on each field's line."""
    source = inspect.getsource(kind)
    lines, found = source.splitlines(), {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = lines[node.lineno - 1].partition("  # ")[2]
    return found


def _value(f: Any) -> str:
    if f.default is not dataclasses.MISSING:
        value = str(f.default) if isinstance(f.default, Path) else f.default
        return "none" if value is None else f"`{list(value) if isinstance(value, tuple) else value}`"
    return "must be given" if f.default_factory is dataclasses.MISSING else "empty"


def error_table() -> str:
    """Every error with what the command line ends with and what HTTP answers."""
    rows = ["| error | exit code | HTTP | meaning |", "|---|---|---|---|"]
    for kind, depth in _tree(errors.FleetmillError, 0):
        status = next(code for k, code in _STATUS if issubclass(kind, k))
        meaning = (inspect.getdoc(kind) or "").replace("\n", " ")
        rows.append(f"| {'&nbsp;&nbsp;' * depth}`{kind.__name__}` | {kind.exit_code} | {status} | {meaning} |")
    return "\n".join(rows)


def _tree(kind: type[errors.FleetmillError], depth: int) -> list[tuple[type[errors.FleetmillError], int]]:
    found = [(kind, depth)]
    for inner in kind.__subclasses__():
        if inner.__module__ == errors.__name__:
            found += _tree(inner, depth + 1)
    return found


PARTS = {
    "commands": ("cli.md", commands),
    "settings": ("settings.md", setting_tables),
    "errors": ("errors.md", error_table),
}

if __name__ == "__main__":
    sys.exit(main())
