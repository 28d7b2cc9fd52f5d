"""The test kit that ships: a tiny line, a clock turned by hand, an in-process client, and `check_line`."""

from fleetmill.testing.check import check_line
from fleetmill.testing.kit import Clock, InProcess, in_process
from fleetmill.testing.tiny import tiny_file, tiny_line, tiny_model

__all__ = ["Clock", "InProcess", "check_line", "in_process", "tiny_file", "tiny_line", "tiny_model"]
