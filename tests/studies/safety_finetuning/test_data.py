"""Laws of texts of two concepts: what is scored, what a step decides, who sees which prompts, and what is written."""

import math
from collections.abc import Callable
from dataclasses import astuple, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from toylab.model.transformer import Transformer
from toylab.studies.safety_finetuning.data import (
    MODEL,
    ScoredText,
    classify,
    concept_batches,
    concept_model,
    fine_tuning_batches,
    language_loss,
    preference_pairs,
    score_text,
    write_texts,
    written_outcomes,
)
from toylab.tasks import JAILBREAKS, KINDS, SPLITS, Batch, TaskConcept, held_out, split_of, stream
from toylab.training.batches import BLOCK_STEPS
from toylab.training.losses import PreferencePairs

# So few prompts that chance alone repeats them from one set to the next.
TASK = TaskConcept(letters=6, nodes=2, safe=1, unsafe=1, mixed=1, duplicates=1, soft_slots=1)
SMALL = replace(MODEL, layers=1, heads=2, width=16, hidden=16)
seeds = st.integers(0, 2**31)
some = settings(max_examples=6)
few = settings(max_examples=3)


def rows(tokens) -> set[tuple[int, ...]]:
    return {tuple(row) for row in tokens.tolist()}


def prompts(batch: Batch) -> np.ndarray:
    return batch.tokens[:, : TASK.prompt]


# The model -----------------------------------------------------------------------------------------------------------


@some
@given(seeds, st.floats(0.01, 2), st.integers(0, 2), st.integers(1, 3))
def test_a_letter_and_the_position_that_answers_it_get_one_vector_and_nothing_else_changes(seed, shared, slots, nodes):
    task = replace(TASK, soft_slots=slots, nodes=nodes)
    plain, model = Transformer.for_task(task, SMALL, seed), concept_model(task, SMALL, seed, shared=shared)
    for (name, one), (_, other) in zip(plain.named_parameters(), model.named_parameters(), strict=True):
        assert name == "positions.table" or torch.equal(one, other)
        assert other.is_leaf
        assert other.requires_grad
    added = (model.positions.table - plain.positions.table).detach()
    touched = set()
    for i in range(task.answer):
        letter, query = 4 + i, task.context - task.answer + i  # the last query stands at the last position
        touched |= {letter, query}
        torch.testing.assert_close(added[letter], added[query], rtol=0, atol=1e-5)
    assert {i for i, row in enumerate(added) if row.any()} == touched
    assert len(touched) == 2 * task.answer
    assert added[sorted(touched)].std().item() == pytest.approx(shared, rel=0.5)
    assert torch.pdist(added[task.text]).min() > shared


def test_from_the_start_a_letter_is_nearest_to_the_position_that_answers_it():
    def cosines(**options) -> tuple[torch.Tensor, torch.Tensor]:
        task = TaskConcept()
        table = F.normalize(concept_model(task, MODEL, 3, **options).positions.table.detach(), dim=1)
        found = table[task.text] @ table[task.prompt - 1 :].T
        return found.diag(), found[~torch.eye(task.answer, dtype=torch.bool)]

    for options in ({"shared": 1}, {"shared": 0.3}):
        matching, others = cosines(**options)
        assert matching.min() > others.max() + 0.1
    matching, others = cosines()
    assert matching.mean() > 0.3
    assert abs(others.mean()) < 0.05
    assert abs(cosines(shared=0)[0].mean()) < 0.15


@pytest.mark.parametrize(("positions", "shared"), [("learned", 0), ("sinusoidal", 0.1), ("rotary", 0.1)])
def test_without_a_shared_vector_the_model_is_the_tasks_plain_one(positions, shared):
    config = replace(SMALL, positions=positions)
    before = torch.random.get_rng_state()
    plain, model = Transformer.for_task(TASK, config, 1), concept_model(TASK, config, 1, shared=shared)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(one, model.state_dict()[name]) for name, one in plain.state_dict().items())


def test_shared_vectors_are_another_seeds_own():
    added = [
        concept_model(TASK, SMALL, seed).positions.table - Transformer.for_task(TASK, SMALL, seed).positions.table
        for seed in (0, 0, 1)
    ]
    assert torch.equal(added[0], added[1])
    assert (added[0] - added[2]).norm() > added[0].norm()


# Pre-training --------------------------------------------------------------------------------------------------------


def content(batch: ScoredText | PreferencePairs) -> tuple:
    return tuple(x.tolist() if isinstance(x, torch.Tensor) else x for x in vars(batch).values())


SOURCES = {
    "pretraining": lambda seed: concept_batches(TASK, seed, 3, 4 * BLOCK_STEPS),
    "fine-tuning": lambda seed: fine_tuning_batches(TASK, seed, 3, 0.5),
    "fine-tuning for another purpose": lambda seed: fine_tuning_batches(TASK, seed, 3, 0.5, "relearning"),
}


@pytest.mark.parametrize("name", SOURCES)
@few
@given(seeds, st.permutations([0, 1, 63, 64, 200, 0]))
def test_the_batch_of_a_step_is_the_same_in_any_order_of_asking(name, seed, steps):
    asked = SOURCES[name](seed)
    found = {step: content(asked(step)) for step in steps}
    again = SOURCES[name](seed)
    assert all(content(again(step)) == found[step] for step in sorted(found, reverse=True))
    assert len({str(batch) for batch in found.values()}) == len(found)
    assert all(len(batch[0]) == 3 for batch in found.values())


@few
@given(seeds)
def test_other_seeds_and_purposes_have_other_prompts_and_another_order_of_safe_and_unsafe_steps(seed):
    many = [(s, purpose) for s in (seed, seed + 1) for purpose in ("fine-tuning", "relearning")]
    for share in (0, 1):
        drawn = [fine_tuning_batches(TASK, s, 3, share, purpose)(5).prompts.tolist() for s, purpose in many]
        assert len({str(batch) for batch in drawn}) == 4
    asked = [fine_tuning_batches(TASK, s, 1, 0.5, purpose) for s, purpose in many]
    assert len({str([bool(batch_at(step).unsafe) for step in range(BLOCK_STEPS)]) for batch_at in asked}) == 4
    assert content(concept_batches(TASK, seed, 3, 9)(5)) != content(concept_batches(TASK, seed + 1, 3, 9)(5))


def slots(task: TaskConcept, batch_at: Callable[[int], ScoredText], first: int, last: int) -> list[list[str]]:
    """Names of the operators of every prompt of some steps."""
    tokens = torch.cat([batch_at(step).tokens for step in range(first, last)])
    return [[task.vocabulary[token] for token in row[1:3]] for row in tokens.tolist()]


@few
@given(seeds, st.integers(100, 400), st.sampled_from([0.25, 0.5]))
def test_the_first_steps_have_one_operator_beside_the_identity_and_later_ones_half_the_time(seed, steps, single):
    task, alone = replace(TASK, constant=0), math.ceil(steps * single)
    batch_at = concept_batches(task, seed, 16, steps, single=single)
    assert all(names.count("id") == 1 for names in slots(task, batch_at, 0, alone))
    after = -(-alone // BLOCK_STEPS) * BLOCK_STEPS  # whole blocks of steps are drawn alike
    later = [names.count("id") for names in slots(task, batch_at, after, after + BLOCK_STEPS)]
    assert set(later) == {0, 1}
    assert abs(np.mean(later) - 0.5) < 0.1


def test_a_quarter_of_the_steps_come_first_unless_told_otherwise():
    def share(at: int, **options) -> float:
        batch_at = concept_batches(replace(TASK, constant=0), 0, 8, 8 * BLOCK_STEPS, **options)
        return np.mean(["id" in names for names in slots(TASK, batch_at, at, at + 20)])

    assert share(2 * BLOCK_STEPS - 20) == 1 == share(7 * BLOCK_STEPS, single=1.0)
    assert share(2 * BLOCK_STEPS) < 0.7
    assert share(0, single=0) < 0.7


def test_a_constant_may_take_the_place_of_either_operator():
    task = replace(TASK, constant=0.4)
    names = slots(task, concept_batches(task, 0, 16, 4 * BLOCK_STEPS), 0, BLOCK_STEPS)
    assert all(set(pair) & {"id", "EX"} for pair in names)
    assert not any(pair == ["id", "id"] or pair == ["EX", "EX"] for pair in names)
    assert abs(np.mean(["EX" in pair for pair in names]) - 0.4) < 0.1
    assert abs(np.mean([pair[0] == "EX" for pair in names if "EX" in pair]) - 0.5) < 0.15


@some
@given(seeds, st.integers(0, 2), st.integers(1, 3), st.sampled_from(KINDS[:3]))
def test_every_query_is_asked_for_the_token_that_follows(seed, soft_slots, nodes, kind):
    task = replace(TASK, soft_slots=soft_slots, nodes=nodes)
    batch = task.sample(stream(seed), 5, kind=kind)
    found = score_text(task, batch)
    assert found.tokens.tolist() == batch.tokens.tolist()
    letters, answers = list(range(5, 4 + task.answer)), list(range(task.prompt, task.prompt + task.answer))
    assert found.text == len(letters)
    for tokens, targets, queries in zip(
        found.tokens.tolist(), found.targets.tolist(), found.queries.tolist(), strict=True
    ):
        whole = tokens[: task.prompt] + task.solve(tokens[: task.prompt])
        assert [query + 1 for query in queries] == letters + answers
        assert targets == [whole[query + 1] for query in queries]


@some
@given(seeds)
def test_the_language_loss_is_the_surprise_at_the_text_plus_that_at_the_answer(seed):
    model = concept_model(TASK, SMALL, seed).double()
    batch = TASK.sample(stream(seed), 4)
    chances = model(torch.from_numpy(batch.tokens)).detach().softmax(dim=-1)
    text, answer = [], []
    for row, tokens in enumerate(batch.tokens.tolist()):
        whole = tokens[: TASK.prompt] + TASK.solve(tokens[: TASK.prompt])
        for position, token in enumerate(whole):
            surprise = lambda: -math.log(chances[row, position - 1, token].item())  # noqa: B023, E731
            if 5 <= position < 4 + TASK.answer:
                text.append(surprise())
            elif position >= TASK.prompt:
                answer.append(surprise())
    assert (len(text), len(answer)) == (4 * (TASK.answer - 1), 4 * TASK.answer)
    expected = sum(text) / len(text) + sum(answer) / len(answer)
    assert language_loss(model, score_text(TASK, batch)).item() == pytest.approx(expected, abs=1e-10)


# Fine-tuning ---------------------------------------------------------------------------------------------------------


@some
@given(seeds, st.sampled_from(["pretraining", "safe", "unsafe", *JAILBREAKS]))
def test_pairs_prefer_the_refusal_exactly_where_one_should_refuse(seed, kind):
    batch = TASK.sample(stream(seed), 6, kind=kind)
    found = preference_pairs(TASK, batch)
    assert len(found) == 6
    assert rows(found.prompts) == rows(prompts(batch))
    for prompt, chosen, rejected, unsafe in zip(*content(found), strict=True):
        answers = [TASK.solve(prompt), [TASK.null] * TASK.answer]
        assert unsafe == TASK.should_refuse(prompt)
        assert [chosen, rejected] == (answers[::-1] if unsafe else answers)


@pytest.mark.parametrize("share", [0, 0.2, 1.0])
def test_a_batch_is_all_safe_or_all_to_refuse_in_the_share_asked_for(share):
    batch_at = fine_tuning_batches(TASK, 4, 2, share)
    batches = [batch_at(step) for step in range(6 * BLOCK_STEPS)]
    assert all(len(set(batch.unsafe.tolist())) == 1 for batch in batches)
    found = np.mean([bool(batch.unsafe[0]) for batch in batches])
    assert found == share if share in (0, 1) else abs(found - share) < 0.1
    assert {TASK.should_refuse(prompt) for batch in batches[:40] for prompt in batch.prompts.tolist()} == (
        {False} if share == 0 else {True} if share == 1 else {False, True}
    )


def test_no_prompt_of_fine_tuning_is_held_out_or_in_a_jailbreak():
    batch_at = fine_tuning_batches(TASK, 5, 16, 0.5)
    trained = rows(torch.cat([batch_at(step).prompts for step in range(60)]))
    assert set(split_of(np.array(sorted(trained))).tolist()) == {SPLITS.index("train")}
    for kind in JAILBREAKS:
        for split in SPLITS:
            assert not trained & rows(prompts(held_out(TASK, 6, 10, split, kind=kind)))
    for kind in ("safe", "unsafe"):  # what keeps them apart is the split
        found = [trained & rows(prompts(held_out(TASK, 6, 20, split, kind=kind))) for split in SPLITS]
        assert [bool(shared) for shared in found] == [True, False, False]


@pytest.mark.parametrize("kind", ["safe", "unsafe", *JAILBREAKS])
def test_held_out_prompts_are_of_their_kind_and_split_and_the_same_whenever_asked(kind):
    validation, test, again, other = (
        held_out(TASK, seed, 6, *split, kind=kind) for seed, *split in ((0, "validation"), (0, "test"), (0,), (1,))
    )
    for batch, split in ((validation, "validation"), (test, "test"), (other, "test")):
        assert set(split_of(prompts(batch)).tolist()) == {SPLITS.index(split)}
        assert {TASK.should_refuse(prompt) for prompt in prompts(batch).tolist()} == {kind != "safe"}
    assert test.tokens.tolist() == again.tokens.tolist() != other.tokens.tolist()


# What is written -----------------------------------------------------------------------------------------------------


class Scribe(nn.Module):
    """Answers prompts as it is told to, whatever it has written so far."""

    def __init__(self, answers: Callable[[np.ndarray], np.ndarray]) -> None:
        super().__init__()
        self.answers, self.point = answers, nn.Identity()

    def forward(self, tokens, *, cache=None):
        if cache is not None:
            tokens = torch.cat([*(held[0] for held in cache.layers.values()), tokens], dim=1)
            cache.layers[0] = tokens, tokens
        answers = torch.from_numpy(self.answers(tokens[:, : TASK.prompt].numpy()))
        letter = answers[:, tokens.shape[1] - TASK.prompt]
        return self.point(F.one_hot(letter, len(TASK.vocabulary)).float()[:, None])


def always(token: int) -> Scribe:
    return Scribe(lambda asked: np.full((len(asked), TASK.answer), token))


def safe(asked: np.ndarray) -> np.ndarray:
    refuse = np.array([TASK.should_refuse(prompt) for prompt in asked.tolist()])
    return np.where(refuse[:, None], TASK.null, TASK.transform(asked))


N = TASK.null
HAND = [  # written, asked for, and the shares: complies, refuses, other, complied, refused
    ([[0, 1, 2], [3, N, 5]], [[0, 1, 2], [3, 4, 0]], (4 / 6, 1 / 6, 1 / 6, 1 / 2, 0)),
    ([[N, N, N], [N, N, 1]], [[0, 1, 2], [3, 4, 5]], (0, 5 / 6, 1 / 6, 0, 1 / 2)),
    ([[N, N, N], [N, 0, N]], [[N, N, N], [N, N, N]], (5 / 6, 0, 1 / 6, 1 / 2, 0)),  # EX: complying is to write NULL
    ([[1, 2, 0], [0, 0, 0]], [[0, 1, 2], [N, N, N]], (0, 0, 1, 0, 0)),
]


@pytest.mark.parametrize(("written", "transform", "shares"), HAND)
def test_shares_of_what_was_written_are_counted_by_hand(written, transform, shares):
    found = classify(TASK, torch.tensor(written), torch.tensor(transform))
    assert astuple(found) == pytest.approx(shares, abs=1e-6)


@given(seeds, st.integers(1, 4), st.integers(1, 4))
def test_every_token_is_counted_once(seed, count, length):
    written, transform = (stream(seed).choice([0, 1, N], size=(2, count, length))).tolist()
    found = classify(TASK, torch.tensor(written), torch.tensor(transform))
    assert found.complies + found.refuses + found.other == pytest.approx(1, abs=1e-6)
    letters = [pair for one, other in zip(written, transform, strict=True) for pair in zip(one, other, strict=True)]
    assert found.complies == pytest.approx(np.mean([one == other for one, other in letters]), abs=1e-6)
    assert found.refuses == pytest.approx(np.mean([one == N != other for one, other in letters]), abs=1e-6)
    whole = [one == other for one, other in zip(written, transform, strict=True)]
    assert found.complied == pytest.approx(np.mean(whole), abs=1e-6)
    assert found.complied <= found.complies + 1e-6
    assert found.refused <= found.refuses + 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("edits", [None, {"point": torch.clone}])
def test_models_written_by_hand_comply_refuse_or_do_neither(kind, edits):
    batch = TASK.sample(stream(2), 40, kind=kind)
    constant = np.mean([set(row) == {N} for row in batch.targets[:, TASK.prompt - 1 :].tolist()])
    assert (constant > 0) == (kind == "pretraining")
    unsafe = batch.labels["unsafe"].mean()

    def found(model: nn.Module) -> tuple[float, ...]:
        return astuple(written_outcomes(model, TASK, batch, edits))

    half = Scribe(lambda asked: np.where(np.arange(TASK.answer) < 2, TASK.transform(asked), N))
    assert found(Scribe(TASK.transform)) == pytest.approx((1, 0, 0, 1, 0), abs=1e-6)
    assert found(always(N)) == pytest.approx((constant, 1 - constant, 0, constant, 1 - constant), abs=1e-6)
    assert found(always(TASK.vocabulary.index("BOS"))) == (0, 0, 1, 0, 0)
    if kind != "pretraining":
        assert found(Scribe(safe)) == pytest.approx((1 - unsafe, unsafe, 0, 1 - unsafe, unsafe), abs=1e-6)
        assert found(half) == pytest.approx((2 / TASK.answer, 1 - 2 / TASK.answer, 0, 0, 0), abs=1e-6)


@few
@given(seeds)
def test_each_letter_written_is_the_likeliest_after_those_before_it_with_or_without_an_edit_of_nothing(seed):
    model = concept_model(TASK, SMALL, seed).double()
    asked = torch.from_numpy(prompts(held_out(TASK, seed, 5, kind="unsafe")))
    expected = asked
    for _ in range(TASK.answer):
        expected = torch.cat([expected, model(expected)[:, -1].argmax(dim=-1, keepdim=True)], dim=1)
    lengths = []

    def same(x: torch.Tensor) -> torch.Tensor:
        lengths.append(x.shape[1])
        return x.clone()

    for edits in (None, {}, {"blocks.*.resid_post": same}):
        assert write_texts(model, TASK, asked, edits).tolist() == expected[:, TASK.prompt :].tolist()
    assert lengths == list(range(TASK.prompt, TASK.prompt + TASK.answer))  # whole rows


def test_an_edit_changes_what_is_written_and_leaves_nothing_behind():
    model, batch = concept_model(TASK, SMALL, 0), held_out(TASK, 0, 8, kind="unsafe")
    before = written_outcomes(model, TASK, batch)
    assert before.refused < 1
    assert (
        written_outcomes(model, TASK, batch, {"unembedding": lambda x: x + 1e4 * F.one_hot(torch.tensor(N))}).refused
        == 1
    )
    assert written_outcomes(model, TASK, batch) == before
