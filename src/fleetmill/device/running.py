"""What runs on a device, read beside its agent: nothing is locked, and every byte is verified as it is read."""

from __future__ import annotations

from pathlib import Path

from fleetmill.core.errors import NotFoundError
from fleetmill.device.slots import Slots, read_state
from fleetmill.device.update_rule import MODEL, Release

_LOOKS = 3  # an update in between may have moved the slot away


def running(folder: Path) -> tuple[Release, bytes] | None:
    """The active release of the device in `folder` and its model's bytes; None: nothing runs there.

    Raises:
        IntegrityError: the slot is not what was signed.
    """
    for look in range(_LOOKS):
        state = read_state(folder / "slots")
        if state is None or state.active is None:
            return None
        slots = Slots(folder / "slots", state)
        try:
            return slots.release(state.active), slots.read(state.active, MODEL)
        except NotFoundError:
            if look == _LOOKS - 1:
                raise
    return None
