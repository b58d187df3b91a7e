"""Planning: every row once, within the budget, with little padding."""

from __future__ import annotations

import numpy as np
import pytest

from jirgee.plan import padding_share, plan


@pytest.mark.parametrize("seed", range(40))
def test_random_plans_keep_every_promise(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, rng.integers(2, 200), size=rng.integers(0, 500))
    budget = int(rng.integers(1, 1000))
    batches = plan(lengths, budget)

    rows = np.concatenate([batch.rows for batch in batches]) if batches else np.zeros(0, int)
    assert sorted(rows.tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert batch.width == lengths[batch.rows].max()
        assert batch.tokens == len(batch.rows) * batch.width
        assert batch.tokens <= budget or len(batch.rows) == 1


def test_longest_rows_come_first() -> None:
    widths = [batch.width for batch in plan(np.array([3, 9, 1, 7, 7, 2]), 14)]
    assert widths == sorted(widths, reverse=True)


def test_batches_are_as_full_as_the_budget_allows() -> None:
    lengths = np.full(100, 10)
    assert [len(batch.rows) for batch in plan(lengths, 250)] == [25, 25, 25, 25]


def test_a_row_over_the_budget_stands_alone() -> None:
    batches = plan(np.array([5, 100, 5]), 20)
    assert [batch.rows.tolist() for batch in batches] == [[1], [0, 2]]


def test_equal_lengths_keep_their_order() -> None:
    assert [batch.rows.tolist() for batch in plan(np.array([4, 4, 4, 4]), 8)] == [[0, 1], [2, 3]]


def test_nothing_to_plan() -> None:
    assert plan(np.zeros(0, dtype=np.int64), 10) == []
    assert padding_share([], np.zeros(0)) == 0.0


def test_sorting_leaves_almost_no_padding() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, size=2048)
    assert padding_share(plan(lengths, 512), lengths) < 0.02


def test_padding_share_counts_the_padding() -> None:
    lengths = np.array([4, 2])
    assert padding_share(plan(lengths, 8), lengths) == pytest.approx(0.25)


@pytest.mark.parametrize(("lengths", "budget"), [([1, 0], 10), ([-1], 10), ([1], 0), ([1], -5)])
def test_impossible_plans_are_refused(lengths: list[int], budget: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        plan(np.array(lengths), budget)


@pytest.mark.parametrize("seed", range(20))
def test_with_a_cost_a_batch_no_promise_is_broken_and_no_cut_is_worth_while(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 120, size=rng.integers(1, 200))
    budget, cost = int(rng.integers(1, 1000)), int(rng.integers(1, 50))
    batches = plan(lengths, budget, cost)
    rows = np.concatenate([batch.rows for batch in batches])
    assert sorted(rows.tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert batch.width == lengths[batch.rows].max()
        assert batch.tokens <= budget or len(batch.rows) == 1
        for cut in range(1, len(batch.rows)):
            behind = batch.rows[cut:]
            assert (batch.width - lengths[behind].max()) * len(behind) <= cost


def test_few_rows_are_cut_where_their_lengths_fall() -> None:
    lengths = np.array([60, 10, 58, 11])
    assert [batch.rows.tolist() for batch in plan(lengths, 512)] == [[0, 2, 3, 1]]
    assert [batch.rows.tolist() for batch in plan(lengths, 512, 8)] == [[0, 2], [3, 1]]
    assert [batch.rows.tolist() for batch in plan(lengths, 512, 1)] == [[0], [2], [3, 1]], "a tie costs nothing"
