"""A dataset version as a line sees it: `core.line.Data` over memory-mapped tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.line import Array, Episode
from fleetmill.seams.tables import ColumnTable


class Rows:
    """The episodes of one split; implements `core.line.Data`."""

    def __init__(self, table: ColumnTable | None) -> None:
        self._table = table

    def split(self, name: Literal["train", "validation"]) -> Rows:
        """Itself when it is asked for what it is; there is nothing else below."""
        raise InvalidInputError(f"split {name!r}: this is one split already; ask the dataset version")

    def column(self, feature: str) -> Array:
        """All rows of one feature, (N, *shape), not copied.

        Raises:
            InvalidInputError: no such column.
        """
        if self._table is None or feature not in self._table.names():
            known = self._table.names() if self._table else []
            raise InvalidInputError(f"no column {feature!r}; there are {', '.join(known) or 'none (no rows)'}")
        return self._table.column(feature)

    def bounds(self) -> Array:
        """int64 (E + 1,): episode e is rows bounds[e]:bounds[e+1]."""
        return self._table.bounds() if self._table else np.zeros(1, np.int64)

    def episode(self, index: int) -> Episode:
        """One episode with its rows."""
        if self._table is None:
            raise InvalidInputError(f"episode {index}: there are none")
        return self._table.episode(index)

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.bounds()) - 1


class Dataset(Rows):
    """A dataset version: its own columns are those that train; `split` gives the others."""

    def __init__(self, tables: Mapping[str, ColumnTable]) -> None:
        super().__init__(tables.get("train"))
        self._tables = tables

    def split(self, name: Literal["train", "validation", "held_out"]) -> Rows:
        """The episodes of one role. Lines ask for train and validation; only the judge asks for held_out."""
        return Rows(self._tables.get(name))
