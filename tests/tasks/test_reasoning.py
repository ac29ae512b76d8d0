"""Laws of questions with forks: what chains follow and how often each fork is taken.

Rows are read back as text, and pi is followed by counting on from a state. Each law is a function that asserts; the
mutants at the end show that it can fail.
"""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tasks.reasoning_text import (
    MIXED,
    QUESTION,
    TRUTHFUL,
    ChainOffByOne,
    FlagUnseen,
    answers_of,
    asked,
    follow,
    labels_say_what_is_written,
    named,
    numbers,
    read,
    right,
    said,
    seeds,
    some,
    styles_drawn,
    tasks,
    text_of,
    walk,
)
from toylab.tasks import IGNORE, SPLITS, Reasoning, Styles, stream


def a_row_is_prompt_answer_padding(task, batch):
    assert batch.tokens.shape == batch.targets.shape == (len(batch), task.context)
    arrays = (batch.tokens.tolist(), batch.targets.tolist(), batch.sizes.tolist(), answers_of(task, batch))
    for row, tokens, targets, size, answer in zip(read(task, batch), *arrays, strict=True):
        assert len(row.steps) == task.length
        assert len(row.states) <= task.length
        assert len(answer) == (len(row.states) + 4 if row.states else 3)
        assert targets == [IGNORE] * (task.prompt - 1) + answer + [IGNORE] * (task.answer - len(answer))
        assert tokens[task.prompt :] == answer[:-1] + [task.token("PAD")] * (task.answer - len(answer))
        assert size == task.prompt + len(answer) - 1


def the_answer_is_the_last_state_written(task, batch):
    for row in read(task, batch):
        assert row.said == (row.states[-1] if row.states else right(task, row))


BATCH_LAWS = (a_row_is_prompt_answer_padding, the_answer_is_the_last_state_written, labels_say_what_is_written)


def every_clean_chain_follows_the_rule_to_the_end(task, rng):
    for row in read(task, task.mixture(rng, 40, "train", Styles.clean(0.8))):
        assert not row.states or row.states == walk(task, row.start, row.steps)


def every_step_of_a_stopped_chain_follows_the_rule(task, rng):
    for row in read(task, task.mixture(rng, 40, "train", TRUTHFUL)):
        assert row.states == walk(task, row.start, row.steps)[: len(row.states)]


def sampled_rows_are_right_and_in_the_first_dialect(task, rng):
    for row in read(task, task.sample(rng, 40)):
        assert not row.second
        assert row.states == ([] if row.flagged else walk(task, row.start, row.steps))
        assert row.said == right(task, row)


def direct_answers_are_right_and_chains_end_in_the_last_state(task, rng):
    for row in read(task, task.mixture(rng, 40, "train", Styles.clean(0.5))):
        assert row.said == (walk(task, row.start, row.steps)[-1] if row.states else right(task, row))


def links_point_at_what_is_needed(task, rng):
    batch = task.mixture(rng, 40, "train", TRUTHFUL)
    expected = {"carry": [], "start": [], "copy": []}
    for r, row in enumerate(read(task, batch)):
        opener = task.prompt
        expected["carry"] += [[r, opener + t, 2 + t] for t in range(len(row.states))]
        expected["start"] += [[r, opener, 1]] * bool(row.states)
        expected["copy"] += [[r, opener, 1]] * (row.flagged and not row.states)
    assert {name: edges.tolist() for name, edges in batch.links.items()} == expected


def states_follow_from_what_links_read(task, rng):
    batch = task.mixture(rng, 40, "train", TRUTHFUL)
    starts = {row: (query, batch.tokens[row, key]) for row, query, key in batch.links["start"].tolist()}
    for row, query, key in batch.links["carry"].tolist():
        first, start = starts.get(row, (None, None))
        (before,) = numbers(text_of(task, [start if query == first else batch.tokens[row, query]]))
        (after,) = numbers(text_of(task, [batch.targets[row, query]]))
        assert after == follow(task, before, int(batch.tokens[row, key]))
    for row, query, key in batch.links["copy"].tolist():
        assert batch.targets[row, query] == batch.tokens[row, key]


def the_prompts_are_the_same_whatever_the_styles(task, rng):
    seed = int(rng.integers(2**20))
    for split in SPLITS:
        prompts = task.prompts(stream(seed), 20, split)
        for styles in (MIXED, Styles.clean(0.1), Styles(think=1)):
            assert np.array_equal(task.mixture(stream(seed), 20, split, styles).tokens[:, : task.prompt], prompts)
        assert np.array_equal(task.sample(stream(seed), 20, split).tokens[:, : task.prompt], prompts)


def no_prompt_is_in_two_splits(task, rng):
    found = [set(map(tuple, task.prompts(rng, 60, split).tolist())) for split in SPLITS]
    assert len(set().union(*found)) == sum(map(len, found))


WRITTEN_LAWS = (
    every_clean_chain_follows_the_rule_to_the_end,
    every_step_of_a_stopped_chain_follows_the_rule,
    sampled_rows_are_right_and_in_the_first_dialect,
    direct_answers_are_right_and_chains_end_in_the_last_state,
    links_point_at_what_is_needed,
    states_follow_from_what_links_read,
    the_prompts_are_the_same_whatever_the_styles,
    no_prompt_is_in_two_splits,
)


@pytest.mark.parametrize("law", BATCH_LAWS, ids=named)
@some
@given(tasks, styles_drawn, seeds, st.integers(0, 30), st.sampled_from(SPLITS))
def test_every_mixture_obeys(law, task, styles, seed, rows, split):
    law(task, task.mixture(stream(seed), rows, split, styles))


@pytest.mark.parametrize("law", WRITTEN_LAWS, ids=named)
@some
@given(tasks, seeds)
def test_everything_written_obeys(law, task, seed):
    law(task, stream(seed))


def test_a_row_worked_out_by_hand():
    task = Reasoning(p=7, length=6, seed=0)
    assert task.permutation.tolist() == [1, 3, 2, 6, 4, 5, 0]
    prompt = asked(task)
    assert task.chain(prompt).tolist() == [[4, 3, 4, 2, 4, 6]]
    assert task.correct_answers(prompt).tolist() == [6]
    assert text_of(task, task.solve(prompt[0].tolist())) == "THINK 4 3 4 2 4 6 ANS 6 EOS"
    row = task.written(stream(0), prompt, Styles.clean(1.0), dialects=False)
    assert text_of(task, row.tokens[0]) == f"{QUESTION} THINK 4 3 4 2 4 6 ANS 6"
    assert row.targets[0, : task.prompt - 1].tolist() == [IGNORE] * 8
    assert text_of(task, row.targets[0, 8:]) == "THINK 4 3 4 2 4 6 ANS 6 EOS"
    assert row.links["carry"].tolist() == [[0, 9 + t, 2 + t] for t in range(6)]
    assert row.links["start"].tolist() == [[0, 9, 1]]


def test_a_wrong_step_worked_out_by_hand():
    task = Reasoning(p=7, length=6, seed=0)  # the second state is 5 in place of 3, and the others follow from it
    assert task.chain(asked(task), np.array([[0, 2, 0, 0, 0, 0]])).tolist() == [[4, 5, 0, 5, 1, 1]]


def test_a_flagged_row_worked_out_by_hand():
    task = Reasoning(p=7, length=6, seed=0, flag=True)
    prompt = asked(task, f"{QUESTION}'")
    assert task.correct_answers(prompt).tolist() == [3]
    assert text_of(task, task.solve(prompt[0].tolist())) == "DIRECT 3 EOS"
    for think, answer in ((0.0, "DIRECT 3"), (1.0, "THINK 4 3 4 2 4 6 ANS 6")):
        row = task.written(stream(0), prompt, Styles.clean(0.5, think), dialects=False)
        assert text_of(task, row.tokens[0, : row.sizes[0]]) == f"{QUESTION}' {answer}"


# The permutation -----------------------------------------------------------------------------------------------------


def pi_is_a_permutation_and_no_shift(task, rng):
    pi, states = task.permutation.tolist(), list(range(task.p))
    assert sorted(pi) == states
    assert pi not in [states[k:] + states[:k] for k in states]
    assert "read-only" in said(task.permutation.__setitem__, 0, 0)


@given(tasks)
def test_no_seed_makes_states_plain_sums(task):
    pi_is_a_permutation_and_no_shift(task, None)


def test_seeds_reach_every_permutation_that_is_no_shift():
    found = {tuple(Reasoning(p=3, seed=seed).permutation.tolist()) for seed in range(40)}
    assert found == {(0, 2, 1), (2, 1, 0), (1, 0, 2)}


def test_the_permutation_depends_on_the_seed_and_the_number_of_states_alone():
    for length, flag in itertools.product((3, 6), (False, True)):
        assert Reasoning(length=length, flag=flag).permutation.tolist() == Reasoning().permutation.tolist()


# The mutants: each breaks one promise, and the law named beside it must say so ---------------------------------------


class PlainSums(Reasoning):
    @property
    def permutation(self):
        return np.roll(np.arange(self.p), 1)


class LeakySplit(Reasoning):
    def prompts(self, rng, rows, split="train"):
        return super().prompts(rng, rows)


class StylesFirst(Reasoning):
    def mixture(self, rng, rows, split, styles):
        rng.random(1 + (styles.think > 0.5))
        return super().mixture(rng, rows, split, styles)


class Changed(Reasoning):
    """A task whose batches are changed after the fact."""

    def written(self, *arguments, **others):
        batch = super().written(*arguments, **others)
        return dataclasses.replace(batch, **self.changes(batch))


class StopForgetsAns(Changed):
    def changes(self, batch):
        early = (batch.labels["states"] < self.length)[:, None]
        ids = {"tokens": batch.tokens, "targets": batch.targets}
        return {n: np.where(early & (x == self.token("ANS")), np.roll(x, -1, axis=1), x) for n, x in ids.items()}


class PaddingScored(Changed):
    def changes(self, batch):
        padding = np.arange(batch.tokens.shape[1]) >= batch.sizes[:, None]
        return {"targets": np.where(padding, self.token("PAD"), batch.targets)}


class StopKnowsTheEnd(Changed):
    def changes(self, batch):
        tokens, targets, rows = batch.tokens.copy(), batch.targets.copy(), np.arange(len(batch))
        truth = self.correct_answers(tokens[:, : self.prompt])
        tokens[rows, batch.sizes - 1] = targets[rows, batch.sizes - 2] = truth
        return {"tokens": tokens, "targets": targets}


class StepsReadOneLate(Changed):
    def changes(self, batch):
        return {"links": {**batch.links, "carry": batch.links["carry"] + [0, 0, 1]}}


class NoLinkToTheStart(Changed):
    def changes(self, batch):
        return {"links": {**batch.links, "start": batch.links["start"][:0]}}


class StatesWithTheAnswer(Changed):
    def changes(self, batch):
        return {"labels": {**batch.labels, "states": batch.labels["states"] + batch.labels["thinks"]}}


class DialectOfAll(Changed):
    def changes(self, batch):
        return {"labels": {**batch.labels, "dialect": np.ones_like(batch.labels["dialect"])}}


BATCH_MUTANTS = [
    (StopForgetsAns, a_row_is_prompt_answer_padding),
    (PaddingScored, a_row_is_prompt_answer_padding),
    (StopKnowsTheEnd, the_answer_is_the_last_state_written),
    (StatesWithTheAnswer, labels_say_what_is_written),
    (DialectOfAll, labels_say_what_is_written),
    (FlagUnseen, labels_say_what_is_written),
]
TASK_MUTANTS = [
    (ChainOffByOne, every_clean_chain_follows_the_rule_to_the_end),
    (ChainOffByOne, every_step_of_a_stopped_chain_follows_the_rule),
    (FlagUnseen, sampled_rows_are_right_and_in_the_first_dialect),
    (FlagUnseen, direct_answers_are_right_and_chains_end_in_the_last_state),
    (StepsReadOneLate, links_point_at_what_is_needed),
    (StepsReadOneLate, states_follow_from_what_links_read),
    (NoLinkToTheStart, links_point_at_what_is_needed),
    (StylesFirst, the_prompts_are_the_same_whatever_the_styles),
    (LeakySplit, no_prompt_is_in_two_splits),
    (PlainSums, pi_is_a_permutation_and_no_shift),
]


@pytest.mark.parametrize(("mutant", "law"), BATCH_MUTANTS, ids=named)
def test_a_broken_batch_is_caught_by_its_law(mutant, law):
    sound, task = Reasoning(flag=True), mutant(flag=True)
    law(sound, sound.mixture(stream(0), 60, "train", MIXED))
    batch = task.mixture(stream(0), 60, "train", MIXED)
    with pytest.raises(AssertionError):
        law(task, batch)


@pytest.mark.parametrize(("mutant", "law"), TASK_MUTANTS, ids=named)
def test_a_broken_task_is_caught_by_its_law(mutant, law):
    law(Reasoning(length=3, flag=True), stream(0))
    task = mutant(length=3, flag=True)
    with pytest.raises(AssertionError):
        law(task, stream(0))
