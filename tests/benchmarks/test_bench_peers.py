"""Every peer has the same form, and what is chosen among them and their settings is what was asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import measure
from benchmarks.cases import SHAPES, Case
from benchmarks.peers import MODULES, Peer, all_peers, choose, load_module
from benchmarks.run import CASES, RECIPES
from jirgee.errors import MachineError

PAIR = [Peer("ours", "int8"), Peer("ctranslate", "int8")]


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_the_same_form(module: str) -> None:
    code = load_module(module)
    assert all(callable(getattr(code, name)) for name in ("prepare", "load", "score", "close"))
    assert code.__doc__
    assert code.ABOUT
    assert code.SOURCES, "settings come from somewhere"
    assert code.NEEDS
    assert code.VARIANTS
    assert code.THROUGHPUT
    assert code.LATENCY


def test_no_module_is_left_out() -> None:
    folder = Path(str(load_module("ours").__file__)).parent
    assert {path.stem for path in folder.glob("*.py")} == {*MODULES, "__init__", "batches"}


def test_ours_has_a_row_for_every_recipe() -> None:
    pytest.importorskip("onnx")
    from jirgee_export import quantise

    assert [peer.variant for peer in all_peers() if peer.module == "ours"] == list(quantise.RECIPES)


def test_what_runs_without_all_exists() -> None:
    assert set(CASES) <= set(SHAPES)
    assert set(RECIPES) <= set(load_module("ours").VARIANTS)


def test_names_are_unique_and_choosing_keeps_the_order() -> None:
    names = [peer.name for peer in all_peers()]
    assert len(set(names)) == len(names)
    assert choose(["ctranslate-int8", "ours-int8"]) == PAIR
    assert {peer.variant for peer in choose(["ctranslate"])} == {"fp32", "int8"}
    assert choose([]) == all_peers()
    with pytest.raises(ValueError, match="no peer 'ctranslate3'"):
        choose(["ctranslate3"])


def test_a_peer_that_is_absent_or_unfit_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "runs only e5-small-mn" in str(Peer("nano", "q4").why_not("bert-base"))
    monkeypatch.setattr(load_module("ctranslate"), "NEEDS", ("no_such_module",))
    assert "no_such_module is not installed" in str(PAIR[1].why_not("bert-base"))


def test_the_fastest_settings_of_each_purpose_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"tokens": 1, "env": {}}, {"tokens": 2, "env": {"A": "1"}}]
    code = load_module("ctranslate")
    monkeypatch.setattr(code, "THROUGHPUT", rows)
    monkeypatch.setattr(code, "LATENCY", rows)

    def start(job: dict[str, Any], env: dict[str, str]) -> dict[str, Any]:
        assert all(row["env"] == env for given in job["settings"].values() for row in given)
        return {"throughput": [7.0 if env else 5.0], "latency": [1.0 if env else 2.0]}

    monkeypatch.setattr(measure, "start", start)
    best, tried = measure._best_settings(Case(Path("case")), PAIR[1])
    assert best == {"throughput": rows[1], "latency": rows[0]}
    assert len(tried) == 4


def test_one_process_holds_one_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings that differ are measured in a process each: memory is that of the larger, the start that of one text."""
    jobs: list[dict[str, Any]] = []

    def start(job: dict[str, Any]) -> dict[str, Any]:
        jobs.append(job)
        many = "throughput" in job["purposes"]
        return {"cold_start_s": 2.0 if many else 1.0, "peak_rss_bytes": 30 if many else 20} | {
            f"of_{purpose}": True for purpose in job["purposes"]
        }

    monkeypatch.setattr(measure, "start", start)
    found = measure._round({"mode": "measure"}, {"latency": {"a": 1}, "throughput": {"a": 2}})
    both = {"of_latency": True, "of_throughput": True}
    assert found == {"cold_start_s": 1.0, "peak_rss_bytes": 30} | both
    assert [(job["purposes"], job["settings"]) for job in jobs] == [(["latency"], {"a": 1}), (["throughput"], {"a": 2})]
    jobs.clear()
    assert measure._round({}, {"latency": {"a": 1}, "throughput": {"a": 1}}).keys() >= both.keys()
    assert len(jobs) == 1


def test_a_worker_that_fails_says_its_last_line() -> None:
    with pytest.raises(MachineError, match="KeyError: 'seconds'"):
        measure.start({"mode": "peak"})


def test_size_on_disk_follows_links_and_counts_a_file_once(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(bytes(1000))
    (tmp_path / "peer").mkdir()
    (tmp_path / "peer" / "model").symlink_to(tmp_path / "model", target_is_directory=True)
    (tmp_path / "peer" / "again").symlink_to(tmp_path / "model" / "weights")
    (tmp_path / "peer" / "own").write_bytes(bytes(10))
    assert measure.disk_size(tmp_path / "peer") == 1010


def test_a_run_is_json_with_machine_versions_and_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit, dirty = measure._commit()
    assert commit is None or len(commit) == 40
    assert isinstance(dirty, bool)
    monkeypatch.setattr(measure, "ROOT", tmp_path)  # no repository
    assert json.dumps(measure.versions())
