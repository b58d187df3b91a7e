"""How far ``jirgee explain`` agrees with captum on the checkpoint: python -m benchmarks.attribution --help

Needs captum (pip install captum), which nothing else in this project needs. For each text and its most probable label,
the rank correlation (Spearman) over the pieces between the bundle's occlusion and

    ablation    captum's FeatureAblation on the checkpoint in PyTorch: the same question, another implementation
    gradients   captum's LayerIntegratedGradients from mask tokens: another question

and, as a check of the check, between the project's own integrated gradients and captum's.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from jirgee.checkpoint import read_settings
from jirgee.errors import InputError, JirgeeError, optional_import
from jirgee.explain import Unit, occlude, units
from jirgee.explain import log_odds as numpy_log_odds
from jirgee.labelled import read_labelled
from jirgee.scorer import Scorer
from jirgee_export.graph import load_model
from jirgee_train.attribution import integrated_gradients, log_odds, masked

LEAST = 5  # pieces of a text whose ranks are compared
EVERY = 10  # of the texts, for the check of the check


def compare(
    checkpoint: Path, bundle: Path, texts: Sequence[str], count: int, most_tokens: int, steps: int = 20
) -> dict[str, Any]:
    """Spearman by text, of the first ``count`` that are not too long, as lists and means. Of a hybrid captum would
    see the encoder alone: raises InputError.
    """
    attr: Any = optional_import("captum.attr", "captum", "the comparison")
    model, settings = load_model(checkpoint), read_settings(checkpoint)
    if settings.ngram_weight:
        raise InputError("is a hybrid, of which captum sees the encoder alone", checkpoint)
    spec = settings.tokenizer
    gradients = attr.LayerIntegratedGradients(
        lambda ids, label: log_odds(model(input_ids=ids).logits, label), model.get_input_embeddings()
    )
    ablation = attr.FeatureAblation(lambda ids, label: log_odds(model(input_ids=ids).logits, label).detach())
    found: dict[str, list[float]] = {"ablation": [], "gradients": [], "gradients_deletion": [], "own_gradients": []}
    gaps, done = [], 0
    with Scorer.load(bundle, "cpu") as scorer:
        for text in texts:
            parts = units(scorer.tokenizer, text)
            ids = scorer.tokenizer.encode([text]).ids
            if len(parts) < LEAST or len(ids) > most_tokens:
                continue
            answers = {}
            for replacement in ("mask", "deletion"):
                whole, without = occlude(scorer, text, replacement)
                label = int(whole.argmax())
                answers[replacement] = (numpy_log_odds(whole) - numpy_log_odds(without))[:, label]
            given, base = (torch.from_numpy(row[None]).long() for row in (ids, masked(ids, spec)))
            features = torch.zeros_like(given)
            for place, part in enumerate(parts):
                features[0, part.first : part.last] = place + 1
            with torch.no_grad():
                ablated = ablation.attribute(
                    given,
                    baselines=base,
                    additional_forward_args=label,
                    feature_mask=features,
                    perturbations_per_eval=16,
                )[0]
            along = gradients.attribute(
                given, baselines=base, additional_forward_args=label, n_steps=steps, internal_batch_size=16
            )
            along = along.sum(dim=-1)[0].detach().numpy()
            summed = by_unit(along, parts)
            reference = np.array([float(ablated[part.first]) for part in parts])
            pairs = {
                "ablation": (answers["mask"], reference),
                "gradients": (answers["mask"], summed),
                "gradients_deletion": (answers["deletion"], summed),
            }
            if done % EVERY == 0:
                own = integrated_gradients(model, ids, spec, label, steps)
                gaps.append(own.gap)
                pairs["own_gradients"] = (by_unit(own.tokens, parts), summed)
            for name, (one, other) in pairs.items():
                found[name].append(float(spearmanr(one, other).statistic))
            done += 1
            print(done, *(f"{name} {values[-1]:.3f}" for name, values in found.items()), file=sys.stderr, flush=True)
            if done == count:
                break
    return {
        "texts": done,
        "spearman_mean": {name: float(np.mean(values)) for name, values in found.items()},
        "spearman_median": {name: float(np.median(values)) for name, values in found.items()},
        "completeness_gap_max": max(gaps),
        "spearman": found,
    }


def by_unit(tokens: np.ndarray, parts: Sequence[Unit]) -> np.ndarray:
    """``tokens`` [w] added up over each part."""
    return np.array([tokens[part.first : part.last].sum() for part in parts])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("attribution", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, required=True, help="made from that checkpoint")
    parser.add_argument("--data", type=Path, required=True, help="labelled rows; the first of them are taken")
    parser.add_argument("--texts", type=int, default=50)
    parser.add_argument("--most-tokens", type=int, default=128, help="skip longer texts: their gradients take minutes")
    args = parser.parse_args(argv)
    texts = read_labelled(args.data).texts
    try:
        found = compare(args.checkpoint, args.bundle, texts, args.texts, args.most_tokens)
    except JirgeeError as error:
        print(f"attribution: {error}", file=sys.stderr)
        return 1
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
