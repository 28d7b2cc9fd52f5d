"""The docs say what the code does: each test names the page and what is missing or wrong on it."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

import fleetmill
from fleetmill.core import errors

try:
    import tomllib
except ModuleNotFoundError:  # pragma: no cover - Python 3.10 runs devices, not these tests
    pytest.skip("reading pyproject.toml needs Python 3.11", allow_module_level=True)

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def report(found: list[str]) -> None:
    if found:
        pytest.fail("\n" + "\n".join(found), pytrace=False)


@cache
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "scripts" / "make_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


# -- what follows from the code ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["commands", "settings", "errors"])
def test_the_generated_part_of_a_page_is_what_the_code_says(part: str) -> None:
    page, make = generator().PARTS[part]
    text = (DOCS / page).read_text()

    assert generator().put(text, part, make()) == text, f"docs/{page} is old; run scripts/make_docs.py"


def test_every_command_and_every_option_says_what_it_does() -> None:
    rows = [line.split("|") for line in generator().commands().splitlines() if line.startswith("| `")]
    report([f"docs/cli.md: {row[1].strip()} has no help" for row in rows if not row[2].strip()])


def test_every_setting_says_what_it_means() -> None:
    rows = [line.split("|") for line in generator().setting_tables().splitlines() if line.startswith("| `")]
    report([f"settings.py: {row[1].strip()} has no comment" for row in rows if not row[3].strip()])


def test_every_error_is_documented() -> None:
    text = (DOCS / "errors.md").read_text()
    kinds = [n for n, v in vars(errors).items() if isinstance(v, type) and issubclass(v, Exception)]
    report([f"docs/errors.md: {kind} is missing" for kind in kinds if f"`{kind}`" not in text])


def test_every_public_name_is_documented() -> None:
    text = (DOCS / "python.md").read_text()
    report([f"docs/python.md: {n} is missing" for n in fleetmill.__all__ if f"| `{n}` |" not in text])


def test_every_kind_of_fact_is_documented() -> None:
    text, found = (DOCS / "ledger.md").read_text(), []
    for path in sorted((ROOT / "src" / "fleetmill").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "Draft":
                kind = next((k.value for k in node.keywords if k.arg == "kind"), None)
                if not isinstance(kind, ast.Constant):
                    found.append(f"{name(path)}:{node.lineno}: the kind of a fact must be a constant")
                elif f"| `{kind.value}` |" not in text:
                    found.append(f"docs/ledger.md: {kind.value} is missing ({name(path)}:{node.lineno})")
    report(found)


def test_the_proof_says_what_was_measured() -> None:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import prove
    finally:
        sys.path.pop(0)
    kept = json.loads((DOCS / "proof.json").read_text())

    assert prove.page(kept) == (DOCS / "proof.md").read_text(), "docs/proof.md was not written by scripts/prove.py"


def test_every_dependency_is_accounted_for() -> None:
    text = (DOCS / "dependencies.md").read_text()
    asked = project()["dependencies"] + [d for extra in project()["optional-dependencies"].values() for d in extra]
    names = sorted({re.match(r"[A-Za-z0-9._-]+", d).group().lower() for d in asked})  # type: ignore[union-attr]
    report([f"docs/dependencies.md: {n} is missing" for n in names if f"| `{n}` |" not in text])


def test_every_dependency_is_pinned_for_the_two_commands() -> None:
    pinned = {
        line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    }
    asked = project()["dependencies"] + [d for extra in project()["optional-dependencies"].values() for d in extra]
    names = sorted({re.match(r"[A-Za-z0-9._-]+", d).group().lower() for d in asked})  # type: ignore[union-attr]
    report([f"constraints.txt: {n} is not pinned" for n in names if n not in pinned])


# -- pages ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    found = []
    for target in LINK.findall(FENCED.sub("", page.read_text())):
        if not re.match(r"[a-z]+:|#", target) and not (page.parent / target.partition("#")[0]).exists():
            found.append(f"{name(page)}: {target} leads nowhere")
    report(found)


@pytest.mark.parametrize("page", [p for p in PAGES if PYTHON.search(p.read_text())], ids=name)
def test_code_on_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "page"}
    for number, code in enumerate(PYTHON.findall(page.read_text())):
        exec(compile(code, f"{name(page)} block {number}", "exec"), names)


def test_pages_name_no_place_of_one_machine() -> None:
    poor = re.compile(r"/(root|home)/[a-z]|/work/|/tmp/[a-z]")
    report([f"{name(p)}: {m.group()}" for p in PAGES for m in poor.finditer(p.read_text())])


def test_decisions_are_numbered_and_say_their_price() -> None:
    found = []
    for path in sorted((DOCS / "adr").glob("*.md")):
        if not re.match(r"\d{4}-[a-z0-9-]+\.md$", path.name):
            found.append(f"{name(path)}: must be NNNN-title.md")
        if "## Price" not in path.read_text():
            found.append(f"{name(path)}: has no price")
    report(found)


# -- the two commands -------------------------------------------------------------------------------------------------


def test_the_readme_is_short_and_names_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()

    assert len(text.splitlines()) < 180
    assert re.findall(r"^make (\w+)", text, re.MULTILINE)[:2] == ["demo", "test"]


def test_ci_runs_the_readmes_command_and_then_one_measured_claim() -> None:
    lines = [line.strip() for line in (ROOT / ".ci" / "run").read_text().splitlines()]
    done = [line for line in lines if line and not line.startswith(("#", "set ", "cd "))]

    assert done == ["make test", ".venv/bin/python scripts/prove.py --rotating"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


@pytest.mark.parametrize("target", ["demo", "test", "check", "prove", "clean"])
def test_the_makefile_has_the_target(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_the_demo_installs_what_it_needs_and_no_more() -> None:
    found = re.search(r"^DEMO_EXTRAS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)

    assert found is not None
    assert set(found[1].split(",")) == set(project()["optional-dependencies"]) - {"testing", "dev", "serve", "llm"}


def test_what_the_demo_and_the_factory_load_is_in_the_extras_that_they_install() -> None:
    """The libraries of other extras are made unfindable: a fresh clone has none of them."""
    extras = project()["optional-dependencies"]
    found = re.search(r"^DEMO_EXTRAS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert found is not None

    def names(extra: str) -> set[str]:
        return {re.split(r"[\[<>=~;]", wanted)[0].lower().replace("-", "_") for wanted in extras[extra]}

    there = set().union(*(names(extra) for extra in found[1].split(",")))
    absent = sorted(set().union(*map(names, extras)) - there)
    assert {"tokenizers", "onnxruntime_genai", "hypothesis"} <= set(absent)
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent!r}))\n"
        "import fleetmill.api.up, fleetmill.cli, fleetmill.demo.run, fleetmill.serving.gateway\n"
        "from fleetmill import lines; [lines.find(name) for name in lines.names()]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
