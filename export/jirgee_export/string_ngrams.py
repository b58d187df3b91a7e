"""The n-gram half of a hybrid as ONNX operators: strings -> logits (docs/bundle-format.md, "ngrams.npz").

A SentencePiece model without any piece but the 256 bytes gives the UTF-8 bytes of each text, lower-cased and with white
space collapsed by its normaliser; arithmetic turns them into code points, hashes and buckets. Texts are taken one by
one in a Loop, so memory does not depend on how many there are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import GraphProto, TensorProto, helper
from sentencepiece import sentencepiece_model_pb2 as protobuf

from jirgee.ngrams import LONGEST, SHORTEST, NgramModel

from .charsmap import compiled, with_lower
from .graph_builder import GraphBuilder

STEP, MIX = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9
# What Python's str.split() takes for white space, but for the space itself.
WHITE = "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000"
WHITE += "".join(map(chr, range(0x2000, 0x200B)))


def byte_model() -> bytes:
    """A SentencePiece model whose pieces are bytes: piece id - 1 is the byte."""
    model: Any = protobuf.ModelProto()  # pyright: ignore[reportAttributeAccessIssue]
    model.pieces.add(piece="<unk>", score=0, type=2)
    for byte in range(256):
        model.pieces.add(piece=f"<0x{byte:02X}>", score=0, type=6)
    model.pieces.add(piece="\U0010ffff\U0010ffff", score=-1, type=1)  # a model must have one that is not special
    model.trainer_spec.byte_fallback = True
    model.trainer_spec.model_type = 1
    for name in ("bos_id", "eos_id", "pad_id"):
        setattr(model.trainer_spec, name, -1)
    spec = model.normalizer_spec
    spec.add_dummy_prefix, spec.remove_extra_whitespaces, spec.escape_whitespaces = False, True, False
    spec.precompiled_charsmap = compiled(with_lower({}) | dict.fromkeys(WHITE, " "))
    return model.SerializeToString()


def ngram_logits(add: GraphBuilder, texts: str, ngrams: NgramModel) -> str:
    """Add the nodes; returns the name of the logits, float [n, k]."""
    from .string_input import sentencepiece

    found, offsets = sentencepiece(add, texts, byte_model())
    points, starts = _code_points(add, add("Sub", found, add.constant(1)), offsets)
    # One row more, all zero: a bucket for "nothing", so that no text is empty.
    tables = {
        "idf": add.constant(np.append(ngrams.idf, 0), np.float16),
        "weights": add.constant(np.vstack([ngrams.weights, 0 * ngrams.weights[:1]]), np.float16),
        "bias": add.constant(ngrams.bias, np.float32),
        "points": points,
        "starts": starts,
    }
    rows = add("Squeeze", add("Shape", texts), add.constant([0]))
    return add("Loop", rows, "", body=_one_text(tables, ngrams.bits))


def _code_points(add: GraphBuilder, data: str, offsets: str) -> tuple[str, str]:
    """UTF-8 bytes of all texts and where each begins -> code points int64 [m], and where each text begins in those."""
    first = add("Or", add("Less", data, add.constant(0x80)), add("GreaterOrEqual", data, add.constant(0xC0)))
    place = add("Squeeze", add("NonZero", first), add.constant([0]))
    longer = add("Concat", data, add.constant([0x80, 0x80, 0x80]), axis=0)

    def byte(step: int) -> str:
        return add("Gather", longer, add("Add", place, add.constant(step)))

    lead = byte(0)
    following = [add("Sub", byte(step), add.constant(0x80)) for step in (1, 2, 3)]

    def joined(lead_bits: int, count: int) -> str:
        total = add("Sub", lead, add.constant(lead_bits))
        for part in following[:count]:
            total = add("Add", add("Mul", total, add.constant(64)), part)
        return total

    points = joined(0xF0, 3)
    for bound, lead_bits, count in ((0xF0, 0xE0, 2), (0xE0, 0xC0, 1), (0x80, 0, 0)):
        points = add("Where", add("Less", lead, add.constant(bound)), joined(lead_bits, count), points)
    before = add("CumSum", add.cast(first, TensorProto.INT64), add.constant(0))
    before = add("Concat", add.constant([0]), before, axis=0)
    return points, add("Gather", before, offsets)


def _one_text(tables: dict[str, str], bits: int) -> GraphProto:
    """The body of the Loop: one text's code points -> its logits."""
    add = GraphBuilder("text")
    zero, one, far = add.constant([0]), add.constant([1]), add.constant([2**31])
    row = add("Unsqueeze", "row", zero)
    following = add("Add", row, one)
    begin, end = add("Gather", tables["starts"], row), add("Gather", tables["starts"], following)
    points = add.slice(tables["points"], begin, end)
    length = add("Sub", end, begin)
    rolling = add("Mul", points, zero)
    keys = [add.constant([1 << bits])]
    for n in range(1, LONGEST + 1):
        count = add("Max", add("Sub", length, add.constant([n - 1])), zero)
        shifted = add("Mul", add.slice(rolling, zero, count), add.constant(_signed(STEP)))
        rolling = add("Add", shifted, add("Add", add.slice(points, add.constant([n - 1]), far), one))
        if n >= SHORTEST:
            plain = add.cast(rolling, TensorProto.UINT64)
            high = add("BitShift", plain, add.constant(29, np.uint64), direction="RIGHT")
            crossed = add.cast(add("BitwiseXor", plain, high), TensorProto.INT64)
            mixed = add.cast(add("Mul", crossed, add.constant(_signed(MIX))), TensorProto.UINT64)
            bucket = add("BitShift", mixed, add.constant(64 - bits, np.uint64), direction="RIGHT")
            keys.append(add.cast(bucket, TensorProto.INT64))
    buckets, _, _, counts = add("Unique", add("Concat", *keys, axis=0), outputs=4)
    often = add("Add", add("Log", add.cast(counts, TensorProto.FLOAT)), add.constant(1, np.float32))
    values = add("Mul", often, add.cast(add("Gather", tables["idf"], buckets), TensorProto.FLOAT))
    norm = add("Sqrt", add("ReduceSum", add("Mul", values, values), zero, keepdims=1))
    values = add("Div", values, add("Max", norm, add.constant([1e-12], np.float32)))
    weights = add.cast(add("Gather", tables["weights"], buckets), TensorProto.FLOAT)
    logits = add("Add", add("MatMul", values, weights), tables["bias"])
    for name, wanted in (("go_on", "more"), (logits, "logits_of_text")):
        add.nodes.append(helper.make_node("Identity", [name], [wanted]))
    return add.graph(
        "one_text",
        [
            helper.make_tensor_value_info("row", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
        ],
        [
            helper.make_tensor_value_info("more", TensorProto.BOOL, []),
            helper.make_tensor_value_info("logits_of_text", TensorProto.FLOAT, [None]),
        ],
    )


def _signed(number: int) -> int:
    """The 64 bits of ``number`` as a signed integer, whose products wrap around the same way."""
    return number - (1 << 64) if number >> 63 else number
