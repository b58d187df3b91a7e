"""The same graph under a newer version of ONNX's standard operators."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, helper, numpy_helper

STANDARD = ("", "ai.onnx")
NEWEST = 23  # up to here the rows below were compared with https://onnx.ai/onnx/operators
UNCHANGED = {  # standard operators of our graphs that mean in opset 23 what they meant in 17
    "Abs", "Add", "Cast", "Clip", "Concat", "Constant", "DequantizeLinear", "Div", "DynamicQuantizeLinear", "Equal",
    "Erf", "Expand", "Gather", "Gemm", "Identity", "InstanceNormalization", "LayerNormalization", "MatMul",
    "MatMulInteger", "Max", "Min", "Mul", "Pow", "QLinearMatMul", "QuantizeLinear", "ReduceSum", "Reshape", "Round",
    "Shape", "Slice", "Softmax", "Sqrt", "Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze", "Where",
}  # fmt: skip
AXES_AS_INPUT_IN_18 = {"ReduceMax", "ReduceMean", "ReduceMin"}


def opset_of(model: ModelProto) -> int:
    return next(entry.version for entry in model.opset_import if entry.domain in STANDARD)


def raise_opset(model: ModelProto, version: int) -> None:
    """Make ``model``, in place, one of opset ``version`` (18 to ``NEWEST``) if it is of an older one.

    Raises ValueError, before anything is changed, for a standard operator of which is not known here what a newer
    version changed.
    """
    before = opset_of(model)
    if before >= version:
        return
    known = UNCHANGED | AXES_AS_INPUT_IN_18
    if unknown := [n.op_type for n in model.graph.node if n.domain in STANDARD and n.op_type not in known]:
        raise ValueError(f"what {unknown[0]} means in opset {version} is not known here")
    for node in model.graph.node:
        if before >= 18 or node.domain not in STANDARD or node.op_type not in AXES_AS_INPUT_IN_18:
            continue
        for attribute in [entry for entry in node.attribute if entry.name == "axes"]:
            axes = numpy_helper.from_array(np.array(attribute.ints, np.int64), f"{node.output[0]}_axes")
            model.graph.initializer.append(axes)
            node.input.append(axes.name)
            node.attribute.remove(attribute)
    for entry in model.opset_import:
        if entry.domain in STANDARD:
            entry.version = version
    model.ir_version = max(
        model.ir_version, helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True)
    )
