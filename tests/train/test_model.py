"""Opening a base in mn-tweet-bert's layout or Hugging Face's, refusing what is neither, and saving a checkpoint."""

import json
import os
import shutil

import pytest
import torch
import transformers

from jirgee.checkpoint import Settings, read_labels, read_settings
from jirgee.errors import InputError
from jirgee_train.fit import load_tokenizer, predict
from jirgee_train.model import load_classifier, position_limit, save_checkpoint

CLASSES = ["comedian", "commentator", "other"]


@pytest.fixture
def base(original_base, tmp_path):
    """A copy of the tiny base that a test may break."""
    return shutil.copytree(original_base, tmp_path / "base")


def weights_of(directory):
    return torch.load(directory / "pytorch_model.bin", weights_only=True)


def test_the_original_layout_gives_the_logits_of_transformers_own_class(original_base, texts):
    model = load_classifier(original_base, CLASSES)
    assert model.config.id2label == dict(enumerate(CLASSES))
    config = transformers.BertConfig(**json.loads((original_base / "bert_config.json").read_text()), num_labels=3)
    expected = transformers.BertForSequenceClassification(config).eval()
    state = {
        name.replace(".gamma", ".weight").replace(".beta", ".bias"): tensor
        for name, tensor in weights_of(original_base).items()
        if name.startswith("bert.")
    }
    state |= {name: tensor for name, tensor in model.state_dict().items() if name.startswith("classifier")}
    expected.load_state_dict(state)
    settings = Settings(read_settings(original_base).tokenizer, 64)
    tokenizer = load_tokenizer(settings, original_base)
    logits = predict(model, settings, original_base, texts)
    for text, found in zip(texts, logits, strict=True):
        ids = torch.from_numpy(tokenizer.encode([text]).ids).long()[None]
        with torch.inference_mode():
            assert (expected(input_ids=ids).logits[0] - torch.from_numpy(found)).abs().max() < 1e-4


def test_names_without_the_bert_prefix_are_the_same_tensors(base, original_base):
    state = {name.removeprefix("bert."): tensor for name, tensor in weights_of(base).items()}
    torch.save(state, base / "pytorch_model.bin")
    found, expected = (load_classifier(path, CLASSES).state_dict() for path in (base, original_base))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items() if name.startswith("bert."))


def test_a_head_that_fits_is_kept_and_one_that_does_not_is_made_anew(base):
    head = torch.full((3, 32), 0.25)
    torch.save(weights_of(base) | {"classifier.weight": head}, base / "pytorch_model.bin")
    assert torch.equal(load_classifier(base, CLASSES).state_dict()["classifier.weight"], head)
    assert load_classifier(base, CLASSES[:2]).state_dict()["classifier.weight"].shape == (2, 32)


def refuse(directory, message):
    with pytest.raises(InputError) as caught:
        load_classifier(directory, CLASSES)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(directory))
    assert "\n" not in str(caught.value)


def test_a_wrong_shape_names_tensor_file_and_both_shapes(base):
    config = json.loads((base / "bert_config.json").read_text())
    (base / "bert_config.json").write_text(json.dumps(config | {"vocab_size": 700}))
    refuse(base, "bert.embeddings.word_embeddings.weight has shape [600, 32] where bert_config.json says [700, 32]")


def test_a_missing_tensor_is_named(base):
    state = weights_of(base)
    del state["bert.encoder.layer.1.output.dense.bias"]
    torch.save(state, base / "pytorch_model.bin")
    refuse(base, "lacks bert.encoder.layer.1.output.dense.bias")


def test_what_is_not_a_weight_file_is_refused(base):
    (base / "pytorch_model.bin").write_bytes(b"not weights at all")
    refuse(base, "is not a PyTorch weight file")
    torch.save([torch.zeros(2)], base / "pytorch_model.bin")
    refuse(base, "holds a list, not tensors by name")
    torch.save({"epoch": 3, "bert.embeddings.word_embeddings.weight": 7}, base / "pytorch_model.bin")
    refuse(base, "lacks bert.embeddings.word_embeddings.weight")
    (base / "pytorch_model.bin").unlink()
    refuse(base, "has no pytorch_model.bin beside bert_config.json")


class Code:
    """Runs ``touch`` when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("layout", ["original", "hugging face"])
def test_a_pickle_with_code_in_it_is_refused_and_not_run(base, tmp_path, layout):
    torch.save(weights_of(base) | {"bert.extra": Code(tmp_path / "ran")}, base / "pytorch_model.bin")
    if layout == "hugging face":
        config = json.loads((base / "bert_config.json").read_text())
        (base / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    refuse(base, "is not a PyTorch weight file" if layout == "original" else "cannot be loaded as a model")
    assert not (tmp_path / "ran").exists()


def test_a_tensorflow_checkpoint_is_refused_with_the_line_that_converts_it(base):
    (base / "pytorch_model.bin").unlink()
    (base / "bert_model.ckpt.index").write_bytes(b"")
    refuse(base, f"--tf_checkpoint {base}/bert_model.ckpt --config {base}/bert_config.json")
    refuse(base, f"transformers-cli convert --model_type bert --tf_checkpoint {base}/")
    refuse(base, f"--pytorch_dump_output {base}/pytorch_model.bin")


def test_position_limit_is_the_config_s_less_roberta_s_padding(original_base, tmp_path):
    assert position_limit(original_base) == 64
    for config, limit in (
        ({"model_type": "bert", "max_position_embeddings": 128, "pad_token_id": 3}, 128),
        ({"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert position_limit(tmp_path) == limit


@pytest.fixture
def saved(original_base, tmp_path):
    """A checkpoint of three classes in Hugging Face's layout."""
    settings, out = Settings(read_settings(original_base).tokenizer, 40), tmp_path / "saved"
    out.mkdir()
    save_checkpoint(load_classifier(original_base, CLASSES), original_base, settings, out)
    return out


def test_a_saved_checkpoint_opens_in_transformers_with_the_same_tokens_and_logits(saved, texts):
    settings = read_settings(saved)
    assert settings.max_tokens == 40
    assert read_labels(saved) == CLASSES
    tokenizer = transformers.AutoTokenizer.from_pretrained(saved, use_fast=False)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(saved).eval()
    ours = load_tokenizer(settings, saved)
    logits = predict(load_classifier(saved, CLASSES), settings, saved, texts)
    for text, found in zip(texts, logits, strict=True):
        batch = tokenizer(text, truncation=True, max_length=40, return_tensors="pt")
        assert batch["input_ids"][0].tolist() == ours.encode([text]).ids.tolist(), text
        with torch.inference_mode():
            assert (model(**batch).logits[0] - torch.from_numpy(found)).abs().max() < 1e-4


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_every_file_of_a_saved_checkpoint_has_the_mode_of_the_umask(original_base, tmp_path, umask, mode):
    model, settings = load_classifier(original_base, CLASSES), read_settings(original_base)
    before = os.umask(umask)
    try:
        save_checkpoint(model, original_base, settings, tmp_path)
    finally:
        os.umask(before)
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()} == {
        path.name: oct(mode) for path in tmp_path.iterdir()
    }


def test_saving_again_copies_the_tokenizer_of_a_hugging_face_base(saved, tmp_path):
    out = tmp_path / "again"
    out.mkdir()
    save_checkpoint(load_classifier(saved, CLASSES), saved, read_settings(saved), out)
    for name in ("spiece.model", "tokenizer_config.json", "jirgee.json"):
        assert (out / name).read_bytes() == (saved / name).read_bytes()


def test_a_damaged_safetensors_file_is_refused(saved):
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    refuse(saved, "cannot be loaded as a model")
    weights.write_bytes(b"")
    refuse(saved, "cannot be loaded as a model")


def test_a_hugging_face_base_whose_encoder_does_not_fit_is_refused(saved):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | {"intermediate_size": 128}))
    refuse(
        saved,
        "bert.encoder.layer.0.intermediate.dense.bias of its weights has not the shape that config.json says: [128]",
    )
    (saved / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    refuse(saved, "its weights lack bert.encoder.layer.2.")
