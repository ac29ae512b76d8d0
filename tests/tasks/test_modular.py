"""Laws of modular addition: the splits partition the table, have exact shares, and ignore the order of a pair."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toylab.console import ToylabError
from toylab.tasks import SPLITS, ModularAddition, stream
from toylab.tasks.strategies import instances

sizes = st.integers(2, 40)
shares = st.floats(0.05, 0.95)


@given(sizes, shares)
def test_the_tables_of_the_splits_are_the_whole_table_once(p, share):
    task = ModularAddition(p=p, train_share=share)
    rows = [tuple(row) for split in SPLITS for row in task.table(split).tokens.tolist()]
    assert sorted(rows) == [(a, b, p) for a, b in itertools.product(range(p), repeat=2)]


@given(sizes, shares)
def test_the_share_of_unordered_pairs_for_training_is_exact(p, share):
    task = ModularAddition(p=p, train_share=share)
    counts = [len({tuple(sorted(row)) for row in task.table(split).tokens[:, :2].tolist()}) for split in SPLITS]
    total = p * (p + 1) // 2
    assert abs(counts[0] - share * total) <= 0.5
    assert 0 <= counts[2] - counts[1] <= 1
    assert [task.shares[split] * total for split in SPLITS] == pytest.approx(counts)


@given(sizes, shares, shares)
def test_a_larger_training_share_only_adds_pairs(p, one, other):
    low, high = sorted((one, other))
    fewer, more = (
        {tuple(row) for row in ModularAddition(p=p, train_share=s).table("train").tokens.tolist()} for s in (low, high)
    )
    assert fewer <= more


@given(instances(ModularAddition), st.sampled_from(SPLITS), st.integers(0, 99))
def test_answers_are_sums_modulo_p_and_both_orders_are_in_one_split(task, split, seed):
    batch, table = task.sample(stream(seed), 20, split), {tuple(row) for row in task.table(split).tokens.tolist()}
    assert (batch.targets[:, 2] == (batch.tokens[:, 0] + batch.tokens[:, 1]) % task.p).all()
    assert {(b, a, c) for a, b, c in batch.tokens.tolist()} <= table


def test_an_empty_split_and_a_prompt_of_another_form_are_refused():
    with pytest.raises(ToylabError, match="split='validation': holds no pair of p=2"):
        ModularAddition(p=2, train_share=0.6).sample(stream(0), 3, "validation")
    for prompt in ([1, 2], [1, 2, 3], [60, 2, 53], [1, 2, 53, 53]):
        with pytest.raises(ToylabError, match="must be two numbers below 53"):
            ModularAddition().solve(prompt)
    for share in (0, 1, np.nan):
        with pytest.raises(ToylabError, match="train_share"):
            ModularAddition(train_share=share)
