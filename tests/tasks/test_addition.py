"""Laws of addition: carries are those of the integers, and the linked digits with the current token determine them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toylab.console import ToylabError
from toylab.tasks import Addition
from toylab.tasks.strategies import batches, instances

tasks = instances(Addition)


@given(st.data())
def test_the_row_is_a_sum_of_integers_and_the_label_is_its_carry(data):
    task = data.draw(tasks)
    batch = data.draw(batches(task))
    for row in range(len(batch)):
        n = int(batch.labels["digits"][row])
        a, b = (batch.tokens[row, start : start + n].tolist() for start in (0, n + 1))
        c = batch.targets[row, 2 * n + 1 : 3 * n + 2].tolist()
        value = [sum(digit * task.base**i for i, digit in enumerate(digits)) for digits in (a, b, c)]
        assert value[0] + value[1] == value[2]
        for i in range(n + 1):
            low = [sum(digit * task.base**j for j, digit in enumerate(digits[:i])) for digits in (a, b)]
            assert batch.labels["carry"][row, 2 * n + 1 + i] == (sum(low) >= task.base**i)


@given(st.data())
def test_linked_digits_and_the_current_token_determine_every_answer(data):
    task = data.draw(tasks)
    batch = data.draw(batches(task))
    read = {name: np.zeros(batch.tokens.shape, dtype=np.int64) for name in batch.links}
    for name, edges in batch.links.items():
        row, query, key = edges.T
        assert (batch.tokens[row, key] < task.base).all()
        np.add.at(read[name], (row, query), batch.tokens[row, key])
    scored = batch.targets >= 0
    is_first = np.arange(batch.tokens.shape[1]) == 2 * batch.labels["digits"][:, None] + 1
    carry = ~is_first & (batch.tokens < read["carry"])
    assert ((read["digits"] + carry) % task.base == batch.targets)[scored].all()
    assert (carry == batch.labels["carry"])[scored].all()


@given(st.data())
def test_every_column_links_two_digits_of_each_name(data):
    task = data.draw(tasks)
    batch = data.draw(batches(task))
    for name, offset in (("digits", 1), ("carry", 2)):
        row, query, key = batch.links[name].T
        n = batch.labels["digits"][row]
        column = query - 2 * n - offset
        assert ((key == column) | (key == n + 1 + column)).all()
        assert len(row) == 2 * batch.labels["digits"].sum()


@pytest.mark.parametrize("prompt", [[], [10, 11], [1, 10, 2], [1, 10, 2, 12], [1, 2, 10, 3, 11], [1, 10, 10, 11]])
def test_a_prompt_of_another_form_is_refused(prompt):
    with pytest.raises(ToylabError, match="must be digits"):
        Addition().solve(prompt)


@pytest.mark.parametrize("fields", [{"digits": 0}, {"digits": (3, 2)}, {"base": 1}, {"base": 37}])
def test_impossible_settings_are_refused(fields):
    with pytest.raises(ToylabError, match=next(iter(fields))):
        Addition(**fields)
