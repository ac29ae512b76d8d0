"""Laws of Dyck-k: the texts are the balanced ones, sampled uniformly, and `solve` allows exactly what may follow."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tasks.broken_texts import TEXT_MUTANTS
from toylab.console import ToylabError
from toylab.tasks import SPLITS, Dyck, check, decode, encode, laws, stream
from toylab.tasks.dyck import _completions
from toylab.tasks.strategies import batches, instances

tasks = instances(Dyck).filter(lambda task: task.kinds > 1 and task.span[0] > 2)


def is_balanced(text: str) -> bool:
    """By deletion of adjacent pairs until nothing is left."""
    while text:
        shorter = text
        for pair in ("()", "[]", "{}", "<>"):
            shorter = shorter.replace(pair, "")
        if shorter == text:
            return False
        text = shorter
    return True


def nesting(text: str) -> int:
    return max(sum(1 if c in "([{<" else -1 for c in text[:end]) for end in range(len(text) + 1))


def texts_of(task, batch):
    ends = batch.sizes - 1
    return ["".join(decode(task, row[1 : 1 + end])) for row, end in zip(batch.tokens.tolist(), ends, strict=True)]


@given(st.data())
def test_every_text_is_balanced_and_has_its_number_of_pairs(data):
    task = data.draw(tasks)
    batch = data.draw(batches(task))
    for text, pairs in zip(texts_of(task, batch), batch.labels["pairs"].tolist(), strict=True):
        assert len(text) == 2 * pairs
        assert task.span[0] <= pairs <= task.span[1]
        assert is_balanced(text)
        assert nesting(text) <= task.depth


@given(st.data())
def test_links_go_from_before_a_closing_bracket_to_the_one_of_its_kind_with_a_balanced_text_between(data):
    task = data.draw(tasks)
    batch = data.draw(batches(task))
    names = [decode(task, row) for row in batch.tokens.tolist()]
    targets = np.where(batch.targets < 0, batch.tokens, batch.targets)
    links = batch.links["matching bracket"].tolist()
    for row, query, key in links:
        following = decode(task, [int(targets[row, query])])[0]
        assert names[row][key] + following in ("()", "[]", "{}", "<>")
        assert is_balanced("".join(names[row][key + 1 : query + 1]))
    assert len(links) == batch.labels["pairs"].sum()


@pytest.mark.parametrize("task", [Dyck(pairs=(1, 3), kinds=2, depth=2), Dyck(pairs=3, kinds=1, depth=3)])
def test_solve_allows_what_follows_in_some_text_and_nothing_else(task):
    words = [
        word
        for pairs in range(task.span[0], task.span[1] + 1)
        for word in map("".join, itertools.product("()[]"[: 2 * task.kinds], repeat=2 * pairs))
        if is_balanced(word) and nesting(word) <= task.depth
    ]
    following = {}
    for word in words:
        for end, name in enumerate([*word, "EoS"]):
            following.setdefault(word[:end], set()).add(name)
    for prefix, names in following.items():
        assert set(decode(task, task.solve(encode(task, ["BoS", *prefix])))) == names, prefix
    per_size = Counter(len(word) // 2 for word in words)
    assert {n: task.space(n) for n in per_size} == per_size
    listed = [decode(task, text) for n in per_size for text in task.contents(n).tolist()]
    assert sorted("".join(text) for text in listed) == sorted(words)


@given(st.integers(1, 30))
def test_texts_without_a_limit_of_depth_are_counted_by_catalan_numbers(pairs):
    assert _completions(pairs, pairs)[2 * pairs, 0] == pytest.approx(math.comb(2 * pairs, pairs) / (pairs + 1))


def test_texts_are_drawn_uniformly():
    task = Dyck(pairs=4, kinds=1, depth=3)
    drawn = task.draw_contents(np.random.default_rng(0), np.full(13000, 4), 8)
    counts = Counter(map(tuple, drawn.tolist()))
    assert len(counts) == 13
    assert max(abs(count - 1000) for count in counts.values()) < 5 * math.sqrt(1000)


def test_whole_rows_are_divided_among_the_splits_and_prefixes_are_shared():
    task = Dyck()
    texts = {split: set(texts_of(task, task.sample(stream(0), 1000, split))) for split in SPLITS}
    assert not texts["train"] & texts["test"]
    assert {text[:3] for text in texts["train"]} == {text[:3] for text in texts["test"]}


class Undeclared(Dyck):
    """Scored at every position, without saying so: prefixes are compared between the splits."""

    next_token = False


def test_the_remedy_is_printed_by_the_law_that_fails():
    told = str(check.find_failure(laws.no_prompt_is_in_two_splits, Undeclared(), examples=2))
    assert "set next_token = True" in told
    assert "let split_of of the whole row choose the split" in told


@pytest.mark.parametrize(("task", "law"), TEXT_MUTANTS, ids=lambda one: getattr(one, "__name__", type(one).__name__))
def test_a_broken_task_of_texts_is_caught_by_its_law(task, law):
    failure = check.find_failure(law, task, examples=5)
    assert failure is not None, "the mutant was not caught"
    assert "Error" not in failure.why, "the law did not speak, the task failed by itself"


@pytest.mark.parametrize("text", ["", "[", "[ )", "BoS [ )", "BoS )", "BoS ( ( ( ( (", "BoS EoS"])
def test_what_begins_no_text_is_refused(text):
    with pytest.raises(ToylabError, match="must be BoS and the beginning of a text"):
        Dyck().solve(encode(Dyck(), text.split()))


@pytest.mark.parametrize("fields", [{"pairs": 0}, {"pairs": (3, 2)}, {"pairs": 501}, {"kinds": 5}, {"depth": 0}])
def test_impossible_settings_are_refused(fields):
    with pytest.raises(ToylabError, match=next(iter(fields))):
        Dyck(**fields)


@pytest.mark.parametrize("pairs", [1, 2, 3])
def test_a_split_without_a_text_is_refused(pairs):
    task = Dyck(pairs=pairs, kinds=1, depth=1)  # one text in all
    (home,) = laws.nonempty_splits(task)
    for split in SPLITS:
        if split != home:
            with pytest.raises(ToylabError, match=f"split='{split}': holds no row of pairs={pairs}"):
                task.sample(stream(0), 3, split)
