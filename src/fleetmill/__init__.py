"""Fleetmill: an AI factory that you own. These are the names to build on; `docs/python.md` has one line on each.

Names are loaded when they are asked for, so that `import fleetmill` on a device loads nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fleetmill.api.up import up
    from fleetmill.core.errors import FleetmillError
    from fleetmill.core.line import (
        Check,
        Episode,
        Feature,
        Judging,
        Line,
        ModelSpec,
        Port,
        Stretch,
        TrainCommand,
        Trigger,
    )
    from fleetmill.demo.run import demo as run_demo
    from fleetmill.demo.run import make_plan as plan_demo
    from fleetmill.device.agent import open_agent
    from fleetmill.home import init_home, open_home
    from fleetmill.lines import find as find_line
    from fleetmill.loop import turn
    from fleetmill.receive.imports import import_path
    from fleetmill.score import score as score_model
    from fleetmill.settings import Settings, read_settings
    from fleetmill.status import status as read_status
    from fleetmill.testing import check_line

__all__ = [
    "Check",
    "Episode",
    "Feature",
    "FleetmillError",
    "Judging",
    "Line",
    "ModelSpec",
    "Port",
    "Settings",
    "Stretch",
    "TrainCommand",
    "Trigger",
    "check_line",
    "find_line",
    "import_path",
    "init_home",
    "open_agent",
    "open_home",
    "plan_demo",
    "read_settings",
    "read_status",
    "run_demo",
    "score_model",
    "turn",
    "up",
]

_PLACES = {
    "FleetmillError": "core.errors",
    "Settings": "settings",
    "check_line": "testing",
    "find_line": "lines:find",
    "import_path": "receive.imports",
    "init_home": "home",
    "open_agent": "device.agent",
    "open_home": "home",
    "plan_demo": "demo.run:make_plan",
    "read_settings": "settings",
    "read_status": "status:status",
    "run_demo": "demo.run:demo",
    "score_model": "score:score",
    "turn": "loop",
    "up": "api.up",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'fleetmill' has no attribute {name!r}")
    module, _, inner = _PLACES.get(name, "core.line").partition(":")
    return getattr(import_module(f"fleetmill.{module}"), inner or name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
