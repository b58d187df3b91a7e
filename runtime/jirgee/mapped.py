"""Opens a bundle's graph where it lies: onnxruntime maps the big tensors out of ``model.onnx`` or the packed file.

Given a file or its bytes, onnxruntime parses them and copies the tensors once more. So the graph is handed over
without its big tensors; in their place it says where in the file they are (ONNX external data, which a bundle
itself may not hold: ``guard.py``). Pages are then read when they are needed, and processes share them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from .bundle import MODEL, Bundle
from .container import Container
from .errors import BundleError
from .wire import field, fields, same

GRAPH, INITIALIZER = 7, 5  # of ModelProto and GraphProto
DATA_TYPE, RAW_DATA, EXTERNAL_DATA, DATA_LOCATION = 2, 9, 13, 14  # of TensorProto
EXTERNAL = 1
SMALLEST = 4096  # bytes of a tensor that is worth a mapping
# Bytes an element, by TensorProto.DataType: a kernel may read nothing that is not where its type may be.
ITEM_SIZES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}


def session_model(bundle: Bundle) -> tuple[bytes, Path]:
    """What an onnxruntime session opens: the graph without its big tensors, and the folder of the file they are in."""
    name = bundle.part + MODEL
    packed = bundle.path.is_file()
    with Container.open(bundle.path) as container:
        location = bundle.path.name if packed else name
        model = container.mapped(name, bundle.files[name][0])
        graph = without_tensors(model, location, container.offset(name))
    return graph, bundle.path.absolute().parent if packed else bundle.path.absolute()


def check_unchanged(bundle: Bundle) -> None:
    """Raises BundleError if the model is no longer the one that was loaded: of its file, onnxruntime reads again."""
    name = bundle.part + MODEL
    size, sha256 = bundle.files[name]
    with Container.open(bundle.path) as container:
        if container.hash(name, size) != sha256:
            raise BundleError(f"{bundle.path}: {name} changed since the bundle was loaded")


def without_tensors(model: memoryview, location: str, start: int) -> bytes:
    """The ONNX file ``model``, which is at ``start`` of the file ``location``, with its big tensors left there."""
    origin = _address(model)

    def tensor(message: memoryview) -> bytes:
        parts = list(fields(message))
        kind = next((value for number, _, value in parts if number == DATA_TYPE and isinstance(value, int)), 0)
        raw = [value for number, _, value in parts if number == RAW_DATA and isinstance(value, memoryview)]
        if len(raw) != 1 or len(raw[0]) < SMALLEST:
            return bytes(message)
        place = _address(raw[0]) - origin + start
        if place % ITEM_SIZES.get(kind, SMALLEST):
            return bytes(message)
        facts = {"location": location, "offset": str(place), "length": str(len(raw[0]))}
        entries = [field(EXTERNAL_DATA, field(1, key) + field(2, value)) for key, value in facts.items()]
        rest = [same(*part) for part in parts if part[0] not in (RAW_DATA, DATA_LOCATION)]
        return b"".join([*rest, *entries, field(DATA_LOCATION, EXTERNAL)])

    return _changed(model, GRAPH, lambda graph: _changed(graph, INITIALIZER, tensor))


def _changed(message: memoryview, number: int, change: Callable[[memoryview], bytes]) -> bytes:
    """``message`` with every part in its field ``number`` changed."""
    return b"".join(
        field(number, change(part[2])) if part[0] == number and isinstance(part[2], memoryview) else same(*part)
        for part in fields(message)
    )


def _address(view: memoryview) -> int:
    return np.frombuffer(view, np.uint8).ctypes.data
