"""Letters for pictures: 5 x 7 points each, so that a contact sheet needs no font and no library that draws text."""

from __future__ import annotations

import numpy as np

from fleetmill.core.line import Array

WIDE, HIGH = 6, 9  # points of a letter with the space around it
# a letter, then its 35 points row by row as nine hex digits
_DRAWN = (
    "03a33ae62e 111842108e 23a213221f 378217043e 408ca97c42 57e1e0862e 61910f462e 77c2222108 83a317462e "
    "93a317844c A3a31fc631 B7a31f463e C3a308422e D7a318c63e E7e10f421f F7e10f4210 G3a30bc62e H4631fc631 "
    "I38842108e J1c4210a4c K4654c5251 L42108421f M4775ac631 N47359c631 O3a318c62e P7a31f4210 Q3a318d64d "
    "R7a31f5251 S3e107043e T7c8421084 U46318c62e V46318c544 W4631ad771 X462a22a31 Y462a21084 Z7c222221f "
    "+0084f9080 -0000f8000 .00000018c :018c03180 /042222210 _00000001f (088842082 )208210888 ,000003088 "
    "%672222273 =001f07c00 ?3a2131004"
)


def written(text: str, *, scale: int = 2) -> Array:
    """`text` as a mask (rows, columns) of bool, in capitals; a letter that is not drawn here is a question mark.

    >>> written("A", scale=1).shape
    (9, 6)
    """
    found = np.zeros((HIGH, WIDE * max(len(text), 1)), bool)
    for index, letter in enumerate(text.upper()):
        if letter != " ":
            found[1:8, index * WIDE : index * WIDE + 5] = _POINTS.get(letter, _POINTS["?"])
    return found.repeat(scale, 0).repeat(scale, 1)


def _points(digits: str) -> Array:
    bits = [(int(digits, 16) >> (34 - i)) & 1 for i in range(35)]
    return np.array(bits, bool).reshape(7, 5)


_POINTS = {drawn[0]: _points(drawn[1:]) for drawn in _DRAWN.split(" ")}
