"""docs/lines.md, from a CSV to a fleet update: every block is run as it is printed, in an empty folder.

The commands run in an environment of their own beside the one of the tests: what they install is seen by nobody else.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "lines.md"
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)
PROGRAMS = {"pip": "pip", "pytest": "pytest", "fleetmill": "fleetmill.cli"}


def blocks() -> list[tuple[str, str, str]]:
    """(language, file name or nothing, text) of each block of the tutorial."""
    page = PAGE.read_text()
    part = page[page.index("## From a CSV to a fleet update") :]
    return [m.groups("") for m in BLOCK.finditer(part[: part.index("\n## ", 1)])]


def test_the_tutorial_has_fewer_than_100_lines_of_code() -> None:
    code = [line for language, _, text in blocks() if language != "text" for line in text.splitlines() if line.strip()]
    assert 50 < len(code) < 100


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with python, pip, pytest and fleetmill of a fresh environment that sees what is installed here."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = venv / "lib" / version / "site-packages"
    (site / "parent.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    for name, module in PROGRAMS.items():
        program = venv / "bin" / name
        program.write_text(f'#!/bin/sh\nexec "{venv}/bin/python" -m {module} "$@"\n')
        program.chmod(0o755)
    return venv / "bin"


@pytest.fixture
def printed(tmp_path: Path, programs: Path) -> str:
    """Everything that the tutorial's commands print, in one shell, as a reader's terminal would."""
    folder = tmp_path / "empty"
    folder.mkdir()
    script = ["set -eu -o pipefail", "trap 'kill $(jobs -p) 2> kill.txt || true' EXIT"]  # also where a command fails
    for language, name, text in blocks():
        if name:
            (folder / name).write_text(text)
        elif language == "sh":
            script.append(text)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("FLEETMILL_", "PYTHON", "PYTEST_"))}
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    shell = subprocess.Popen(
        ["bash", "-c", "\n".join(script)],
        cwd=folder,
        env={**clean, **offline, "PATH": f"{programs}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = shell.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        os.killpg(shell.pid, signal.SIGKILL)
        pytest.fail(f"the tutorial did not end; its last words: {shell.communicate()}", pytrace=False)
    assert shell.returncode == 0, out[-2000:] + err[-2000:]
    return out


def test_the_tutorial_ends_in_a_release_that_a_device_confirmed(printed: str) -> None:
    said = [" ".join(line.split()) for line in printed.splitlines()]

    assert "1 passed" in printed
    assert any(line.startswith("pump: ") and "replay" in line and "pump-line" in line for line in said)
    shown = [
        " ".join(line.split()) for language, _, text in blocks() if language == "text" for line in text.splitlines()
    ]
    at = 0
    for line in shown:  # each comes out, one after the other; "..." stands for what differs between machines
        pattern = re.compile(".*".join(map(re.escape, line.split("..."))))
        found = next((n for n, words in enumerate(said[at:], start=at) if pattern.fullmatch(words)), None)
        assert found is not None, f"{line!r} does not come out after {said[max(at - 5, 0) : at]}; it said {said}"
        at = found + 1
    assert sum("confirmed: healthy" in line for line in shown) == 2
    assert any(line.startswith("release ") for line in shown)
