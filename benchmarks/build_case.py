"""Makes a case (see ``cases.py``): draws the texts, makes or copies the model, asks PyTorch for the reference.

The models of ``SHAPES`` have random weights from a fixed seed: speed depends on the shape alone. Their matrices are
enlarged and their head is centred, so that labels and scores differ between texts as they do in a trained model.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from jirgee.checkpoint import Settings, read_labels, read_settings
from jirgee.errors import InputError
from jirgee.labelled import checked_text
from jirgee.rows import Row, read_rows
from jirgee.tokens import Tokenizer, TokenizerSpec

from .cases import LABELS, MAX_TOKENS, SHAPES, TRAINED, Case, Sample, Shape

SEED = 0
CALIBRATION_TEXTS = 300  # nncf's default subset
MODEL_FILES = (".json", ".safetensors", ".txt", ".vocab", ".model")


def read_texts(path: Path) -> list[str]:
    """The texts of a file, repeats included. Raises InputError for a file without one."""
    texts = [checked_text(row.record, "text", path, row.line) for row in read_rows(path) if isinstance(row, Row)]
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise InputError("holds no texts", path)
    return texts


def draw_sample(texts: Sequence[str], source: str, unique: int, raw: int) -> tuple[Sample, list[str]]:
    """The sample and the texts left for calibration (none of them measured, as far as the file goes)."""
    rng = random.Random(SEED)
    distinct = list(dict.fromkeys(texts))
    rng.shuffle(distinct)
    calibration = distinct[: min(CALIBRATION_TEXTS, len(distinct) // 2)]
    measured = distinct[len(calibration) : len(calibration) + unique]
    rows = rng.sample(list(texts), min(raw, len(texts)))
    return Sample(measured, rows, [], source), calibration


def build_case(
    path: Path, sample: Sample, calibration: Sequence[str], tokenizer: Path | None, given: Path | None
) -> Case:
    """Write the case at ``path``: the checkpoint ``given``, or a new one of the shape that ``path`` is named after."""
    shutil.rmtree(path, ignore_errors=True)
    case = Case(path)
    case.checkpoint.mkdir(parents=True)
    if given:
        _copy(given, case.checkpoint)
    elif path.name in TRAINED:
        _with_head(path.name, case.checkpoint, calibration)
    else:
        _random(SHAPES[path.name], case.checkpoint, tokenizer, calibration)
    _save_fast_tokenizer(case.checkpoint)
    settings = read_settings(case.checkpoint)
    pieces = Tokenizer(
        settings.tokenizer, (case.checkpoint / settings.tokenizer.file).read_bytes(), settings.max_tokens
    )
    sample = Sample(**asdict(sample) | {"tokens": pieces.encode(sample.unique).lengths.tolist()})
    (path / "sample.json").write_text(json.dumps(asdict(sample), ensure_ascii=False), encoding="utf-8")
    labels = read_labels(case.checkpoint) or []
    named = [labels[i] for i in reference(case.checkpoint, calibration).argmax(axis=1)]
    lines = [f"{' '.join(text.split())}\t{label}" for text, label in zip(calibration, named, strict=True)]
    case.calibration.write_text("\n".join(["text\tlabel", *lines]) + "\n", encoding="utf-8")
    np.save(case.reference, reference(case.checkpoint, sample.unique))
    return case


def _copy(given: Path, out: Path) -> None:
    """The encoder of a trained checkpoint. Its n-grams and temperature stay behind, for no peer knows of them, and all
    cut at the same length.
    """
    settings = read_settings(given)
    for path in given.iterdir():
        if path.suffix in MODEL_FILES or path.name == settings.tokenizer.file:
            shutil.copyfile(path, out / path.name)
    replace(settings, max_tokens=MAX_TOKENS, temperature=1.0, ngram_weight=0.0).write(out)


def reference(checkpoint: Path, texts: Sequence[str]) -> np.ndarray:
    """float32 [n, k] by PyTorch in fp32, through the gate's own function."""
    from jirgee_export.graph import load_model
    from jirgee_export.reference import reference_probs

    return reference_probs(load_model(checkpoint), read_settings(checkpoint), checkpoint, texts)


def train_pieces(texts: Sequence[str], out: Path, size: int) -> Path:
    """A SentencePiece model with mongolian-bert's special pieces, of at most ``size`` pieces, at ``out``.model."""
    from sentencepiece import SentencePieceTrainer

    SentencePieceTrainer.train(
        sentence_iterator=iter([text.lower() for text in dict.fromkeys(texts)]),
        model_prefix=str(out),
        vocab_size=size,
        hard_vocab_limit=False,
        user_defined_symbols=["[PAD]", "[CLS]", "[SEP]", "[MASK]"],
        character_coverage=0.9995,
        minloglevel=2,
    )
    return out.with_suffix(".model")


def _random(shape: Shape, out: Path, tokenizer: Path | None, texts: Sequence[str]) -> None:
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    from jirgee_train.model import save_checkpoint

    base = out.with_name("base")
    base.mkdir()
    pieces = base / "mn_uncased.model"
    if tokenizer:
        shutil.copyfile(tokenizer, pieces)
    else:
        train_pieces(texts, base / "mn_uncased", min(4000, shape.vocabulary))
    spec = read_settings(base).tokenizer
    torch.manual_seed(SEED)
    config = BertConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.inner,
        pad_token_id=spec.pad_id,
        id2label=dict(enumerate(LABELS)),
        label2id={name: i for i, name in enumerate(LABELS)},
    )
    model: Any = BertForSequenceClassification(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and "embeddings" not in name:
                parameter.normal_(0, 1.5 / parameter.shape[1] ** 0.5)
    _centre(model, spec, base, texts)
    save_checkpoint(model, base, Settings(spec, MAX_TOKENS), out)
    shutil.rmtree(base)


def _with_head(name: str, out: Path, texts: Sequence[str]) -> None:
    """A pre-trained base with a head of random weights."""
    import torch

    from jirgee_train.bases import resolve
    from jirgee_train.model import load_classifier, save_checkpoint

    torch.manual_seed(SEED)
    base = resolve(TRAINED[name])
    model = load_classifier(base, list(LABELS)).eval()
    spec = read_settings(base).tokenizer
    _centre(model, spec, base, texts)
    save_checkpoint(model, base, Settings(spec, MAX_TOKENS), out)


def _centre(model: Any, spec: TokenizerSpec, directory: Path, texts: Sequence[str]) -> None:
    """Set the head so that each logit has mean 0 and deviation 2 over ``texts``."""
    import torch

    from jirgee_train.fit import predict

    logits = torch.from_numpy(predict(model, Settings(spec, MAX_TOKENS), directory, list(texts)[:100]))
    with torch.no_grad():
        scale = 2 / logits.std(dim=0)
        model.classifier.weight.mul_(scale[:, None])
        model.classifier.bias.copy_(-(logits.mean(dim=0) - model.classifier.bias) * scale)


def _save_fast_tokenizer(checkpoint: Path) -> None:
    """Write tokenizer.json, so that those who use Hugging Face's tokenizers need not convert it on each start."""
    if not (checkpoint / "tokenizer.json").is_file():
        from transformers import AutoTokenizer

        fast = AutoTokenizer.from_pretrained(checkpoint, use_fast=True)
        fast.backend_tokenizer.save(str(checkpoint / "tokenizer.json"))
