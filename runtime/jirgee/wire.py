"""Protocol buffers on the wire: as much as it takes to look into an ONNX file and to write a small one, without onnx.

A message is a row of fields, each a key (number and wire type) and a value: a varint (0), 8 bytes (1), bytes with
their length before them (2: text, a message, packed numbers) or 4 bytes (5).
https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_FIXED = {FIXED64: 8, FIXED32: 4}


class WireError(ValueError):
    """Bytes that are not a message."""


def fields(message: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """(number, wire type, value) of each field: a number for a varint, else the value's bytes, not copied."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if not 0 < number < 1 << 29:
            raise WireError(f"a field number {number}")
        if kind == VARINT:
            value, at = _varint(message, at)
            yield number, kind, value
            continue
        if kind == BYTES:
            length, at = _varint(message, at)
        elif kind in _FIXED:
            length = _FIXED[kind]
        else:
            raise WireError(f"wire type {kind}")
        if length > end - at:
            raise WireError("a field longer than its message")
        yield number, kind, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise WireError("a number that ends too early")
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            if value >= 1 << 64:
                break
            return value, at
    raise WireError("a number of more than 64 bits")


def field(number: int, value: int | str | bytes) -> bytes:
    """One field as bytes: a whole number from 0 on as a varint, text and bytes (a message) with their length."""
    if isinstance(value, int):
        return _number(number << 3 | VARINT) + _number(value)
    data = value.encode() if isinstance(value, str) else value
    return _number(number << 3 | BYTES) + _number(len(data)) + data


def same(number: int, kind: int, value: int | memoryview) -> bytes:
    """A field that ``fields`` has read, as bytes again."""
    if isinstance(value, int) or kind == BYTES:
        return field(number, value if isinstance(value, int) else bytes(value))
    return _number(number << 3 | kind) + bytes(value)


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
