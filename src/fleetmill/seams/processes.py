"""Children that do not outlive their parent, memory that outlives nobody, and the CPU time that processes have used."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4  # prctl(2)


def be_child_of(parent: int) -> None:
    """End this process with process `parent`, and by its word alone.

    The kernel kills it when the parent dies, also by kill -9 (Linux; elsewhere nothing is done). A Ctrl-C goes to the
    whole process group: it is the parent's to decide what becomes of it. `parent` comes from the parent itself, so
    that one which died while this process was starting is noticed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def leave_no_core() -> None:
    """From now on the kernel writes no image of this process's memory when it dies, nor lets its equals read it.

    Also not through a handler that the system has for that (Linux; elsewhere the limit alone).
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def family(pid: int) -> list[int]:
    """A process and everything that it started, itself first (Linux; elsewhere itself alone)."""
    found = [pid]
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that ends meanwhile has no more children
            for child in path.read_text().split():
                found += family(int(child))
    return found


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that died and was not waited for does not."""
    stat = _stat(pid)
    return bool(stat) and stat[0] not in "ZX"


def cpu_seconds(pid: int) -> float:
    """CPU seconds that a running process has used, its ended children included; 0 when it is gone."""
    stat = _stat(pid)
    return sum(map(int, stat[11:15])) / os.sysconf("SC_CLK_TCK") if stat else 0.0


def cpu_seconds_here() -> float:
    """CPU seconds of this process, of its children that have ended, and (Linux) of those that still work for it."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used) + sum(map(cpu_seconds, family(os.getpid())[1:]))


def _stat(pid: int) -> list[str]:
    """The fields after the name (proc(5)); none when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
