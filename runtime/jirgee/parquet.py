"""Parquet in and out, by row groups. A row that came from Parquet goes back to Parquet as the bytes it was.

Parquet has its index at its end and cannot grow after a kill. While a run writes, each piece is therefore an Arrow
stream of its own, one behind the other in a plain file; ``finish`` turns the pieces into row groups.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from .errors import optional_import
from .records import Place, Row
from .sources import UnreadableFile
from .writers import cell

ROWS_AT_ONCE = 1024
ROW_GROUP = 65_536


def pyarrow() -> Any:
    optional_import("pyarrow.parquet", "jirgee[parquet]", "Parquet")
    return optional_import("pyarrow", "jirgee[parquet]", "Parquet")


def read_parquet(path: Path, raw: Any, at: Place | None, done: Callable[[float], Any]) -> Iterator[Row]:
    """Rows in order, from row ``at.offset`` on. ``done`` is told the share of the rows read."""
    pa = pyarrow()
    try:
        file = pa.parquet.ParquetFile(raw, pre_buffer=False)
        names = file.schema_arrow.names
        if len(set(names)) != len(names):
            raise UnreadableFile("the schema names a column twice", path)
        number, total = 0, max(1, file.metadata.num_rows)
        for group in range(file.metadata.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if at and number + rows <= at.offset:
                number += rows
                continue
            for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=[group], use_threads=False):
                size = batch.nbytes // max(1, batch.num_rows)
                for index, record in enumerate(_readable(pa, batch).to_pylist()):
                    number += 1
                    if not at or number > at.offset:
                        yield Row(record, number, number - 1, size=size, origin=(batch, index))
                done(number / total)
    except pa.ArrowException as error:
        raise UnreadableFile(f"not a readable Parquet file ({' '.join(str(error).split())})", path) from None


def _readable(pa: Any, batch: Any) -> Any:
    """Times with nanoseconds as text: Python has no type for them."""
    for index, field in enumerate(batch.schema):
        if pa.types.is_timestamp(field.type) and field.type.unit == "ns":
            batch = batch.set_column(index, field.name, batch.column(index).cast(pa.string()))
    return batch


class ParquetPieces:
    """Rows -> one piece of the growing file (see the top)."""

    def __init__(self) -> None:
        self._pa = pyarrow()
        self._rows: list[tuple[dict[str, Any], dict[str, Any], Any]] = []

    def add(self, record: dict[str, Any], added: dict[str, Any], origin: Any) -> None:
        self._rows.append((record, added, origin if isinstance(origin, tuple) else None))

    def __len__(self) -> int:
        return len(self._rows) * 256  # as if in characters

    def take(self) -> bytes:
        if not self._rows:
            return b""
        pa, parts = self._pa, []
        for _, run in groupby(self._rows, key=lambda row: row[2] and id(row[2][0])):
            rows = list(run)
            if rows[0][2] is None:
                parts.append(self._table([record | added for record, added, _ in rows]))
                continue
            kept = pa.Table.from_batches([rows[0][2][0].take(pa.array([origin[1] for *_, origin in rows]))])
            new = self._table([added for _, added, _ in rows])
            for name in new.column_names:
                kept = kept.append_column(name, new[name])
            parts.append(kept)
        table = pa.concat_tables(_alike(pa, parts)).combine_chunks()
        out = io.BytesIO()
        with pa.ipc.new_stream(out, table.schema) as writer:
            writer.write_table(table)
        self._rows.clear()
        return out.getvalue()

    def _table(self, records: list[dict[str, Any]]) -> Any:
        names = list(dict.fromkeys(name for record in records for name in record))
        return self._pa.table({name: _column(self._pa, [record.get(name) for record in records]) for name in names})

    @staticmethod
    def finish(partial: Path, staged: Path) -> None:
        """Turn the pieces in ``partial`` into the Parquet file ``staged``."""
        pa = pyarrow()
        schemas = []
        for batches in _pieces(pa, partial):
            if batches.schema not in schemas:
                schemas.append(batches.schema)
            for _ in batches:
                pass
        schema = _common(pa, schemas) if schemas else pa.schema([])
        held, count = [], 0
        with pa.parquet.ParquetWriter(staged, schema) as writer:
            for batches in _pieces(pa, partial):
                table = _as(pa, batches.read_all(), schema)
                held.append(table)
                count += len(table)
                if count >= ROW_GROUP:
                    writer.write_table(pa.concat_tables(held), row_group_size=count)
                    held, count = [], 0
            if held:
                writer.write_table(pa.concat_tables(held), row_group_size=count)


def _pieces(pa: Any, path: Path) -> Iterator[Any]:
    with pa.OSFile(str(path)) as stream:
        size = path.stat().st_size
        while stream.tell() < size:
            with pa.ipc.open_stream(stream) as batches:
                yield batches


def _column(pa: Any, values: list[Any]) -> Any:
    """A column of Python values; of several types, or of what Arrow has no type for, as text (objects as JSON)."""
    try:
        return pa.array(values)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError, ValueError, TypeError):
        return pa.array([None if value is None else cell(value) for value in values], pa.string())


def _common(pa: Any, schemas: list[Any]) -> Any:
    """One schema for all: the type all can take, text where there is none."""
    if len(schemas) == 1:
        return schemas[0]
    fields: dict[str, Any] = {}
    for schema in schemas:
        for field in schema:
            known = fields.get(field.name)
            if known is None or known.equals(field):
                fields[field.name] = known or field
                continue
            try:
                both = pa.unify_schemas([pa.schema([known]), pa.schema([field])], promote_options="permissive")
                fields[field.name] = both.field(0)
            except pa.ArrowException:
                fields[field.name] = pa.field(field.name, pa.string())
    return pa.schema(list(fields.values()), metadata=schemas[0].metadata)


def _alike(pa: Any, tables: list[Any]) -> list[Any]:
    schema = _common(pa, list({table.schema.to_string(): table.schema for table in tables}.values()))
    return [_as(pa, table, schema) for table in tables]


def _as(pa: Any, table: Any, schema: Any) -> Any:
    """``table`` with the columns and types of ``schema``."""
    columns = []
    for field in schema:
        if field.name not in table.column_names:
            columns.append(pa.nulls(len(table), field.type))
            continue
        column = table[field.name]
        if not column.type.equals(field.type):
            column = _column_of_text(pa, column) if pa.types.is_string(field.type) else column.cast(field.type)
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=schema)


def _column_of_text(pa: Any, column: Any) -> Any:
    return pa.array([None if value is None else cell(value) for value in column.to_pylist()], pa.string())
