"""``jirgee train`` at its edges: every bad input costs one clear line and leaves nothing behind."""

import os
import subprocess
import sys

import pytest

from jirgee.cli import main

from .conftest import write_tsv

GOOD = [(f"текст {i}", "ab"[i % 2]) for i in range(8)]
HEAD = "text\tlabel\n"
BODY = "".join(f"{text}\t{label}\n" for text, label in GOOD)

# name -> (file name, bytes, line that the message names, words of the message)
BAD_TRAINING_FILES = {
    "missing column": ("train.csv", "tweet,label\nтекст,a\n", 2, 'no "text" column (it has tweet, label)'),
    "missing label": ("train.csv", "text,class\nтекст,a\n", 2, 'no "label" column; pass --label-column'),
    "empty label": ("train.tsv", HEAD + BODY + "текст\t\n", 10, "the label is ''"),
    "one class": ("train.tsv", HEAD + "нэг\ta\nхоёр\ta\n", None, "every row has the label 'a'"),
    "empty file": ("train.tsv", "", None, "the file is empty"),
    "only a header": ("train.tsv", HEAD, None, "holds no labelled rows"),
    "extra tabs": ("train.tsv", HEAD + BODY + "нэг\tхоёр\ta\n", 10, "3 columns where the header has 2"),
    "NUL": ("train.tsv", HEAD + "нэг\0\ta\n" + BODY, 2, "NUL"),
    "not UTF-8": ("train.tsv", HEAD.encode() + b"\xff\xfe\ta\n" + BODY.encode(), 2, "not UTF-8"),
    "header not UTF-8": ("train.tsv", b"t\xe9xt\tlabel\n", 1, "not UTF-8"),
    "not JSON": ("train.jsonl", '{"text": "нэг", "label": "a"}\n{"text": \n', 2, "not JSON"),
    "text is a number": ("train.jsonl", '{"text": 5, "label": "a"}\n', 1, "the text is 5"),
    "not gzip": ("train.tsv.gz", b"plain", None, "cut short or damaged"),
    "one text for a label": (
        "train.tsv",
        HEAD + "нэг\ta\nхоёр\ta\nгурав\tb\n",
        None,
        "label 'b' has one distinct text",
    ),
}


def refused(capsys, tmp_path, arguments):
    """The one line of a refusal, after checking what holds for each: exit 1, no output, nothing left behind."""
    before = sorted(tmp_path.rglob("*"))
    assert main(["train", *map(str, arguments), "-o", str(tmp_path / "results" / "checkpoint")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("jirgee: ")
    assert sorted(tmp_path.rglob("*")) == before
    return err.removeprefix("jirgee: ").rstrip("\n")


@pytest.mark.parametrize("case", BAD_TRAINING_FILES)
@pytest.mark.parametrize("form", ["directory", "file"])
def test_a_bad_training_file_costs_one_line(capsys, tmp_path, case, form):
    name, content, line, words = BAD_TRAINING_FILES[case]
    path = tmp_path / "data" / name
    path.parent.mkdir()
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = refused(capsys, tmp_path, [path.parent if form == "directory" else path])
    assert message.startswith(f"{path}:{line}: " if line else f"{path}: ")
    assert words in message


def test_an_unknown_label_in_the_dev_file_names_its_line(capsys, tmp_path):
    write_tsv(tmp_path / "train.tsv", GOOD)
    dev = write_tsv(tmp_path / "dev.tsv", [*GOOD, ("текст", "c")])
    message = refused(capsys, tmp_path, [tmp_path])
    assert message.startswith(f"{dev}:10: unknown label 'c'")
    assert "'a', 'b'" in message


def test_files_that_are_not_there(capsys, tmp_path):
    assert refused(capsys, tmp_path, [tmp_path / "no.tsv"]).startswith(f"{tmp_path / 'no.tsv'}: ")
    assert "holds no train.tsv" in refused(capsys, tmp_path, [tmp_path])
    (tmp_path / "rows.doc").write_bytes(b"")
    assert "its name does not tell its format" in refused(capsys, tmp_path, [tmp_path / "rows.doc"])


def test_a_bad_recipe_costs_one_line(capsys, tmp_path, samples):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("epochs = 3\nbatch = 16\n")
    assert refused(capsys, tmp_path, [samples, "--recipe", recipe]).startswith(f"{recipe}: unknown key 'batch'")
    assert "epochs = -1.0 is out of its range" in refused(capsys, tmp_path, [samples, "--epochs", "-1"])


def test_a_base_that_cannot_be_had_costs_one_line(capsys, tmp_path, samples, original_base):
    assert "no base 'e5-smal'" in refused(capsys, tmp_path, [samples, "--base", "e5-smal"])
    message = refused(capsys, tmp_path, [samples, "--base", original_base, "--max-tokens", "65"])
    assert message.startswith("max_tokens 65 is more than the 64 positions of ")
    assert message.endswith("lower --max-tokens")


def test_a_run_that_fails_midway_leaves_nothing(monkeypatch, capsys, tmp_path, samples, original_base):
    from jirgee.errors import MachineError
    from jirgee_train import fit

    def fail(model, data, settings, recipe, base, work, quiet, *rest):
        (work / "weights").write_bytes(b"half")
        raise MachineError("out of memory")

    monkeypatch.setattr(fit, "fit", fail)
    flags = ["--base", str(original_base), "--max-tokens", "40"]
    assert main(["train", str(samples), "-o", str(tmp_path / "checkpoint"), *flags]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "jirgee: out of memory"
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_exists_is_kept_unless_told_otherwise(capsys, tmp_path, trained):
    kept = tmp_path / "checkpoint"
    kept.mkdir()
    (kept / "mine").write_text("a year of work")
    assert main(["train", "nowhere.tsv", "-o", str(kept)]) == 1
    assert capsys.readouterr().err == f"jirgee: {kept}: exists already; pass --overwrite to replace it\n"
    assert main(["train", "nowhere.tsv", "-o", str(kept), "--overwrite"]) == 1
    assert "nowhere.tsv" in capsys.readouterr().err
    assert (kept / "mine").read_text() == "a year of work"


def test_overwrite_replaces_the_whole_output(capsys, tmp_path, original_base):
    data = write_tsv(tmp_path / "data" / "rows.tsv", GOOD)
    out = tmp_path / "checkpoint"
    out.mkdir()
    (out / "old").write_text("")
    flags = ["--base", str(original_base), "--max-tokens", "8", "--epochs", "1", "--overwrite", "--quiet"]
    assert main(["train", str(data), "-o", str(out), *flags]) == 0
    assert not (out / "old").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"data", "checkpoint"}
    printed, said = capsys.readouterr()
    assert printed.splitlines()[-1].startswith(f"{out}: 1 steps in ")
    assert said == ""


def test_a_real_run_leaves_a_checkpoint_that_all_may_read(trained):
    names = {path.name for path in trained.out.iterdir()}
    assert names >= {"config.json", "model.safetensors", "spiece.model", "jirgee.json", "recipe.toml"}
    assert names >= {"eval_results.json", "eval_results.txt", "tokenizer_config.json"}
    assert list(trained.out.parent.iterdir()) == [trained.out]
    if os.name == "posix":
        assert len({path.stat().st_mode for path in trained.out.iterdir()}) == 1


def test_a_bad_file_is_refused_before_pytorch_is_loaded(tmp_path):
    path = write_tsv(tmp_path / "train.tsv", [("нэг", "a")])
    code = (
        "import sys; from jirgee.cli import main; code = main(sys.argv[1:]);"
        "sys.exit(code if not {'torch', 'transformers'} & sys.modules.keys() else 'heavy imports')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "train", path, "-o", tmp_path / "out"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"jirgee: {path}: every row has the label 'a'")
    assert done.stderr.count("\n") == 1
