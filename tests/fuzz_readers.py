"""Coverage-guided fuzzing of every reader, with atheris, which is no dependency of this project:

    pip install atheris && python tests/fuzz_readers.py -runs=100000

A crash is anything but rows, rejects in file order, or an InputError; also that reading on from a row's place gives
other rows than reading through. Other flags are libFuzzer's (-max_total_time=60, a directory to keep the corpus in).
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import atheris  # type: ignore[import-not-found]

with atheris.instrument_imports(include=["jirgee"]):  # type: ignore[attr-defined]
    from jirgee.errors import InputError
    from jirgee.formats import FORMATS
    from jirgee.records import ByteReader, Place, Reject, Row

NAMES = [name for name, format in FORMATS.items() if format.read]


def items(name: str, content: bytes, at: Place | None = None, seekable: bool = True) -> list[Row | Reject] | None:
    """What the reader gives; None for a file it refuses."""
    stream = io.BytesIO(content)
    read = FORMATS[name].read
    assert read
    try:
        return list(read(Path(f"fuzz.{name}"), ByteReader(stream.read, stream.seek if seekable else None), at))
    except InputError:
        return None


def check(data: bytes) -> None:
    if not data:
        return
    name, content = NAMES[data[0] % len(NAMES)], data[1:]
    found = items(name, content)
    if found is None:
        return
    places = [Place(item.line, item.offset) for item in found]
    assert places == sorted(set(places)), (name, places)
    for item in found:
        assert isinstance(item, (Row, Reject))
        assert item.line == 1 + content.count(b"\n", 0, item.offset), (name, item)
    for index in {0, len(found) // 2, len(found) - 1} if found else ():
        for seekable in (True, False):
            assert items(name, content, places[index], seekable) == found[index:], (name, index, content)


if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
