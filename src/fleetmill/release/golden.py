"""Golden frames: what a model answers here, so that a device can see that it answers the same there."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable

import numpy as np

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.line import Array, Frame

_BEGINNING = (1980, 1, 1, 0, 0, 0)  # the zip format's own zero: `np.savez` writes the clock, so its bytes never repeat


def golden_npz(inputs: Frame, ask: Callable[[Frame], Frame]) -> bytes:
    """The bytes of golden.npz: ``in.<port>`` as given and ``out.<port>`` as answered, batch axis first.

    The model is asked one frame at a time, as a device asks it. Same inputs and answers give the same bytes. A state
    port is an input like any other: give it the value that the frame had.

    Raises:
        InvalidInputError: no frames, unequal numbers of frames, an answer that is not finite or not numeric.
        EngineError: the model could not be run.
    """
    sizes = {name: len(value) for name, value in inputs.items()}
    if not sizes or len(set(sizes.values())) != 1 or 0 in sizes.values():
        raise InvalidInputError(f"golden inputs: every port needs the same number of frames, at least 1; got {sizes}")
    answers = [ask({name: value[i : i + 1] for name, value in inputs.items()}) for i in range(max(sizes.values()))]
    outputs = {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}
    for name, value in outputs.items():
        if value.dtype.kind not in "fiub" or not np.isfinite(value).all():
            raise InvalidInputError(f"golden output {name!r}: holds values that are not finite numbers")
    arrays = {f"in.{name}": value for name, value in inputs.items()}
    return _npz({**arrays, **{f"out.{name}": value for name, value in outputs.items()}})


def _npz(arrays: dict[str, Array]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name, value in sorted(arrays.items()):
            member = io.BytesIO()
            little = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
            np.lib.format.write_array(member, little, version=(1, 0), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", date_time=_BEGINNING)
            info.create_system, info.external_attr = 3, 0o644 << 16  # else they tell the operating system
            archive.writestr(info, member.getvalue())
    return packed.getvalue()
