"""Production lines: `find(name)` is the only way to one."""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from importlib.metadata import entry_points

from fleetmill.core.errors import EngineMissingError, LineError, NotFoundError
from fleetmill.core.line import Line

GROUP = "fleetmill.lines"


def names() -> list[str]:
    """Every installed line's name, ours and third parties', sorted."""
    return sorted(point.name for point in entry_points(group=GROUP))


def find(name: str) -> Line:
    """The line called `name`.

    Raises:
        NotFoundError: no installed package brings a line of that name.
        EngineMissingError: the line's package is there, one of its libraries is not.
        LineError: what the package brings under that name is no line.
    """
    for point in entry_points(group=GROUP, name=name):
        try:
            line = point.load()
        except ModuleNotFoundError as error:
            raise EngineMissingError(f"{error.name} (line {name})", extra="sim") from error
        if not isinstance(line, Line):
            raise LineError(f"{point.value} must be a Line, it is a {type(line).__name__}")
        return line
    raise NotFoundError(f"no line {name!r}: installed are {', '.join(names()) or 'none'}. See docs/lines.md")


def _by_name(line: Line) -> tuple[Callable[[str], Line], tuple[str]]:
    return find, (line.name,)


copyreg.pickle(Line, _by_name)  # a line travels to a worker process by its name: its parts are plain functions
