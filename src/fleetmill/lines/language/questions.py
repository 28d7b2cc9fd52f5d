"""What people ask of a recorded session in the demo: its sums, one after another, each a conversation of its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fleetmill.core.line import Foreign
from fleetmill.lines.language.conversations import (
    ROW,
    USER_SAYS,
    Conversation,
    Turn,
    conversations,
    messages,
)
from fleetmill.lines.language.practice import asked, pairs, told
from fleetmill.lines.language.sums import sums


def asks(recorded: Foreign, answered: bool) -> Foreign:
    """The sums of a session as questions of one person, with what they truly come to where `answered`.

    A sum is one that stands in a calculator's note or was asked and answered; a session has its own person.
    """
    rows: dict[int, dict[str, np.ndarray]] = {}
    for message in recorded.messages:
        rows.setdefault(message.log_time_ns, {})[message.topic] = np.asarray(message.value.get("data", 0))
    times = [at for at in sorted(rows) if all(name in rows[at] for name in ROW)]
    said = conversations(*(np.stack([rows[at][name] for at in times]) for name in ROW)) if times else []
    found = asked([s for c in said for s in [*(s for turn in c for s in sums(turn.text)), *pairs(c)]])
    chats: list[Conversation] = [told(*s) if answered else (Turn(role=USER_SAYS, text=f"{s[0]}="),) for s in found]
    person = recorded.device if recorded.device.endswith(recorded.session) else f"{recorded.device}-{recorded.session}"
    start_ns = times[0] if times else 0
    return replace(recorded, device=person, messages=messages(chats, start_ns=start_ns))
