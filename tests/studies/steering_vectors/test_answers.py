"""Laws of answers: what is written, and which share of it is right."""

from collections.abc import Callable
from dataclasses import astuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.studies.steering_vectors.helpers import (
    ANS,
    DIRECT,
    EOS,
    FLAGGED,
    SMALL,
    TASK,
    THINK,
    Scribe,
    chained,
    direct,
    ends,
    few,
    questions,
    seeds,
    sometimes,
)
from toylab.studies.steering_vectors.data import (
    AnswerShares,
    by_temperature,
    measure_answers,
    reasoning_model,
    write_answers,
)
from toylab.tasks import SPLITS, split_of


@few
@given(seeds, st.integers(1, 3), st.sampled_from([None, "THINK", "DIRECT"]), st.floats(0.5, 2))
def test_what_is_written_is_filled_up_after_the_end_and_opens_as_told(seed, samples, opener, temperature):
    model, prompts = reasoning_model(TASK, SMALL, seed), questions(TASK, seed, 4)
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model.unembedding.weight.mul_(0.3)  # or the end would hardly ever come
    written = write_answers(model, TASK, prompts, temperature, source, samples, opener)
    assert written.shape == (4 * samples, TASK.answer)
    for row in written.tolist():
        assert row[len(ends(row)) :] == [EOS] * (TASK.answer - len(ends(row)))
        assert opener is None or row[0] == TASK.token(opener)


@few
@given(seeds, st.sampled_from([None, "THINK", "DIRECT"]), st.integers(1, 2))
def test_at_temperature_0_each_token_is_the_likeliest_after_those_before_it(seed, opener, samples):
    model, prompts = reasoning_model(TASK, SMALL, seed).double(), questions(TASK, seed, 3)
    expected = []
    for prompt in prompts.tolist():
        said = [] if opener is None else [TASK.token(opener)]
        while len(said) < TASK.answer and EOS not in said:
            said.append(int(model(torch.tensor([prompt + said]))[0, -1].argmax()))
        expected += [said + [EOS] * (TASK.answer - len(said))] * samples
    assert write_answers(model, TASK, prompts, 0, samples=samples, opener=opener).tolist() == expected


def test_an_answer_that_ends_at_once_is_as_long_as_any():
    prompts = questions(TASK, 0, 3)
    assert write_answers(Scribe(lambda _: []), TASK, prompts, 0).tolist() == [[EOS] * TASK.answer] * 3
    assert (
        write_answers(Scribe(lambda _: []), TASK, prompts, 0, opener="THINK").tolist()
        == [[THINK] + [EOS] * (TASK.answer - 1)] * 3
    )


def shares(found: AnswerShares) -> dict[str, float]:
    names = ("accuracy", "thinks", "dialect", "accuracy_if_thinks", "flagged_accuracy", "flagged_thinks")
    return {name: share for name, share in zip(names, astuple(found), strict=True) if share}


BY_HAND = [  # z is the share of prompts whose x0 is 0
    (chained, lambda z: {"accuracy": 1, "thinks": 1, "accuracy_if_thinks": 1}),
    (direct, lambda z: {"accuracy": 1}),
    (lambda x: direct(x, more=1), lambda z: {}),
    (lambda x: chained(x, prime=1), lambda z: {"accuracy": 1, "thinks": 1, "dialect": 1, "accuracy_if_thinks": 1}),
    (sometimes(chained, lambda x: direct(x, more=1)), lambda z: {"accuracy": z, "thinks": z, "accuracy_if_thinks": 1}),
    (sometimes(direct, lambda x: chained(x, prime=1)),
     lambda z: {"accuracy": 1, "thinks": 1 - z, "dialect": 1, "accuracy_if_thinks": 1}),
    (sometimes(chained, lambda x: chained(x, prime=1)[:-2]),  # neither a digit nor, for long, an end after ANS
     lambda z: {"accuracy": z, "thinks": 1, "dialect": 1 - z, "accuracy_if_thinks": z}),
    (sometimes(lambda x: [DIRECT, x[1] + 3, EOS], lambda x: [THINK, ANS, chained(x)[-2], EOS]),
     lambda z: {"accuracy": 1 - z, "thinks": 1 - z, "accuracy_if_thinks": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("given", "expected"), BY_HAND)
@pytest.mark.parametrize("temperature", [0, 0.7, 1])
def test_shares_of_answers_are_those_of_models_written_by_hand(given, expected, temperature):
    prompts = questions(TASK, 0, 40)
    zeros = (prompts[:, 1] == 0).float().mean().item()
    assert 0 < zeros < 1
    found = shares(measure_answers(Scribe(given), TASK, prompts, temperature))
    assert found == pytest.approx(expected(zeros), abs=1e-6)


def test_flagged_prompts_have_shares_of_their_own():
    prompts = questions(FLAGGED, 0, 60)
    flagged = [row for row in prompts.tolist() if row[-1] == FLAGGED.token("SEP'")]
    share = len(flagged) / 60
    # A chain that happens to end in x0 is right there as well.
    luck = sum(chained(row, FLAGGED)[-2] == row[1] for row in flagged)
    assert 0 < luck < len(flagged) < 60

    def found(given: Callable) -> dict[str, float]:
        return shares(measure_answers(Scribe(given, FLAGGED), FLAGGED, prompts, 0))

    assert found(lambda x: direct(x, FLAGGED)) == {"accuracy": 1, "flagged_accuracy": 1}
    right = 1 - share + luck / 60
    assert found(lambda x: chained(x, FLAGGED)) == pytest.approx(
        {
            "accuracy": right, "thinks": 1, "accuracy_if_thinks": right,
            "flagged_accuracy": luck / len(flagged), "flagged_thinks": 1,
        },
        abs=1e-6,
    )  # fmt: skip
    assert found(FLAGGED.solve) == pytest.approx(
        {"accuracy": 1, "thinks": 1 - share, "accuracy_if_thinks": 1, "flagged_accuracy": 1}, abs=1e-6
    )


def test_a_forced_opener_is_the_first_token_of_the_answer():
    prompts, always = questions(TASK, 1, 30), Scribe(chained)
    assert shares(measure_answers(always, TASK, prompts, 0, opener="DIRECT")) == {}
    assert shares(measure_answers(always, TASK, prompts, 1, opener="THINK")) == shares(
        measure_answers(always, TASK, prompts, 1)
    )
    forced = measure_answers(Scribe(direct), TASK, prompts, 0, opener="THINK")
    assert shares(forced) == {"thinks": 1}


@few
@given(seeds)
def test_shares_at_each_temperature_are_rounded_and_the_same_whenever_asked(seed):
    model, prompts = reasoning_model(TASK, SMALL, seed), questions(TASK, seed, 25)
    found = by_temperature(model, TASK, prompts, seed=seed)
    assert list(found) == [0, 0.7, 1]
    assert by_temperature(model, TASK, prompts, (1, 0), seed) == {t: found[t] for t in (1, 0)}
    for temperature in (0, 0.7, 1):
        expected = vars(measure_answers(model, TASK, prompts, temperature, seed))
        assert vars(found[temperature]) == {name: round(share, 4) for name, share in expected.items()}
    assert astuple(measure_answers(model, TASK, prompts, 0, seed)) == astuple(
        measure_answers(model, TASK, prompts, 0, seed + 1)
    )


@pytest.mark.parametrize("split", ["validation", "test"])
def test_held_out_prompts_are_of_their_split_and_the_same_whenever_asked(split):
    first, again, other = (questions(TASK, seed, 20, split) for seed in (0, 0, 1))
    assert first.shape == (20, TASK.prompt)
    assert set(split_of(first.numpy()).tolist()) == {SPLITS.index(split)}
    assert first.tolist() == again.tolist() != other.tolist()
    assert questions(TASK, 0, 20).tolist() == questions(TASK, 0, 20, "test").tolist()
