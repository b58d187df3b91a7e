"""The soak in small, and the arithmetic by which it would notice growth; the profile adds up."""

import numpy as np
import pytest

from benchmarks.profile import profile, table
from benchmarks.soak import Soak, soak
from jirgee.bundle import MODEL, Bundle


def test_eight_callers_get_the_scores_of_each_text_alone(tiny_bundle):
    found = soak(Bundle.load(tiny_bundle), seconds=1.5, sample=0.05)
    assert found.calls >= 8
    assert found.texts > found.calls
    assert found.worst < 1e-5
    assert found.memory


@pytest.mark.parametrize(("growth", "grows"), [(0.0, False), (0.02, False), (0.3, True)])
def test_growth_is_told_from_noise(growth, grows):
    rng = np.random.default_rng(0)
    line = 1e8 * (1 + growth * np.linspace(0, 1, 300)) + rng.normal(0, 1e6, 300)
    start = np.linspace(3e7, 1e8, 75)  # arenas that fill up are no leak
    assert Soak(memory=[*start.astype(int), *line.astype(int)]).grows is grows


def test_the_profile_has_every_operator_and_adds_up(tiny_bundle):
    found = profile(str(Bundle.load(tiny_bundle).path / MODEL), texts=2, tokens=9, repeats=4)
    assert {"InstanceNormalization", "Softmax"} <= {operator for _, operator, _ in found}
    lines = table(found, 18)
    shares = [float(line.split()[-2].rstrip("%")) for line in lines[1:-1]]
    assert sum(shares) == pytest.approx(100, abs=2)
    assert shares == sorted(shares, reverse=True)
    assert len(table(found, 18, nodes=True)) > len(lines)
