"""Laws of iterated maps: the states follow F, the groups are groups, the oracle agrees, wrong settings raise."""

import collections
import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tasks.iterated import f, kinds, numbers, one_row, some, states_of, values_of
from toylab.tasks import (
    ITERATED_MAPS,
    Copy,
    ModularSum,
    Parity,
    Polynomial,
    WordProblem,
    decode,
    encode,
)


@some
@given(kinds, st.sampled_from(["first-input", "zero"]), numbers)
def test_the_states_follow_the_map_from_the_start_rule(kind, start, drawn):
    task = kind(lengths=(1, 12), start=start)
    inputs = values_of(task, drawn)
    state = inputs[0] if start == "first-input" else f(task, 0, inputs[0])
    expected = [state]
    for x in inputs[1:]:
        state = f(task, state, x)
        expected.append(state)
    assert states_of(task, inputs) == expected


@some
@given(kinds, numbers)
def test_where_zero_is_the_identity_both_start_rules_agree(kind, drawn):
    task = kind()
    inputs = values_of(task, drawn)
    first, zero = (states_of(dataclasses.replace(task, start=start), inputs) for start in ("first-input", "zero"))
    assert first[0] == inputs[0]
    if isinstance(task, Polynomial):
        assert zero[0] == (task.coefficients[2] * inputs[0] + task.coefficients[3]) % task.p
    else:
        assert first == zero


@pytest.mark.parametrize(
    ("task", "inputs", "states"),
    [
        (Polynomial(), [7, 2, 9], [7, 4, 4]),  # 7; 7*2+1 = 15 = 4; 4*9+1 = 37 = 4
        (Polynomial(start="zero"), [7, 2, 9], [1, 3, 6]),  # 0*7+1 = 1; 1*2+1 = 3; 3*9+1 = 28 = 6
        (Polynomial(p=7, coefficients=(2, 3, 4, 5)), [1, 2, 6], [1, 6, 0]),  # 4+3+8+5 = 20 = 6; 72+18+24+5 = 119 = 0
        (Polynomial(p=5, coefficients=(0, 1, 1, 0)), [3, 4, 4], [3, 2, 1]),  # the running sum
        (Polynomial(p=2), [1, 1, 1, 1], [1, 0, 1, 0]),
        (Polynomial(zero_input=True), [5, 0, 3], [5, 1, 4]),  # 0 wipes out the past
        (ModularSum(), [7, 0, 9], [7, 7, 5]),
        (Copy(p=3), [2, 0, 1], [2, 0, 1]),
        (Parity(), [1, 0, 1, 1], [1, 1, 0, 1]),
        (WordProblem(), [3, 1, 5], [3, 5, 0]),  # 120, then 021 makes 210; that and 210 make 012
    ],
)
def test_states_worked_out_by_hand(task, inputs, states):
    assert states_of(task, inputs) == states


@some
@given(st.lists(st.integers(0, 1), min_size=1, max_size=16))
def test_parity_is_the_count_of_ones_in_binary_modulo_two(bits):
    number = int("".join(map(str, bits)), 2)
    assert states_of(Parity(), bits)[-1] == number.bit_count() % 2


@some
@given(st.integers(2, 12), numbers)
def test_copy_is_the_identity(p, drawn):
    inputs = [x % p for x in drawn]
    assert states_of(Copy(p=p), inputs) == inputs


@some
@given(numbers)
def test_the_sum_modulo_two_is_parity_and_the_linear_polynomial_is_the_sum(drawn):
    assert states_of(ModularSum(p=2), [x % 2 for x in drawn]) == states_of(Parity(), [x % 2 for x in drawn])
    line = Polynomial(coefficients=(0, 1, 1, 0), zero_input=True)
    assert states_of(line, [x % 11 for x in drawn]) == states_of(ModularSum(), [x % 11 for x in drawn])


@some
@given(kinds, st.sampled_from(["first-input", "zero"]), numbers)
def test_the_answer_without_chain_of_thought_is_the_last_state_with_it(kind, start, drawn):
    written, direct = (kind(start=start, chain_of_thought=thought) for thought in (True, False))
    inputs = values_of(written, drawn)
    prompt = one_row(written, inputs).tokens[0, : len(inputs) + 2]
    assert np.array_equal(prompt, one_row(direct, inputs).tokens[0, : len(inputs) + 2])
    assert states_of(direct, inputs) == states_of(written, inputs)[-1:]
    assert direct.solve(prompt.tolist()) == written.solve(prompt.tolist())[-2:]


@some
@given(st.sampled_from([Parity, ModularSum]), numbers, st.randoms(use_true_random=False))
def test_permuting_the_inputs_leaves_the_answer_of_a_commutative_task(kind, drawn, random):
    task = kind(chain_of_thought=False)
    inputs = values_of(task, drawn)
    shuffled = random.sample(inputs, len(inputs))
    assert states_of(task, shuffled) == states_of(task, inputs)


@pytest.mark.parametrize("task", [Polynomial(), Polynomial(start="zero"), WordProblem(), WordProblem(group="A5")])
def test_permuting_the_inputs_changes_answers_where_order_matters(task):
    pairs = list(itertools.product(task.inputs, repeat=3))[:150]
    changed = [states_of(task, list(w))[-1] != states_of(task, list(w[::-1]))[-1] for w in pairs]
    assert 0.2 < np.mean(changed) < 1


# Groups --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("group", "order"), [("S3", 6), ("A5", 60)])
def test_the_word_problem_multiplies_in_a_group_that_does_not_commute(group, order):
    task = WordProblem(group=group)
    assert task.values == len(set(task.value_names())) == order
    every = np.arange(order)
    table = task.step(*np.meshgrid(every, every, indexing="ij"))
    assert np.array_equal(table[0], every), "value 0 is not the identity"
    assert np.array_equal(table[:, 0], every), "value 0 is not the identity"
    assert all(sorted(line) == list(every) for line in [*table, *table.T]), "an element cannot be undone"
    assert np.array_equal(table[table], table[:, table]), "not associative"
    assert not np.array_equal(table, table.T), "commutative"


@pytest.mark.parametrize(
    ("group", "classes"),
    # Elements by how many points they leave in place; in A5: 24 five-cycles, 15 pairs of swaps, 20 three-cycles.
    [("S3", {0: 2, 1: 3, 3: 1}), ("A5", {0: 24, 1: 15, 2: 20, 5: 1})],
)
def test_the_permutations_are_those_of_the_group(group, classes):
    names = WordProblem(group=group).value_names()
    fixed = collections.Counter(sum(int(image) == point for point, image in enumerate(name)) for name in names)
    assert fixed == classes
    for name in names:
        matrix = np.eye(len(name))[[int(image) for image in name]]
        assert np.linalg.det(matrix).round() == 1 or group == "S3"


# The oracle ----------------------------------------------------------------------------------------------------------


@some
@given(kinds, st.booleans(), numbers)
def test_the_oracle_agrees_with_iterating_the_map(kind, thought, drawn):
    task = kind(chain_of_thought=thought)
    inputs = values_of(task, drawn)
    prompt = [task.task_token, *inputs, task.end_of_input]
    assert task.solve(prompt) == [*states_of(task, inputs), task.end_of_sequence]
    assert decode(task, task.solve(prompt))[-1] == "EoS"


@pytest.mark.parametrize(
    "names",
    [
        ["parity", "EoI"],
        ["copy", "1", "EoI"],
        ["parity", "1"],
        ["parity", "1", "EoS"],
        ["parity", "1", "EoI", "EoI"],
        ["parity", "1", "parity", "EoI"],
        ["1", "0", "EoI"],
    ],
)
def test_the_oracle_refuses_what_is_no_prompt(names):
    task = Parity()
    with pytest.raises(ValueError, match="prompt="):
        task.solve(encode(task, names))


@pytest.mark.parametrize("prompt", [[], [3]])
def test_the_oracle_refuses_what_is_too_short_and_shows_the_form(prompt):
    with pytest.raises(ValueError, match="prompt="):
        Parity().solve(prompt)


# Wrong settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ITERATED_MAPS)
@pytest.mark.parametrize("lengths", [0, -1, (0, 4), (5, 2), (-3, -1)])
def test_lengths_that_are_no_range_raise(kind, lengths):
    with pytest.raises(ValueError, match=r"lengths=.*from low to high"):
        kind(lengths=lengths)


@pytest.mark.parametrize("p", [9, 1, 0, -7, 4, 121])
def test_a_polynomial_needs_a_prime(p):
    with pytest.raises(ValueError, match=f"p={p}: must be a prime"):
        Polynomial(p=p)


@pytest.mark.parametrize("p", [2, 3, 5, 7, 11, 13, 127])
def test_every_prime_makes_a_polynomial_whose_inputs_can_be_undone(p):
    task = Polynomial(p=p)
    for x in task.inputs:
        assert len({int(s) for s in task.step(np.arange(p), np.full(p, x))}) == p


@pytest.mark.parametrize("kind", [Copy, ModularSum])
@pytest.mark.parametrize("p", [1, 0, -2])
def test_one_value_is_too_few(kind, p):
    with pytest.raises(ValueError, match=f"p={p}: must be at least 2; for example 2 or 11"):
        kind(p=p)


@pytest.mark.parametrize(
    ("kind", "values"), [(Copy, 2), (Parity, 2), (ModularSum, 11), (Polynomial, 11), (WordProblem, 6)]
)
def test_an_alphabet_smaller_than_the_task_raises_and_one_just_as_large_does_not(kind, values):
    with pytest.raises(ValueError, match=f"alphabet={values - 1}: {kind.__name__} has {values} values"):
        kind(alphabet=values - 1)
    assert kind(alphabet=values).vocabulary == kind().vocabulary
