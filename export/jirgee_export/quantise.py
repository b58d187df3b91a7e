"""How the weights of a bundle are stored: one row of ``RECIPES`` each, with the CPUs it is safe on and why.

8-bit products come in two kinds of CPU. Those with dot products of 8-bit integers (VNNI, AMX, ARM dotprod) add the
products in 32 bits. The others, as onnxruntime uses them (VPMADDUBSW), add pairs in 16: 255 x 127 + 255 x 127 does not
fit, so that large sums are silently cut, unless weights keep to 7 bits (2 x 255 x 64 = 32,640 fits) or are unsigned,
for which another, slower instruction is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnx import ModelProto
from onnxruntime.transformers.float16 import convert_float_to_float16

from jirgee.int8 import EXACT, probe

from .embeddings import dominates, quantise_table
from .graph_source import Source
from .products import LEVELS, Form, products, rewrite
from .search import mixed_forms

SMOOTHING = 0.5  # of SmoothQuant's alpha; measured with scales a token
FITTED = None  # the products that need it (``smoothing.worthy_factors``), and biases corrected


@dataclass(frozen=True)
class Recipe:
    """``apply``: the fused fp32 graph and its calibration -> the graph as stored. ``safe_on``: ``any`` CPU, or only
    those with ``int8_dot``; ``why``: the reason. ``fallback``: only worth its time if no row before it passed.
    ``lowered``: ``lower.py`` puts it into the operators of the CPU. ``one_query``: the last attention is computed for
    the first token alone, which is faster, but not to the last bit the same in every batch.
    """

    about: str
    why: str
    apply: Callable[[Source], ModelProto]
    safe_on: str = "any"
    fallback: bool = False
    lowered: bool = True
    one_query: bool = True

    def safe_here(self) -> bool:
        """Whether this CPU computes it as it is meant; measured, not looked up."""
        return self.safe_on == "any" or probe() == EXACT


def _products(form: Form, smoothing: float | None = 0.0, table_bits: int = 8) -> Callable[[Source], ModelProto]:
    """Every product in ``form``, smoothed with one strength or ``FITTED``. The head (Gemm) stays float: 1 % of the
    work and triples the scores' change.
    """

    def apply(source: Source) -> ModelProto:
        model, ranges = source.fitted(form) if smoothing is None else (source.smoothed(smoothing), None)
        stored = rewrite(model, dict.fromkeys((product.node for product in products(model)), form), ranges)
        return _with_table(stored, form, table_bits)

    return apply


def _mixed(form: Form, smoothing: float) -> Callable[[Source], ModelProto]:
    def apply(source: Source) -> ModelProto:
        forms = mixed_forms(source, smoothing, form)
        return _with_table(rewrite(source.smoothed(smoothing), forms), form, 8)

    return apply


def _with_table(model: ModelProto, form: Form, bits: int) -> ModelProto:
    weight_bits = 4 if LEVELS[form.weights] < 8 else 8
    return quantise_table(model, bits) if dominates(model, weight_bits) else model


def _half(source: Source) -> ModelProto:
    """Half-precision weights and arithmetic; token ids and logits keep their types."""
    copied = ModelProto()
    copied.CopyFrom(source.fused)
    return convert_float_to_float16(copied, keep_io_types=True, disable_shape_infer=True)


_16_BITS = "7-bit weights: no pair of products exceeds 16 bits"
_32_BITS = "full-range weights: sums must be made in 32 bits"
RECIPES: dict[str, Recipe] = {
    "int8-static": Recipe(
        "7-bit weights; activations in 8 bits with calibrated scales: scores do not depend on batch-mates at all",
        _16_BITS,
        _products(Form("int7", "static"), FITTED),
        one_query=False,
    ),
    "int8-static-full": Recipe(
        "as int8-static, with 8-bit weights",
        _32_BITS,
        _products(Form("int8", "static"), FITTED),
        safe_on="int8_dot",
        one_query=False,
    ),
    "int8": Recipe(
        "7-bit weights, a scale per channel; activations in 8 bits, a scale per token",
        _16_BITS,
        _products(Form("int7", "token"), SMOOTHING),
    ),
    "int8-full": Recipe(
        "as int8, with 8-bit weights",
        _32_BITS,
        _products(Form("int8", "token"), SMOOTHING),
        safe_on="int8_dot",
    ),
    "int8-batch": Recipe(
        "7-bit weights; activations with one scale per batch, as onnxruntime's quantize_dynamic",
        _16_BITS,
        _products(Form("int7", "batch"), FITTED),
    ),
    "int8-u8": Recipe(
        "as int8, with unsigned 8-bit weights",
        "unsigned weights: onnxruntime widens both sides to 16 bits before it multiplies",
        _products(Form("uint8", "token"), SMOOTHING),
    ),
    "int8-block": Recipe(
        "8-bit weights and activations, a scale for 128 neighbouring channels (MatMulNBits)",
        "weight-only operator: its kernels choose the instruction, none adds in 16 bits",
        _products(Form("block8", "block")),
    ),
    "int8-mixed": Recipe(
        "as int8, with the products that cost most accuracy in float, found by measurement",
        _16_BITS,
        _mixed(Form("int7", "token"), SMOOTHING),
        fallback=True,
    ),
    "int4": Recipe(
        "4-bit weights in blocks of 32 (MatMulNBits) and a 4-bit embedding table: the smallest file",
        "weight-only operator: its kernels choose the instruction, none adds in 16 bits",
        _products(Form("block4", "block"), table_bits=4),
        one_query=False,  # its products stay float, which is faster and larger
    ),
    "fp16": Recipe(
        "16-bit floats, for CUDA",
        "ordinary floats; a CPU computes them in 32 bits, slower than fp32",
        _half,
        lowered=False,
    ),
    "fp32": Recipe("32-bit floats", "ordinary floats", lambda source: source.migrated),
}
