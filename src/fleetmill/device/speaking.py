"""A language model on the device: ids in, the likeliest next id out, again and again. numpy and the line's own model.

No engine is needed beyond the one that runs every line's model. Each id is a whole look at what was said so far: right
for short answers, and the same bytes that gate and health check saw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.line import Policy
from fleetmill.core.talk import Limits, Said, Talk


@dataclass(frozen=True, kw_only=True, slots=True)
class Spoken:
    """What the device's own model answered."""

    text: str
    sure: float  # how likely it found the whole answer, its end included
    ended: Literal["stop", "length"]  # its own end, or no more ids were allowed


def speak(talk: Talk, policy: Policy, said: Sequence[Said], limits: Limits) -> Spoken:
    """The likeliest answer to a conversation, within the signed limits and the model's context.

    Raises:
        InvalidInputError: what was asked leaves no room in the context.
        EngineError: the model could not be run.
    """
    ids = talk.ids(said)
    if len(ids) >= talk.context:
        raise InvalidInputError(
            f"the question takes {len(ids)} of the model's {talk.context} ids, and leaves none for an answer. Ask less"
        )
    found: list[int] = []
    likely: list[float] = []
    for _ in range(min(limits.tokens, talk.context - len(ids))):
        logits = np.asarray(policy.ask({talk.takes: np.array([[*ids, *found]], np.int64)})[talk.gives][0], np.float64)
        best = int(logits.argmax())
        likely.append(float(1.0 / np.exp(logits - logits[best]).sum()))
        if best in talk.ends:
            return Spoken(text=talk.text(found), sure=talk.sureness(likely), ended="stop")
        found.append(best)
    return Spoken(text=talk.text(found), sure=talk.sureness(likely), ended="length")
