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
from onnx import ModelProto, NodeProto, numpy_helper
from onnxruntime.transformers import optimizer
from transformers import PretrainedConfig

from jirgee.errors import GateError

# operator -> how many a BERT of n layers has when all of it is fused
EXPECTED = {
    "EmbedLayerNormalization": lambda layers: 1,
    "Attention": lambda layers: layers,
    "SkipLayerNormalization": lambda layers: 2 * layers,
    "BiasGelu": lambda layers: layers,
}


def optimise(path: Path, config: PretrainedConfig) -> ModelProto:
    """Fuse and rewrite the graph of ``path``, a model of the BERT family. Raises GateError if fusion is incomplete."""
    fused = optimizer.optimize_model(
        str(path), "bert", num_heads=config.num_attention_heads, hidden_size=config.hidden_size, opt_level=0
    )
    fused.change_graph_inputs_to_int32()
    model = fused.model
    check_fusion(model, config.num_hidden_layers)
    fold_segments(model)
    cut_last_layer(model)
    prune(model)
    if "com.microsoft" not in {opset.domain for opset in model.opset_import}:
        model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    return model


def count_operators(model: ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def check_fusion(model: ModelProto, layers: int) -> None:
    """Raise GateError naming each fused operator whose count is not the architecture's."""
    found = count_operators(model)
    wrong = [
        f"{name} {found[name]} of {count(layers)}" for name, count in EXPECTED.items() if found[name] != count(layers)
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


def cut_last_layer(model: ModelProto) -> bool:
    """After the last Attention keep only the first token: of its output, and of the residual that is added to it.

    Exact for heads that read the first token alone; anything else is left as it is, and False is returned.
    """
    graph = model.graph
    users: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    attention = [node for node in graph.node if node.op_type == "Attention"][-1]
    last_norm = [node for node in graph.node if node.op_type == "SkipLayerNormalization"][-1]
    readers = users.get(last_norm.output[0], [])
    if len(readers) != 1 or not _takes_first_token(model, readers[0]):
        return False
    pick = readers[0]
    attended, residual = attention.output[0], attention.input[0]
    first_norm = next(node for node in users[residual] if node.op_type == "SkipLayerNormalization")

    cuts = []
    for name, consumers in ((attended, users[attended]), (residual, [first_norm])):
        cut = onnx.helper.make_node("Gather", [name, pick.input[1]], [f"{name}_first"], axis=1)
        cuts.append(cut)
        for consumer in consumers:
            consumer.input[:] = [cut.output[0] if given == name else given for given in consumer.input]
    for consumer in users[pick.output[0]]:
        consumer.input[:] = [last_norm.output[0] if given == pick.output[0] else given for given in consumer.input]
    nodes = [node for node in graph.node if node is not pick]
    place = nodes.index(attention) + 1
    constant = [node for node in nodes if pick.input[1] in node.output]
    nodes = (
        constant
        + [node for node in nodes[:place] if node not in constant]
        + cuts
        + [n for n in nodes[place:] if n not in constant]
    )
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]  # shapes behind the cut are others now
    return True


def _takes_first_token(model: ModelProto, node: NodeProto) -> bool:
    """Whether ``node`` is ``Gather(x, 0, axis=1)`` with a scalar index."""
    if node.op_type != "Gather" or next((a.i for a in node.attribute if a.name == "axis"), 0) != 1:
        return False
    index = constants(model).get(node.input[1])
    return index is not None and index.shape == () and int(index) == 0


def constants(model: ModelProto) -> dict[str, np.ndarray]:
    """Every initializer and Constant node by name."""
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def prune(model: ModelProto) -> None:
    """Drop initializers that nothing reads."""
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
