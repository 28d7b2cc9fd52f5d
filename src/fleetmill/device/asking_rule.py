"""Who answers a question that was put to a device: pure, the hand beside it is `asking`.

The device itself where it is sure enough; else a gateway, where label and consent let the question leave and there is
one. What must stay is answered here all the same, with how sure that is, or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass

from fleetmill.core.serve import Label, Tier, may_send
from fleetmill.core.talk import Limits


@dataclass(frozen=True, kw_only=True, slots=True)
class Permit:
    """What the one who asks allows: nothing of it is a setting of the factory's."""

    label: Label = Label.PREMISES
    consent: bool = False  # to a partner
    offline: bool = False  # ask nobody, whatever the label


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """Whether a question is handed on, and why or why not, in a few words."""

    hand_on: bool
    why: str


def way(sure: float | None, limits: Limits, permit: Permit, *, has_gateway: bool, fault: str = "") -> Way:
    """Decide. `sure`: how likely the device's own model finds its answer; None: it has none, or could not (`fault`).

    >>> way(0.4, Limits(sure=0.9, tokens=8), Permit(), has_gateway=True)
    Way(hand_on=True, why='0.40 sure, below 0.90')
    """
    if sure is not None and sure >= limits.sure:
        return Way(hand_on=False, why=f"{sure:.2f} sure, at least {limits.sure:.2f}")
    doubt = (fault or "no model of its own") if sure is None else f"{sure:.2f} sure, below {limits.sure:.2f}"
    if stays := _stays(permit, has_gateway=has_gateway):
        return Way(hand_on=False, why=f"{doubt}; {stays}")
    return Way(hand_on=True, why=doubt)


def _stays(permit: Permit, *, has_gateway: bool) -> str:
    """Why a question may not or cannot leave the device; "": it may."""
    if permit.offline:
        return "offline was asked for"
    if not may_send(permit.label, Tier.PREMISES, consent=permit.consent):
        return f"label {permit.label.name.lower()} never leaves the device"
    return "" if has_gateway else "no gateway is configured"
