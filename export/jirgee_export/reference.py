"""What the checkpoint itself says: PyTorch in fp32, the measure of everything that is exported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from jirgee.bundle import NGRAMS
from jirgee.checkpoint import Settings
from jirgee.ngrams import NgramModel
from jirgee.plan import plan
from jirgee.scorer import softmax
from jirgee.tokens import Encoded, Tokenizer

TOKENS_A_BATCH = 2048


def reference_probs(model: PreTrainedModel, settings: Settings, directory: Path, texts: Sequence[str]) -> np.ndarray:
    """Probabilities float32 [n, k] of ``texts``, with the n-grams and the temperature of ``directory``."""
    tokenizer = Tokenizer(settings.tokenizer, (directory / settings.tokenizer.file).read_bytes(), settings.max_tokens)
    logits = torch_logits(model, tokenizer.encode(texts), settings.tokenizer.pad_id) / settings.temperature
    if settings.ngram_weight:
        ngrams = NgramModel.from_bytes((directory / NGRAMS).read_bytes(), model.config.num_labels)
        logits += settings.ngram_weight * ngrams.logits(texts)
    return softmax(logits)


def torch_logits(model: PreTrainedModel, encoded: Encoded, pad_id: int) -> np.ndarray:
    """Logits float32 [n, k] of token ids."""
    logits = np.zeros((len(encoded), model.config.num_labels), dtype=np.float32)
    with torch.inference_mode():
        for batch in plan(encoded.lengths, TOKENS_A_BATCH):
            ids, mask = (torch.from_numpy(part).long() for part in encoded.padded(batch.rows, batch.width, pad_id))
            logits[batch.rows] = model(input_ids=ids, attention_mask=mask).logits.numpy()
    return logits
