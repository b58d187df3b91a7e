"""The JavaScript package says what Python says: pieces, buckets, scores. Run by Node.js, without a browser."""

from __future__ import annotations

import dataclasses
import gzip
import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jirgee
from jirgee.bundle import NGRAMS, Bundle, write
from jirgee.cli import main
from jirgee.errors import BundleError, InputError, MissingPackage
from jirgee.ngrams import NgramModel, count_ngrams
from jirgee.tokens import Tokenizer, TokenizerSpec
from jirgee_export import web

NASTY = [
    "", " ", "\u3000 ", "\x00", "a\x00b", "\u200b", "\ufeff", "▁", "▁▁a▁", "[MASK]", "a[CLS]b", "[MASK] [PAD]",
    " [SEP] ", "<s></s><unk>", "ΑΣ ΣΑΣ.", "İ", "ﬁ ﬃ", "①②", "e\u0301", "E\u0301", "й\u0306", "👨‍👩‍👧‍👦🇲🇳", "\ud800x",
    "x\udfff", "ﷺ", "\U0010ffff", "\ue000", "ᠮᠣᠩᠭᠣᠯ", "ａｂｃ", "a  b   c ", "\t\n\r\x0b\x0c\x1c\x85",
    "хаха" * 50, "а" * 11, "!" * 8,    "." * 300, "한국어", "ｶﾞ", "½™", "ẞ", "\ufffd", "\u2028", "ǅ",
    "\u0300\u0301", "\u00ad", "\U000e0001", "Өө Үү",
]  # fmt: skip

SEGMENT = """
import { readFileSync } from "node:fs";
const { Tokenizer } = await import(process.argv[1] + "/tokens.js");
for (const { spec, model, limit, texts } of JSON.parse(readFileSync(0, "utf8"))) {
  const tokenizer = new Tokenizer(spec, new Uint8Array(readFileSync(model)), limit);
  console.log(JSON.stringify(texts.map((text) => tokenizer.encode(text))));
}
"""
COUNT = """
import { readFileSync } from "node:fs";
const { countNgrams, NgramModel } = await import(process.argv[1] + "/ngrams.js");
const { texts, bits, model } = JSON.parse(readFileSync(0, "utf8"));
const ngrams = new NgramModel(new Uint8Array(readFileSync(model)), 3);
const count = (text) => [...countNgrams(text, bits)].sort((a, b) => a[0] - b[0]);
console.log(JSON.stringify({ counts: texts.map(count), logits: texts.map((text) => [...ngrams.logits(text)]) }));
"""
SCORE = """
import { readFileSync } from "node:fs";
const { Scorer } = await import(process.argv[1] + "/index.js");
const { bundle, texts } = JSON.parse(readFileSync(0, "utf8"));
const scorer = await Scorer.load(bundle);
const { labels, probs } = await scorer.score(texts);
const shared = [];
for (const share of [[0, 2], [1, 2]]) await scorer.score(texts, { share, onBatch: (rows) => shared.push(...rows) });
let batches = 0;
const few = await scorer.score(texts, { onBatch: () => ++batches < 2 });
console.log(JSON.stringify({ labels, probs: probs.map((row) => [...row]), shared, batches, few: few.labels }));
await scorer.close();
"""


def in_node(script: str, package: Path, given: Any) -> subprocess.CompletedProcess[str]:
    """Run an ES module in Node.js with ``given`` as JSON on its standard input."""
    node = shutil.which("node")
    if not node:
        pytest.skip("Node.js is not installed")
    command = [node, "--input-type=module", "-e", script, str(package)]
    return subprocess.run(
        command, input=json.dumps(given), capture_output=True, text=True, encoding="utf-8", timeout=300
    )


def segment_all(jobs: list[tuple[TokenizerSpec, Path, int]], texts: list[str]) -> list[list[str]]:
    """For each tokenizer the texts that JavaScript and Python cut differently."""
    given = [{"spec": spec.to_json(), "model": str(path), "limit": limit, "texts": texts} for spec, path, limit in jobs]
    run = in_node(SEGMENT, web.SOURCE / "jirgee", given)
    assert run.returncode == 0, run.stderr
    differing = []
    for (spec, path, limit), line in zip(jobs, run.stdout.splitlines(), strict=True):
        encoded = Tokenizer(spec, path.read_bytes(), limit).encode(texts)
        expected = [ids.tolist() for ids in np.split(encoded.ids, encoded.offsets[1:-1])]
        assert len(set(map(tuple, expected))) > len(texts) // 2, "a tokenizer that always says the same proves nothing"
        differing.append([text for text, a, b in zip(texts, expected, json.loads(line), strict=True) if a != b])
    return differing


def nasty_texts(count: int) -> list[str]:
    rng = random.Random(2)

    def character() -> str:
        ranges = [(0x20, 0x500), (0, 0x250), (0, 0xD800), (0xE000, 0x110000), (0x20, 0x21), (0x2581, 0x2582)]
        return chr(rng.randrange(*rng.choice(ranges)))

    return NASTY + ["".join(character() for _ in range(rng.randrange(1, 20))) for _ in range(count)]


def digits_and_own_symbols() -> list[str]:
    """Texts full of ties, which rounding decides."""
    rng = random.Random(0)
    parts = ["ха", "хахаха", " б", "0", "00", "000", "40,000", "!!!", "...", "аа", "хүн"]

    def word() -> str:
        return "".join(rng.choices(parts, k=rng.randrange(1, 4)))

    return [" ".join(word() for _ in range(rng.randrange(1, 20))) for _ in range(500)]


@pytest.fixture(scope="session")
def spm_models(tmp_path_factory, sample_texts) -> list[Path]:
    """Small models that between them use every flag that sentencepiece.js knows."""
    from sentencepiece import SentencePieceTrainer

    variants: dict[str, dict[str, Any]] = {
        "bytes": {"byte_fallback": True, "normalization_rule_name": "nmt_nfkc_cf"},
        "suffix": {"treat_whitespace_as_suffix": True, "normalization_rule_name": "nfkc"},
        "spaces": {"remove_extra_whitespaces": False, "user_defined_symbols": ["ха", "хахаха", " б"]},
        "plain": {"normalization_rule_name": "identity", "add_dummy_prefix": False},
    }
    folder = tmp_path_factory.mktemp("variants")
    for name, options in variants.items():
        SentencePieceTrainer.train(
            sentence_iterator=iter(sample_texts),
            model_prefix=str(folder / name),
            vocab_size=700,
            character_coverage=0.99,
            minloglevel=2,
            **options,
        )
    return [folder / f"{name}.model" for name in variants]


def test_pieces_of_every_kind_of_model(spm_models, spm_bert_model, sample_texts):
    plain = [(TokenizerSpec("sentencepiece", path.name, 0, 1, (), ()), path, 64) for path in spm_models]
    bert = TokenizerSpec("sentencepiece", spm_bert_model.name, 9, 3, (4,), (5,), 1, normalise=("lower",))
    jobs = [*plain, (bert, spm_bert_model, 24)]
    texts = list(dict.fromkeys(sample_texts))[:300] + nasty_texts(500) + digits_and_own_symbols()
    assert segment_all(jobs, texts) == [[] for _ in jobs]


@pytest.mark.parametrize("base", ["mn_uncased", "mn_cased", "default"])
def test_pieces_of_real_models_on_real_texts(shared, tmp_path, base):
    with gzip.open(shared / "data" / "unlabelled.txt.gz", "rt", encoding="utf-8") as lines:
        texts = random.Random(1).sample(sorted({line.rstrip("\n") for line in lines}), 5000)
    if base == "default":
        path = next(iter(sorted((Path.home() / ".cache" / "jirgee").rglob("sentencepiece.bpe.model"))), None)
        if path is None:
            pytest.skip("the default base was not used on this machine yet")
        spec = TokenizerSpec("sentencepiece", path.name, 3, 1, (0,), (2,), 1)
    else:
        path = shared / "models" / "mongolian-bert" / f"{base}.model"
        spec = TokenizerSpec("sentencepiece", path.name, 0, 3, (4,), (5,))
        spec = dataclasses.replace(spec, normalise=("lower",) if base == "mn_uncased" else ())
    assert segment_all([(spec, path, 128)], texts + nasty_texts(300)) == [[]]


def test_ngrams(tmp_path, sample_texts):
    rng = np.random.default_rng(0)
    idf = rng.uniform(0, 5, 1 << 15).astype(np.float16).astype(np.float32)
    idf[::3] = 0  # buckets that are not used are not stored
    weights = rng.normal(0, 1, (1 << 15, 3)).astype(np.float16).astype(np.float32)
    model = NgramModel(idf, weights, np.array([0.5, -1, 2], np.float32))
    (tmp_path / NGRAMS).write_bytes(model.to_bytes())
    texts = sample_texts[:50] + nasty_texts(200)
    run = in_node(COUNT, web.SOURCE / "jirgee", {"texts": texts, "bits": 15, "model": str(tmp_path / NGRAMS)})
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    counts = count_ngrams(texts, 15)
    expected: list[list[list[int]]] = [[] for _ in texts]
    for row, bucket, count in zip(counts.row, counts.bucket, counts.count, strict=True):
        expected[row].append([int(bucket), int(count)])
    assert found["counts"] == expected
    assert np.abs(np.array(found["logits"]) - model.logits(texts)).max() < 1e-4


@pytest.fixture(scope="session")
def web_folder(tmp_path_factory, tiny_bundle, onnxruntime_web) -> Path:
    out = tmp_path_factory.mktemp("web") / "folder"
    words = ["export", tiny_bundle, "--web", out, "--onnxruntime-web", onnxruntime_web]
    assert main([*map(str, words)]) == 0
    return out


def test_scores_in_node(web_folder, tiny_bundle, sample_texts):
    texts = sample_texts[:150] + nasty_texts(50)
    run = in_node(SCORE, web_folder / "jirgee", {"bundle": str(tiny_bundle), "texts": texts})
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    with jirgee.Scorer.load(tiny_bundle) as scorer:
        expected = scorer.score(texts)
    assert np.abs(np.array(found["probs"]) - expected.probs).max() < 1e-4
    assert found["labels"] == expected.labels
    assert len(set(expected.labels)) == 2
    assert sorted(found["shared"]) == list(range(len(texts))), "two shares are all texts, each once"
    assert found["batches"] == 2
    assert 0 < sum(label is not None for label in found["few"]) < len(texts)


def test_a_hybrid_scores_in_node(web_folder, tiny_bundle, tmp_path, sample_texts):
    plain = Bundle.load(tiny_bundle)
    rng = np.random.default_rng(0)
    model = NgramModel(*(rng.normal(0, 1, shape).astype(np.float32) for shape in ((1 << 12,), (1 << 12, 2), (2,))))
    files = {name: tiny_bundle / name for name in plain.files} | {NGRAMS: model.to_bytes()}
    hybrid = write(tmp_path / "hybrid", files, **plain.facts | {"ngram_weight": 0.8, "temperature": 1.7})
    run = in_node(SCORE, web_folder / "jirgee", {"bundle": str(hybrid.path), "texts": sample_texts[:60]})
    assert run.returncode == 0, run.stderr
    with jirgee.Scorer.load(hybrid) as scorer:
        expected = scorer.score(sample_texts[:60]).probs
    with jirgee.Scorer.load(plain) as scorer:
        assert np.abs(scorer.score(sample_texts[:60]).probs - expected).max() > 0.1
    assert np.abs(np.array(json.loads(run.stdout)["probs"]) - expected).max() < 1e-4


def test_a_damaged_bundle_is_refused_in_node(web_folder, tmp_path):
    bundle = tmp_path / "bundle"
    shutil.copytree(web_folder / "model", bundle)
    raw = bytearray((bundle / "model.onnx").read_bytes())
    raw[len(raw) // 2] ^= 1
    (bundle / "model.onnx").write_bytes(raw)
    run = in_node(SCORE, web_folder / "jirgee", {"bundle": str(bundle), "texts": ["а"]})
    assert run.returncode != 0
    assert "model.onnx is damaged" in run.stderr


def test_the_folder(web_folder, tiny_bundle):
    assert Bundle.load(web_folder / "model").files == Bundle.load(tiny_bundle).files
    worker = (web_folder / "sw.js").read_text(encoding="utf-8")
    listed = json.loads(worker[worker.index("const PAGE = ") + 13 : worker.index(";\nconst HERE")])
    assert all((web_folder / name).exists() for name in listed)
    scripts = [file for file in web_folder.rglob("*.js") if "vendor" not in file.parts]
    assert {file.relative_to(web_folder).as_posix() for file in scripts} - {"sw.js"} < set(listed)
    for file in [*scripts, *web_folder.glob("*.html"), *web_folder.glob("*.css")]:
        assert "://" not in file.read_text(encoding="utf-8"), f"{file} asks another host"


def test_refused(tiny_bundle, tmp_path, monkeypatch, sample_texts):
    from sentencepiece import SentencePieceTrainer

    SentencePieceTrainer.train(
        sentence_iterator=iter(sample_texts),
        model_prefix=str(tmp_path / "bpe"),
        vocab_size=400,
        model_type="bpe",
        minloglevel=2,
    )
    plain = Bundle.load(tiny_bundle)
    files = {name: tiny_bundle / name for name in plain.files} | {"bpe.model": tmp_path / "bpe.model"}
    spec = dataclasses.replace(plain.tokenizer, file="bpe.model")
    bpe = write(tmp_path / "bpe-bundle", files, **plain.facts | {"tokenizer": spec})
    with pytest.raises(BundleError, match="is BPE"):
        web.write_web(bpe, tmp_path / "out")
    other = write(
        tmp_path / "other", files, **plain.facts | {"tokenizer": dataclasses.replace(spec, kind="tokenizers")}
    )
    with pytest.raises(BundleError, match="only SentencePiece"):
        web.write_web(other, tmp_path / "out")
    with pytest.raises(InputError, match="not the npm package"):
        web.write_web(plain, tmp_path / "out", package=tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingPackage, match="--onnxruntime-web PATH"):
        web.write_web(plain, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bpe-bundle", "bpe.model", "bpe.vocab", "other"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["BUNDLE"], "say which form"),
        (["BUNDLE", "-o", "x", "--web", "y"], "is a bundle"),
        (["BUNDLE", "--onnxruntime-web", "x"], "goes with --web"),
        (["CHECKPOINT"], "-o/--output"),
    ],
)
def test_wrong_usage(words, says, tiny_bundle, tiny_checkpoint, capsys):
    places = {"BUNDLE": str(tiny_bundle), "CHECKPOINT": str(tiny_checkpoint)}
    with pytest.raises(SystemExit) as stop:
        main(["export", *[places.get(word) or word for word in words]])
    assert stop.value.code == 2
    assert says in capsys.readouterr().err
