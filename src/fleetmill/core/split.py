"""Which sessions train, which validate, which are held out: by session and device, never by frame (CONTRACTS, 2)."""

from __future__ import annotations

from typing import Literal

Role = Literal["train", "validation", "held_out"]
ROLES: tuple[Role, ...] = ("train", "validation", "held_out")


def role(split: Literal["session", "device", "time"], *, device: int, session: int) -> Role:
    """The role of a device's nth session, from enrolment number and the number in the device's own journal.

    Independent of arrival order; a role is given once and never moves. For ``time`` everything trains until a cut-off
    says otherwise.

    >>> [role("session", device=0, session=n) for n in range(5)]
    ['train', 'train', 'held_out', 'train', 'validation']
    """
    if split == "time":
        return "train"
    number = device + (session if split == "session" else 0)
    if number % 4 == 2:
        return "held_out"
    return "validation" if number % 8 == 4 else "train"
