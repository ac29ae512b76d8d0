"""Laws of what is measured on vectors: where they act, what they say, what is left of them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from tests.examples import fewer
from tests.model.small_steerings import numbers
from tests.studies.steering_vectors.helpers import (
    ANS,
    DIRECT,
    EOS,
    TASK,
    THINK,
    Scribe,
    chained,
    direct,
    ends,
    seeds,
    some,
    sometimes,
)
from tests.studies.steering_vectors.worlds import (
    CONTEXT,
    LAYERS,
    SEP,
    WIDTH,
    biased,
    drawn,
    questions,
    rightly,
    shifted,
    still,
    streams,
    witnessed,
)
from toylab.model.generate import generate
from toylab.model.layers import torch_stream
from toylab.model.steering import steer
from toylab.model.transformer import Transformer
from toylab.studies.steering_vectors.data import write_answers
from toylab.studies.steering_vectors.measures import (
    EditedModel,
    accuracy_by_place,
    accuracy_by_temperature,
    combined_accuracy,
    correct,
    difference_of_means,
    kl_by_position,
    logit_bias,
    logit_lens,
    mapped,
    measure_persistence,
    only_addition,
    random_vectors,
    residual_changes,
    rollouts,
    vector_of,
)
from toylab.training.losses import Rollouts

layers = st.integers(0, LAYERS - 1)
once = fewer(0.1)


# Answers -------------------------------------------------------------------------------------------------------------


def test_right_answers_are_a_share_of_four_places():
    prompts = questions(0, 30)
    zeros = prompts[:, 1].tolist().count(0)
    assert 0 < zeros < 30
    scribe = Scribe(sometimes(direct, lambda x: direct(x, more=1)))
    assert correct(scribe, TASK, prompts) == round(zeros / 30, 4)
    assert accuracy_by_temperature(scribe, TASK, prompts) == dict.fromkeys((0, 0.7, 1), round(zeros / 30, 4))


def test_the_model_is_asked_at_the_temperature_and_seed_that_are_told():
    model, prompts = drawn(0), questions(0, 9)
    with witnessed():
        assert correct(model, TASK, prompts) == rightly(model, prompts, 1, 0)
        assert correct(model, TASK, prompts, 0.5, 3) == rightly(model, prompts, 0.5, 3)
        found = accuracy_by_temperature(model, TASK, prompts, 3)
    assert found == {t: rightly(model, prompts, t, 3) for t in (0, 0.7, 1)}
    assert len(set(found.values())) == 3


def test_a_model_with_one_addition_tells_its_layer_and_vector():
    model, vector = drawn(0), numbers(0, WIDTH)
    assert only_addition(steer(model, {2: vector}))[0] == 2
    assert torch.equal(only_addition(steer(model, {2: vector}))[1].vector, vector)
    assert torch.equal(vector_of(steer(model, {1: vector})), vector)
    with pytest.raises(ValueError, match="unpack"):
        only_addition(steer(model))


class Coin(nn.Module):
    """Opens with either opener, THINK three times as often, and ends."""

    def forward(self, tokens: Tensor, *, cache=None) -> Tensor:
        first = tokens[:, -1:] == TASK.token("SEP")
        opener = 300.0 * F.one_hot(torch.tensor(DIRECT), 13) + (300 + math.log(3)) * F.one_hot(torch.tensor(THINK), 13)
        return torch.where(first[..., None], opener, 300.0 * F.one_hot(torch.tensor(EOS), 13))


def test_rollouts_are_written_once_a_prompt_counted_to_their_end_and_verified():
    prompts = questions(1, 12)
    made = rollouts(Scribe(sometimes(chained, lambda x: direct(x, more=1))), TASK, prompts)
    zeros = [row[1] == 0 for row in prompts.tolist()]
    assert made.prompts.tolist() == prompts.tolist()
    assert made.rewards.tolist() == [[float(zero)] for zero in zeros]
    lengths = [TASK.length + 4 if zero else 3 for zero in zeros]
    assert made.counted.tolist() == [[i < length for i in range(TASK.answer)] for length in lengths]
    assert made.written.tolist() == [
        (chained(x) if x[1] == 0 else direct(x, more=1) + [EOS] * (TASK.answer - 3)) for x in prompts.tolist()
    ]


def test_rollouts_have_a_chance_of_their_own_by_seed_and_none_at_temperature_0():
    prompts = questions(0, 9).repeat(40, 1)
    first, again, other = (rollouts(Coin(), TASK, prompts, seed).written for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(first, write_answers(Coin(), TASK, prompts, 1, torch_stream(1, "rollouts")))
    assert (first[:, 0] == THINK).float().mean().item() == pytest.approx(0.75, abs=0.1)
    cold = rollouts(Coin(), TASK, prompts, 1, temperature=0)
    assert (cold.written[:, 0] == THINK).all()
    cool = rollouts(Coin(), TASK, prompts, 1, temperature=0.25).written[:, 0]
    assert (cool == THINK).float().mean() > 0.95


# Where it acts -------------------------------------------------------------------------------------------------------


@once
@given(seeds, layers)
def test_at_a_place_the_vector_is_added_there_and_nowhere_else(seed, layer):
    model, prompts, vector = drawn(seed), questions(seed, 5), 3 * numbers(seed, WIDTH)
    with witnessed():
        found = accuracy_by_place(steer(model, {layer: vector}), TASK, prompts, seed % 7)
    places = {
        "first": [SEP],
        "all but first": [*range(SEP), *range(SEP + 1, CONTEXT)],
        "first two": [SEP, SEP + 1],
        "prompt": [*range(SEP)],
        "generated": [*range(SEP, CONTEXT)],
    }
    expected = {name: rightly(shifted(model, layer, vector, at), prompts, seed=seed % 7) for name, at in places.items()}
    assert list(found) == list(expected)
    assert found == pytest.approx(expected, abs=2e-4)
    assert len(set(found.values())) == 5


def changes(model: Transformer, moved: Transformer, made: Rollouts, layer: int) -> Tensor:
    """Token by token: what the second model's stream has more, at SEP and at all that it wrote but its end."""
    found = []
    for prompt, said in zip(made.prompts.tolist(), made.written.tolist(), strict=True):
        read = torch.tensor([prompt + ends(said)[:-1]])
        if EOS not in said:
            read = torch.tensor([prompt + said[:-1]])
        found += [*(streams(moved, read, layer) - streams(model, read, layer))[0, SEP:]]
    return torch.stack(found)


@once
@given(seeds, layers)
def test_a_vector_from_sep_on_is_each_change_in_the_steered_layer(seed, layer):
    model, prompts, vector = drawn(seed), questions(seed, 6), 3 * numbers(seed, WIDTH)
    steered = steer(model, {layer: vector}).only(slice(SEP, None))
    made = rollouts(steered, TASK, prompts, seed)
    found = residual_changes(steered, TASK, prompts, seed)
    assert list(found) == list(range(layer, LAYERS))
    assert found[layer].shape == (sum(len(ends(row)) for row in made.written.tolist()), WIDTH)
    torch.testing.assert_close(found[layer], vector.expand_as(found[layer]), rtol=0, atol=1e-12)


@once
@given(seeds, layers)
def test_changes_are_those_of_each_token_that_was_chosen_row_by_row(seed, layer):
    model, prompts, vector = drawn(seed), questions(seed, 5), 3 * numbers(seed, WIDTH)
    steered, moved = steer(model, {layer: vector}), biased(model, {layer: vector})
    made, found = rollouts(steered, TASK, prompts, seed), residual_changes(steered, TASK, prompts, seed)
    for later, change in found.items():
        torch.testing.assert_close(change, changes(model, moved, made, later), rtol=0, atol=1e-10)


def test_changes_of_several_vectors_begin_at_the_first():
    model, prompts = still(0), questions(0, 4)
    one, other = numbers(1, WIDTH), numbers(2, WIDTH)
    found = residual_changes(steer(model, {2: other, 1: one}), TASK, prompts)
    assert list(found) == [1, 2]
    torch.testing.assert_close(found[1], one.expand_as(found[1]))
    torch.testing.assert_close(found[2], (one + other).expand_as(found[2]))


@once
@given(seeds, layers)
def test_the_kl_at_a_position_is_a_mean_over_all_rows_of_what_the_vector_makes_of_the_chances(seed, layer):
    model, prompts, vector = drawn(seed), questions(seed, 4), 4 * numbers(seed, WIDTH)
    steered, moved = steer(model, {layer: vector}), biased(model, {layer: vector})
    made = rollouts(steered, TASK, prompts, seed)
    expected = [0.0] * TASK.answer
    for prompt, said in zip(made.prompts.tolist(), made.written.tolist(), strict=True):
        for i in range(len(ends(said))):
            row = torch.tensor([prompt + said[:i]])
            p, q = (one(row)[0, -1].softmax(dim=0).tolist() for one in (moved, model))
            expected[i] += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / len(prompts)
    assert kl_by_position(steered, TASK, prompts, seed) == pytest.approx(expected, abs=1e-4)
    assert kl_by_position(steer(model, {layer: 0 * vector}), TASK, prompts) == [0] * TASK.answer


# What it says --------------------------------------------------------------------------------------------------------


@some
@given(seeds, layers)
def test_each_reading_of_the_lens_is_worked_out_by_hand(seed, layer):
    model, direction = drawn(seed, unembedding="learned"), numbers(seed + layer, WIDTH)
    gain, rows = model.ln_final.weight.tolist(), model.unembedding.weight.tolist()
    folded = [[g * x for g, x in zip(gain, row, strict=True)] for row in rows]

    def cosine(one: list[float], other: list[float]) -> float:
        return sum(a * b for a, b in zip(one, other, strict=True)) / math.hypot(*one) / math.hypot(*other)

    cosines = [cosine(direction.tolist(), row) for row in folded]
    found = logit_lens(direction, model, TASK)
    for name, token in {"THINK": THINK, "DIRECT": DIRECT, "ANS": ANS}.items():
        reading = getattr(found, name)
        assert reading.cosine == pytest.approx(cosines[token], abs=1e-9)
        assert reading.rank == 1 + sum(one > cosines[token] for one in cosines)
    across = [a - b for a, b in zip(folded[THINK], folded[DIRECT], strict=True)]
    assert found.think_over_direct == pytest.approx(cosine(direction.tolist(), across), abs=1e-9)
    assert found.first_dialect == pytest.approx(sum(cosines[0:3]) / 3, abs=1e-9)
    assert found.second_dialect == pytest.approx(sum(cosines[3:6]) / 3, abs=1e-9)
    assert found.all == [round(one, 4) for one in cosines]
    assert found.direct_from_last == 1 + sum(one < cosines[DIRECT] for one in cosines)


@once
@given(seeds)
def test_what_is_left_of_a_vector_is_a_mean_cosine_of_each_token_in_each_later_layer(seed):
    model, prompts = drawn(seed), questions(seed, 6)
    trained = {layer: 3 * numbers(seed + layer, WIDTH) for layer in range(LAYERS)}
    steered, moved = steer(model, {0: trained[0]}), biased(model, {0: trained[0]})
    made, found = rollouts(steered, TASK, prompts, seed), measure_persistence(steered, TASK, prompts, trained, seed)
    assert list(found) == [1, 2]
    for layer, kept in found.items():
        each = changes(model, moved, made, layer)
        for cosine, toward in ((kept.to_mean, each.mean(dim=0)), (kept.to_vector, trained[layer])):
            expected = [(one @ toward / one.norm() / toward.norm()).item() for one in each]
            assert cosine == pytest.approx(sum(expected) / len(each), abs=1e-9)
    assert list(measure_persistence(steered, TASK, prompts, {0: trained[0], 2: trained[2]}, seed)) == [2]


def test_where_all_is_passed_on_the_whole_vector_is_left():
    model, vector = still(0), torch.eye(WIDTH).double()[0]
    trained = {1: 0.6 * vector + 0.8 * torch.eye(WIDTH).double()[1], 2: -2 * vector}
    found = measure_persistence(steer(model, {0: vector}), TASK, questions(0, 5), trained)
    assert {layer: (kept.to_mean, kept.to_vector) for layer, kept in found.items()} == {
        1: pytest.approx((1, 0.6)), 2: pytest.approx((1, -1)),
    }  # fmt: skip


# Baselines -----------------------------------------------------------------------------------------------------------


@once
@given(seeds, layers, st.floats(0.5, 20))
def test_random_vectors_have_the_norm_and_directions_that_have_nothing_in_common(seed, layer, norm):
    model, prompts = drawn(seed), questions(seed, 4)
    with witnessed() as asked:
        found = random_vectors(model, TASK, prompts, layer, norm, draws=8, seed=seed % 5)
        again = random_vectors(model, TASK, prompts, layer, norm, draws=2, seed=seed % 5)
        other = random_vectors(model, TASK, prompts, layer, norm, draws=2, seed=seed % 5 + 1)
    held = [only_addition(one) for one in asked]
    assert {at for at, _ in held} == {layer}
    drew = torch.stack([one.vector.detach() for _, one in held[:8]])
    torch.testing.assert_close(drew.norm(dim=1), torch.full((8,), norm).double(), rtol=1e-5, atol=0)
    assert found == [rightly(biased(model, {layer: vector}), prompts, seed=seed % 5) for vector in drew]
    cosines = drew @ drew.T / norm**2
    assert cosines[~torch.eye(8, dtype=torch.bool)].mean().abs() < 0.2
    assert cosines[~torch.eye(8, dtype=torch.bool)].max() < 0.8
    assert again == found[:2]
    assert not set(again) & set(other)


def test_ten_random_vectors_are_drawn_by_default():
    with witnessed():
        assert len(random_vectors(drawn(0), TASK, questions(0, 2), 0, 1.0)) == 10


@once
@given(seeds, layers, st.floats(0.5, 20))
def test_the_difference_of_means_is_that_of_streams_that_have_just_read_an_opener(seed, layer, norm):
    model, prompts = drawn(seed), questions(seed, 6)
    expected = torch.zeros(WIDTH).double()
    for prompt in prompts.tolist():
        think, straight = (streams(model, torch.tensor([[*prompt, token]]), layer)[0, -1] for token in (THINK, DIRECT))
        expected += think - straight
    found = difference_of_means(model, TASK, prompts, layer, norm)
    torch.testing.assert_close(found, norm * expected / expected.norm(), rtol=0, atol=1e-9)


def test_a_planted_difference_of_openers_is_found_on_its_side():
    model = still(0)
    planted = model.embedding.weight[THINK] - model.embedding.weight[DIRECT]
    for layer in range(LAYERS):
        found = difference_of_means(model, TASK, questions(0, 3), layer, 7.0)
        torch.testing.assert_close(found, 7 * planted / planted.norm())


@once
@given(seeds, layers)
def test_a_logit_bias_adds_the_mean_shift_at_sep_everywhere(seed, layer):
    model, prompts, vector = drawn(seed), questions(seed, 6), 3 * numbers(seed, WIDTH)
    moved = biased(model, {layer: vector})
    shift = sum(
        moved(row)[0, SEP] - model(row)[0, SEP] for row in (torch.tensor([prompt]) for prompt in prompts.tolist())
    )
    found = EditedModel(model, logit_bias(steer(model, {layer: vector}), TASK, prompts))
    rows = torch.cat([prompts, prompts[:, :4]], dim=1)
    torch.testing.assert_close(found(rows), model(rows) + shift / len(prompts), rtol=0, atol=1e-10)
    queries = torch.full((len(rows), 1), 3)
    torch.testing.assert_close(found(rows, queries=queries), found(rows)[:, 3:4], rtol=0, atol=1e-10)
    assert generate(found, prompts, 4).tolist() == generate(found, prompts, 4, cache=False).tolist()


# Elsewhere -----------------------------------------------------------------------------------------------------------


@once
@given(seeds, st.sets(layers, min_size=1), st.floats(0.2, 2))
def test_vectors_are_added_together_at_their_layers_and_a_common_scale(seed, chosen, scale):
    model, prompts = drawn(seed), questions(seed, 5)
    trained = {layer: 2 * numbers(seed + layer, WIDTH) for layer in range(LAYERS)}
    with witnessed():
        found = combined_accuracy(model, TASK, prompts, trained, sorted(chosen), scale, seed % 7)
    expected = biased(model, {layer: scale * trained[layer] for layer in chosen})
    assert found == pytest.approx(rightly(expected, prompts, seed=seed % 7), abs=2e-4)


def unembedding_of(model: Transformer, rows: Tensor) -> Transformer:
    model.unembedding.weight.data = rows
    return model


@some
@given(seeds, st.floats(0.5, 4), st.floats(0.5, 4))
def test_a_mapped_vector_says_in_the_other_model_what_it_said_in_its_own(seed, one, other):
    here, there = (torch.linalg.qr(numbers(seed + k, WIDTH, 13))[0].T for k in (1, 2))
    vector = numbers(seed, WIDTH)
    from_model, to_model = unembedding_of(drawn(0), one * here), unembedding_of(drawn(0), other * there)
    found = mapped(vector, from_model, to_model)
    torch.testing.assert_close(there @ found, here @ vector, rtol=0, atol=1e-9)
    itself = mapped(vector, from_model, from_model)
    torch.testing.assert_close(itself, here.T @ here @ vector, rtol=0, atol=1e-9)
    torch.testing.assert_close(mapped(itself, from_model, from_model), itself, rtol=0, atol=1e-9)


def test_rows_of_several_lengths_are_measured_by_their_mean_length():
    read, write = numbers(1, 13, WIDTH), numbers(2, 13, WIDTH)
    write *= torch.arange(1, 14)[:, None]
    vector = numbers(0, WIDTH)
    found = mapped(vector, unembedding_of(drawn(0), read), unembedding_of(drawn(0), write))
    expected = torch.zeros(WIDTH).double()
    for one, other in zip(read, write, strict=True):
        expected += (one @ vector) * other
    lengths = [sum(math.hypot(*row) for row in rows.tolist()) / 13 for rows in (read, write)]
    torch.testing.assert_close(found, expected / lengths[0] / lengths[1])
