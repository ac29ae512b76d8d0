"""Laws of batches, random streams, the hold-out by content, token names and printed rows."""

import dataclasses
import inspect
import itertools
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toylab.console import ToylabError
from toylab.tasks import (
    IGNORE,
    NO_POSITION,
    SPLIT_SHARES,
    SPLITS,
    Batch,
    Parity,
    Polynomial,
    Task,
    WordProblem,
    decode,
    encode,
    held_out,
    render,
    split_of,
    stream,
)

ROOT = Path(__file__).parents[2]
prompts = st.integers(0, 12).flatmap(
    lambda length: st.lists(st.lists(st.integers(0, 127), min_size=length, max_size=length), min_size=1, max_size=8)
)


def as_rows(lists):
    return np.array(lists, dtype=np.int64).reshape(len(lists), -1)


def same(one, other):
    """Whether two batches agree in every array, its type included."""
    groups = [(one.links, other.links), (one.labels, other.labels)]
    arrays = [(getattr(one, name), getattr(other, name)) for name in ("tokens", "targets", "sizes")]
    arrays += [(a[name], b[name]) for a, b in groups for name in a]
    return all(a.keys() == b.keys() for a, b in groups) and all(
        a.dtype == b.dtype and np.array_equal(a, b) for a, b in arrays
    )


@pytest.mark.parametrize(("task", "which"), [(Parity(), {"length": 7}), (Polynomial(), {}), (WordProblem(), {})])
@given(seed=st.integers(0, 2**20), split=st.sampled_from(SPLITS))
def test_held_out_rows_are_of_their_split_and_the_same_whenever_asked(task, which, seed, split):
    first, again = (held_out(task, seed, 12, split, **which) for _ in range(2))
    assert same(first, again)
    assert same(first, task.sample(stream(seed, split, *which.values()), 12, split, **which))
    for other in (held_out(task, seed + 1, 12, split, **which), held_out(task, seed, 12, split, purpose="x", **which)):
        assert not same(first, other)
    if split == "test":
        assert same(first, held_out(task, seed, 12, **which))


# The hold-out ------------------------------------------------------------------------------------------------------


def split_in_plain_integers(prompt):
    """`split_of` again, in Python's own unbounded integers: the published splitmix64, one prompt at a time."""
    wrap = 2**64
    mixed = len(prompt)
    for token in prompt:
        mixed ^= token + 1
        mixed = (mixed + 0x9E3779B97F4A7C15) % wrap
        mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % wrap
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB % wrap
        mixed ^= mixed >> 31
    return (0, 0, 0, 0, 0, 0, 1, 2)[mixed * 8 // wrap]


@given(prompts)
def test_the_split_of_a_prompt_is_that_of_a_slow_hash_in_plain_integers(rows):
    expected = [split_in_plain_integers(row) for row in rows]
    for many in (rows, rows * 17):  # few rows are hashed one by one
        tokens, sizes = as_rows(many), np.full(len(many), len(rows[0]))
        padded = np.column_stack([tokens, np.arange(len(many))])
        assert split_of(tokens).tolist() == expected * (len(many) // len(rows))
        assert split_of(padded, sizes).tolist() == split_of(tokens).tolist()


@pytest.mark.parametrize(
    ("prompt", "split"),
    [
        ([0], "test"),
        ([1], "train"),
        ([0, 1], "train"),
        ([1, 0, 1], "train"),
        ([7, 2, 9], "train"),
        ([10] * 16, "train"),
        ([11], "validation"),
        ([2, 3], "validation"),
        ([10, 8], "validation"),
        ([0, 3], "train"),
        ([1, 1, 1, 0], "train"),
        ([3, 1, 4, 1, 5], "train"),
        ([2, 7, 1, 8, 2, 8], "test"),
        ([59, 0, 31], "train"),
        ([0] * 32, "test"),
    ],
)
def test_the_split_of_a_prompt_never_changes(prompt, split):
    # A change here would move prompts of every published run from test to train.
    assert SPLITS[split_of(np.array([prompt]))[0]] == split


@given(prompts, st.randoms(use_true_random=False))
def test_the_split_of_a_prompt_does_not_depend_on_its_neighbours(rows, random):
    alone = [split_of(as_rows([row])).item() for row in rows]
    order = random.sample(range(len(rows)), len(rows))
    assert split_of(as_rows([rows[i] for i in order])).tolist() == [alone[i] for i in order]


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64])
def test_the_split_of_a_prompt_does_not_depend_on_the_width_of_its_integers(dtype):
    rows = np.random.default_rng(0).integers(0, 100, size=(200, 7))
    assert np.array_equal(split_of(rows.astype(dtype)), split_of(rows))


@pytest.mark.parametrize(("symbols", "length"), [(2, 16), (10, 5), (60, 3)])
def test_the_shares_of_a_large_space_are_six_one_and_one_eighths(symbols, length):
    every = np.indices((symbols,) * length).reshape(length, -1).T
    counts = np.bincount(split_of(every), minlength=3)
    for split, count in zip(SPLITS, counts, strict=True):
        spread = np.sqrt(len(every) * SPLIT_SHARES[split] * (1 - SPLIT_SHARES[split]))
        assert abs(count - len(every) * SPLIT_SHARES[split]) < 4 * spread


def test_every_position_and_the_length_matter_to_the_split():
    rows = np.random.default_rng(1).integers(0, 10, size=(500, 6))
    for position in range(6):
        other = rows.copy()
        other[:, position] = (other[:, position] + 1) % 10
        assert 0.2 < np.mean(split_of(other) != split_of(rows)) < 0.6
    longer = np.concatenate([rows, np.zeros((500, 1), dtype=int)], axis=1)
    assert 0.2 < np.mean(split_of(longer) != split_of(rows)) < 0.6
    assert 0.2 < np.mean(split_of(rows[:, ::-1]) != split_of(rows)) < 0.6


def test_the_splits_are_three_and_their_shares_fill_the_space():
    assert SPLITS == ("train", "validation", "test")
    assert SPLIT_SHARES == {"train": 0.75, "validation": 0.125, "test": 0.125}


# Random streams ----------------------------------------------------------------------------------------------------

paths = st.lists(st.one_of(st.integers(0, 5), st.sampled_from(["train", "test", "show"])), max_size=3).map(tuple)


def draws(seed, *path):
    return stream(seed, *path).integers(2**62, size=4).tolist()


@given(st.integers(0, 2**40), paths)
def test_the_same_seed_and_path_give_the_same_stream(seed, path):
    assert draws(seed, *path) == draws(seed, *path)


@given(st.tuples(st.integers(0, 5), paths), st.tuples(st.integers(0, 5), paths))
def test_streams_of_different_seeds_or_paths_differ(one, other):
    (seed, path), (other_seed, other_path) = one, other
    if (seed, path) != (other_seed, other_path):
        assert draws(seed, *path) != draws(other_seed, *other_path)


@given(st.integers(0, 2**40), st.integers(0, 5))
def test_integers_of_numpy_give_the_same_stream(seed, block):
    untyped = inspect.unwrap(stream)  # types are checked before it could
    drawn = untyped(np.int64(seed), "train", np.int64(block)).integers(2**62, size=4).tolist()
    assert drawn == draws(seed, "train", block)
    with pytest.raises(ToylabError, match=r"^path=-1: "):
        stream(seed, "train", -1)


def test_a_stream_differs_from_its_own_branch_number_zero():
    # numpy pads entropy with zeros, so [3] and [3, 0] are one seed to it.
    assert draws(3) != draws(3, 0)
    assert draws(3, "train") != draws(3, "train", 0)


def test_neighbouring_seeds_and_neighbouring_indices_share_nearly_no_rows():
    task = Polynomial(lengths=8)
    seen = [
        {tuple(row) for row in task.sample(stream(seed, "train", block), 200).tokens.tolist()}
        for seed in range(4)
        for block in range(4)
    ]
    assert max(len(one & other) for one, other in itertools.combinations(seen, 2)) <= 2


def test_a_seed_gives_the_same_rows_in_every_process():
    code = (
        "from toylab.tasks import Polynomial, stream;"
        "print(Polynomial(lengths=(3, 9)).sample(stream(5, 'train', 2), 40, 'test').tokens.tolist())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": salt},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for salt in ("1", "2")
    }
    assert outputs == {f"{Polynomial(lengths=(3, 9)).sample(stream(5, 'train', 2), 40, 'test').tokens.tolist()}\n"}


# Names of tokens ---------------------------------------------------------------------------------------------------

small_tasks = st.sampled_from([Parity(), Parity(alphabet=5), Polynomial(), WordProblem(), WordProblem(group="A5")])


@given(small_tasks, st.data())
def test_decode_and_encode_undo_each_other(task, data):
    size = len(task.vocabulary)
    tokens = data.draw(st.lists(st.integers(0, size - 1), max_size=10))
    names = data.draw(st.lists(st.sampled_from(task.vocabulary), max_size=10))
    assert encode(task, decode(task, tokens)) == tokens
    assert decode(task, encode(task, names)) == names


@given(small_tasks, st.integers(0, 100))
def test_a_token_outside_the_vocabulary_raises_with_the_range(task, off):
    size = len(task.vocabulary)
    for token in (size + off, -1 - off):
        with pytest.raises(ValueError, match=f"token={token}: ids run from 0 to {size - 1}"):
            decode(task, [0, token])


def test_a_name_outside_the_vocabulary_raises_with_the_vocabulary():
    with pytest.raises(ValueError, match="'2' is not in this task's vocabulary: 0 1 copy parity"):
        encode(Parity(), ["0", "2"])


def test_names_are_what_the_task_calls_its_tokens():
    assert decode(Parity(), [1, 3, 7, 8]) == ["1", "parity", "EoI", "EoS"]
    assert encode(WordProblem(), ["012", "word", "210"]) == [0, 10, 5]


# Batches -----------------------------------------------------------------------------------------------------------

hand = Batch(
    tokens=np.arange(12).reshape(3, 4),
    targets=np.arange(12).reshape(3, 4) + 1,
    sizes=np.array([4, 3, 2]),
    links={"a": np.array([[0, 1, 0], [1, 2, 0], [1, 2, 1], [2, 1, 1]]), "none": np.zeros((0, 3), dtype=np.int64)},
    labels={"name": np.array(["x", "y", "z"]), "place": np.arange(12).reshape(3, 4) * 10},
)


def test_rows_slices_everything_and_renumbers_the_links():
    middle = hand.rows(1, 3)
    assert middle.tokens.tolist() == [[4, 5, 6, 7], [8, 9, 10, 11]]
    assert middle.targets.tolist() == [[5, 6, 7, 8], [9, 10, 11, 12]]
    assert middle.sizes.tolist() == [3, 2]
    assert middle.links["a"].tolist() == [[0, 2, 0], [0, 2, 1], [1, 1, 1]]
    assert middle.links["none"].tolist() == []
    assert middle.labels["name"].tolist() == ["y", "z"]
    assert middle.labels["place"].tolist() == [[40, 50, 60, 70], [80, 90, 100, 110]]


@given(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))
def test_a_slice_of_a_slice_is_a_slice(a, b, c):
    start, middle, stop = sorted([a, b, c])
    assert same(hand.rows(start, stop).rows(0, middle - start), hand.rows(start, middle))
    assert len(hand.rows(start, stop)) == stop - start


def test_all_rows_are_the_whole_batch_and_rows_past_the_end_are_none():
    assert same(hand.rows(0, 3), hand)
    assert same(hand.rows(0, 9), hand)
    assert len(hand.rows(3, 9)) == 0


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (0, -1), (-3, -1)])
def test_rows_counted_from_the_end_carry_their_links_or_raise(start, stop):
    # Python slices count negative rows from the end; links must not be silently those of other rows.
    positive = hand.rows(start % 3, stop if stop > 0 else stop + 3)
    try:
        counted = hand.rows(start, stop)
    except ValueError:
        return
    assert same(counted, positive)


def test_a_batch_cannot_be_changed_and_can_be_pickled():
    for field in dataclasses.fields(Batch):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(hand, field.name, None)
    assert same(pickle.loads(pickle.dumps(hand)), hand)


def test_what_is_not_scored_is_what_torch_ignores_by_itself():
    assert inspect.signature(torch.nn.functional.cross_entropy).parameters["ignore_index"].default == IGNORE
    assert IGNORE < 0
    assert NO_POSITION < 0


def test_the_protocol_tells_tasks_from_other_things():
    assert isinstance(Parity(), Task)
    assert not isinstance(hand, Task)
    assert not isinstance(object(), Task)


# Printed rows ------------------------------------------------------------------------------------------------------

GOLDEN = """\
position                  0      1      2      3      4      5      6      7
token                parity      1      0      1    EoI      1      1      0
target                    .      .      .      .      1      1      0    EoS
reads: end of input                                          4      4      4
reads: carry                                          1      2      3
reads: stop                                                                4"""

GOLDEN_ANSWER_ONLY = """\
position            0      1      2      3      4      5
token          parity      1      0      1    EoI      0
target              .      .      .      .      0    EoS
reads: inputs                                1..3"""


def words(table):
    """The cells of a printed table, one list a line, without the columns' width."""
    return [line.split() for line in table.splitlines()]


def test_render_shows_the_row():
    row = Parity().batch(np.array([[1, 0, 1]]), np.array([3]))
    answer_only = Parity(chain_of_thought=False).batch(np.array([[1, 0, 1]]), np.array([3]))
    assert render(Parity(), row, 0) == GOLDEN
    assert render(Parity(chain_of_thought=False), answer_only, 0) == GOLDEN_ANSWER_ONLY


@given(st.integers(0, 2**20))
def test_render_says_what_the_batch_says(seed):
    task = WordProblem(lengths=(2, 6))
    batch = task.sample(stream(seed), 5)
    for row in range(5):
        size = batch.sizes[row]
        position, tokens, targets, *reads = render(task, batch, row).splitlines()
        assert position.split()[1:] == [str(i) for i in range(size)]
        assert tokens.split()[1:] == decode(task, batch.tokens[row, :size].tolist())
        scored = [t for t in batch.targets[row, :size].tolist() if t != IGNORE]
        assert [cell for cell in targets.split()[1:] if cell != "."] == decode(task, scored)
        # Each key stands in the column of its query.
        ends = [i for i, c in enumerate(position) if c.isdigit() and (position + " ")[i + 1] == " "]
        found = {
            (line.split(":")[1].split("  ")[0].strip(), query, int(line[:end].split()[-1]))
            for line in reads
            for query, end in enumerate(end + 1 for end in ends)
            if end <= len(line) and line[end - 1].isdigit()
        }
        said = {(name, q, k) for name, edges in batch.links.items() for r, q, k in edges.tolist() if r == row}
        assert found == said


@given(st.integers(0, 2**20), st.integers(20, 120))
def test_a_narrow_table_says_the_same_in_lines_that_fit(seed, columns):
    task = WordProblem(lengths=(2, 16))
    batch = task.sample(stream(seed), 1)
    table = render(task, batch, 0, columns=columns)
    assert max(map(len, table.splitlines())) <= max(columns, 20 + max(map(len, task.vocabulary)))
    whole = dict.fromkeys(("position", "token", "target"), ())
    for part in table.split("\n\n"):
        lines = {line.split()[0]: tuple(line.split()[1:]) for line in part.splitlines()}
        assert len({len(lines[name]) for name in whole}) == 1
        whole = {name: cells + lines[name] for name, cells in whole.items()}
    uniform = {line.split()[0]: tuple(line.split()[1:]) for line in render(task, batch, 0).splitlines()}
    assert whole == {name: uniform[name] for name in whole}


def test_render_leaves_out_the_padding_of_the_row_and_the_links_of_others():
    batch = Parity().batch(np.array([[1, 0, 0, 0], [1, 1, 1, 1]]), np.array([1, 4]))
    alone = Parity().batch(np.array([[1]]), np.array([1]))
    assert render(Parity(), batch, 0) == render(Parity(), alone, 0)
    assert words(render(Parity(), batch, 1))[0][-1] == "9"
