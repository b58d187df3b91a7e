"""checkpoint -> graph -> fused -> quantised -> verified -> bundle: the steps in order; a failure writes nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from json import dumps
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

from jirgee.bench import probe_texts
from jirgee.bundle import ATTENTION, CARD, GOLDEN, MODEL, NGRAMS, REPORT, Bundle, write
from jirgee.check import this_machine
from jirgee.checkpoint import read_labels, read_settings
from jirgee.errors import GateError
from jirgee.golden import COUNT, HELD_OUT, RANDOM, Golden, record
from jirgee.labelled import read_labelled
from jirgee.ngrams import NgramModel
from jirgee.tokens import Tokenizer

from .attention import attention_graph
from .calibrate import TEXTS as SMOOTHING_TEXTS
from .calibrate import Calibration, smooth
from .graph import export_graph, load_model
from .lower import lower
from .optimise import optimise
from .quantise import RECIPES
from .verify import Comparison, Limits, compare, reference_probs

GRAPH_TOLERANCE = 1e-3  # of a probability: the fused fp32 graph is the checkpoint itself


@dataclass(frozen=True)
class Built:
    """The written bundle, and each recipe that was tried with what it lost (in order)."""

    bundle: Bundle
    tried: dict[str, tuple[Comparison, list[str]]]


def build(
    checkpoint: Path,
    out: Path,
    recipe: str = "auto",
    data: Path | None = None,
    limits: Limits | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda line: None,
    golden_from_data: bool = False,
    with_attention: bool = False,
) -> Built:
    """Export ``checkpoint`` to ``out``. ``recipe``: a row of RECIPES, or ``auto``: the first that passes the gate.
    ``with_attention``: add the graph that explanations show the attention heads by.

    ``data``: labelled held-out rows for the gate. ``golden_from_data``: the bundle's golden texts are some of those
    rows, which whoever gets the bundle can read; else they are strings of random pieces. Raises GateError, with every
    limit that was exceeded, if no recipe passes; then nothing is written.
    """
    limits = limits or Limits()
    settings = read_settings(checkpoint)
    tokenizer_file = checkpoint / settings.tokenizer.file
    model = load_model(checkpoint)
    labels = read_labels(checkpoint) or [f"LABEL_{i}" for i in range(model.config.num_labels)]
    if data:
        held_out = read_labelled(data)
        texts, gold = held_out.texts, held_out.indices(labels)
    else:
        texts, gold = probe_texts(tokenizer_file.read_bytes(), count=200), None
    reference = reference_probs(model, settings, checkpoint, texts)

    with tempfile.TemporaryDirectory(prefix="jirgee-export-") as work:
        say("exporting the graph")
        export_graph(model, Path(work) / "graph.onnx")
        fused = optimise(Path(work) / "graph.onnx", model.config)

        sample = list(dict.fromkeys(texts))[:SMOOTHING_TEXTS]
        encoded = Tokenizer(settings.tokenizer, tokenizer_file.read_bytes(), settings.max_tokens).encode(sample)
        smoothed = smooth(fused, Calibration(encoded, settings.tokenizer.pad_id))

        def trial(name: str) -> tuple[Bundle, Comparison]:
            stored = lower(RECIPES[name].apply(_copy(smoothed if RECIPES[name].smoothed else fused)))
            files: dict[str, bytes | Path] = {
                MODEL: stored.SerializeToString(),
                tokenizer_file.name: tokenizer_file,
            }
            if settings.ngram_weight:
                files[NGRAMS] = NgramModel.from_bytes((checkpoint / NGRAMS).read_bytes(), len(labels)).to_bytes()
            bundle = write(
                Path(work) / f"trial-{name}",
                files,
                labels=labels,
                inputs=[value.name for value in stored.graph.input],
                max_tokens=settings.max_tokens,
                tokenizer=settings.tokenizer,
                recipe=name,
                safe_on=RECIPES[name].safe_on,
                temperature=settings.temperature,
                ngram_weight=settings.ngram_weight,
                tolerance=0.0,
                provenance=_provenance(checkpoint, data),
                verified_on=this_machine(),
            )
            return bundle, compare(bundle, texts, reference, gold)

        trials = {"fp32": trial("fp32")}
        exact = trials["fp32"][1]
        if exact.max_change > GRAPH_TOLERANCE:
            raise GateError(
                f"the exported fp32 graph differs from the checkpoint by {exact.max_change:.2g} in a probability "
                f"(limit {GRAPH_TOLERANCE:g}): the exporter does not fit this model; nothing was written"
            )
        tried: dict[str, tuple[Comparison, list[str]]] = {}
        for name in RECIPES if recipe == "auto" else [recipe]:
            say(f"quantising and verifying: {name}")
            bundle, comparison = trials.get(name) or trial(name)
            failures = comparison.failures(limits)
            tried[name] = (comparison, failures)
            if not failures:
                if data and golden_from_data:
                    golden = record(bundle, texts, HELD_OUT)
                else:
                    golden = record(bundle, probe_texts(tokenizer_file.read_bytes(), COUNT), RANDOM)
                layers = model.config.num_hidden_layers if with_attention else 0
                finished = _finish(bundle, comparison, tried, limits, data, out, overwrite, golden, layers)
                return Built(finished, tried)
    lines = "; ".join(f"{name}: {', '.join(failures)}" for name, (_, failures) in tried.items())
    raise GateError(f"refused, nothing was written: {lines}; try --recipe auto, or raise the limit if you can bear it")


def _finish(
    trial: Bundle,
    comparison: Comparison,
    tried: dict[str, tuple[Comparison, list[str]]],
    limits: Limits,
    data: Path | None,
    out: Path,
    overwrite: bool,
    golden: Golden,
    attention_layers: int,
) -> Bundle:
    report = {
        "gate": {"limits": vars(limits), "data": data.name if data else None, "passed": True},
        "recipes": {name: found.to_json() | {"failures": failures} for name, (found, failures) in tried.items()},
        "machine": trial.verified_on,
    }
    files: dict[str, bytes | Path] = {name: trial.path / name for name in trial.files}
    files[REPORT] = (dumps(report, indent=1, ensure_ascii=False) + "\n").encode()
    files[GOLDEN] = golden.to_bytes()
    files[CARD] = _card(trial, comparison, data).encode()
    if attention_layers:
        files[ATTENTION] = attention_graph(trial.read(MODEL), attention_layers)
    tolerance = float(np.ceil(comparison.batch_effect * 1000 + 1) / 1000)
    return write(out, files, overwrite=overwrite, **trial.facts | {"tolerance": min(tolerance, 1.0)})


def _copy(model: ModelProto) -> ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied


def _provenance(checkpoint: Path, data: Path | None) -> dict[str, Any]:
    packages = ("jirgee", "torch", "transformers", "optimum", "onnx", "onnxruntime", "sentencepiece")
    return {
        "checkpoint": checkpoint.name,
        "data": data.name if data else None,
        "versions": {name: version(name) for name in packages},
    }


def _card(bundle: Bundle, comparison: Comparison, data: Path | None) -> str:
    lines = [
        f"# {', '.join(bundle.labels)}",
        "",
        f"A text classifier with {len(bundle.labels)} labels, exported by jirgee with the recipe `{bundle.recipe}` "
        f"({RECIPES[bundle.recipe].about}).",
        "",
        "```",
        "jirgee score BUNDLE texts.csv -o scored.csv",
        "```",
        "",
        f"Compared with its checkpoint in PyTorch fp32 on {comparison.texts} "
        + (f"held-out texts of {data.name}:" if data else "strings of random pieces (no labelled data was given):"),
        "",
        f"- labels that differ: {comparison.flips}",
        f"- change of a probability: mean {comparison.mean_change:.4f}, largest {comparison.max_change:.4f}",
        f"- change of a probability by other texts in the batch: at most {comparison.batch_effect:.4f} seen",
    ]
    if comparison.accuracy and comparison.macro_f1:
        lines.append(f"- accuracy: {comparison.accuracy[0]:.4f} -> {comparison.accuracy[1]:.4f}")
        lines.append(f"- macro F1: {comparison.macro_f1[0]:.4f} -> {comparison.macro_f1[1]:.4f}")
    return "\n".join(lines) + "\n"
