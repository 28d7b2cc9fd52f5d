"""Print what an installation will download, and write the flags that pip needs for it.

Usage: PYTHON_OF_THE_VENV scripts/plan_install.py --extras factory,train --flags FILE

It asks pip for a dry run with a report, and asks for the size of each file that pip would fetch. Where the report
contains CUDA libraries and the machine has no NVIDIA device, the CPU build of PyTorch is planned instead, from the
index that TORCH_INDEX names; with CUDA=1, or with TORCH_INDEX empty, it stays as it is. Standard library only.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

CUDA = re.compile(r"^(nvidia-|cuda-|triton$)")


def main() -> int:
    """Print the plan, write the flags; 1 when pip finds no way to install."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--extras", required=True, help="extras of this project, with commas")
    parser.add_argument("--flags", type=Path, required=True, help="file that gets the flags for pip install")
    asked = parser.parse_args()
    what = ["-c", "constraints.txt", "-e", f".[{asked.extras}]"]
    flags: list[str] = []
    packages = dry_run(what)
    if packages is None:
        return 1
    heavy = cuda_names(packages)
    index = cpu_index(heavy, os.environ, has_nvidia=has_nvidia())
    if heavy:
        print(f"CUDA libraries are among what PyTorch asks for: {len(heavy)} packages.")
    if index:
        print(f"This machine has no NVIDIA device: taking PyTorch's CPU build from {index} instead. CUDA=1 keeps CUDA.")
        lighter = dry_run([*what, "--extra-index-url", index]) if answers(index) else None
        if lighter is None or cuda_names(lighter):
            print(f"{index} gives no CPU build here. Going on with CUDA; TORCH_INDEX may name another index.")
        else:
            packages, flags = lighter, ["--extra-index-url", index]
    print(summary(packages))
    asked.flags.write_text("\n".join(flags) + "\n" if flags else "")
    return 0


def dry_run(what: list[str]) -> list[dict[str, Any]] | None:
    """What pip would install, as its report lists it; None when pip refuses (it says why itself)."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--report", "-", *what]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        return None
    found: list[dict[str, Any]] = json.loads(done.stdout[done.stdout.index("{") :])["install"]
    return [p for p in found if "dir_info" not in p["download_info"]]  # not this project itself


def cuda_names(packages: list[dict[str, Any]]) -> list[str]:
    """Names of the packages that only an NVIDIA device needs."""
    names = [re.sub(r"[-_.]+", "-", p["metadata"]["name"]).lower() for p in packages]
    return sorted(n for n in names if CUDA.match(n))


def cpu_index(heavy: list[str], environment: Mapping[str, str], *, has_nvidia: bool) -> str:
    """The index to take PyTorch's CPU build from; empty: leave it as it is."""
    if not heavy or has_nvidia or environment.get("CUDA") == "1":
        return ""
    return environment.get("TORCH_INDEX", "").strip()


def answers(index: str) -> bool:
    """Whether anything answers there; asked first, since pip would ask many times for each package."""
    try:
        with _open(index):
            return True
    except urllib.error.HTTPError:
        return True
    except (urllib.error.URLError, TimeoutError, ValueError):
        return False


def has_nvidia() -> bool:
    """Whether this machine has an NVIDIA device, or at least its tool."""
    return Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi") is not None


def summary(packages: list[dict[str, Any]]) -> str:
    """One or more lines: how many packages, how many megabytes, the largest ones."""
    if not packages:
        return "Nothing to download: everything is installed."
    urls = [p["download_info"]["url"] for p in packages]
    with ThreadPoolExecutor(8) as pool:
        sizes = list(pool.map(size, urls))
    known = [s for s in sizes if s is not None]
    ranked = sorted(((s or 0, p["metadata"]["name"]) for s, p in zip(sizes, packages)), reverse=True)[:4]
    largest = ", ".join(f"{name} {s / 1e6:.0f}" for s, name in ranked)
    unknown = f" ({len(sizes) - len(known)} of unknown size)" if len(known) < len(sizes) else ""
    return f"To download: {len(packages)} packages, {sum(known) / 1e6:.0f} MB{unknown}; the largest: {largest}."


def size(url: str) -> int | None:
    """Bytes of the file at `url`; None when its server does not say."""
    parts = urllib.parse.urlparse(url)
    if parts.scheme == "file":
        path = Path(urllib.parse.unquote(parts.path))
        return path.stat().st_size if path.is_file() else None
    if parts.scheme != "https":
        return None
    try:
        with _open(url) as answer:
            return int(answer.headers["Content-Length"])
    except (urllib.error.URLError, TimeoutError, TypeError, ValueError):
        return None


def _open(url: str) -> Any:
    context = ssl.create_default_context(cafile=os.environ.get("PIP_CERT"))
    return urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=20, context=context)


if __name__ == "__main__":
    sys.exit(main())
