"""The table of token embeddings in 8 or 4 bits.

Where the vocabulary is large and the encoder small, the table is most of the file. Here its rows are kept in blocks of
neighbouring channels with a scale each (``GatherBlockQuantized``); only the rows that a batch reads become floats.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, helper, numpy_helper

from .products import MICROSOFT, blocked, drop_unused

BLOCKS = {8: (128, 64, 32, 16), 4: (32, 16)}  # sizes that the operator takes; the first that divides the width is used
RAGGED = 32  # where none does: a row's last block is shorter
DOMINATES = 0.2  # of the file with the table in floats, from which on storing it in few bits is worth while


def dominates(model: ModelProto, weight_bits: int) -> bool:
    """Whether the table would be DOMINATES of a file whose other weights have ``weight_bits``."""
    if not (node := _node(model)):
        return False
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in model.graph.initializer}
    table = 4 * sizes.pop(node.input[2])
    return table >= DOMINATES * (table + sum(sizes.values()) * weight_bits / 8)


def quantise_table(model: ModelProto, bits: int) -> ModelProto:
    """A new graph whose token embeddings are stored in ``bits`` (8 or 4); the same graph if it has none to store.

    EmbedLayerNormalization, which reads float tables only, becomes gather, add, LayerNormalization.
    """
    result = ModelProto()
    result.CopyFrom(model)
    tables = {tensor.name: tensor for tensor in result.graph.initializer}
    node = _node(result)
    if not node or (node.input[1] and node.input[4]):
        return result
    table = numpy_helper.to_array(tables[node.input[2]])
    width = table.shape[1]
    if width * bits % 8:
        return result
    block = next((size for size in BLOCKS[bits] if width % size == 0), RAGGED)
    ids, positions, gamma, beta = (node.input[place] for place in (0, 3, 5, 6))
    mask = node.input[7] if len(node.input) > 7 else ""
    steps, scale = blocked(table, bits, block)
    initializers = {
        "words_stored": steps.reshape(len(table), -1)[:, : width * bits // 8],
        "words_scale": scale,
        "words_one": np.array([1], np.int64),
        "words_two": np.array([2], np.int64),
        "words_zero": np.array([0], np.int64),
    }
    result.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in initializers.items())
    epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-12)
    given = ["words_stored", ids, "words_scale"]
    sizes = {"gather_axis": 0, "quantize_axis": 1, "bits": bits, "block_size": block}
    nodes = [
        helper.make_node("GatherBlockQuantized", given, ["words"], "words", domain=MICROSOFT, **sizes),
        helper.make_node("Shape", [ids], ["words_shape"], "words_shape"),
        helper.make_node("Slice", ["words_shape", "words_one", "words_two"], ["words_width"], "words_width"),
        helper.make_node("Slice", [positions, "words_zero", "words_width"], ["places"], "places"),
        helper.make_node("Add", ["words", "places"], ["words_placed"], "words_placed"),
        helper.make_node(
            "LayerNormalization", ["words_placed", gamma, beta], [node.output[0]], "words_norm", epsilon=epsilon
        ),
    ]
    if mask and len(node.output) > 1:  # lengths, as the Attention nodes read them
        nodes.append(helper.make_node("ReduceSum", [mask, "words_one"], [node.output[1]], "words_lengths", keepdims=0))
    place = list(result.graph.node).index(node)
    rest = list(result.graph.node)
    del result.graph.node[:]
    result.graph.node.extend([*rest[:place], *nodes, *rest[place + 1 :]])
    drop_unused(result)
    return result


def _node(model: ModelProto):
    return next((node for node in model.graph.node if node.op_type == "EmbedLayerNormalization"), None)
