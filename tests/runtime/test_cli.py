"""The command: help everywhere, results on standard output, one line and the right exit code for what is wrong."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import jirgee as package
from jirgee import cli
from jirgee.rows import Row, read_rows

COMMANDS = ["score", "eval", "info", "bench", "train", "export"]


def call(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    """``jirgee ARGS`` in this process: exit code, standard output, standard error."""
    try:
        code = cli.main([str(arg) for arg in args])
    except SystemExit as exit:
        code = int(exit.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def tweets(tmp_path: Path) -> Path:
    path = tmp_path / "tweets.csv"
    path.write_text('id,text\n1,сайн байна уу\n2,"муу, ""байна"""\n3,сайн байна уу\n', encoding="utf-8")
    return path


@pytest.fixture
def labelled(tmp_path: Path, samples: Path) -> Path:
    path = tmp_path / "dev.tsv"
    path.write_text("".join((samples / "dev.tsv").read_text(encoding="utf-8").splitlines(True)[:80]), encoding="utf-8")
    return path


# --- help and usage ----------------------------------------------------------------------------------------------


def test_every_command_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "--help")
    assert code == 0
    assert set(COMMANDS) <= set(cli.find_commands())
    for name, command in cli.find_commands().items():
        assert f"  {name:8} {command.help}" in out


@pytest.mark.parametrize("name", list(cli.find_commands()))
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], name: str, flag: str) -> None:
    code, out, err = call(capsys, name, flag)
    assert (code, err) == (0, "")
    assert f"usage: jirgee {name}" in out
    assert cli.find_commands()[name].help in out
    assert "example" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "--version")[:2] == (0, f"jirgee {package.__version__}\n")


@pytest.mark.parametrize(
    "args",
    [
        "",
        "nonsense",
        "score",
        "score bundle",
        "score bundle a.csv",
        "score bundle - -o out.csv",
        "score bundle a.csv -o out.csv --threads 0",
        "score bundle a.csv -o out.csv --threads many",
        "score bundle a.csv -o out.csv --device tpu",
        "score bundle a.csv -o out.csv --format xml",
        "score bundle a.csv -o out.csv --surprise",
        "score bundle a.csv -o out.csv --max-rejects 5",
        "score bundle a.csv -o out.csv --abstain-below 2",
        "score bundle - --resume",
        "score bundle - a.csv -o out.csv",
        "eval bundle",
        "info",
        "info a b",
        "bench",
    ],
)
def test_wrong_usage_is_2(capsys: pytest.CaptureFixture[str], args: str) -> None:
    code, out, err = call(capsys, *args.split())
    assert code == 2
    assert out == ""
    assert "usage: jirgee" in err
    assert "error:" in err.splitlines()[-1]


def test_a_stage_that_is_not_installed_names_its_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from jirgee.command import Command

    absent = Command("make tea", lambda parser: None, lambda args: 0, extra="tea", needs=("no_such_module.x",))
    monkeypatch.setattr(cli, "find_commands", lambda: {"tea": absent} | cli.COMMANDS)
    code, out, err = call(capsys, "tea")
    assert (code, out) == (1, "")
    assert err == "jirgee: jirgee tea needs no_such_module.x, which is not installed; run: pip install 'jirgee[tea]'\n"
    assert "(not installed: pip install 'jirgee[tea]')" in call(capsys, "--help")[1]
    assert call(capsys, "tea", "--help")[0] == 0


# --- end to end --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", ["out.csv", "out.jsonl", "out.tsv", "out.csv.gz", "new/dir/out.jsonl"])
def test_score(capsys: pytest.CaptureFixture[str], tiny_bundle: Path, tweets: Path, tmp_path: Path, out: str) -> None:
    code, stdout, stderr = call(capsys, "score", tiny_bundle, tweets, "-o", tmp_path / out, "--device", "cpu")
    assert (code, stdout) == (0, "")
    assert stderr.startswith(f"{tmp_path / out}: 3 rows: 3 scored, 0 rejected")
    rows = [item.record for item in read_rows(tmp_path / out) if isinstance(item, Row)]
    assert [row["id"] for row in rows] == ["1", "2", "3"]
    assert rows[0]["score"] == rows[2]["score"]
    assert call(capsys, "score", tiny_bundle, tweets, "-o", tmp_path / out)[0] == 1, "no --overwrite"
    assert call(capsys, "score", tiny_bundle, tweets, "-o", tmp_path / out, "--overwrite", "--quiet") == (0, "", "")


def test_score_with_rejects(
    capsys: pytest.CaptureFixture[str], tiny_bundle: Path, tweets: Path, tmp_path: Path
) -> None:
    with tweets.open("a") as stream:
        stream.write("4\n5,сайн\n")
    bad, out = tmp_path / "bad.txt", tmp_path / "out.csv"
    code, _, err = call(capsys, "score", tiny_bundle, tweets, "-o", out, "--rejects", bad)
    assert code == 0
    assert "5 rows: 4 scored, 1 rejected" in err
    (reject,) = map(json.loads, bad.read_text().splitlines())
    assert (reject["line"], reject["raw"]) == (5, "4\n")


@pytest.mark.parametrize("as_json", [True, False])
def test_eval(capsys: pytest.CaptureFixture[str], tiny_bundle: Path, labelled: Path, as_json: bool) -> None:
    code, out, err = call(capsys, "eval", tiny_bundle, labelled, *(["--json"] if as_json else []))
    assert (code, err) == (0, "")
    if as_json:
        figures = json.loads(out)
        assert {"n", "accuracy", "macro_f1", "ece", "per_class"} <= set(figures)
        assert figures["n"] == 79
        assert set(figures["per_class"]) == {"comedian", "commentator"}
    else:
        assert out.startswith("79 rows: accuracy 0.")
        assert "commentator" in out


@pytest.mark.parametrize("as_json", [True, False])
def test_info(capsys: pytest.CaptureFixture[str], tiny_bundle: Path, as_json: bool) -> None:
    code, out, err = call(capsys, "info", tiny_bundle, *(["--json"] if as_json else []))
    assert (code, err) == (0, "")
    if as_json:
        facts = json.loads(out)
        assert facts["intact"] is True
        assert facts["labels"] == ["comedian", "commentator"]
        assert "model.onnx" in facts["files"]
    else:
        assert "labels: comedian, commentator\n" in out
        assert "intact: True\n" in out


def test_bench(capsys: pytest.CaptureFixture[str], tiny_bundle: Path, tweets: Path) -> None:
    code, out, err = call(capsys, "bench", tiny_bundle, tweets, "--json", "--device", "cpu", "--threads", "1")
    assert (code, err) == (0, "")
    figures = json.loads(out)
    assert figures["texts"] == 2
    assert figures["threads"] == 1
    assert figures["texts_per_second"] > 0
    assert 0 < figures["latency_ms"]["p50"] <= figures["latency_ms"]["p99"]
    code, out, _ = call(capsys, "bench", tiny_bundle)
    assert code == 0
    assert "1,000 different texts" in out
    assert "throughput" in out


# --- what is wrong is one line and 1 -----------------------------------------------------------------------------

BAD = {
    "no bundle": ("score nothing tweets.csv -o out.csv", "nothing: no such bundle"),
    "a bundle that is a text": ("info tweets.csv", "tweets.csv: not a bundle"),
    "a damaged bundle": ("info damaged", "damaged: model.onnx"),
    "a long name": ("info " + "x" * 300, "name too long"),
    "no input": ("score tiny none.csv -o out.csv", "none.csv: no such file"),
    "a long input name": (f"score tiny {'x' * 300}.csv -o out.csv", ".csv: "),
    "a directory": ("score tiny tiny -o out.csv", "tiny: a directory without a file of a known format"),
    "an input of no format": ("score tiny strange -o out.csv", "strange: its name does not tell its format; pass"),
    "an output of no format": ("score tiny tweets.csv -o out", "out: its name does not tell its format"),
    "an output that cannot be written": ("score tiny tweets.csv -o out.txt", "out.txt: text cannot be written"),
    "an output below a file": ("score tiny tweets.csv -o tweets.csv/out.csv", "tweets.csv/out.csv: "),
    "output is input": ("score tiny tweets.csv -o tweets.csv --overwrite", "tweets.csv: is input and output"),
    "rejects is output": ("score tiny tweets.csv -o o.jsonl --rejects o.jsonl", "o.jsonl: is input or output too"),
    "rejects is input": ("score tiny tweets.csv -o o.csv --rejects tweets.csv --overwrite", "tweets.csv: is input or"),
    "no such column": ("score tiny tweets.csv -o out.csv --text-column tweet", 'tweets.csv:2: no "tweet" column'),
    "a bad row": ("score tiny bad.csv -o out.csv", "bad.csv:3: 1 columns where the header has 2; pass --rejects"),
    "not UTF-8": ("score tiny cp1251.csv -o out.csv", "cp1251.csv:2: not UTF-8"),
    "an empty file": ("score tiny empty.csv -o out.csv", "empty.csv: the file is empty"),
    "a cut archive": ("score tiny cut.csv.gz -o out.csv", "cut.csv.gz: the compressed file is cut short"),
    "not JSON": ("score tiny bad.jsonl -o out.csv", "bad.jsonl:1: not JSON"),
    "no labels": ("eval tiny tweets.csv", 'tweets.csv:2: no "label" column; pass --label-column'),
    "an unknown label": ("eval tiny other.tsv", "other.tsv:2: unknown label 'poet'; the model's are 'comedian', "),
    "no rows to measure": ("eval tiny header.tsv", "header.tsv: holds no labelled rows"),
    "no file to measure": ("eval tiny none.tsv", "none.tsv: No such file"),
    "no texts to time": ("bench tiny header.tsv", "header.tsv: holds no texts"),
    "no column to time": ("bench tiny tweets.csv --text-column x", 'tweets.csv:2: no "x" column'),
    "no such device": ("score tiny tweets.csv -o out.csv --device cuda", "--device cuda: this onnxruntime is the CPU"),
}


@pytest.fixture
def corner(tmp_path: Path, tweets: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with everything that ``BAD`` names."""
    from jirgee import providers

    (tmp_path / "tiny").symlink_to(tiny_bundle)
    shutil.copytree(tiny_bundle, tmp_path / "damaged")
    with (tmp_path / "damaged" / "model.onnx").open("ab") as stream:
        stream.write(b"x")
    (tmp_path / "strange").write_text("text\na\n")
    (tmp_path / "bad.csv").write_text("id,text\n1,a\n2\n")
    (tmp_path / "cp1251.csv").write_bytes("id,text\n1,муу\n".encode("cp1251"))
    (tmp_path / "empty.csv").touch()
    (tmp_path / "cut.csv.gz").write_bytes(b"\x1f\x8b\x08\x00")
    (tmp_path / "bad.jsonl").write_text("{\n")
    (tmp_path / "other.tsv").write_text("text\tlabel\nсайн\tpoet\n")
    (tmp_path / "header.tsv").write_text("text\tlabel\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(providers.onnxruntime(), "get_available_providers", lambda: ["CPUExecutionProvider"])
    return tmp_path


@pytest.mark.parametrize("case", list(BAD))
def test_bad_input_is_one_line_and_1(capsys: pytest.CaptureFixture[str], corner: Path, case: str) -> None:
    before = sorted(path.name for path in corner.iterdir())
    command, message = BAD[case]
    code, out, err = call(capsys, *command.split())
    assert (code, out) == (1, ""), err
    assert err.startswith("jirgee: ")
    assert err.count("\n") == 1
    assert message in err
    assert sorted(path.name for path in corner.iterdir()) == before, "something was left behind"


def test_a_fault_of_the_program_is_not_hidden(monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path) -> None:
    def broken(*args: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("jirgee.bundle.Bundle.load", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["info", str(tiny_bundle)])


# --- as a process ------------------------------------------------------------------------------------------------


def test_an_interrupt_is_130_and_says_what_to_type(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("jirgee.bundle.Bundle.load", interrupted)
    code, out, err = call(capsys, "info", "my bundle")
    assert (code, out) == (130, "")
    assert err.strip().endswith(shlex.join(["jirgee", "info", "my bundle"]))


def test_the_process_gives_the_exit_code(jirgee: Any, tiny_bundle: Path) -> None:
    good, bad, wrong = jirgee("info", tiny_bundle), jirgee("info", "nothing"), jirgee("info")
    assert (good.returncode, bad.returncode, wrong.returncode) == (0, 1, 2)
    assert good.stderr == ""
    assert bad.stderr.count("\n") == 1
    assert not any("Traceback" in result.stderr for result in (good, bad, wrong))


def test_a_stream_through_the_shell(jirgee: Any, tiny_bundle: Path) -> None:
    result = jirgee("score", tiny_bundle, "-", input="сайн\nмуу\n")
    assert (result.returncode, result.stderr) == (0, "")
    assert [json.loads(line)["text"] for line in result.stdout.splitlines()] == ["сайн", "муу"]


@pytest.mark.skipif(sys.platform == "win32", reason="no pipe to close before the start")
def test_results_nobody_reads_are_no_error(tiny_bundle: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "jirgee.cli", "info", str(tiny_bundle)]
    result = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=60)
    os.close(writer)
    assert (result.returncode, result.stderr) == (0, b"")
