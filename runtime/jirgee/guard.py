"""What a bundle's graph may hold, looked at before onnxruntime parses it.

A graph here is a list of known operators over numbers that are inside the file. So nothing in it may lead outside
(tensors in other files, operators that load compiled code), bring functions or control flow, or come from an operator
domain that no recipe of ours uses. Every occurrence of a field is looked at, because a reader may merge or choose.

Numbers of fields are those of onnx.proto3 (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3).
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import BundleError
from .wire import BYTES, VARINT, WireError, fields

DOMAINS = frozenset({"", "ai.onnx", "com.microsoft"})
# Of com.microsoft: they hand bytes or a path of the graph to compiled code of a hardware vendor.
FORBIDDEN_OPERATORS = frozenset({"EPContext", "Snpe"})
MAX_FIELDS = 2_000_000  # BERT-base has 30 thousand
ELSEWHERE = "data in another file"
INSIDE = 0  # TensorProto.DataLocation: any other number is a place outside of the file
ORT_FORMAT = b"ORTM"  # at byte 4: onnxruntime takes such a file for its own format, which this does not look into


@dataclass(frozen=True)
class Message:
    """What to do with the fields of one kind of message: ``parts`` are messages too, ``refused`` may not be there."""

    parts: dict[int, str]
    refused: dict[int, str]
    names: dict[int, str] | None = None  # text fields that are looked at
    numbers: tuple[int, ...] = ()  # fields that are varints and are looked at


MESSAGES = {
    "model": Message({7: "graph", 8: "opset"}, {20: "training steps", 25: "functions"}),
    "opset": Message({}, {}, {1: "domain"}),
    "graph": Message({1: "node", 5: "tensor", 15: "sparse tensor"}, {}),
    "node": Message({5: "attribute"}, {8: "an overloaded function"}, {4: "operator", 7: "domain"}),
    "attribute": Message(
        {5: "tensor", 10: "tensor", 22: "sparse tensor", 23: "sparse tensor"}, {6: "a graph", 11: "graphs"}
    ),
    "sparse tensor": Message({1: "tensor", 2: "tensor"}, {}),
    "tensor": Message({13: "where its data is"}, {}, numbers=(14,)),
    "where its data is": Message({}, {}),
}


def check_graph(model: memoryview | bytes, place: object, beside: str | None = None) -> None:
    """Raise BundleError, naming ``place``, unless ``model`` is an ONNX file as described above.

    ``beside``: the one file, in the same folder, in which its tensors' data may be; None: they must be inside.
    """
    broken = found = None
    try:
        if model[4:8] == ORT_FORMAT:
            raise WireError("it is in onnxruntime's own format")
        found = _Walk(beside).visit(memoryview(model), "model")
    except WireError as error:
        broken = str(error)
    if broken is not None:  # raised here, where no traceback holds a view of a file that is to be unmapped
        raise BundleError(f"{place}: is not an ONNX graph ({broken})")
    if found is None:
        return
    raise BundleError(f"{place}: holds {found}, which a bundle's graph may not; do not trust where it came from")


class _Walk:
    def __init__(self, beside: str | None):
        self._seen, self._beside = 0, beside

    def visit(self, message: memoryview, kind: str) -> str | None:
        """The first thing that may not be there, in words."""
        if kind == "where its data is":
            return self._place_problem(message)
        rules = MESSAGES[kind]
        names = rules.names or {}
        parts_seen = False
        for number, wire_type, value in fields(message):
            self._seen += 1
            if self._seen > MAX_FIELDS:
                return f"more than {MAX_FIELDS} fields"
            if number in rules.refused:
                return rules.refused[number]
            if number in rules.numbers:
                if wire_type != VARINT or not isinstance(value, int):
                    raise WireError(f"field {number} of a {kind} has wire type {wire_type}")
                if self._beside is None and value & 0xFFFFFFFF != INSIDE:
                    return ELSEWHERE
            elif number in names or number in rules.parts:
                if wire_type != BYTES or isinstance(value, int):
                    raise WireError(f"field {number} of a {kind} has wire type {wire_type}")
                if number in names:
                    if problem := _name_problem(names[number], value):
                        return problem
                else:
                    parts_seen = True
                    if problem := self.visit(value, rules.parts[number]):
                        return problem
        if kind == "model" and not parts_seen:
            raise WireError("there is no graph in it")
        return None

    def _place_problem(self, entry: memoryview) -> str | None:
        """A StringStringEntryProto of ``external_data``: a key, ``location`` or numbers, and its value."""
        if self._beside is None:
            return ELSEWHERE
        parts = [(number, bytes(value)) for number, _, value in fields(entry) if isinstance(value, memoryview)]
        keys = [value for number, value in parts if number == 1]
        values = [value for number, value in parts if number == 2]
        if len(keys) != 1 or len(values) != 1 or len(parts) != 2:
            return ELSEWHERE
        if keys[0] == b"location":
            return None if values[0] == self._beside.encode() else ELSEWHERE
        return None if keys[0] in (b"offset", b"length") and values[0].isdigit() else ELSEWHERE


def _name_problem(what: str, value: memoryview) -> str | None:
    name = bytes(value[:200]).decode("utf-8", "replace")
    if what == "domain" and name not in DOMAINS:
        return f"operators of the domain {name!r:.60}"
    if what == "operator" and name in FORBIDDEN_OPERATORS:
        return f"the operator {name}"
    return None
