"""The graph from strings to probabilities, and the ORT format: run by onnxruntime alone, without any code of ours."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest

import jirgee
from jirgee.bundle import NGRAMS, Bundle, write
from jirgee.cli import main
from jirgee.errors import BundleError
from jirgee.ngrams import NgramModel
from jirgee_export.charsmap import compiled, fold_lower, read_model, rules_of
from jirgee_export.string_input import string_model

SCRIPT = """
import json, sys
import numpy as np, onnxruntime, onnxruntime_extensions
options = onnxruntime.SessionOptions()
options.register_custom_ops_library(onnxruntime_extensions.get_library_path())
session = onnxruntime.InferenceSession(sys.argv[1], options)
probabilities, labels = session.run(None, {"texts": np.array(json.load(sys.stdin), dtype=object)})
assert not any(name.startswith("jirgee") for name in sys.modules)
json.dump([probabilities.tolist(), labels.tolist()], sys.stdout)
"""
TEXTS = [
    "", " ", "ТОМ Үсэг ӨӨ", "a  b", "e\u0301E\u0301 Й\u0306", "ﬁ ①", "[MASK] [SEP]", "👨‍👩‍👧 ᠮᠣᠩᠭᠣᠯ", "İI",
    "\u3000х\u00a0\x1cх", "ха" * 200,
]  # fmt: skip


def run_alone(model: Path, texts: list[str], python: str | Path = sys.executable) -> tuple[np.ndarray, list[str]]:
    """Score by onnxruntime and its extension in a process of its own."""
    command = [str(python), "-I", "-c", SCRIPT, str(model)]
    run = subprocess.run(
        command, input=json.dumps(texts), capture_output=True, text=True, encoding="utf-8", timeout=300
    )
    assert run.returncode == 0, run.stderr
    probs, labels = json.loads(run.stdout)
    return np.array(probs), labels


def assert_same(model: Path, bundle: Path, texts: list[str], python: str | Path = sys.executable) -> None:
    with jirgee.Scorer.load(bundle, device="cpu") as scorer:
        expected = scorer.score(texts)
    probs, labels = run_alone(model, texts, python)
    same = np.abs(probs - expected.probs).max(axis=1) < 1e-4
    # The extension's SentencePiece rounds scores otherwise, so exact ties may fall otherwise; with 600 pieces some do.
    assert np.mean(same) >= 0.97
    assert [label for label, good in zip(labels, same, strict=True) if good] == list(np.array(expected.labels)[same])
    assert len(set(labels)) == 2


@pytest.fixture(scope="module")
def string_input(tmp_path_factory, tiny_bundle) -> Path:
    out = tmp_path_factory.mktemp("string") / "model.onnx"
    assert main(["export", str(tiny_bundle), "--string-input", str(out)]) == 0
    return out


def test_strings_in_probabilities_out(string_input, tiny_bundle, sample_texts):
    pytest.importorskip("onnxruntime_extensions")
    assert_same(string_input, tiny_bundle, list(dict.fromkeys(sample_texts))[:200] + TEXTS)


def test_one_text_and_many_batches(string_input, tiny_bundle, sample_texts):
    pytest.importorskip("onnxruntime_extensions")
    unique = list(dict.fromkeys(sample_texts))
    probs, _ = run_alone(string_input, unique[:1])
    many, _ = run_alone(string_input, unique)
    assert np.abs(many[:1] - probs).max() < 1e-4
    assert len(many) == len(unique)


def test_hybrid(tmp_path, tiny_bundle, sample_texts):
    pytest.importorskip("onnxruntime_extensions")
    plain = Bundle.load(tiny_bundle)
    rng = np.random.default_rng(0)
    arrays = (np.abs(rng.normal(0, 1, 1 << 13)), rng.normal(0, 1, (1 << 13, 2)), np.array([0.1, 0]))
    ngrams = NgramModel(*(array.astype(np.float32) for array in arrays)).to_bytes()
    files = {name: tiny_bundle / name for name in plain.files} | {NGRAMS: ngrams}
    facts = plain.facts | {"ngram_weight": 3.0, "temperature": 20.0}
    bundle = write(tmp_path / "hybrid", files, overwrite=False, **facts).path
    assert main(["export", str(bundle), "--string-input", str(tmp_path / "model.onnx")]) == 0
    assert_same(tmp_path / "model.onnx", bundle, sample_texts[:60] + TEXTS)


@pytest.mark.slow
def test_in_an_environment_without_us(string_input, tiny_bundle, sample_texts, tmp_path):
    venv.create(tmp_path / "alone", with_pip=True)
    python = tmp_path / "alone" / "bin" / "python"
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", "constraints.txt"]
    root = Path(__file__).parents[2]
    packages = ["onnxruntime", "onnxruntime-extensions", "numpy"]
    run = subprocess.run([*pip, *packages], cwd=root, capture_output=True, text=True)
    if run.returncode:
        pytest.skip(f"no package registry: {run.stderr.strip().splitlines()[-1:]}")
    assert_same(string_input, tiny_bundle, list(dict.fromkeys(sample_texts))[:200], python)


def test_rules_survive_the_compiler(spm_bert_model):
    charsmap = read_model(spm_bert_model.read_bytes()).normalizer_spec.precompiled_charsmap
    rules = rules_of(charsmap)
    assert rules["ﬁ"] == "fi"
    assert rules["e\u0301"] == "é"
    few = dict(list(rules.items())[:500])
    assert rules_of(compiled(few)) == few


def test_lower_case_inside_the_model(spm_bert_model, sample_texts):
    from sentencepiece import SentencePieceProcessor

    plain = read_model(spm_bert_model.read_bytes())
    folded = SentencePieceProcessor(model_proto=fold_lower(plain, ("lower",)).SerializeToString())
    model = SentencePieceProcessor(model_proto=plain.SerializeToString())
    texts = [*sample_texts[:200], *TEXTS, *(text.upper() for text in sample_texts[:100])]
    assert [folded.encode(text) for text in texts] == [model.encode(text.lower()) for text in texts]


def test_refused(tiny_bundle, tmp_path):
    plain = Bundle.load(tiny_bundle)
    other = dataclasses.replace(plain, tokenizer=dataclasses.replace(plain.tokenizer, kind="tokenizers"))
    with pytest.raises(BundleError, match="only SentencePiece"):
        string_model(other)
    other = dataclasses.replace(plain, tokenizer=dataclasses.replace(plain.tokenizer, normalise=("nfc",)))
    with pytest.raises(BundleError, match="'nfc'"):
        string_model(other)
    (tmp_path / "taken.onnx").write_bytes(b"")
    for form in ("--string-input", "--ort"):
        assert main(["export", str(tiny_bundle), form, str(tmp_path / "taken.onnx")]) == 1


def test_ort_format(tiny_bundle, tmp_path):
    import onnxruntime

    assert main(["export", str(tiny_bundle), "--ort", str(tmp_path / "model.ort")]) == 0
    sessions = [
        onnxruntime.InferenceSession(str(path)) for path in (tmp_path / "model.ort", tiny_bundle / "model.onnx")
    ]
    feed = {"input_ids": np.array([[4, 20, 30, 5]], np.int32), "attention_mask": np.ones((1, 4), np.int32)}
    found, expected = (np.asarray(session.run(None, feed)[0]) for session in sessions)
    assert np.abs(found - expected).max() < 1e-5
    assert (tmp_path / "model.ort").read_bytes()[4:8] == b"ORTM"
    listed = (tmp_path / "model.required_operators.config").read_text(encoding="utf-8")
    assert "com.microsoft;1;" in listed
    assert all(name in listed for name in ("Attention", "EmbedLayerNormalization", "InstanceNormalization", "Gemm"))
    assert str(tmp_path) not in listed
