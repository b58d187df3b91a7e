"""Integrated gradients of a checkpoint: the cross-check of what ``jirgee explain`` says by occlusion.

Sundararajan, Taly & Yan 2017 (arXiv:1703.01365). Along the straight line from a text of mask tokens to the text itself,
in the space of word embeddings, the gradient of the label's log-odds is added up. What is attributed sums to the
difference of the log-odds between the two ends (completeness), which ``gap`` measures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from jirgee.errors import InputError
from jirgee.tokens import TokenizerSpec


@dataclass(frozen=True)
class Attribution:
    """``tokens``: float64 [w], what each token (special ones counted, theirs are 0) added to the log-odds of the label.
    ``whole``, ``baseline``: the log-odds of the text and of as many mask tokens.
    """

    tokens: np.ndarray
    whole: float
    baseline: float

    @property
    def gap(self) -> float:
        """How far the sum is from the difference that it should be: the error of the steps."""
        return abs(float(self.tokens.sum()) - (self.whole - self.baseline))


def masked(ids: np.ndarray, spec: TokenizerSpec) -> np.ndarray:
    """``ids`` [w] of one text with every piece masked, special tokens kept. Raises InputError without a mask token."""
    if spec.mask_id < 0:
        raise InputError("integrated gradients start from mask tokens, and this tokenizer has none")
    baseline = ids.copy()
    baseline[len(spec.prefix) : len(ids) - len(spec.suffix)] = spec.mask_id
    return baseline


def integrated_gradients(
    model: PreTrainedModel, ids: np.ndarray, spec: TokenizerSpec, label: int, steps: int = 50, budget: int = 2048
) -> Attribution:
    """Attribute the log-odds of class ``label`` to the tokens ``ids`` (int, [w]) of one text.

    ``steps``: points of a Gauss-Legendre quadrature; more make ``gap`` smaller. ``budget``: tokens in one batch.
    Weights get no gradients. The model is left in evaluation mode. Raises InputError without a mask token.
    """
    model.eval()
    embed = model.get_input_embeddings()
    both = torch.from_numpy(np.stack([masked(ids, spec), ids])).long().to(model.device)
    with torch.no_grad():
        start, end = embed(both)
        baseline, whole = (float(value) for value in log_odds(model(input_ids=both).logits, label))
    points, weights = np.polynomial.legendre.leggauss(steps)
    along = torch.tensor((points + 1) / 2, dtype=start.dtype, device=model.device)
    share = torch.tensor(weights / 2, dtype=start.dtype, device=model.device)
    total = torch.zeros_like(start)
    for rows in torch.arange(steps).split(max(1, budget // len(ids))):
        inputs = (start + along[rows, None, None] * (end - start)).requires_grad_()
        [gradient] = torch.autograd.grad(log_odds(model(inputs_embeds=inputs).logits, label).sum(), inputs)
        total += (gradient * share[rows, None, None]).sum(dim=0)
    return Attribution(((end - start) * total).sum(dim=-1).double().cpu().numpy(), whole, baseline)


def log_odds(logits: torch.Tensor, label: int) -> torch.Tensor:
    """ln(p / (1 - p)) of class ``label`` [n] from ``logits`` [n, k]."""
    others = [place for place in range(logits.shape[-1]) if place != label]
    return logits[:, label] - logits[:, others].logsumexp(dim=-1)
