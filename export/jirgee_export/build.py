"""checkpoint -> graph -> fused -> quantised -> verified -> bundle: the steps in order; a failure writes nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from jirgee.bundle import ATTENTION, CARD, GOLDEN, MODEL, REPORT, Bundle, write
from jirgee.errors import GateError, MachineError
from jirgee.golden import COUNT, HELD_OUT, RANDOM, Golden, record
from jirgee.labelled import read_labelled
from jirgee.scorer import Scorer
from jirgee.tokens import Tokenizer

from .architectures import for_export
from .attention import attention_graph
from .calibrate import TEXTS as CALIBRATION_TEXTS
from .calibrate import Calibration
from .card import card
from .graph import export_graph
from .graph_source import Source
from .measure import resident, speeds
from .optimise import optimise
from .quantise import RECIPES
from .reference import reference_probs
from .report import advice, report_json
from .report_page import PAGE, render
from .sources import Checkpoint, open_checkpoint
from .trial import Evidence, Trial, attempt
from .trim import Trimming, trim_checkpoint
from .verify import Limits

GRAPH_TOLERANCE = 1e-3  # of a probability: the fused fp32 graph is the checkpoint itself
SAME_SPEED = 0.97  # of the fastest: what is nearer than measurements repeat is chosen by how faithful it is


@dataclass(frozen=True)
class Built:
    """The written bundle, and each recipe that was tried (in the table's order)."""

    bundle: Bundle
    tried: dict[str, Trial]


def build(
    checkpoint: Path | str,
    out: Path,
    recipe: str = "auto",
    data: Path | None = None,
    limits: Limits | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda line: None,
    golden_from_data: bool = False,
    with_attention: bool = False,
    unlabelled: Sequence[str] = (),
    labels: Sequence[str] = (),
    portable: bool = False,
    trim_to: Sequence[str] = (),
    trim_count: int = 1,
) -> Built:
    """Export ``checkpoint`` to ``out``. ``recipe``: a row of RECIPES, or ``auto``: the fastest on this machine of those
    that pass the gate.

    ``data``: labelled held-out rows for the gate. ``unlabelled``: texts on which batch-mates are tried, by default
    those of ``data``. ``golden_from_data``: the bundle's golden texts are some of those rows, which whoever gets the
    bundle can read; else they are strings of random pieces. ``labels``: class names instead of the checkpoint's.
    ``portable``: ``auto`` takes only what is safe on any CPU. ``with_attention``: add the graph that explanations show
    the attention heads by. ``trim_to``: texts to whose pieces, if they hold them ``trim_count`` times, the vocabulary
    is cut. Raises GateError, with every limit that was exceeded, if no recipe passes; then nothing is written.
    """
    limits = limits or Limits()
    names = candidates(recipe, portable)
    opened = open_checkpoint(checkpoint, labels, data)
    evidence = _evidence(opened, data, unlabelled)
    with tempfile.TemporaryDirectory(prefix="jirgee-export-") as directory:
        work = Path(directory)
        trimming = None
        if trim_to:
            say("trimming the vocabulary")
            opened, trimming = trim_checkpoint(opened, trim_to, trim_count, work / "trimmed")
            untrimmed, evidence = evidence, _evidence(opened, data, unlabelled)
            if evidence.gold is not None:
                trimming = trimming.judged(untrimmed.reference, evidence.reference, evidence.gold, limits)
            say(str(trimming))
        say("exporting the graph")
        exported = for_export(opened.model)
        export_graph(exported, work / "graph.onnx")
        calibration = _calibration(opened, evidence.texts)

        @cache
        def source(one_query: bool) -> Source:
            graph = optimise(work / "graph.onnx", exported.config, one_query, opened.settings.max_tokens)
            return Source(graph, calibration)

        def tried(name: str) -> Trial:
            say(f"quantising and verifying: {name}")
            return attempt(name, opened, source(RECIPES[name].one_query), evidence, limits, work / name)

        exact = tried("fp32")
        _check_graph(exact)
        trials: dict[str, Trial] = {}
        for name in names:
            if RECIPES[name].fallback and recipe == "auto" and any(not trial.failures for trial in trials.values()):
                continue
            trials[name] = exact if name == "fp32" else tried(name)
        if recipe == "auto":
            say("measuring speed")
            trials = _measured(trials, evidence.texts)
        chosen = choose(trials)
        if not chosen:
            raise GateError(f"refused, nothing was written: {advice(trials, recipe)}")
        if data and golden_from_data:
            golden = record(chosen.bundle, evidence.texts, HELD_OUT)
        else:
            golden = record(chosen.bundle, opened.probes(COUNT), RANDOM)
        layers = exported.config.num_hidden_layers if with_attention else 0
        return Built(_finish(chosen, trials, evidence, limits, golden, out, overwrite, layers, trimming), trials)


def choose(trials: Mapping[str, Trial]) -> Trial | None:
    """The fastest that passed; of those about as fast, the one whose probabilities changed least."""
    passed = [trial for trial in trials.values() if not trial.failures]
    fastest = max((trial.speed.rate for trial in passed if trial.speed), default=0.0)
    near = [trial for trial in passed if not trial.speed or trial.speed.rate >= SAME_SPEED * fastest]
    return min(near, key=lambda trial: trial.comparison.mean_change, default=None)


def candidates(recipe: str, portable: bool) -> list[str]:
    """Rows to try. Raises MachineError for one that cannot be verified on this machine."""
    if recipe != "auto":
        if not RECIPES[recipe].safe_here():
            raise MachineError(
                f"--recipe {recipe}: {RECIPES[recipe].why}, and this CPU adds 8-bit products in 16 bits: what "
                "it is elsewhere cannot be verified here; take int8 or int8-u8, or export on the machine that scores"
            )
        return [recipe]
    return [name for name, row in RECIPES.items() if row.safe_here() and (row.safe_on == "any" or not portable)]


def _evidence(opened: Checkpoint, data: Path | None, unlabelled: Sequence[str]) -> Evidence:
    if data:
        held_out = read_labelled(data)
        texts, gold = held_out.texts, held_out.indices(opened.labels)
    else:
        texts, gold = opened.probes(200), None
    reference = reference_probs(opened.model, opened.settings, opened.path, texts)
    return Evidence(texts, reference, gold, unlabelled or texts, data.name if data else None)


def _calibration(opened: Checkpoint, texts: Sequence[str]) -> Calibration:
    spec = opened.settings.tokenizer
    sample = list(dict.fromkeys(texts))[:CALIBRATION_TEXTS]
    return Calibration(Tokenizer(spec, opened.tokenizer, opened.settings.max_tokens).encode(sample), spec.pad_id)


def _check_graph(exact: Trial) -> None:
    change = exact.comparison.max_change
    if change > GRAPH_TOLERANCE:
        raise GateError(
            f"the exported fp32 graph differs from the checkpoint by {change:.2g} in a probability "
            f"(limit {GRAPH_TOLERANCE:g}): the exporter does not fit this model; nothing was written"
        )


def _measured(trials: Mapping[str, Trial], texts: Sequence[str]) -> dict[str, Trial]:
    """The trials with their speed; those whose scores are no numbers stay without."""
    sound = {name: trial for name, trial in trials.items() if trial.comparison.finite}
    with ExitStack() as stack:
        scorers = {n: stack.enter_context(Scorer.load(trial.bundle, device="cpu")) for n, trial in sound.items()}
        found = speeds(scorers, texts)
    few = list(texts[:64])
    full = {name: speed.with_memory(resident(trials[name].bundle.path, few)) for name, speed in found.items()}
    return {name: trial.measured(full[name]) if name in full else trial for name, trial in trials.items()}


def _finish(
    chosen: Trial,
    trials: Mapping[str, Trial],
    evidence: Evidence,
    limits: Limits,
    golden: Golden,
    out: Path,
    overwrite: bool,
    attention_layers: int,
    trimming: Trimming | None,
) -> Bundle:
    report = report_json(chosen, trials, evidence, limits, trimming)
    files: dict[str, bytes | Path] = {name: chosen.bundle.path / name for name in chosen.bundle.files}
    files[REPORT] = report.encode()
    files[PAGE] = render(report).encode()
    files[GOLDEN] = golden.to_bytes()
    files[CARD] = card(chosen, evidence).encode()
    if attention_layers:
        files[ATTENTION] = attention_graph(chosen.bundle.read(MODEL), attention_layers)
    tolerance = float(np.ceil(chosen.comparison.batch_effect * 1000 + 1) / 1000)
    return write(out, files, overwrite=overwrite, **chosen.bundle.facts | {"tolerance": min(tolerance, 1.0)})
