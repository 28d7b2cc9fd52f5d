"""Children that do not outlive their parent, however it ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # prctl(2)


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
