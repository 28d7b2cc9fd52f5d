"""What a release is made of: locks that name every file by digest; the docs build into a site without a network."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIN = re.compile(r"^([A-Za-z0-9_.-]+)==(\S+)", re.MULTILINE)


def pins(path):
    return {
        name.lower().replace("_", "-").replace(".", "-"): version for name, version in PIN.findall(path.read_text())
    }


def test_the_lock_of_the_factory_has_the_versions_that_the_tests_ran_with():
    tested, locked = pins(ROOT / "constraints.txt"), pins(ROOT / "locks" / "factory.txt")

    assert len(locked) > 50
    assert {n: v for n, v in locked.items() if tested.get(n, v) != v} == {}
    project = (ROOT / "pyproject.toml").read_text()
    direct = re.findall(r'"([a-z0-9_.-]+)[><=\[]', project[: project.index("train =")])
    assert {d.lower().replace("_", "-").replace(".", "-") for d in direct if d != "setuptools"} <= set(locked)


@pytest.mark.parametrize("name", ["factory", "release"])
def test_every_package_of_a_lock_is_named_by_digest_and_by_no_address(name):
    text = (ROOT / "locks" / f"{name}.txt").read_text()

    entries = re.split(r"\n(?=\S)", text.strip())
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text


@pytest.mark.slow
def test_the_docs_build_into_a_site_without_a_warning(tmp_path):
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True, env={"NO_MKDOCS_2_WARNING": "1", "PATH": ""},
    )  # fmt: skip

    assert built.returncode == 0, built.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 20
    fetched = [
        (page.name, found)
        for page in pages
        for found in re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)"', page.read_text())
    ]
    assert [f for f in fetched if "canonical" not in f[1]] == []
