"""Episodes as columns: Arrow IPC files, memory-mapped, one record batch each. The only file that knows pyarrow."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from fleetmill.core import canonical
from fleetmill.core.errors import IntegrityError
from fleetmill.core.line import Array, Episode
from fleetmill.core.plain import plain

_TIMES = "time_ns"


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where an episode stands in a table: what the manifest says of it, without its rows."""

    digest: str
    device: str
    session: str
    start_ns: int
    end_ns: int
    rows: int
    tags: Mapping[str, str]


def write_table(episodes: Sequence[Episode], places: Sequence[Place]) -> bytes:
    """Arrow IPC bytes with every episode's rows one after another, and their places in the schema's metadata."""
    names = sorted({name for e in episodes for name in e.columns})
    columns = {_TIMES: np.concatenate([np.asarray(e.times_ns, np.int64) for e in episodes] or [np.zeros(0, np.int64)])}
    for name in names:
        columns[name] = np.concatenate([e.columns[name] for e in episodes])
    arrays = {name: _column(values) for name, values in columns.items()}
    schema = pa.schema(
        [pa.field(name, array.type) for name, array in arrays.items()],
        metadata={"places": canonical.dumps(plain(list(places)))},
    )
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(list(arrays.values()), schema=schema))
    return sink.getvalue()


class ColumnTable:
    """One table, memory-mapped: columns are views of the page cache, not copies."""

    def __init__(self, batch: pa.RecordBatch, places: Sequence[Place]) -> None:
        self._batch, self.places = batch, places
        self._bounds = np.concatenate([[0], np.cumsum([p.rows for p in places])]).astype(np.int64)

    def names(self) -> list[str]:
        """Every feature that has a column."""
        return [name for name in self._batch.schema.names if name != _TIMES]

    def column(self, name: str) -> Array:
        """All rows of one feature, (N, *shape)."""
        array = self._batch.column(self._batch.schema.get_field_index(name))
        if isinstance(array, pa.FixedShapeTensorArray):
            return np.asarray(array.to_numpy_ndarray())
        return np.asarray(array.to_numpy(zero_copy_only=True))

    def bounds(self) -> Array:
        """int64 (E + 1,): episode e is rows bounds[e]:bounds[e+1]."""
        return self._bounds

    def episode(self, index: int) -> Episode:
        """One episode with its rows."""
        a, b = self._bounds[index], self._bounds[index + 1]
        place = self.places[index]
        return Episode(
            device=place.device,
            session=place.session,
            start_ns=place.start_ns,
            end_ns=place.end_ns,
            times_ns=self.column(_TIMES)[a:b],
            columns={name: self.column(name)[a:b] for name in self.names()},
            tags=place.tags,
        )


def open_table(path: Path) -> ColumnTable:
    """The table in a file.

    Raises:
        IntegrityError: it is no such file.
    """
    try:
        with pa.ipc.open_file(pa.memory_map(str(path), "r")) as reader:
            batch = reader.get_batch(0)
            places = canonical.loads(reader.schema.metadata[b"places"])
    except (pa.ArrowInvalid, KeyError, TypeError) as error:
        raise IntegrityError(f"{path.name}: no table of episodes ({error})") from error
    return ColumnTable(batch, [Place(**place) for place in places])


def write_parquet(path: Path) -> bytes:
    """The same columns as Parquet bytes, for other tools; what has axes is a list of fixed length."""
    import pyarrow.parquet as pq  # slow to load, and seldom wanted

    with pa.ipc.open_file(pa.memory_map(str(path), "r")) as reader:
        table = reader.read_all()
    plain_columns = [_listed(table.column(i)) for i in range(table.num_columns)]
    sink = io.BytesIO()
    pq.write_table(pa.table(dict(zip(table.column_names, plain_columns, strict=True))), sink)
    return sink.getvalue()


def _listed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of tensors as lists, their numbers one after another."""
    if not isinstance(column.type, pa.FixedShapeTensorType):
        return column
    return pa.chunked_array([chunk.storage for chunk in column.chunks])


def _column(values: Array) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    if values.ndim == 2 and values.shape[1:] == (0,):
        raise IntegrityError("a column without width cannot be kept")
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(values))
