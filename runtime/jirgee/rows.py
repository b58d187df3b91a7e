"""File formats: rows in, rows out, in constant memory. The public door of the files that do it.

``records.py`` cuts bytes, ``sources.py`` and ``parquet.py`` make rows of them, ``writers.py`` and ``sinks.py`` write
rows, ``formats.py`` is the table. A source yields ``Row`` or ``Reject`` in file order: a row that cannot be read never
hides the ones behind it.
"""

from .formats import EXTENSIONS, FORMATS, Format, format_of, read_items, read_rows
from .records import Place, Reject, Row
from .sinks import Sink
from .writers import json_line

__all__ = [
    "EXTENSIONS",
    "FORMATS",
    "Format",
    "Place",
    "Reject",
    "Row",
    "Sink",
    "format_of",
    "json_line",
    "read_items",
    "read_rows",
]
