"""Laws of how often forks are taken, steps are wrong and prompts are drawn, and the settings that are refused."""

import collections
import dataclasses
import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from tests.tasks.reasoning_text import (
    MIXED,
    QUESTION,
    few,
    labels_say_what_is_written,
    large_tasks,
    likely,
    named,
    offsets,
    read,
    said,
    seeds,
    styles_drawn,
    text_of,
)
from toylab.tasks import SPLITS, Reasoning, Styles, decode, encode, stream


def forks_are_taken_as_often_as_asked(task, styles, rng):
    rows = read(task, task.mixture(rng, 800, "train", styles))
    flagged = styles.think if styles.think_flagged is None else styles.think_flagged
    for asks, share in ((False, styles.think), (True, flagged)):
        thinks = [bool(row.states) for row in rows if row.flagged == asks]
        likely(sum(thinks), len(thinks), share)
    chains = [row for row in rows if row.states]
    likely(sum(row.second for row in chains), len(chains), styles.dialect)
    for t in range(1, task.length):
        reached = [len(row.states) for row in chains if len(row.states) >= t]
        likely(reached.count(t), len(reached), styles.early)


def steps_are_wrong_as_often_as_asked_and_chains_go_on_from_there(task, styles, rng):
    rows = read(task, task.mixture(rng, 800, "train", styles))
    for second, share in ((True, styles.dialect_errors), (False, styles.slips)):
        found = collections.Counter(off for row in rows if row.second == second for off in offsets(task, row))
        wrong = found.total() - found[0]
        likely(wrong, found.total(), share)
        for off in range(1, task.p):
            likely(found[off], wrong, 1 / (task.p - 1))


def half_of_the_prompts_are_flagged(task, styles, rng):
    for split in SPLITS:
        prompts = task.prompts(rng, 400, split)
        marks = decode(task, prompts[:, -1].tolist())
        likely(marks.count("SEP'"), len(marks), 0.5 if task.flag else 0)
        assert task.flagged(prompts).tolist() == [mark == "SEP'" for mark in marks]


SHARE_LAWS = (
    forks_are_taken_as_often_as_asked,
    steps_are_wrong_as_often_as_asked_and_chains_go_on_from_there,
    half_of_the_prompts_are_flagged,
)


@pytest.mark.parametrize("law", SHARE_LAWS, ids=named)
@few
@given(large_tasks, styles_drawn, seeds)
def test_shares_are_as_asked(law, task, styles, seed):
    law(task, styles, stream(seed))


@pytest.mark.parametrize("flag", [False, True])
def test_every_prompt_is_in_one_split_and_drawn_as_often_as_the_others(flag):
    task = Reasoning(p=3, length=3, flag=flag)
    found = {}
    for split in SPLITS:
        prompts, counts = np.unique(task.prompts(stream(0, split), 3000, split), axis=0, return_counts=True)
        found[split] = {text_of(task, prompt): count for prompt, count in zip(prompts, counts, strict=True)}
    ends = ("SEP", "SEP'") if flag else ("SEP",)
    every = {" ".join(["BOS", *digits, end]) for digits in itertools.product("012", repeat=4) for end in ends}
    assert sum(map(len, found.values())) == len(every)
    assert set().union(*found.values()) == every
    for counts in found.values():
        assert chisquare(list(counts.values())).pvalue > 1e-4
    likely(len(found["train"]), len(every), 6 / 8)
    if flag:  # the flag is part of what is split
        where = {prompt: split for split, counts in found.items() for prompt in counts}
        apart = sum(where[prompt] != where[f"{prompt}'"] for prompt in where if not prompt.endswith("'"))
        likely(apart, 81, 1 - (6 / 8) ** 2 - 2 * (1 / 8) ** 2)


@few
@given(st.integers(0, 1), st.integers(3, 7), seeds)
def test_no_second_dialect_where_there_is_but_one(think, length, seed):
    task = Reasoning(length=length)
    batch = task.written(
        stream(seed), task.prompts(stream(seed), 9), Styles(think=think, dialect=1, early=0.2), dialects=False
    )
    assert not any(row.second for row in read(task, batch))
    labels_say_what_is_written(task, batch)


def test_clean_styles_change_only_how_many_think():
    assert Styles.clean() == Styles(think=0.9, dialect_errors=0, slips=0, early=0)
    assert Styles.clean(0.2, 0.7) == Styles(think=0.2, think_flagged=0.7, dialect_errors=0, slips=0, early=0)


# Mistakes ------------------------------------------------------------------------------------------------------------


MISTAKES = [
    *(({"p": p}, f"p={p}: .*at least 3.* for example 7") for p in (2, 0, -7)),
    *(({"length": n}, f"length={n}: .*at least 2.* for example 6") for n in (1, -1)),
    ({"seed": -1}, "seed=-1: .*at least 0"),
]


@pytest.mark.parametrize(("fields", "message"), MISTAKES, ids=str)
def test_settings_that_make_no_sense_raise(fields, message):
    assert re.match(message, said(Reasoning, **fields))
    name = next(iter(fields))
    Reasoning(**{name: int(message.split()[-1])})  # what is proposed is legal


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Styles)])
@pytest.mark.parametrize("share", [-0.1, 1.5, 2])
def test_shares_outside_of_0_to_1_raise(name, share):
    assert re.match(f"{name}={share}: .*at least 0 and at most 1.* 0.1", said(Styles, **{name: share}))
    for legal in (0, 0.1, 1):
        assert getattr(Styles(**{name: legal}), name) == legal


@pytest.mark.parametrize("flag", [False, True])
def test_the_smallest_tasks_fill_every_split(flag):
    task = Reasoning(p=3, length=2, flag=flag)
    for split in SPLITS:
        assert len(task.sample(stream(0), 200, split)) == 200


def test_a_space_too_small_for_a_split_raises_and_names_the_remedy(monkeypatch):
    monkeypatch.setattr("toylab.tasks.reasoning.split_of", lambda prompts: np.zeros(len(prompts), dtype=int))
    task = Reasoning(p=3, length=2)
    assert said(task.prompts, stream(0), 5, "train") == ""
    for split in ("validation", "test"):
        message = f"p=3, length=2: 27 prompts .*{split!r}.* more states or steps"
        assert re.match(message, said(task.sample, stream(0), 5, split))
        assert re.match(message, said(task.mixture, stream(0), 5, split, MIXED))


@pytest.mark.parametrize("flag", [False, True])
def test_the_oracle_refuses_what_is_no_prompt_and_shows_it(flag):
    task = Reasoning(flag=flag)
    good = QUESTION.split()
    assert said(task.solve, encode(task, good)) == ""
    changes = [(0, "SEP"), (0, "3"), (1, "SEP"), (1, "3'"), (4, "PAD"), (7, "6'"), (7, "BOS"), (8, "EOS"), (8, "3")]
    wrong = [[*good[:place], name, *good[place + 1 :]] for place, name in changes]
    wrong += [[], ["BOS"], good[:-1], good[1:], [*good, "THINK"], good[:4] + good[5:], [*good[:4], *good[3:]]]
    ends = "SEP or SEP'" if flag else "SEP"
    for names in wrong:
        message = f"prompt={' '.join(names)}: must be BOS, 7 digits and {ends}"
        assert said(task.solve, encode(task, names)) == message


@pytest.mark.parametrize("token", [-1, 99])
def test_the_oracle_refuses_what_is_no_token(token):
    task = Reasoning()
    prompt = [*encode(task, QUESTION.split())[:-1], token]
    last = len(task.vocabulary) - 1
    assert said(task.solve, prompt) == f"token={token}: ids run from 0 to {last} in this task's vocabulary"


# The mutants: each breaks one promise, and the law named beside it must say so ---------------------------------------


class GoesOnFromTheTruth(Reasoning):
    def chain(self, prompts, errors=0):
        return (super().chain(prompts) + errors) % self.p


class SomeErrorsVanish(Reasoning):
    def chain(self, prompts, errors=0):
        return super().chain(prompts, errors * np.not_equal(np.broadcast_to(errors, (len(prompts), self.length)), 1))


class FlagsLast(Reasoning):
    def prompts(self, rng, rows, split="train"):
        drawn = super().prompts(rng, 2 * rows, split)
        return drawn[np.argsort(drawn[:, -1])][:rows]


class OneDialect(Reasoning):
    def written(self, rng, prompts, styles, *, dialects=True):
        return super().written(rng, prompts, styles, dialects=False)


class NeverEarly(Reasoning):
    def written(self, rng, prompts, styles, *, dialects=True):
        return super().written(rng, prompts, dataclasses.replace(styles, early=0), dialects=dialects)


SHARE_MUTANTS = [
    (OneDialect, forks_are_taken_as_often_as_asked),
    (NeverEarly, forks_are_taken_as_often_as_asked),
    (GoesOnFromTheTruth, steps_are_wrong_as_often_as_asked_and_chains_go_on_from_there),
    (SomeErrorsVanish, steps_are_wrong_as_often_as_asked_and_chains_go_on_from_there),
    (FlagsLast, half_of_the_prompts_are_flagged),
]


@pytest.mark.parametrize(("mutant", "law"), SHARE_MUTANTS, ids=named)
def test_broken_shares_are_caught_by_their_law(mutant, law):
    law(Reasoning(flag=True), MIXED, stream(0))
    with pytest.raises(AssertionError):
        law(mutant(flag=True), MIXED, stream(0))
