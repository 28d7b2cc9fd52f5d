"""Are there wheels of the engines that we do not run, for the platforms that their pages name?

Usage: scripts/check_engine_wheels.py

Asks pip for a dry run per engine and platform, without what the engine itself needs: an index that gives metadata
beside its wheels is asked for nothing else. Exit code 1 when one is missing, 4 when no index answers. Standard library
only.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile

APPLE = tuple(f"macosx_{version}_0_arm64" for version in (15, 14, 13, 12, 11))
LINUX = tuple(f"manylinux_2_{minor}_x86_64" for minor in (39, 35, 34, 31, 28, 27, 17))
# engine -> (what is installed, for which platforms, Python)
WANTED = {
    "mlx_server": (("mlx-lm>=0.32,<1", "mlx>=0.32,<1"), APPLE, "3.12"),
    "coreml": (("onnxruntime>=1.23,<2",), APPLE, "3.12"),
    "vllm": (("vllm>=0.33,<1",), LINUX, "3.12"),
    "sglang": (("sglang>=0.5.20,<1",), LINUX, "3.12"),
    "genai": (("onnxruntime-genai>=0.13",), LINUX, "3.12"),
}
OFFLINE = "No package index answers: whether the engines' wheels are there was not checked."


def main() -> int:
    """One line per engine."""
    failed = 0
    for engine, (requirements, platforms, python) in WANTED.items():
        found, why = resolve(requirements, platforms, python)
        if found is None and why == OFFLINE:
            print(OFFLINE)
            return 4
        failed += found is None
        print(f"{engine}: {', '.join(found) if found is not None else f'NOT THERE: {why}'} ({platforms[0]})")
    return 1 if failed else 0


def resolve(requirements: tuple[str, ...], platforms: tuple[str, ...], python: str) -> tuple[list[str] | None, str]:
    """Names and versions of the wheels; or None and why not."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed", "--no-deps"),
            *("--report", "-", "--retries", "1", "--only-binary=:all:", "--target", folder, "--python-version", python),
            *(f"--platform={p}" for p in platforms),
            *requirements,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        offline = re.search(r"connection broken by|Could not fetch URL", done.stderr)
        return None, OFFLINE if offline else " ".join(done.stderr.strip().splitlines()[-1:])
    installed = json.loads(done.stdout[done.stdout.index("{") :])["install"]
    return [f"{p['metadata']['name']} {p['metadata']['version']}" for p in installed], ""


if __name__ == "__main__":
    sys.exit(main())
