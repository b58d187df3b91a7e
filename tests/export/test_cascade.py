"""A cascade keeps the large model's labels as often as was asked, says so, and is read back as it was written."""

import json
import math
import shutil

import numpy as np
import pytest

import jirgee
from jirgee.bundle import CARD, LARGE, MODEL, REPORT, Bundle, copy, write
from jirgee.cli import main
from jirgee.errors import BundleError, GateError, InputError
from jirgee.manifest import MANIFEST
from jirgee_export.cascade import checked_on_halves, choose, combine, most_wrong


@pytest.mark.parametrize("count", [10, 600, 5000])
@pytest.mark.parametrize("wrong", [0, 1, 7])
def test_the_bound_is_clopper_and_pearson_s(wrong, count):
    share = most_wrong(wrong, count)
    tail = sum(math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(wrong + 1))
    assert tail == pytest.approx(0.05, rel=1e-6)
    if not wrong:
        assert share == pytest.approx(1 - 0.05 ** (1 / count), rel=1e-6)


def test_the_bound_of_nothing_but_errors_is_all():
    assert most_wrong(4, 4) == 1.0


def simulated(count, seed):
    """Probabilities of a small model that is right as often as it says, and of a large one that is sure."""
    rng = np.random.default_rng(seed)
    sure = rng.uniform(0.5, 1, count) ** 0.3
    large = rng.integers(0, 2, count)
    label = np.where(rng.uniform(size=count) < sure, large, 1 - large)
    return np.where(np.arange(2) == label[:, None], sure[:, None], 1 - sure[:, None]), np.eye(2)[large]


def test_the_choice_holds_on_texts_it_has_not_seen():
    broken = 0
    for seed in range(60):
        choice = choose(*simulated(3000, seed), 0.97)
        assert choice
        assert choice.agreement >= choice.at_least >= 0.97
        small, large = simulated(20_000, 1000 + seed)
        answered = small.max(axis=1) >= choice.threshold
        wrong = (small.argmax(axis=1) != large.argmax(axis=1)) & answered
        broken += wrong.mean() > 0.03
    assert broken <= 7, "at most 5 % of 60, and some luck"


def test_a_lower_agreement_lets_the_small_model_answer_more():
    models = simulated(3000, 5)
    loose, strict = choose(*models, 0.9), choose(*models, 0.99)
    assert loose
    assert strict
    assert loose.answered > strict.answered > 0
    halves = checked_on_halves(*models, 0.9)
    assert halves
    assert halves["agreement"] == pytest.approx(loose.agreement, abs=0.03)


def test_too_few_texts_prove_nothing():
    assert choose(*simulated(100, 0), 0.995) is None


@pytest.fixture(scope="module")
def pair(tiny_bundle, tmp_path_factory):
    """The tiny bundle as the large model, and one with a temperature of 2, that is, less sure, as the small one."""
    large = Bundle.load(tiny_bundle)
    files = {name: large.read(name) for name in large.files}
    small = write(
        tmp_path_factory.mktemp("small") / "small", files, overwrite=False, **large.facts | {"temperature": 2.0}
    )
    return small, large


@pytest.fixture(scope="module")
def cascade(pair, sample_texts, tmp_path_factory):
    bundle, report = combine(pair[0], pair[1], sample_texts, 0.9, tmp_path_factory.mktemp("cascade") / "both")
    # The two agree everywhere, so that every text would be the small one's; ask for sureness instead.
    threshold = float(np.median(jirgee.Scorer.load(pair[0], "cpu").score(sample_texts).confidence))
    files = {name: bundle.read(name) for name in bundle.files}
    fields = bundle.facts | {"cascade": {**(bundle.cascade or {}), "threshold": threshold}}
    return write(tmp_path_factory.mktemp("cascade") / "half", files, overwrite=False, **fields), report


@pytest.mark.parametrize("packed", [False, True])
def test_each_text_is_scored_by_the_model_that_should(cascade, pair, sample_texts, tmp_path, packed):
    bundle = copy(cascade[0], tmp_path / "both.jirgee") if packed else cascade[0]
    small, large = (jirgee.Scorer.load(part, "cpu").score(sample_texts) for part in pair)
    with jirgee.Scorer.load(bundle, "cpu") as scorer:
        found = scorer.score(sample_texts)
    sure = small.confidence >= (bundle.cascade or {})["threshold"]
    assert 0.3 < sure.mean() < 0.7
    expected = np.where(sure[:, None], small.probs, large.probs)
    np.testing.assert_allclose(found.probs, expected, atol=1e-5)
    assert found.deferred == len(dict.fromkeys(np.array(sample_texts)[~sure]))
    assert found.tokens > small.tokens


def test_the_report_says_what_was_measured(cascade, sample_texts):
    bundle, report = cascade
    assert report["asked"] == 0.9
    assert report["agreement_measured"] == 1.0
    assert 0.9 <= report["at_least"] < 1
    assert report["times_as_fast"] > 0
    stored = json.loads(bundle.read(REPORT))
    assert stored["cascade"]["threshold"] == report["threshold"]
    assert "gate" in stored["large"]
    assert "A cascade" in bundle.read(CARD).decode()


def test_a_tokenizer_that_both_read_is_stored_once(cascade):
    assert LARGE + MODEL in cascade[0].files
    assert LARGE + cascade[0].tokenizer.file not in cascade[0].files


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": 1.5}, "out of its range: cascade threshold"),
        ({"more": 1}, "cascade must be an object with the keys"),
        ({"temperature": 0}, "out of its range: cascade temperature"),
    ],
)
def test_a_manifest_with_a_bad_cascade_is_refused(cascade, tmp_path, change, message):
    import hashlib

    out = tmp_path / "bad"
    shutil.copytree(cascade[0].path, out)
    data = json.loads((out / MANIFEST).read_text())
    data["cascade"] |= change
    raw = json.dumps(data).encode()
    (out / MANIFEST).write_bytes(raw)
    (out / "manifest.sha256").write_text(f"{hashlib.sha256(raw).hexdigest()}  {MANIFEST}\n")
    with pytest.raises(BundleError, match=message):
        Bundle.load(out)


def test_bundles_that_do_not_go_together_are_refused(pair, cascade, sample_texts, tmp_path):
    small, large = pair
    other = write(tmp_path / "other", {n: large.read(n) for n in large.files}, **large.facts | {"labels": ["x", "y"]})
    with pytest.raises(InputError, match="has the labels"):
        combine(small, other, sample_texts, 0.9, tmp_path / "out")
    with pytest.raises(InputError, match="is a cascade itself"):
        combine(cascade[0], large, sample_texts, 0.9, tmp_path / "out")
    with pytest.raises(GateError, match=r"no threshold keeps an agreement of 0\.9999"):
        combine(small, large, sample_texts, 0.9999, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_from_the_command_line(pair, samples, tmp_path, capsys):
    small, large = pair
    words = ["export", str(small.path), "--cascade", str(large.path), "--agreement", "0.9", "-o", str(tmp_path / "c")]
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert main([*words, "--texts", str(samples / "tweets.csv")]) == 0
    out = capsys.readouterr().out
    assert "the small model answers" in out
    assert "times as fast" in out
    assert main(["score", str(tmp_path / "c"), str(samples / "tweets.csv"), "-o", str(tmp_path / "s.csv")]) == 0
