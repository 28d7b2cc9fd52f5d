"""Does the base install, the device agent, resolve from wheels alone on every Python and machine that we name?

Usage: scripts/check_device_wheels.py

Asks pip for a dry run per target; downloads no package. Exit code 1 when a target does not resolve, 4 when no index
answers. pip reads the markers of what the dependencies themselves want for the Python that runs this script; these are
small packages of pure Python. Standard library only.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import tomllib

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
MACHINES = ("x86_64", "aarch64")
# pip takes the tags as given, so the older ones, which a newer system runs too, are named as well.
# JetPack 6 is Ubuntu 22.04 with glibc 2.35.
GLIBC = (35, 34, 31, 28, 27, 26, 24, 17, 12, 5)
OFFLINE = "No package index answers: whether the device's wheels resolve was not checked."
PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def main() -> int:
    """One line per target."""
    project = tomllib.loads(PROJECT.read_text())["project"]
    failed = []
    for machine in MACHINES:
        for python in PYTHONS:
            names, words = resolve(wanted(project["dependencies"], python), python, machine)
            if words == OFFLINE:
                print(words)
                return 4
            if names is None:
                failed.append(words)
                print(f"Python {python} {machine}: NOT RESOLVED: {words}")
                continue
            heavy = ", ".join(sorted(n for n in names if n.split()[0] in ("numpy", "onnxruntime")))
            print(f"Python {python} {machine}: {len(names)} wheels, {heavy}")
    return 1 if failed else 0


def wanted(dependencies: list[str], python: str) -> list[str]:
    """Requirements without markers, those that this Python needs. pip reads markers for the Python that runs it."""
    found = []
    for dependency in dependencies:
        requirement, _, marker = dependency.partition(";")
        limit = re.search(r"python_version\s*<\s*'3\.(\d+)'", marker)
        if not marker or (limit and int(python.split(".")[1]) < int(limit[1])):
            found.append(requirement.strip())
    return found


def resolve(requirements: list[str], python: str, machine: str) -> tuple[list[str] | None, str]:
    """Names and versions of the wheels; or None and why not."""
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in GLIBC]
    platforms += [f"--platform=manylinux{old}_{machine}" for old in ("2014", "2010", "1")]
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed", "--report", "-"),
            *(
                "--retries",
                "1",
                "--only-binary=:all:",
                "--target",
                folder,
                "--python-version",
                python,
                *platforms,
                *requirements,
            ),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 and re.search(r"connection broken by|Could not fetch URL", done.stderr):
        return None, OFFLINE
    if done.returncode != 0:
        return None, " ".join(done.stderr.strip().splitlines()[-1:])
    installed: list[dict[str, Any]] = json.loads(done.stdout[done.stdout.index("{") :])["install"]
    return [f"{p['metadata']['name']} {p['metadata']['version']}" for p in installed], ""


if __name__ == "__main__":
    sys.exit(main())
