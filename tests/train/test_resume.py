"""A run that was killed goes on, and ends where it would have ended; everything else about the work folder."""

from __future__ import annotations

import errno
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jirgee.cli import main
from jirgee_train import fit, resume, run, saving

from .conftest import write_tsv

ROWS = [
    (f"{word} {i % 7} өдөр {'сайхан' * (i % 3)}", "ab"[i % 2]) for i, word in enumerate(["морь", "үнэ", "салхи"] * 16)
]
FLAGS = ["--epochs", "3.5", "--batch-size", "4", "--learning-rate", "3e-3", "--max-tokens", "24", "--patience", "0"]


def weights(out: Path) -> bytes:
    return (out / "model.safetensors").read_bytes()


@pytest.fixture
def command(tmp_path, original_base):
    """``jirgee train`` of a run of 34 steps into ``out``, as words behind ``jirgee``."""
    data = write_tsv(tmp_path / "data" / "rows.tsv", ROWS)

    def words(out: str, *more: str) -> list[str]:
        return ["train", str(data), "-o", str(tmp_path / out), "--base", str(original_base), *FLAGS, *more]

    return words


def start(words: list[str]) -> subprocess.Popen:
    line = (
        "import torch; torch.set_num_threads(1); import sys; from jirgee.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    return subprocess.Popen([sys.executable, "-c", line, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def step_of(work: Path) -> int:
    found = resume.latest(work)
    return int(found.name.split("-")[1]) if found else 0


def stop_at(process: subprocess.Popen, work: Path, step: int, how: signal.Signals) -> None:
    """Send ``how`` once the run has come to ``step``, in the middle of whatever it does then."""
    deadline = time.monotonic() + 120
    while step_of(work) < step and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(random.random() * 0.05)
    process.send_signal(how)


def test_a_run_killed_at_random_steps_ends_with_the_same_weights(command, tmp_path, capsys):
    assert main(command("whole")) == 0
    whole = capsys.readouterr()
    work = tmp_path / "out.work"
    rng = random.Random()
    reached, kills = 0, 0
    for step in sorted(rng.sample(range(1, 30), 3)):
        process = start(command("out", "--save-every", "0", "--resume"))
        stop_at(process, work, max(step, reached), signal.SIGKILL)
        process.communicate()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        kills, reached = kills + 1, step_of(work)
        assert reached >= step
        assert len(list(work.glob("checkpoint-*"))) <= 2
    assert kills, "the run was over before the first kill"
    assert main(command("out", "--resume")) == 0
    assert weights(tmp_path / "out") == weights(tmp_path / "whole"), f"killed at {reached}"
    assert not work.exists()
    one, other = (json.loads((tmp_path / name / "eval_results.json").read_text()) for name in ("out", "whole"))
    assert one["global_step"] == other["global_step"]
    assert one["loss"] == pytest.approx(other["loss"], abs=2e-4)
    assert one["accuracy"] == other["accuracy"]
    assert [e["eval_loss"] for e in one["history"] if "eval_loss" in e] == [
        e["eval_loss"] for e in other["history"] if "eval_loss" in e
    ]
    assert capsys.readouterr().out.splitlines()[1:4] == whole.out.splitlines()[1:4]


class Stop(Exception):
    pass


@pytest.fixture
def stopped(command, monkeypatch, tmp_path):
    """Runs ``command("out")`` until it has saved at ``step``, then raises ``error``; returns the exit code."""

    def until(step: int, error: BaseException | type[BaseException] = Stop, *more: str):
        on_save = saving.Saver.on_save

        def save_and_stop(self, args, state, control, **rest):
            on_save(self, args, state, control, **rest)
            if state.global_step >= step:
                raise error

        with monkeypatch.context() as patch:
            patch.setattr(saving.Saver, "on_save", save_and_stop)
            return main(command("out", "--save-every", "0", "--quiet", *more))

    return until


def test_a_whole_number_of_epochs_and_patience_resume_too(command, stopped, tmp_path, capsys):
    """At an epoch's end, and with the count of epochs without a gain as it was."""
    more = ("--epochs", "6", "--patience", "2", "--learning-rate", "1e-6")
    assert main(command("whole", *more)) == 0
    capsys.readouterr()
    with pytest.raises(Stop):
        stopped(20, Stop, *more)
    assert step_of(tmp_path / "out.work") == 20, "ten steps an epoch"
    assert main(command("out", "--resume", *more)) == 0
    assert weights(tmp_path / "out") == weights(tmp_path / "whole")
    epochs = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch")]
    whole = json.loads((tmp_path / "whole" / "eval_results.json").read_text())
    again = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    assert epochs
    assert epochs[0].startswith("epoch 3:")
    assert again["global_step"] == whole["global_step"] < 60


def test_an_interrupted_run_says_how_to_go_on(command, stopped, tmp_path, capsys):
    assert stopped(5, KeyboardInterrupt) == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"jirgee: interrupted; its state is in {tmp_path / 'out.work'}. To go on: jirgee train ")
    assert last.endswith(" --resume")
    assert stopped(9, KeyboardInterrupt, "--resume") == 130
    assert capsys.readouterr().err.splitlines()[-1].count("--resume") == 1


def test_an_interruption_before_anything_was_saved_leaves_nothing(command, monkeypatch, tmp_path, capsys):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(fit, "fit", interrupt)
    assert main(command("out")) == 130
    assert "To start over: jirgee train" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_without_resume_an_interrupted_run_is_in_the_way(command, stopped, tmp_path, capsys):
    with pytest.raises(Stop):
        stopped(5)
    capsys.readouterr()
    assert main(command("out")) == 1
    line = "an interrupted run is there; go on with --resume, or start over with --overwrite"
    assert capsys.readouterr().err == f"jirgee: {tmp_path / 'out.work'}: {line}\n"
    assert step_of(tmp_path / "out.work") == 5
    assert main(command("out", "--overwrite", "--quiet")) == 0
    assert main(command("whole", "--quiet")) == 0
    assert weights(tmp_path / "out") == weights(tmp_path / "whole")
    assert not (tmp_path / "out.work").exists()


def test_nothing_to_resume_just_starts(command, tmp_path):
    assert main(command("out", "--resume", "--quiet")) == 0
    assert weights(tmp_path / "out")
    (tmp_path / "other.work").mkdir()
    assert main(command("other", "--resume", "--quiet")) == 0
    assert weights(tmp_path / "other") == weights(tmp_path / "out")


def test_a_half_written_checkpoint_does_not_count(command, stopped, tmp_path):
    with pytest.raises(Stop):
        stopped(5)
    half = tmp_path / "out.work" / "checkpoint-7"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    assert main(command("out", "--resume", "--quiet")) == 0
    assert main(command("whole", "--quiet")) == 0
    assert weights(tmp_path / "out") == weights(tmp_path / "whole")


def test_a_changed_run_is_not_resumed_and_the_change_is_named(command, stopped, tmp_path, capsys, original_base):
    import shutil

    import torch

    with pytest.raises(Stop):
        stopped(5)
    capsys.readouterr()

    def refused(*more: str) -> str:
        assert main(command("out", "--resume", "--quiet", *more)) == 1
        said = capsys.readouterr().err
        assert said.startswith(f"jirgee: {tmp_path / 'out.work'}: the ")
        assert said.endswith("or start over with --overwrite\n")
        assert said.count("\n") == 1
        return said

    assert "recipe changed (learning_rate was 0.003, is 0.001)" in refused("--learning-rate", "0.001")
    changed = tmp_path / "base"
    shutil.copytree(original_base, changed)
    state = torch.load(changed / "pytorch_model.bin", weights_only=True)
    state["bert.pooler.dense.bias"] += 1
    torch.save(state, changed / "pytorch_model.bin")
    assert "base model changed" in refused("--base", str(changed))
    moved = tmp_path / "moved"
    shutil.copytree(original_base, moved)
    write_tsv(tmp_path / "data" / "rows.tsv", [*ROWS[:-1], ("өөр мөр", "a")])
    assert "rows of the data changed" in refused()
    write_tsv(tmp_path / "data" / "rows.tsv", ROWS)
    assert step_of(tmp_path / "out.work") == 5
    assert main(command("out", "--resume", "--quiet", "--base", str(moved))) == 0, "the same base in another place"


def test_a_folder_that_is_no_runs_is_never_removed(command, tmp_path, capsys):
    mine = tmp_path / "out.work" / "diary.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    for flag in ("--overwrite", "--resume"):
        assert main(command("out", flag)) == 1
        assert "is not the folder of a training run" in capsys.readouterr().err
    assert mine.read_text() == "mine"


def test_saving_is_bounded_in_disk_and_time(tmp_path, monkeypatch):
    from types import SimpleNamespace

    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    args = SimpleNamespace(world_size=1, process_index=0, device="cpu")
    saver = saving.Saver(tmp_path, saving.BestEpoch(0), every=60)
    saved = []
    for step in range(1, 2001):  # a second a step, ten seconds a save, 100 steps an epoch
        now[0] += 1
        state = SimpleNamespace(global_step=step, epoch=step / 100, max_steps=2000)
        control = SimpleNamespace(should_save=False, should_training_stop=False)
        saver.on_step_end(args, state, control)
        assert not (step % 100 == 0 and control.should_save), "before the evaluation of its epoch"
        if control.should_save:
            saved.append(step)
            (tmp_path / f"checkpoint-{step}").mkdir()
            now[0] += 10
            saver.on_save(args, state, control)
            assert [path.name for path in tmp_path.iterdir()] == [f"checkpoint-{step}"]
    assert saved[0] == 60
    assert 8 <= len(saved) <= 11, "a save of ten seconds at most every 200"


FULL = {
    "safetensors": lambda: __import__("safetensors").SafetensorError(
        "I/O error: No space left on device (os error 28)"
    ),
    "torch": lambda: RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
    "python": lambda: OSError(errno.ENOSPC, "No space left on device"),
}


@pytest.mark.parametrize("kind", FULL)
def test_a_full_disk_costs_one_line_and_leaves_no_half(command, monkeypatch, tmp_path, capsys, kind):
    def fail(model, base, settings, out):
        (out / "model.safetensors").write_bytes(b"half")
        raise FULL[kind]()

    with monkeypatch.context() as patch:
        patch.setattr(run.model, "save_checkpoint", fail)
        assert main(command("out", "--quiet")) == 1
        line = "the disk is full; make room, or write elsewhere with -o"
        assert capsys.readouterr().err == f"jirgee: {tmp_path / 'out.work'}: {line}\n"
        assert [path.name for path in tmp_path.iterdir()] == ["data"]
        assert main(command("out", "--save-every", "0", "--quiet")) == 1
        assert "the disk is full; make room, then go on with --resume" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(command("out", "--resume", "--quiet")) == 0
    assert main(command("whole", "--quiet")) == 0
    assert weights(tmp_path / "out") == weights(tmp_path / "whole")


def test_a_full_disk_while_the_state_is_saved_costs_one_line(command, monkeypatch, tmp_path, capsys):
    import torch

    def fail(*arguments, **rest):
        raise FULL["torch"]()

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fail)
        assert main(command("out", "--save-every", "0", "--quiet")) == 1
    assert "the disk is full; make room, or write elsewhere" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_another_error_of_a_write_keeps_its_reason(tmp_path):
    from safetensors import SafetensorError

    from jirgee.errors import MachineError
    from jirgee_train.saving import write_errors

    reason = r"cannot be written \(I/O error: File too large \(os error 27\)\); do this"
    with pytest.raises(MachineError, match=reason), write_errors(tmp_path, lambda: "do this"):
        raise SafetensorError("I/O error: File too large (os error 27)")
    with pytest.raises(PermissionError), write_errors(tmp_path, lambda: ""):
        raise PermissionError(errno.EACCES, "no")
