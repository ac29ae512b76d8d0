"""Laws of the verifier: what it accepts, what it does not look at, and the mutants that break it."""

import re

import numpy as np
import pytest
from hypothesis import given

from tests.tasks.reasoning_text import (
    MIXED,
    QUESTION,
    ChainOffByOne,
    FlagUnseen,
    answers_of,
    asked,
    few,
    large_tasks,
    likely,
    named,
    numbers,
    read,
    right,
    seeds,
    some,
    tasks,
    text_of,
    walk,
    written_of,
)
from toylab.tasks import Reasoning, Styles, decode, encode, stream

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


# The mutants: each breaks one promise, and the law named beside it must say so ---------------------------------------


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
        truth = self.correct_answers(prompts)[:, None]
        return super().verify(prompts, np.where(written < self.p, truth, written))


VERIFIER_MUTANTS = [
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


@pytest.mark.parametrize(("mutant", "law"), VERIFIER_MUTANTS, ids=named)
def test_a_broken_verifier_is_caught_by_its_law(mutant, law):
    law(Reasoning(length=3, flag=True), stream(0))
    task = mutant(length=3, flag=True)
    with pytest.raises(AssertionError):
        law(task, stream(0))
