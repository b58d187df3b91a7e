"""A plain ONNX graph -> the same function with fused operators and nothing left to remove.

onnxruntime's transformer optimiser does the fusing; ``fuse`` then checks that it fused everything the architecture
has. Two rewrites of our own follow, both exact: the segment input, which is always zero here, goes into the position
table; and the last layer is computed for the first token only, because nothing else of it is read.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper
from onnxruntime.transformers import optimizer
from transformers import PretrainedConfig

from jirgee.errors import GateError

from .architectures import FUSED
from .first_token import cut_last_layer


def optimise(path: Path, config: PretrainedConfig, one_query: bool = True, max_tokens: int | None = None) -> ModelProto:
    """Fuse and rewrite the graph of ``path``, a model of the BERT family. ``one_query``: as ``cut_last_layer`` has it.
    ``max_tokens``: the longest encoding, whose positions are kept (None: all). Raises GateError if fusion is not whole.
    """
    fused = optimizer.optimize_model(
        str(path), "bert", num_heads=config.num_attention_heads, hidden_size=config.hidden_size, opt_level=0
    )
    fused.change_graph_inputs_to_int32()
    model = fused.model
    check_fusion(model, config.num_hidden_layers)
    fold_segments(model)
    cut_positions(model, max_tokens)
    cut_last_layer(model, one_query)
    prune(model)
    if "com.microsoft" not in {opset.domain for opset in model.opset_import}:
        model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    return model


def cut_positions(model: ModelProto, count: int | None) -> None:
    """Keep the first ``count`` rows of the table of positions; no text is longer. None keeps them all."""
    node = next(node for node in model.graph.node if node.op_type == "EmbedLayerNormalization")
    table = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[3])
    table.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(table)[:count].copy(), table.name))


def count_operators(model: ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def check_fusion(model: ModelProto, layers: int) -> None:
    """Raise GateError naming each fused operator whose count is not the architecture's."""
    found = count_operators(model)
    wrong = [
        f"{name} {found[name]} of {count(layers)}" for name, count in FUSED.items() if found[name] != count(layers)
    ]
    if wrong:
        raise GateError(
            f"the graph is not fully fused ({', '.join(wrong)}); the exporter or onnxruntime changed its patterns"
        )


def fold_segments(model: ModelProto) -> None:
    """Add the embedding of segment 0 to every position's and drop the segment input. Exact up to one rounding."""
    node = next(node for node in model.graph.node if node.op_type == "EmbedLayerNormalization")
    if len(node.input) < 5 or not node.input[1]:
        return
    tables = {tensor.name: tensor for tensor in model.graph.initializer}
    positions, segments = tables[node.input[3]], tables[node.input[4]]
    folded = numpy_helper.to_array(positions) + numpy_helper.to_array(segments)[0]
    positions.CopyFrom(numpy_helper.from_array(folded.astype(np.float32), positions.name))
    dropped = node.input[1]
    node.input[1] = node.input[4] = ""
    for value in list(model.graph.input):
        if value.name == dropped:
            model.graph.input.remove(value)


def prune(model: ModelProto) -> None:
    """Drop initializers that nothing reads."""
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
