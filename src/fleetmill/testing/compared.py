"""Are two frames equal, does an array fit what was declared, and what did a line's function raise, in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath
from traceback import extract_tb
from typing import Any

import numpy as np

from fleetmill.core.errors import FleetmillError
from fleetmill.core.line import Array, Episode, Frame

_LONGEST = 160  # characters of a foreign error's text


class Broken(Exception):  # noqa: N818 - a breach of the contract in words, on its way to the list of breaches
    """A member of a line raised what it must not; the text says which and what."""


@contextmanager
def member(name: str, *, may: tuple[type[FleetmillError], ...] = ()) -> Iterator[None]:
    """Whatever is raised inside becomes `Broken` and names this member of the line, but for `may`."""
    try:
        yield
    except may:
        raise
    except Broken:
        raise
    except FleetmillError as error:
        raise Broken(f"{name}: {_short(error)}") from error
    except Exception as error:
        raise Broken(f"{name}: raises {type(error).__name__} ({_short(error)}){_place(error)}") from error


def equal(a: Frame, b: Frame) -> bool:
    """The same names and the same numbers; NaN equals NaN."""
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k], equal_nan=is_float(a[k])) for k in a)


def same(a: Episode, b: Episode) -> bool:
    """The same interval, times and columns."""
    return (a.start_ns, a.end_ns) == (b.start_ns, b.end_ns) and equal(
        {**a.columns, "times_ns": a.times_ns}, {**b.columns, "times_ns": b.times_ns}
    )


def fits(value: Array, dtype: str, shape: tuple[int, ...]) -> bool:
    """Whether an array is as declared; -1 is any length."""
    return (
        str(value.dtype) == dtype
        and value.ndim == len(shape)
        and all(want in (-1, got) for want, got in zip(shape, value.shape, strict=True))
    )


def is_float(value: Any) -> bool:
    """Whether it is made of floats."""
    return bool(np.issubdtype(np.asarray(value).dtype, np.floating))


def is_finite(frame: Frame) -> bool:
    """Whether every float in it is a finite number."""
    return all(np.isfinite(np.asarray(value)).all() for value in frame.values() if is_float(value))


def _short(error: BaseException) -> str:
    said = " ".join(str(error).split()) or "without a word"
    return said if len(said) <= _LONGEST else said[:_LONGEST] + "..."


def _place(error: BaseException) -> str:
    """The last line of source that is the line's own: not numpy's, not torch's."""
    frames = [f for f in extract_tb(error.__traceback__) if "site-packages" not in f.filename and f.lineno]
    ours = [f for f in frames[1:] if PurePath(f.filename).name != "contextlib.py"]
    return f" at {PurePath(ours[-1].filename).name} line {ours[-1].lineno}" if ours else ""
