"""When a server says itself that it takes no more for now: a rule over its answer's head.

Source: RFC 9110, section 10.2.3 (Retry-After), and RFC 6585, section 4 (429).
"""

from __future__ import annotations

_LEAST_SECONDS = 1.0  # where it does not say how long, or says a date


def seconds(status: int, after: bytes | None) -> float | None:
    """For how long it wants no more requests, by its status and its Retry-After; None: that is not what it says.

    A 503 without Retry-After is a failure like any other.

    >>> seconds(429, None), seconds(429, b"7"), seconds(503, b"7"), seconds(503, None), seconds(200, b"7")
    (1.0, 7.0, 7.0, None, None)
    """
    if status != 429 and (status != 503 or after is None):
        return None
    return max(_LEAST_SECONDS, float(after)) if after is not None and after.isdigit() else _LEAST_SECONDS
