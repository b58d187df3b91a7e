"""A bundle as one ONNX graph from strings to probabilities, for every language that has onnxruntime.

    texts          string [n]                          in
    probabilities  float [n, k]                        out
    labels         string [n], the most probable       out

The tokenizer is an operator of onnxruntime-extensions (domain ai.onnx.contrib), which the caller registers. Everything
else is standard: texts are sorted by length and cut by a token budget as jirgee's plan.py does it, and a Loop runs the
model batch by batch, so one call may score many texts without padding them all to the longest.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import GraphProto, ModelProto, TensorProto, helper

from jirgee.bundle import Bundle, check_free, replace
from jirgee.errors import BundleError
from jirgee.manifest import MODEL, NGRAMS
from jirgee.ngrams import NgramModel
from jirgee.tokens import TokenizerSpec

from .charsmap import fold_lower, read_model
from .graph_builder import EXTENSIONS, GraphBuilder
from .opset import opset_of, raise_opset
from .string_ngrams import ngram_logits

TOKEN_BUDGET = 512  # tokens of one batch, padding included: the scorer's on a CPU
OPSET = 18  # the n-grams need BitwiseXor


def write_string_input(bundle: Bundle, out: Path, overwrite: bool = False) -> str:
    """Write the graph to the file ``out``; returns a line about it.

    Raises BundleError if the bundle has no such form.
    """
    check_free(out, overwrite)
    model = string_model(bundle)
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = out.with_name(f".{out.name}.new")
    try:
        onnx.save(model, staging)
        replace(staging, out)
    finally:
        staging.unlink(missing_ok=True)
    return f"{out}: {out.stat().st_size / 1e6:.1f} MB; strings in, probabilities out, with onnxruntime-extensions"


def string_model(bundle: Bundle) -> ModelProto:
    spec = bundle.tokenizer
    if spec.kind != "sentencepiece":
        raise BundleError(f"{bundle.path}: only SentencePiece tokenizers have a string-input form; {spec.file} is none")
    if unknown := [name for name in spec.normalise if name != "lower"]:
        raise BundleError(f"{bundle.path}: texts are normalised by {unknown[0]!r}, which the string-input form cannot")
    model = onnx.load_from_string(bundle.read(MODEL))
    try:
        raise_opset(model, OPSET)
    except ValueError as error:
        raise BundleError(f"{bundle.path}: {MODEL} has no string-input form: {error}") from None
    pieces = fold_lower(read_model(bundle.read(spec.file)), spec.normalise)
    unknown_piece = next(i for i, piece in enumerate(pieces.pieces) if piece.type == piece.UNKNOWN)

    add = GraphBuilder("jirgee")
    tokens, starts, lengths = _tokenise(add, pieces.SerializeToString(), spec, unknown_piece, bundle.max_tokens)
    rows = add("Shape", lengths)
    longest_first = add("TopK", lengths, rows, outputs=2, axis=0, largest=1, sorted=1)
    tables = {"tokens": tokens, "starts": starts, "sorted": longest_first[0], "order": longest_first[1], "rows": rows}
    body = _one_batch(model, tables, spec, len(bundle.labels))
    begin = add.constant([0])
    nothing = add.constant([[0.0] * len(bundle.labels)], "float32")
    empty = add.slice(nothing, begin, begin)
    more = add("Squeeze", add("Greater", rows, begin), begin)
    _, in_order = add("Loop", "", more, begin, empty, outputs=2, body=body)
    back = add("TopK", longest_first[1], rows, outputs=2, axis=0, largest=0, sorted=1)[1]
    logits = add("Div", add("Gather", in_order, back, axis=0), add.constant(bundle.temperature, "float32"))
    if bundle.ngram_weight:
        ngrams = NgramModel.from_bytes(bundle.read(NGRAMS), len(bundle.labels))
        told = ngram_logits(add, "texts", ngrams)
        logits = add("Add", logits, add("Mul", told, add.constant(bundle.ngram_weight, "float32")))
    add.nodes.append(helper.make_node("Softmax", [logits], ["probabilities"], axis=-1))
    best = add("ArgMax", "probabilities", axis=1, keepdims=0)
    add.nodes.append(helper.make_node("Gather", [add.constant(list(bundle.labels)), best], ["labels"]))

    add.constants.extend(model.graph.initializer)
    graph = add.graph(
        "jirgee",
        [helper.make_tensor_value_info("texts", TensorProto.STRING, ["n"])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", len(bundle.labels)]),
            helper.make_tensor_value_info("labels", TensorProto.STRING, ["n"]),
        ],
    )
    domains = {"": opset_of(model), "com.microsoft": 1, EXTENSIONS: 1}
    opsets = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
    whole = helper.make_model(graph, opset_imports=opsets, ir_version=model.ir_version, producer_name="jirgee")
    helper.set_model_props(whole, {"labels": "\n".join(bundle.labels)})
    return whole


def _tokenise(
    add: GraphBuilder, pieces: bytes, spec: TokenizerSpec, unknown_piece: int, max_tokens: int
) -> tuple[str, str, str]:
    """Texts -> embedding rows of all pieces of all texts, int64 [total]; where each text begins in them, int64 [n];
    how many tokens each has after cutting, special ones included, int64 [n]. After the pieces come the special rows:
    prefix, suffix, padding."""
    found, offsets = sentencepiece(add, "texts", pieces)
    rows = add(
        "Where",
        add("Equal", found, add.constant(unknown_piece)),
        add.constant(spec.unk_id),
        add("Add", found, add.constant(spec.offset)),
    )
    everything = add("Concat", rows, add.constant([*spec.prefix, *spec.suffix, spec.pad_id]), axis=0)
    one, minus_one, far = add.constant([1]), add.constant([-1]), add.constant([2**31])
    starts = add.slice(offsets, add.constant([0]), minus_one)
    counts = add("Sub", add.slice(offsets, one, far), starts)
    special = len(spec.prefix) + len(spec.suffix)
    kept = add("Min", counts, add.constant([max_tokens - special]))
    return everything, starts, add("Add", kept, add.constant([special]))


def sentencepiece(add: GraphBuilder, texts: str, model: bytes) -> tuple[str, str]:
    """The extension's tokenizer: piece ids of all texts, int64 [total], and where each text begins and ends, int64
    [n + 1]."""
    no, zero = add.constant([False], "bool"), add.constant([0.0], "float32")
    options = (add.constant([0]), zero, no, no, no, no)  # nbest_size, alpha, add_bos, add_eos, reverse, fairseq
    found = add("SentencepieceTokenizer", texts, *options, outputs=3, domain=EXTENSIONS, model=model)
    return add.cast(found[0], TensorProto.INT64), found[1]


def _one_batch(model: ModelProto, tables: dict[str, str], spec: TokenizerSpec, classes: int) -> GraphProto:
    """The body of the Loop: the texts from place ``start`` of the sorted ones on, as many as the budget holds."""
    add = GraphBuilder("batch")
    one = add.constant([1])
    width = add.slice(tables["sorted"], "start", add("Add", "start", one))
    count = add("Max", add("Div", add.constant([TOKEN_BUDGET]), width), one)
    end = add("Min", add("Add", "start", count), tables["rows"])
    rows = add.slice(tables["order"], "start", end)
    lengths = add("Unsqueeze", add.slice(tables["sorted"], "start", end), one)  # [b, 1]
    starts = add("Unsqueeze", add("Gather", tables["starts"], rows), one)
    zero = add.constant(0)
    place = add("Range", zero, add("Squeeze", width, add.constant([0])), add.constant(1))  # [width]

    before, after = len(spec.prefix), len(spec.suffix)
    total = add("Sub", add("Shape", tables["tokens"]), add.constant([before + after + 1]))  # pieces of all texts
    text_end = add("Sub", lengths, add.constant([after]))
    piece = add("Sub", add("Add", starts, place), add.constant([before]))
    suffix = add("Add", add("Sub", place, text_end), add("Add", total, add.constant([before])))
    padding = add("Add", total, add.constant([before + after]))
    index = add("Where", add("Less", place, lengths), suffix, padding)
    index = add("Where", add("Less", place, text_end), piece, index)
    index = add("Where", add("Less", place, add.constant([before])), add("Add", total, place), index)
    ids = add("Gather", tables["tokens"], index)
    mask = add.cast(add("Less", place, lengths), TensorProto.INT64)
    given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": add("Mul", mask, zero)}

    for value in model.graph.input:
        cast = helper.make_node("Cast", [given[value.name]], [value.name], to=value.type.tensor_type.elem_type)
        add.nodes.append(cast)
    add.nodes.extend(model.graph.node)
    logits = add("Concat", "so_far", model.graph.output[0].name, axis=0)
    more = add("Squeeze", add("Less", end, tables["rows"]), add.constant([0]))
    for name, wanted in ((more, "more"), (end, "end"), (logits, "longer")):
        add.nodes.append(helper.make_node("Identity", [name], [wanted]))
    return add.graph(
        "one_batch",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("start", TensorProto.INT64, [1]),
            helper.make_tensor_value_info("so_far", TensorProto.FLOAT, [None, classes]),
        ],
        [
            helper.make_tensor_value_info("more", TensorProto.BOOL, []),
            helper.make_tensor_value_info("end", TensorProto.INT64, [1]),
            helper.make_tensor_value_info("longer", TensorProto.FLOAT, [None, classes]),
        ],
    )
