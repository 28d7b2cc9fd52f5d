"""What `doctor` asks the machine itself: free space, its clock's keeper, who listens, what is installed."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

_EXTRA = re.compile(r"""extra\s*==\s*["']([a-z]+)["']""")
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_SECONDS = 3.0


class Host(Protocol):
    """The machine that a home lies on."""

    def free_bytes(self, path: Path) -> int:
        """Space left on the disk of `path`."""

    def clock_is_kept(self) -> bool | None:
        """Whether NTP keeps the clock; None: nobody here can say."""

    def health(self, address: str) -> dict[str, Any] | None:
        """What a factory at `address` says of itself; None: no factory answers."""

    def is_free(self, host: str, port: int) -> bool:
        """Whether one could listen there."""

    def lacks(self, extra: str) -> list[str]:
        """Libraries of an extra that are not installed."""


class ThisHost:
    """`Host`: this one."""

    def free_bytes(self, path: Path) -> int:
        """See `Host.free_bytes`."""
        return shutil.disk_usage(path).free

    def clock_is_kept(self) -> bool | None:
        """See `Host.clock_is_kept`: as systemd's timedatectl says."""
        command = ["timedatectl", "show", "--property=NTPSynchronized", "--value"]
        try:
            said = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return {"yes": True, "no": False}.get(said.stdout.strip())

    def health(self, address: str) -> dict[str, Any] | None:
        """See `Host.health`."""
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=_SECONDS) as answer:  # noqa: S310 - http, ours
                said = json.loads(answer.read(65536))
        except (OSError, ValueError, urllib.error.URLError):
            return None
        return said if isinstance(said, dict) and {"facts", "head"} <= set(said) else None

    def is_free(self, host: str, port: int) -> bool:
        """See `Host.is_free`."""
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                return False
        return True

    def lacks(self, extra: str) -> list[str]:
        """See `Host.lacks`: by the metadata of the installed package."""
        asked = [r for r in metadata.requires("fleetmill") or [] if (m := _EXTRA.search(r)) and m[1] == extra]
        names = [found[0] for r in asked if (found := _NAME.match(r))]
        return sorted(name for name in names if not _is_installed(name))


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
