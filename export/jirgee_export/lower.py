"""The same function in the operators that onnxruntime's CPU kernels run fastest: the last rewrite of a stored graph.

What was measured (docs/performance.md): SkipLayerNormalization adds its sums one number at a time and costs six times
what InstanceNormalization and three element-wise passes cost; a bias is free inside an 8-bit product and a pass of its
own outside; QAttention multiplies one head at a time. Nothing here changes a weight: only scales, biases and the order
of exact steps. What a rewrite does not recognise it leaves alone.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from .first_token import takes_first_token
from .graph_edit import Graph
from .products import MICROSOFT
from .standard_attention import use_standard_attention

PRODUCTS = ("DynamicQuantizeMatMul", "MatMulIntegerToFloat")
BIAS_INPUT = {"DynamicQuantizeMatMul": 4, "MatMulIntegerToFloat": 6}


def lower(model: ModelProto) -> ModelProto:
    """A copy of ``model``, rewritten. Inputs and outputs stay as they are."""
    result = ModelProto()
    result.CopyFrom(model)
    graph = _Lowering(result)
    graph.fold_vectors()
    graph.fuse_products()
    graph.split_attention()
    graph.move_scales_into_values()
    graph.move_biases()
    graph.replace_norms()
    graph.finish()
    use_standard_attention(result)
    return result


class _Lowering(Graph):
    def fold_vectors(self) -> None:
        """Vectors stored in 8 bits, because a quantised operator reads them too, become float tables."""
        for node in self.of("DequantizeLinear"):
            if set(node.input) <= self.tables.keys() and self.array(node.input[0]).ndim == 1:
                value, scale, *zero = [self.array(name).astype(np.float32) for name in node.input]
                self.drop(node)
                self.tables[node.output[0]] = numpy_helper.from_array(
                    (value - (zero[0] if zero else 0)) * scale, node.output[0]
                )

    # --- products of 8-bit numbers ---------------------------------------------------------------------------------

    def fuse_products(self) -> None:
        """quantise, MatMulInteger, cast, scale -> DynamicQuantizeMatMul, as onnxruntime would at every start."""
        for product in self.of("MatMulInteger"):
            quantise = self.maker(product.input[0])
            cast = self.only_user(product.output[0])
            rescale = self.only_user(cast.output[0]) if cast and cast.op_type == "Cast" else None
            if not (quantise and quantise.op_type == "DynamicQuantizeLinear" and cast and rescale):
                continue
            scales = self.maker(next(name for name in rescale.input if name != cast.output[0]))
            if rescale.op_type != "Mul" or not scales or quantise.output[1] not in scales.input:
                continue
            scale = next(name for name in scales.input if name != quantise.output[1])
            if scale not in self.tables:
                continue
            fused = helper.make_node(
                "DynamicQuantizeMatMul",
                [quantise.input[0], product.input[1], scale, product.input[3]],
                list(rescale.output),
                product.name,
                domain=MICROSOFT,
            )
            self.drop(product, cast, rescale, scales)
            self.nodes.append(fused)
        self.drop(*[node for node in self.of("DynamicQuantizeLinear") if not any(map(self.users, node.output))])

    def split_attention(self) -> None:
        """QAttention -> three products that share one quantised input, and MultiHeadAttention."""
        for node in self.of("QAttention"):
            given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            quantised, weight, bias, scale, weight_scale, mask, zero, weight_zero, *past = [*node.input, "", "", ""][:9]
            if any(past) or given.get("unidirectional") or given.get("do_rotary") or not bias:
                continue
            if {weight, bias, weight_scale} - self.tables.keys():
                continue
            made = []
            thirds = {name: np.split(self.array(name), 3, axis=-1) for name in (weight, bias)}
            whole = np.broadcast_to(self.array(weight_scale), self.array(bias).shape)
            zeros = np.broadcast_to(self.array(weight_zero), whole.shape) if weight_zero else None
            for part, letter in enumerate(("query", "key", "value")):
                prefix = f"{node.name}_{letter}"
                inputs = [
                    quantised,
                    self.store(f"{prefix}_weight", thirds[weight][part]),
                    scale,
                    self.store(f"{prefix}_scale", np.split(whole, 3)[part]),
                    zero,
                    "" if zeros is None else self.store(f"{prefix}_zero", np.split(zeros, 3)[part]),
                    self.store(f"{prefix}_bias", thirds[bias][part]),
                ]
                made.append(helper.make_node("MatMulIntegerToFloat", inputs, [prefix], prefix, domain=MICROSOFT))
            attributes = {name: given[name] for name in ("num_heads", "scale", "mask_filter_value") if name in given}
            inputs = [*(part.output[0] for part in made), "", mask]
            made.append(
                helper.make_node(
                    "MultiHeadAttention", inputs, list(node.output), node.name, domain=MICROSOFT, **attributes
                )
            )
            self.drop(node)
            self.nodes += made

    # --- scales and biases -----------------------------------------------------------------------------------------

    def move_scales_into_values(self) -> None:
        """A factor a channel behind the attention goes into the scales and the bias of its values."""
        for attention in self.of("MultiHeadAttention"):
            factor = self.only_user(attention.output[0])
            value = self.maker(attention.input[2])
            if not factor or factor.op_type != "Mul" or not value or value.op_type != "MatMulIntegerToFloat":
                continue
            name = next(name for name in factor.input if name != attention.output[0])
            if name not in self.tables or self.array(name).ndim != 1:
                continue
            value.input[3] = self.store(value.input[3], self.array(value.input[3]) * self.array(name))
            value.input[6] = self.store(value.input[6], self.array(value.input[6]) * self.array(name))
            attention.output[0] = factor.output[0]
            self.drop(factor)

    def move_biases(self) -> None:
        """The bias of a BiasGelu or of a SkipLayerNormalization goes into the product before it. Where products have 8
        bits, GELU is the one by tanh: off by 5e-4 at most (Hendrycks and Gimpel 2016, arXiv:1606.08415), a thirtieth of
        the step to which the next product rounds it.
        """
        few_bits = any(self.of(*PRODUCTS))
        for node in self.of("BiasGelu"):
            inputs = [node.input[0]] if self._add_bias(node.input[0], node.input[1]) else list(node.input)
            if few_bits or len(inputs) == 1:
                kind = "FastGelu" if few_bits else "Gelu"
                self.drop(node)
                self.nodes.append(helper.make_node(kind, inputs, list(node.output), node.name, domain=MICROSOFT))
        for node in self.of("SkipLayerNormalization"):
            if len(node.input) > 4 and node.input[4]:
                for name in node.input[:2]:
                    if self._add_bias(name, node.input[4]):
                        node.input[4] = ""
                        break

    def _add_bias(self, output: str, bias: str) -> bool:
        """Add the table ``bias`` to what makes ``output``, if that is a product and nothing else reads it."""
        product = self.maker(output)
        if bias not in self.tables or not product or product.op_type not in PRODUCTS or not self.only_user(output):
            return False
        values, place = self.array(bias), BIAS_INPUT[product.op_type]
        product.input.extend([""] * (place + 1 - len(product.input)))
        if product.input[place]:
            values = values + self.array(product.input[place])
        product.input[place] = self.store(f"{product.name}_bias", values.astype(np.float32))
        return True

    # --- layer normalisation ---------------------------------------------------------------------------------------

    def replace_norms(self) -> None:
        """(Skip)LayerNormalization -> InstanceNormalization over each token, Mul; its beta goes where it is read."""
        norms = list(self.of("SkipLayerNormalization", "LayerNormalization"))
        if not norms:
            return
        one = self.store("norm_one", np.ones(1, np.float32))
        zero = self.store("norm_zero", np.zeros(1, np.float32))
        middle = self.store("norm_axis", np.array([1], np.int64))
        width, ones, zeros = "norm_tokens", "norm_ones", "norm_zeros"  # a one and a zero for every token of a text
        self.nodes += [
            helper.make_node("Shape", ["input_ids"], [width], width, start=1),
            helper.make_node("Expand", [one, width], [ones], ones),
            helper.make_node("Expand", [zero, width], [zeros], zeros),
        ]
        for node in norms:
            skips = node.op_type == "SkipLayerNormalization"
            gamma, beta = [*node.input[2 if skips else 1 :], ""][:2]
            axis = next((a.i for a in node.attribute if a.name == "axis"), -1)
            if any(node.output[1:]) or {gamma, beta} - self.tables.keys() or axis != -1:
                continue
            epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-12)
            out, prefix = node.output[0], node.name
            summed, unit = f"{prefix}_sum", f"{prefix}_unit"
            one_row = self._has_one_row(node)
            self.drop(node)
            added = node.input[0]
            if skips and len(node.input) > 4 and node.input[4]:  # no product could take it
                added = f"{prefix}_biased"
                self.nodes.append(helper.make_node("Add", [node.input[0], node.input[4]], [added], added))
            if skips:
                self.nodes.append(helper.make_node("Add", [added, node.input[1]], [summed], f"{prefix}_add"))
            else:
                summed = added
            if one_row:  # [n, width], which the operator takes as [n, 1, width]
                tokens, normal = f"{prefix}_tokens", f"{prefix}_normal"
                self.nodes += [
                    helper.make_node("Unsqueeze", [summed, middle], [tokens], tokens),
                    helper.make_node("InstanceNormalization", [tokens, one, zero], [normal], normal, epsilon=epsilon),
                    helper.make_node("Squeeze", [normal, middle], [unit], unit),
                ]
            else:
                self.nodes.append(
                    helper.make_node("InstanceNormalization", [summed, ones, zeros], [unit], unit, epsilon=epsilon)
                )
            if (self.array(gamma) != 1).any():
                scaled = f"{prefix}_scaled"
                self.nodes.append(helper.make_node("Mul", [unit, gamma], [scaled], scaled))
                unit = scaled
            if self.array(beta).any():
                shifted = f"{prefix}_shifted"
                self.nodes.append(helper.make_node("Add", [unit, beta], [shifted], shifted))
            self.nodes[-1].output[0] = out

    def _has_one_row(self, node: NodeProto) -> bool:
        """Whether ``node`` is behind the cut to the first token (``first_token.py``)."""
        makers = {name: maker for maker in self.nodes for name in maker.output}
        seen, left = set(), [node]
        while left:
            at = left.pop()
            if takes_first_token(self.model, at):
                return True
            seen.add(id(at))
            left += [makers[name] for name in at.input if name in makers and id(makers[name]) not in seen]
        return False
