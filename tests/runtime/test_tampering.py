"""Damage by chance: every flipped bit and every truncation is refused, in one line, before onnxruntime is asked."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import jirgee.scorer
from jirgee.errors import BundleError
from jirgee.scorer import Scorer

FLIPS, TRUNCATIONS = 2000, 200


class Reached(BaseException):
    """onnxruntime was asked. No ``except Exception`` hides it."""


@pytest.fixture(autouse=True)
def spy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokenizer of the fake bundle always loads, so that nothing but the checks stands before onnxruntime."""
    onnxruntime = pytest.importorskip("onnxruntime")

    def reached(*args: Any, **kwargs: Any) -> None:
        raise Reached

    monkeypatch.setattr(jirgee.scorer, "Tokenizer", lambda *args: None)
    monkeypatch.setattr(onnxruntime, "InferenceSession", reached)


def files_of(path: Path) -> list[Path]:
    return sorted(path.iterdir()) if path.is_dir() else [path]


def outcome(path: Path) -> str:
    """What loading says: "reached", "loaded" or the refusal's one line."""
    try:
        Scorer.load(path, "cpu", threads=1)
    except Reached:
        return "reached"
    except BundleError as error:
        return str(error)
    return "loaded"


def damage(path: Path, times: int, change: Callable[[bytes, random.Random], bytes]) -> list[str]:
    """Change one file of the bundle at a time (each in turn) and note what loading says; the bundle is whole after."""
    rng, found = random.Random(7), []
    files = [(file, file.read_bytes()) for file in files_of(path)]
    for turn in range(times):
        file, whole = files[turn % len(files)]
        changed = change(whole, rng)
        assert changed != whole
        file.write_bytes(changed)
        found.append(outcome(path))
        file.write_bytes(whole)
    return found


def flipped(whole: bytes, rng: random.Random) -> bytes:
    bit = rng.randrange(len(whole) * 8)
    data = bytearray(whole)
    data[bit // 8] ^= 1 << bit % 8
    return bytes(data)


def truncated(whole: bytes, rng: random.Random) -> bytes:
    return whole[: rng.randrange(len(whole))]


@pytest.mark.parametrize("name", ["fake", "fake.jirgee"])
@pytest.mark.parametrize(("times", "change"), [(FLIPS, flipped), (TRUNCATIONS, truncated)])
def test_no_damage_reaches_onnxruntime(make_bundle: Any, name: str, times: int, change: Any) -> None:
    path = make_bundle(name).path
    assert outcome(path) == "reached", "an undamaged bundle gets there: the spy works"
    found = damage(path, times, change)
    assert len(found) == times
    assert not [text for text in found if text in ("reached", "loaded") or "\n" in text or str(path) not in text]
    assert outcome(path) == "reached"
