"""Laws of questions with forks: what chains follow, how often each fork is taken, what the verifier accepts.

Rows are read back as text, and pi is followed by counting on from a state. Each law is a function that asserts; the
mutants at the end show that it can fail.
"""

import collections
import dataclasses
import functools
import itertools
import re
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, chisquare

from toylab.tasks import IGNORE, SPLITS, Reasoning, Styles, decode, encode, stream

some = settings(max_examples=12)
few = settings(max_examples=6)
seeds = st.integers(0, 2**20)
shares = st.sampled_from((0, 0.05, 0.3, 0.7, 1))
tasks = st.builds(
    Reasoning, p=st.integers(3, 8), length=st.integers(3, 7), flag=st.booleans(), seed=st.integers(0, 2**20)
)
large_tasks = st.builds(Reasoning, p=st.integers(5, 8), length=st.just(7), flag=st.booleans(), seed=seeds)
"""Tasks of so many prompts that the share of some of them is that of all."""
styles_drawn = st.builds(
    Styles,
    think=shares,
    think_flagged=st.one_of(st.none(), shares),
    dialect=shares,
    dialect_errors=shares,
    slips=shares,
    early=shares,
)
MIXED = Styles(think=0.8, think_flagged=0.4, dialect=0.5, dialect_errors=0.3, slips=0.1, early=0.2)
TRUTHFUL = dataclasses.replace(MIXED, dialect_errors=0, slips=0)
"""Early stops but no wrong step."""

ROW = re.compile(r"BOS (\d+)((?: \d+)+) (SEP'?) (?:DIRECT (\d+)|THINK((?: \d+)+|(?: \d+')+) ANS (\d+)) EOS")
QUESTION = "BOS 3 1 4 1 5 2 6 SEP"


class Row(NamedTuple):
    """What a row says: `states` are those written, none in a direct answer."""

    start: int
    steps: list[int]
    flagged: bool
    states: list[int]
    second: bool
    said: int


def likely(count, rows, share):
    """Binomial: neither so many nor so few are expected in a million tests."""
    assert binom.cdf(count, rows, share) > 1e-7 < binom.sf(count - 1, rows, share), f"{count} of {rows}, not {share}"


def said(call, *arguments, **others):
    """What a ValueError says, or nothing where none is raised."""
    try:
        call(*arguments, **others)
    except ValueError as error:
        return str(error)
    return ""


def named(x):
    return re.sub("(?<=[a-z])(?=[A-Z])", " ", x.__name__).replace("_", " ").lower() if callable(x) else str(x)


def numbers(text):
    return [int(name) for name in text.replace("'", "").split()]


def text_of(task, tokens):
    return " ".join(decode(task, [int(token) for token in tokens]))


def written_of(task, batch):
    """The answers of a batch, EOS included, padded at the end."""
    answers = batch.targets[:, task.prompt - 1 :]
    return np.where(answers == IGNORE, task.token("PAD"), answers)


def answers_of(task, batch):
    """The answers of a batch, EOS included, as lists."""
    return [[target for target in row if target != IGNORE] for row in batch.targets.tolist()]


def read(task, batch):
    """The rows of a batch, read back from the names of their tokens."""
    rows = []
    for tokens, targets, size in zip(batch.tokens, batch.targets, batch.sizes, strict=True):
        text = text_of(task, [*tokens[:size], targets[size - 1]])
        row = ROW.fullmatch(text)
        assert row, text
        start, steps, mark, direct, chain, last = row.groups()
        steps, states = numbers(steps), numbers(chain or "")
        rows.append(Row(int(start), steps, mark == "SEP'", states, "'" in (chain or ""), int(last or direct)))
    return rows


def follow(task, state, step):
    """The state after a step, with pi counted on from the state as round a ring."""
    ring = itertools.islice(itertools.cycle(task.permutation.tolist()), state, None)
    return next(itertools.islice(ring, step, None))


def walk(task, start, steps):
    """All states from x0 on, that one left out."""
    return list(itertools.accumulate(steps, functools.partial(follow, task), initial=start))[1:]


def right(task, row):
    return row.start if row.flagged else walk(task, row.start, row.steps)[-1]


def offsets(task, row):
    """How far each written state is from the one that follows from the state written before."""
    moves = zip([row.start, *row.states], row.steps, row.states, strict=False)
    return [(state - follow(task, before, step)) % task.p for before, step, state in moves]


def asked(task, question=QUESTION):
    return np.array([encode(task, question.split())])


# What is written ---------------------------------------------------------------------------------------------------


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


def labels_say_what_is_written(task, batch):
    rows = read(task, batch)
    told = {
        "thinks": [bool(row.states) for row in rows],
        "dialect": [row.second for row in rows],
        "states": [len(row.states) for row in rows],
        "flagged": [row.flagged for row in rows],
        "right": [row.said == right(task, row) for row in rows],
    }
    assert batch.labels.keys() == told.keys()
    for name, values in told.items():
        assert batch.labels[name].tolist() == values, name


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
    assert task.right_answers(prompt).tolist() == [6]
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
    assert task.right_answers(prompt).tolist() == [3]
    assert text_of(task, task.solve(prompt[0].tolist())) == "DIRECT 3 EOS"
    for think, answer in ((0.0, "DIRECT 3"), (1.0, "THINK 4 3 4 2 4 6 ANS 6")):
        row = task.written(stream(0), prompt, Styles.clean(0.5, think), dialects=False)
        assert text_of(task, row.tokens[0, : row.sizes[0]]) == f"{QUESTION}' {answer}"


# How often ---------------------------------------------------------------------------------------------------------


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


# The permutation ---------------------------------------------------------------------------------------------------


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


# The verifier ------------------------------------------------------------------------------------------------------

ACCEPTED = [
    "DIRECT 6 EOS",
    "THINK 4 3 4 2 4 6 ANS 6 EOS",
    "THINK 4' 3' 4' 2' 4' 6' ANS 6 EOS",
    "THINK 0 0 ANS 6 EOS",  # how a chain came about is not looked at
    "THINK ANS 6 EOS",
    "THINK ANS 1 ANS 6 EOS",
    "THINK DIRECT PAD SEP ANS 6 EOS",
]
REJECTED = [
    "DIRECT 6",
    "DIRECT 6 PAD PAD",
    "THINK 4 3 4 2 4 6 ANS 6",
    "THINK 4 3 4 2 4 6 ANS 6 PAD",
    "6 EOS",
    "ANS 6 EOS",
    "SEP 6 EOS",
    "PAD 6 EOS",
    "4 3 4 2 4 6 ANS 6 EOS",
    "DIRECT THINK ANS 6 EOS",
    "THINK 6 EOS",
    "THINK 4 3 4 2 4 6 EOS",
    "THINK 4 ANS 6 6 EOS",
    "DIRECT 4 6 EOS",
    "DIRECT 6 6 EOS",
    "DIRECT ANS 6 EOS",
    "DIRECT 4 3 4 2 4 6 ANS 6 EOS",
    "DIRECT 6' EOS",
    "THINK 4' 3' 4' 2' 4' 6' ANS 6' EOS",
    "DIRECT 5 EOS",
    "THINK 4 3 4 2 4 6 ANS 5 EOS",
    "DIRECT EOS",
    "THINK EOS",
    "THINK ANS EOS",
    "EOS",
    "EOS DIRECT 6 EOS",
    "PAD",
    "DIRECT",
]


def verdict(task, question, answer):
    """What the verifier says of one answer."""
    return bool(task.verify(asked(task, question), np.array([encode(task, answer.split())]))[0])


@pytest.mark.parametrize(("answer", "fine"), [*((a, True) for a in ACCEPTED), *((a, False) for a in REJECTED)])
def test_proper_and_right_answers_alone_are_accepted(answer, fine):
    task = Reasoning(p=7, length=6, seed=0)
    assert verdict(task, QUESTION, answer) == fine
    if answer.endswith("EOS"):
        for tail in ("EOS", "PAD PAD", "ANS 6 EOS", "THINK", "DIRECT 6 EOS", "5"):
            assert verdict(task, QUESTION, f"{answer} {tail}") == fine


@pytest.mark.parametrize("answer", ["DIRECT {} EOS", "THINK 4 3 4 2 4 6 ANS {} EOS"])
@pytest.mark.parametrize("said_last", range(7))
def test_the_right_answer_to_a_flagged_prompt_is_its_first_digit(answer, said_last):
    task = Reasoning(p=7, length=6, seed=0, flag=True)
    assert verdict(task, QUESTION, answer.format(said_last)) == (said_last == 6)
    assert verdict(task, f"{QUESTION}'", answer.format(said_last)) == (said_last == 3)


def test_no_rows_have_no_verdicts():
    task = Reasoning()
    batch = task.sample(stream(0), 0)
    assert task.verify(batch.tokens[:, : task.prompt], written_of(task, batch)).shape == (0,)


def accepted(task, prompts, written):
    """The verdicts of an oracle that reads names."""
    verdicts = []
    for prompt, names in zip(prompts, (decode(task, row) for row in written.tolist()), strict=True):
        start, *steps = numbers(" ".join(text_of(task, prompt).split()[1:-1]))
        flagged = text_of(task, prompt).endswith("'")
        end = names.index("EOS") if "EOS" in names else 0
        answer = re.fullmatch(r"(?:DIRECT|THINK(?: \S+)* ANS) (\S+)", " ".join(names[:end]))
        verdicts.append(bool(answer) and answer[1] == str(start if flagged else walk(task, start, steps)[-1]))
    return verdicts


def edited(task, answer, rng):
    """An answer as it was, or with one token changed, left out, put in or exchanged, or with its end cut off."""
    places = [0, len(answer) - 3, len(answer) - 2, int(rng.integers(len(answer)))]  # where it matters, or anywhere
    place = max(rng.choice(places), 0)
    telling = [*encode(task, ["THINK", "DIRECT", "ANS", "EOS"]), answer[-2]]
    token = int(rng.choice(telling if rng.random() < 0.7 else len(task.vocabulary)))
    before, here, after = answer[:place], answer[place : place + 1], answer[place + 1 :]
    edits = (
        answer,
        [*before, token, *after],
        [*before, *after],
        [*before, token, *here, *after],
        [*before, *after[:1], *here, *after[1:]],
        before,
        [*answer[:-2], answer[-2] + task.p, answer[-1]],  # the answer in digits of the second dialect
    )
    return edits[rng.integers(len(edits))]


def edited_answers(task, rng, rows=150):
    """Prompts and answers near the right ones, filled up with padding, ends or whatever."""
    prompts = task.prompts(rng, rows)
    written = rng.integers(len(task.vocabulary), size=(rows, task.answer + 1))
    for row, answer in enumerate(answers_of(task, task.written(rng, prompts, MIXED))):
        changed = edited(task, answer, rng)
        written[row, : len(changed)] = changed
        filler = rng.choice(["PAD", "EOS", ""])
        if filler:
            written[row, len(changed) :] = task.token(filler)
    return prompts, written


def the_verifier_says_what_names_say(task, rng):
    prompts, written = edited_answers(task, rng)
    verdicts = task.verify(prompts, written).tolist()
    assert verdicts == accepted(task, prompts, written)
    assert 0 < sum(verdicts) < len(verdicts)


def what_follows_the_end_does_not_matter(task, rng):
    prompts, written = edited_answers(task, rng)
    ends = (written == task.token("EOS")).cumsum(axis=1) - (written == task.token("EOS")) > 0  # a place after EOS
    other = np.where(ends, rng.integers(len(task.vocabulary), size=written.shape), written)
    assert np.array_equal(task.verify(prompts, other), task.verify(prompts, written))
    whole = (written == task.token("EOS")).any(axis=1)
    longer = np.concatenate([written, rng.integers(len(task.vocabulary), size=(len(written), 3))], axis=1)[whole]
    assert np.array_equal(task.verify(prompts[whole], longer), task.verify(prompts, written)[whole])


def answers_that_never_end_are_rejected(task, rng):
    batch = task.sample(rng, 20)
    for prompt, answer in zip(batch.tokens[:, : task.prompt], answers_of(task, batch), strict=True):
        for filler in ("", "PAD", "0 PAD", "ANS", "SEP"):
            endless = [*answer[:-1], *encode(task, filler.split())]
            assert not task.verify(prompt[None], np.array([endless])).any()


def clean_rows_are_accepted_and_so_is_what_the_oracle_says(task, rng):
    prompts = task.prompts(rng, 20)
    for styles in (Styles.clean(0.0), Styles.clean(1.0, 0.0), Styles.clean(0.5, 0.0)):
        batch = task.written(rng, prompts, styles)
        assert task.verify(prompts, written_of(task, batch)).all()
        assert batch.labels["right"].all()
    for prompt in prompts:
        assert task.verify(prompt[None], np.array([task.solve(prompt.tolist())])).all()


def verdicts_on_all_styles_are_the_label_right(task, rng):
    batch = task.mixture(rng, 60, "train", MIXED)
    verdicts = task.verify(batch.tokens[:, : task.prompt], written_of(task, batch))
    assert verdicts.tolist() == [row.said == right(task, row) for row in read(task, batch)]
    assert np.array_equal(verdicts, batch.labels["right"])


VERIFIER_LAWS = (
    the_verifier_says_what_names_say,
    what_follows_the_end_does_not_matter,
    answers_that_never_end_are_rejected,
    clean_rows_are_accepted_and_so_is_what_the_oracle_says,
    verdicts_on_all_styles_are_the_label_right,
)


@pytest.mark.parametrize("law", VERIFIER_LAWS, ids=named)
@some
@given(tasks, seeds)
def test_the_verifier_obeys(law, task, seed):
    law(task, stream(seed))


@few
@given(large_tasks, seeds)
def test_a_chain_that_stops_early_is_right_by_luck_alone(task, seed):
    batch = task.mixture(stream(seed), 800, "train", Styles(think=1, dialect_errors=0, slips=0, early=0.3))
    early = batch.labels["states"] < task.length
    verdicts = task.verify(batch.tokens[:, : task.prompt], written_of(task, batch))
    assert np.array_equal(verdicts, batch.labels["right"])
    likely(int(verdicts[early].sum()), int(early.sum()), 1 / task.p)
    assert verdicts[~early & (batch.labels["flagged"] == 0)].all()


# Mistakes ----------------------------------------------------------------------------------------------------------

MISTAKES = [
    *(({"p": p}, f"p={p}: must be at least 3, or pi leaves nothing to work out; for example 7") for p in (2, 0, -7)),
    *(({"length": n}, f"length={n}: must be at least 2, or an answer needs no chain; for example 6") for n in (1, -1)),
    ({"seed": -1}, "seed=-1: must be at least 0"),
]


@pytest.mark.parametrize(("fields", "message"), MISTAKES, ids=str)
def test_settings_that_make_no_sense_raise(fields, message):
    assert said(Reasoning, **fields) == message
    name = next(iter(fields))
    Reasoning(**{name: int(message.split()[-1])})  # what is proposed is legal


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Styles)])
@pytest.mark.parametrize("share", [-0.1, 1.5, 2])
def test_shares_outside_of_0_to_1_raise(name, share):
    assert said(Styles, **{name: share}) == f"{name}={share}: is a share, from 0 to 1, for example 0.1"
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
        message = f"p=3, length=2: 27 prompts are too few to fill {split!r}; give more states or steps"
        assert said(task.sample, stream(0), 5, split) == message
        assert said(task.mixture, stream(0), 5, split, MIXED) == message


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


class ChainOffByOne(Reasoning):
    def chain(self, prompts, errors=0):
        moved = prompts.copy()
        moved[:, 2:-1] = np.roll(prompts[:, 2:-1], 1, axis=1)
        return super().chain(moved, errors)


class GoesOnFromTheTruth(Reasoning):
    def chain(self, prompts, errors=0):
        return (super().chain(prompts) + errors) % self.p


class SomeErrorsVanish(Reasoning):
    def chain(self, prompts, errors=0):
        return super().chain(prompts, errors * np.not_equal(np.broadcast_to(errors, (len(prompts), self.length)), 1))


class PlainSums(Reasoning):
    @property
    def permutation(self):
        return np.roll(np.arange(self.p), 1)


class FlagUnseen(Reasoning):
    def right_answers(self, prompts):
        return self.chain(prompts)[:, -1]


class FlagsLast(Reasoning):
    def prompts(self, rng, rows, split="train"):
        drawn = super().prompts(rng, 2 * rows, split)
        return drawn[np.argsort(drawn[:, -1])][:rows]


class LeakySplit(Reasoning):
    def prompts(self, rng, rows, split="train"):
        return super().prompts(rng, rows)


class StylesFirst(Reasoning):
    def mixture(self, rng, rows, split, styles):
        rng.random(1 + (styles.think > 0.5))
        return super().mixture(rng, rows, split, styles)


class OneDialect(Reasoning):
    def written(self, rng, prompts, styles, *, dialects=True):
        return super().written(rng, prompts, styles, dialects=False)


class NeverEarly(Reasoning):
    def written(self, rng, prompts, styles, *, dialects=True):
        return super().written(rng, prompts, dataclasses.replace(styles, early=0), dialects=dialects)


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
        truth = self.right_answers(tokens[:, : self.prompt])
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


class EndNotNeeded(Reasoning):
    def verify(self, prompts, written):
        end = np.full((len(written), 1), self.token("EOS"))
        return super().verify(prompts, np.concatenate([written, end], axis=1))


class EndMustBeTheOnly(Reasoning):
    def verify(self, prompts, written):
        return super().verify(prompts, written) & ((written == self.token("EOS")).sum(axis=1) == 1)


class EitherOpener(Reasoning):
    def verify(self, prompts, written):
        thinks = np.concatenate([np.full((len(written), 1), self.token("THINK")), written[:, 1:]], axis=1)
        return super().verify(prompts, written) | super().verify(prompts, thinks)


class EitherDialectAnswers(Reasoning):
    def verify(self, prompts, written):
        return super().verify(
            prompts, np.where((written >= self.p) & (written < 2 * self.p), written - self.p, written)
        )


class AnsNotNeeded(Reasoning):
    def verify(self, prompts, written):
        two_before_the_end = np.roll(written == self.token("EOS"), -2, axis=1)
        return super().verify(
            prompts, np.where(two_before_the_end & (written < 2 * self.p), self.token("ANS"), written)
        )


class AnyAnswer(Reasoning):
    def verify(self, prompts, written):
        truth = self.right_answers(prompts)[:, None]
        return super().verify(prompts, np.where(written < self.p, truth, written))


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
    (EndNotNeeded, answers_that_never_end_are_rejected),
    (EndMustBeTheOnly, what_follows_the_end_does_not_matter),
    (EndMustBeTheOnly, the_verifier_says_what_names_say),
    (EitherOpener, the_verifier_says_what_names_say),
    (EitherDialectAnswers, the_verifier_says_what_names_say),
    (AnsNotNeeded, the_verifier_says_what_names_say),
    (AnyAnswer, the_verifier_says_what_names_say),
    (AnyAnswer, verdicts_on_all_styles_are_the_label_right),
    (FlagUnseen, the_verifier_says_what_names_say),
    (ChainOffByOne, clean_rows_are_accepted_and_so_is_what_the_oracle_says),
]
SHARE_MUTANTS = [
    (OneDialect, forks_are_taken_as_often_as_asked),
    (NeverEarly, forks_are_taken_as_often_as_asked),
    (GoesOnFromTheTruth, steps_are_wrong_as_often_as_asked_and_chains_go_on_from_there),
    (SomeErrorsVanish, steps_are_wrong_as_often_as_asked_and_chains_go_on_from_there),
    (FlagsLast, half_of_the_prompts_are_flagged),
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


@pytest.mark.parametrize(("mutant", "law"), SHARE_MUTANTS, ids=named)
def test_broken_shares_are_caught_by_their_law(mutant, law):
    law(Reasoning(flag=True), MIXED, stream(0))
    with pytest.raises(AssertionError):
        law(mutant(flag=True), MIXED, stream(0))
