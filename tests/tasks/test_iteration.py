"""Laws of iterated maps: the states follow F, the layout and the mask are the paper's, the links read what is due."""

import collections
import contextlib
import dataclasses
import itertools
import math
import signal

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from toylab.tasks import (
    IGNORE,
    ITERATED_MAPS,
    NOWHERE,
    SPLITS,
    Copy,
    ModularSum,
    Parity,
    Polynomial,
    WordProblem,
    decode,
    encode,
    split_of,
    stream,
)

KINDS = [
    Copy,
    Parity,
    ModularSum,
    Polynomial,
    WordProblem,
    lambda **others: WordProblem(group="A5", **others),
    lambda **others: Polynomial(p=7, coefficients=(2, 3, 4, 5), zero_input=True, **others),
    lambda **others: ModularSum(p=2, **others),
    lambda **others: Copy(p=5, **others),
]
kinds = st.sampled_from(KINDS)
numbers = st.lists(st.integers(0, 2**20), min_size=1, max_size=12)
some = settings(max_examples=40)


def values_of(task, drawn):
    """Inputs of a task from any whole numbers."""
    return [task.inputs[number % len(task.inputs)] for number in drawn]


def one_row(task, inputs):
    return task.batch(np.array([inputs]), np.array([len(inputs)]))


def states_of(task, inputs):
    return one_row(task, inputs).tokens[0, len(inputs) + 2 :].tolist()


def rows_of(task, rows, seed=0, **others):
    return task.sample(stream(seed), rows, **others)


def inputs_of(batch):
    return [row[1 : length + 1] for row, length in zip(batch.tokens.tolist(), batch.labels["length"], strict=True)]


@contextlib.contextmanager
def at_most(seconds):
    """Raise where the block does not end in time: the way to test that something does not loop for ever."""

    def late(*_):
        raise TimeoutError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# States ------------------------------------------------------------------------------------------------------------


def composed(task, s, x):
    """First s, then x, read off the names of the permutations."""
    first, then = task.vocabulary[s], task.vocabulary[x]
    return task.vocabulary.index("".join(then[int(point)] for point in first))


def f(task, s, x):
    """F once more, one pair at a time."""
    match task:
        case Copy():
            return x
        case Parity():
            return s ^ x
        case ModularSum():
            return divmod(s + x, task.p)[1]
        case Polynomial():
            a, b, c, d = task.coefficients
            return divmod(a * s * x + b * s + c * x + d, task.p)[1]
        case WordProblem():
            return composed(task, s, x)


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


# Groups ------------------------------------------------------------------------------------------------------------


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


# Layout, mask, labels ----------------------------------------------------------------------------------------------


@some
@given(kinds, st.booleans(), st.booleans(), st.integers(0, 2**20))
def test_a_row_is_task_token_inputs_end_of_input_states_end(kind, thought, padding, seed):
    task = kind(lengths=(2, 7), chain_of_thought=thought, score_padding=padding)
    batch = rows_of(task, 12, seed)
    eoi, eos = encode(task, ["EoI", "EoS"])
    for tokens, targets, size, length, state in zip(
        batch.tokens.tolist(),
        batch.targets.tolist(),
        batch.sizes.tolist(),
        batch.labels["length"].tolist(),
        batch.labels["state"].tolist(),
        strict=True,
    ):
        states = length if thought else 1
        assert task.vocabulary[tokens[0]] == task.name
        assert set(tokens[1 : length + 1]) <= set(task.inputs)
        assert tokens[length + 1] == eoi
        assert tokens.count(eoi) == 1
        assert all(0 <= token < task.values for token in tokens[length + 2 : length + 2 + states])
        assert size == length + 2 + states
        assert tokens[size:] == [eos] * (len(tokens) - size)
        scored = [place for place, target in enumerate(targets) if target != IGNORE]
        end = len(tokens) if padding else size
        assert scored == list(range(length + 1, end))
        assert targets[length + 1 : end] == tokens[length + 2 : size] + [eos] * (end - size + 1)
        assert [place for place, label in enumerate(state) if label != NOWHERE] == list(range(length + 2, size))
        assert state[length + 2 : size] == tokens[length + 2 : size]
    assert task.context == max(task.size(length) for length in range(2, 8))


@pytest.mark.parametrize(("thought", "scored"), [(True, 6), (False, 2)])
def test_the_mask_covers_the_states_and_one_end(thought, scored):
    batch = rows_of(Parity(lengths=5, chain_of_thought=thought), 8)
    assert (batch.targets != IGNORE).sum(axis=1).tolist() == [scored] * 8


@some
@given(kinds, st.booleans(), st.integers(1, 5), st.integers(5, 9))
def test_scored_padding_reaches_to_the_longest_row_of_the_task_in_every_batch(kind, thought, short, longest):
    task = kind(lengths=(1, longest), chain_of_thought=thought, score_padding=True)
    batch = one_row(task, values_of(task, range(short)))
    assert batch.tokens.shape[1] == task.context
    # The published arrays have 2 * longest + 3 tokens, the last of which is only ever a target.
    assert task.context == (2 * longest + 2 if thought else longest + 3)
    assert (batch.targets[0] != IGNORE).sum() == task.context - short - 1


@some
@given(kinds, st.booleans(), st.integers(0, 2**20))
def test_a_row_does_not_depend_on_the_rows_beside_it(kind, thought, seed):
    task = kind(lengths=(1, 6), chain_of_thought=thought)
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 7, size=5)
    inputs = rng.choice(task.inputs, size=(5, 6))
    together = task.batch(np.where(np.arange(6) < lengths[:, None], inputs, 10**6), lengths)
    for row, length in enumerate(lengths.tolist()):
        garbage = np.full((1, 6 - length), 10**6)  # what stands after a row's inputs is not looked at
        alone = task.batch(np.concatenate([inputs[row : row + 1, :length], garbage], axis=1), np.array([length]))
        size = int(alone.sizes[0])
        assert size == together.sizes[row] == alone.tokens.shape[1]
        for name in ("tokens", "targets"):
            assert np.array_equal(getattr(together, name)[row, :size], getattr(alone, name)[0])
        assert np.array_equal(together.labels["state"][row, :size], alone.labels["state"][0])
        for name, edges in together.rows(row, row + 1).links.items():
            assert np.array_equal(edges, alone.links[name])


def test_tasks_with_one_alphabet_share_one_vocabulary():
    shared = [Copy(alphabet=11), Parity(alphabet=11), ModularSum(), Polynomial()]
    assert len({task.vocabulary for task in shared}) == 1
    assert len({task.task_token for task in shared}) == len(shared)
    assert len({kind.name for kind in ITERATED_MAPS}) == len(ITERATED_MAPS)
    assert len(WordProblem(alphabet=11).vocabulary) == len(Polynomial().vocabulary)


@some
@given(st.sampled_from([Parity(), WordProblem(), Polynomial(p=3)]), st.integers(0, 250))
@example(WordProblem(), 205)  # S3 calls its values 012 to 210, and spare values are called by their number
def test_every_alphabet_gives_every_token_a_name_of_its_own(task, spare):
    names = dataclasses.replace(task, alphabet=task.values + spare).vocabulary
    assert len(names) == task.values + spare + len(ITERATED_MAPS) + 2
    assert [name for name, count in collections.Counter(names).items() if count > 1] == []


class Latest(Parity):
    """A task that somebody adds in a notebook: F(s, x) = 1 where either is."""

    name = "latest"

    def step(self, states, inputs):
        return states | inputs

    def trace(self, inputs, start):
        return [int(any(inputs[: t + 1])) for t in range(len(inputs))]


def test_a_task_with_a_name_of_its_own_has_a_token_of_its_own_and_needs_nothing_else():
    task = Latest(lengths=(1, 6))
    assert task.vocabulary == (*Parity().vocabulary[:-2], "latest", "EoI", "EoS")
    batch = rows_of(task, 12)
    assert decode(task, batch.tokens[:, 0].tolist()) == ["latest"] * 12
    assert states_of(task, [0, 1, 0]) == [0, 1, 1]
    for tokens, targets, length in zip(batch.tokens, batch.targets, batch.labels["length"], strict=True):
        assert task.solve(tokens[: length + 2].tolist()) == targets[targets != IGNORE].tolist()


def test_a_larger_alphabet_changes_no_answer():
    inputs = [1, 0, 1, 1]
    assert states_of(Parity(alphabet=30), inputs) == states_of(Parity(), inputs)


# Links -------------------------------------------------------------------------------------------------------------


@some
@given(kinds, st.integers(0, 2**20))
def test_links_say_where_each_state_finds_what_it_needs(kind, seed):
    task = kind(lengths=(2, 7))
    batch = rows_of(task, 10, seed)
    tokens, targets, length = batch.tokens, batch.targets, batch.labels["length"]
    said = {name: set(map(tuple, edges.tolist())) for name, edges in batch.links.items()}
    places = [(row, t) for row, n in enumerate(length.tolist()) for t in range(1, n + 1)]
    assert said == {
        "end of input": {(row, length[row] + 1 + t, length[row] + 1) for row, t in places},
        "carry": {(row, length[row] + t, t) for row, t in places},
        "stop": {(row, 2 * n + 1, n + 1) for row, n in enumerate(length.tolist())},
    }
    for row, query, key in said["carry"]:
        assert key < query
        s = tokens[row, query]
        x = tokens[row, key]
        due = int(x) if s == task.end_of_input else f(task, int(s), int(x))
        assert targets[row, query] == due
    for row, query, key in said["end of input"] | said["stop"]:
        assert key < query
        assert tokens[row, key] == task.end_of_input
    for row, query, _ in said["stop"]:
        assert targets[row, query] == task.end_of_sequence


@some
@given(kinds, st.integers(0, 2**20))
def test_without_chain_of_thought_the_answer_reads_every_input_from_the_end_of_input(kind, seed):
    task = kind(lengths=(2, 7), chain_of_thought=False)
    batch = rows_of(task, 10, seed)
    length = batch.labels["length"].tolist()
    assert set(batch.links) == {"inputs"}
    assert set(map(tuple, batch.links["inputs"].tolist())) == {
        (row, n + 1, t) for row, n in enumerate(length) for t in range(1, n + 1)
    }


# Sampling ----------------------------------------------------------------------------------------------------------


@some
@given(kinds, st.integers(4, 6), st.integers(0, 4), st.integers(1, 40), st.integers(0, 2**20))
def test_each_round_of_rows_holds_every_length_once(kind, low, more, rows, seed):
    task = kind(lengths=(low, low + more))
    drawn = rows_of(task, rows, seed).labels["length"].tolist()
    span = more + 1
    for start in range(0, rows, span):
        one = drawn[start : start + span]
        assert len(set(one)) == len(one)
        assert set(one) <= set(range(low, low + span))


def test_the_order_of_lengths_in_a_round_is_random():
    drawn = rows_of(Parity(lengths=(4, 6)), 300).labels["length"].reshape(-1, 3)
    assert len({tuple(one) for one in drawn.tolist()}) == math.factorial(3)


@some
@given(kinds, st.sampled_from(SPLITS), st.integers(4, 18), st.integers(0, 2**20))
def test_every_row_is_of_the_split_that_was_asked_for(kind, split, length, seed):
    task = kind(lengths=length)
    batch = rows_of(task, 8, seed, split=split)
    inputs = np.array(inputs_of(batch))
    assert inputs.shape == (8, length)
    assert set(split_of(inputs).tolist()) == {SPLITS.index(split)}


@pytest.mark.parametrize("length", [14, 15])
def test_listed_and_drawn_spaces_are_sampled_alike(length):
    # Up to 2^14 prompts are listed, beyond that they are drawn until the split fits.
    batch = rows_of(Parity(lengths=length), 1500, split="test", distinct=True)
    inputs = np.array(inputs_of(batch))
    assert len(np.unique(inputs, axis=0)) == 1500
    assert np.all(split_of(inputs) == SPLITS.index("test"))
    assert np.all(np.abs(inputs.mean(axis=0) - 0.5) < 0.06)


@some
@given(kinds, st.integers(4, 5), st.sampled_from(SPLITS), st.integers(0, 2**20))
def test_distinct_gives_different_prompts_and_as_many_as_there_are(kind, length, split, seed):
    task = kind(lengths=length)
    rows = min(task.capacity(length, split), 40)
    inputs = inputs_of(rows_of(task, rows, seed, split=split, distinct=True))
    assert len(set(map(tuple, inputs))) == rows


@pytest.mark.parametrize(
    "task", [Parity(), Copy(p=3), WordProblem(), Polynomial(p=3), Polynomial(p=5, zero_input=True)]
)
@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_the_splits_together_hold_every_prompt_once(task, length):
    found = []
    for split in SPLITS:
        rows = task.capacity(length, split)
        if rows:
            found += map(tuple, inputs_of(rows_of(task, rows, split=split, length=length, distinct=True)))
    assert sorted(found) == sorted(itertools.product(task.inputs, repeat=length))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 2, 4])
def test_capacity_of_a_small_space_is_its_count(kind, length):
    task = kind()
    if len(task.inputs) ** length > 2**11:
        length = 2
    every = list(itertools.product(task.inputs, repeat=length))
    counted = collections.Counter(SPLITS[split_of(np.array([prompt])).item()] for prompt in every)
    assert {split: task.capacity(length, split) for split in SPLITS} == {split: counted[split] for split in SPLITS}


def test_capacity_of_a_large_space_is_near_its_count():
    task = Parity()
    every = np.array(list(itertools.product((0, 1), repeat=16)))
    counts = np.bincount(split_of(every)) / [task.capacity(16, split) for split in SPLITS]
    assert np.all(np.abs(counts - 1) < 0.04)


@pytest.mark.parametrize(("task", "length"), [(Parity(), 15), (Copy(p=3), 9), (Polynomial(), 5)])
@pytest.mark.parametrize("split", SPLITS)
def test_as_many_different_prompts_can_be_had_as_a_split_holds(task, length, split):
    """Also of a space that is not listed for smaller samples."""
    every = np.array(list(itertools.product(task.inputs, repeat=length)))
    held = {tuple(row) for row in every[split_of(every) == SPLITS.index(split)].tolist()}
    assert len(every) > 2**14
    for rows in (len(held) // 2 - 1, len(held), len(held) + 1, len(every), 10**9):
        assert task.available(rows, length, split) == min(rows, len(held))
    drawn = [inputs_of(rows_of(task, len(held), seed, split=split, length=length, distinct=True)) for seed in (0, 1)]
    assert [set(map(tuple, rows)) for rows in drawn] == [held, held]
    assert drawn[0] != drawn[1]
    some = inputs_of(rows_of(task, len(held) * 3 // 4, split=split, length=length, distinct=True))
    assert len(set(map(tuple, some)) & held) == len(some) == len(held) * 3 // 4
    with pytest.raises(ValueError, match=f"split='{split}' holds {len(held)} of the {len(every)} prompts"):
        rows_of(task, len(held) + 1, split=split, length=length, distinct=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_split_too_small_raises_at_once_with_both_numbers(kind):
    # The first generator written for this lab looped for ever at parity, length 4.
    task = kind()
    raised = 0
    with at_most(20):
        for length, split, distinct in itertools.product([1, 2, 3, 4], SPLITS, [False, True]):
            space, held = len(task.inputs) ** length, task.capacity(length, split)
            if space > 2**18:
                continue
            exact = task.available(space, length, split)
            most = exact if distinct else math.inf if held else 0
            for rows in (1, 5, exact, exact + 1, space + 1):
                if rows > most:
                    told = rf"rows={rows}: split='{split}' holds \d+ of the {space} "
                    with pytest.raises(ValueError, match=told):
                        rows_of(task, rows, split=split, length=length, distinct=distinct)
                    raised += 1
                elif rows <= 200:
                    assert len(rows_of(task, rows, split=split, length=length, distinct=distinct)) == rows
    assert raised


@some
@given(kinds, st.integers(4, 12), st.booleans())
def test_a_length_outside_the_range_can_be_drawn_to_test_extrapolation(kind, length, thought):
    task = kind(lengths=(1, 3), chain_of_thought=thought)
    batch = rows_of(task, 6, length=length)
    assert batch.labels["length"].tolist() == [length] * 6
    for tokens, targets in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True):
        assert task.solve(tokens[: length + 2]) == [target for target in targets if target != IGNORE]


@pytest.mark.parametrize("thought", [True, False])
@pytest.mark.parametrize("length", [0, -2])
def test_a_row_of_no_inputs_cannot_be_drawn(thought, length):
    task = Parity(chain_of_thought=thought)
    with pytest.raises(ValueError, match=f"length={length}"):
        rows_of(task, 3, length=length)


@pytest.mark.parametrize("task", [Parity(lengths=1100), Polynomial(lengths=400)])
def test_a_space_too_large_for_a_float_can_be_drawn_from(task):
    with at_most(10):
        batch = rows_of(task, 3, distinct=True)
    assert batch.labels["length"].tolist() == [task.longest] * 3


def test_inputs_are_uniform_over_those_of_the_task():
    for task in (Polynomial(lengths=8), Polynomial(lengths=8, zero_input=True), WordProblem(lengths=8)):
        drawn = np.array(inputs_of(rows_of(task, 2000)))
        values, counts = np.unique(drawn, return_counts=True)
        assert values.tolist() == list(task.inputs)
        assert np.all(np.abs(counts / drawn.size * len(values) - 1) < 0.12)
    assert 0 not in Polynomial().inputs
    assert 0 in Polynomial(zero_input=True).inputs


# The oracle --------------------------------------------------------------------------------------------------------


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


# Wrong settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ITERATED_MAPS)
@pytest.mark.parametrize("lengths", [0, -1, (0, 4), (5, 2), (-3, -1)])
def test_lengths_that_are_no_range_raise(kind, lengths):
    with pytest.raises(ValueError, match=r"lengths=.*1 <= shortest <= longest"):
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
    with pytest.raises(ValueError, match=f"p={p}: at least 2"):
        kind(p=p)


@pytest.mark.parametrize(
    ("kind", "values"), [(Copy, 2), (Parity, 2), (ModularSum, 11), (Polynomial, 11), (WordProblem, 6)]
)
def test_an_alphabet_smaller_than_the_task_raises_and_one_just_as_large_does_not(kind, values):
    with pytest.raises(ValueError, match=f"alphabet={values - 1}: {kind.__name__} has {values} values"):
        kind(alphabet=values - 1)
    assert kind(alphabet=values).vocabulary == kind().vocabulary
