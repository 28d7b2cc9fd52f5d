"""The test kit that ships: a tiny line, stand-ins without a world, and `check_line`."""

from fleetmill.testing.check import check_line
from fleetmill.testing.kit import Clock, Held, InProcess, Notes, Rows, in_process
from fleetmill.testing.made import made_up
from fleetmill.testing.tiny import tiny_file, tiny_line, tiny_model

__all__ = [
    "Clock",
    "Held",
    "InProcess",
    "Notes",
    "Rows",
    "check_line",
    "in_process",
    "made_up",
    "tiny_file",
    "tiny_line",
    "tiny_model",
]
