"""Layouts: what tune finds is used, what makes no sense is not, and flags win."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from jirgee import layout as layouts
from jirgee.bundle import Bundle
from jirgee.cli import main
from jirgee.layout import Layout, candidates, default, remember, remembered
from jirgee.scorer import Scorer
from jirgee.tune import best, tune


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(layouts, "cpu_count", lambda: 4)
    return Bundle.load(tiny_bundle)


def test_candidates_use_all_processors_and_no_more() -> None:
    for processors in (1, 2, 8):
        found = candidates(processors)
        assert len(set(found)) == len(found)
        assert {layout.workers * layout.inner for layout in found} == {processors}
        assert default("cpu", processors) in found


def test_what_was_kept_is_used_unless_something_else_is_asked_for(bundle: Bundle) -> None:
    assert remembered(bundle) is None
    kept = Layout(1, 2, 77)
    remember(bundle, kept, {})
    assert remembered(bundle) == kept
    with Scorer.load(bundle, "cpu") as scorer:
        assert (scorer.layout, scorer.threads, scorer.token_budget) == (kept, 1, 77)
    with Scorer.load(bundle, "cpu", threads=3) as scorer:
        assert scorer.layout == Layout(3, 1, 512)
    with Scorer.load(bundle, "cpu", token_budget=9) as scorer:
        assert scorer.layout == Layout(4, 1, 9)


def test_another_bundle_has_its_own(bundle: Bundle) -> None:
    from dataclasses import replace

    remember(bundle, Layout(1, 2, 77), {})
    assert remembered(replace(bundle, files={**bundle.files, "x": (1, "0" * 64)})) is None


@pytest.mark.parametrize(
    "change",
    [
        {"layout": {"workers": 0, "inner": 1, "token_budget": 5}},
        {"layout": {"workers": 9, "inner": 1, "token_budget": 5}},
        {"layout": {"workers": 1, "inner": 1, "token_budget": 1 << 40}},
        {"layout": {"workers": True, "inner": 1, "token_budget": 5}},
        {"layout": {"workers": 1}},
        {"layout": [1]},
        {"machine": {"cpu": "another", "cpus": 4, "arch": "x"}},
        {"format": 2},
    ],
)
def test_a_file_that_makes_no_sense_is_as_good_as_none(bundle: Bundle, change: dict) -> None:
    path = remember(bundle, Layout(1, 1, 5), {})
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert remembered(bundle) is None


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[" * 100_000, b"null"])
def test_a_file_that_cannot_be_read_is_as_good_as_none(bundle: Bundle, content: bytes) -> None:
    path = remember(bundle, Layout(1, 1, 5), {})
    path.write_bytes(content)
    assert remembered(bundle) is None
    path.unlink()
    path.mkdir()
    assert remembered(bundle) is None


def test_layouts_take_turns_and_the_median_counts(bundle: Bundle, texts: list[str]) -> None:
    ticks = iter(np.arange(0, 10_000, 1.0))
    one, other = Layout(1, 1, 64), Layout(2, 1, 64)
    rates = tune(bundle, texts, [one, other], seconds=20, clock=lambda: float(next(ticks)))
    assert rates == {one: 60.0, other: 60.0}, "by a clock that moves on by one a look"


def test_the_usual_layout_stays_unless_another_is_clearly_faster() -> None:
    usual, other = Layout(2, 1, 512), Layout(1, 2, 512)
    assert best({usual: 100.0, other: 101.0}, usual) == usual
    assert best({usual: 100.0, other: 110.0}, usual) == other


def test_every_layout_gives_the_same_scores(bundle: Bundle, texts: list[str]) -> None:
    found = []
    for layout in (Layout(1, 1, 512), Layout(1, 2, 64), Layout(3, 1, 128)):
        with Scorer.load(bundle, "cpu", layout=layout) as scorer:
            found.append(scorer.score(texts).probs)
    for probs in found[1:]:
        np.testing.assert_allclose(probs, found[0], atol=1e-5)


def test_from_the_command_line(
    bundle: Bundle, samples: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["tune", str(bundle.path), str(samples / "tweets.csv"), "--seconds", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("<- chosen" in line for line in lines) == 1
    assert lines[-1].startswith("kept in ")
    assert (remembered(bundle) or default("cpu")).token_budget in (256, 512, 1024)
