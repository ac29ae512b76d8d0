"""Laws of counting batches and their loss: nothing is scored that is not there, and a step decides its strings."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from toylab.model.encoder_decoder import ENCODER, EncoderDecoderConfig
from toylab.model.token_counts import count_tokens
from toylab.studies.contextual_counting import data
from toylab.studies.contextual_counting.data import (
    RegionTeacher,
    StringBatch,
    count_accuracy,
    count_logits,
    count_loss,
    counting_model,
    for_model,
    fresh_strings,
    label_accuracy,
    learn_counting,
    linear_decay,
    string_batch,
)
from toylab.tasks import IGNORE, ContextualCounting, encode, held_out, stream
from toylab.training.batches import BLOCK_STEPS, length_curriculum
from toylab.training.loop import TrainConfig, Training, train

TASK = ContextualCounting(length=(12, 20), regions=(1, 3))
SMALL = EncoderDecoderConfig(encoder=replace(ENCODER, width=8))
seeds = st.integers(0, 2**31)
some = settings(max_examples=15)


def laid_out(task: ContextualCounting, *texts: str, **options) -> StringBatch:
    rows = np.array([encode(task, list(text)) for text in texts])
    return string_batch(task, task.batch(rows, np.full(len(texts), len(texts[0]))), **options)


def test_a_string_is_read_behind_its_begin_token_and_asked_for_the_counts_it_has():
    found = laid_out(TASK, "1[011]1[]0", "[1]0001110")
    assert found.tokens.tolist() == [[4, 1, 2, 0, 1, 1, 3, 1, 2, 3, 0], [4, 2, 1, 3, 0, 0, 0, 1, 1, 1, 0]]
    assert found.counts.tolist() == [[2, 0, IGNORE], [1, IGNORE, IGNORE]]
    assert found.regions.tolist() == [[0, 0, 1, 1, 1, 1, 1, 0, 2, 2, 0], [0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0]]
    assert found.token_counts is None


def test_without_a_begin_token_the_string_stands_alone():
    found = laid_out(replace(TASK, begin=False), "1[011]1[]0")
    assert found.tokens.tolist() == [[1, 2, 0, 1, 1, 3, 1, 2, 3, 0]]
    assert found.regions.tolist() == [[0, 1, 1, 1, 1, 1, 0, 2, 2, 0]]


@pytest.mark.parametrize(("labels", "counts"), [(1, [2]), (2, [2, 0]), (5, [2, 0, IGNORE, IGNORE, IGNORE])])
def test_as_many_labels_are_asked_as_a_model_has(labels, counts):
    assert laid_out(TASK, "1[011]1[]0", labels=labels).counts.tolist() == [counts]


def test_the_tally_is_that_of_the_tokens():
    for causal in (True, False):
        found, own = laid_out(TASK, "1[011]1[]0", causal_counts=causal), None
        own = count_tokens(found.tokens, TASK.symbols, causal)
        assert torch.equal(found.token_counts.log_counts, own.log_counts)


def test_strings_of_several_lengths_are_refused():
    batch = TASK.sample(stream(0), 2, length=np.array([12, 13]))
    with pytest.raises(ValueError, match=r"strings of length 12 to 13; sample it with one length, such as length=13"):
        string_batch(TASK, batch)


@some
@given(seeds, st.integers(1, 5), st.lists(st.integers(0, 3 * BLOCK_STEPS), min_size=1, max_size=4))
def test_the_batch_of_a_step_depends_on_nothing_but_the_step(seed, rows, steps):
    one, other = (fresh_strings(TASK, seed, rows) for _ in range(2))
    before = {step: one(step) for step in sorted(steps)}
    for step in reversed(steps):
        again = other(step)
        assert len(again) == rows
        assert torch.equal(again.tokens, before[step].tokens)
        assert torch.equal(again.counts, before[step].counts)


def test_every_length_and_number_of_regions_of_the_task_is_trained_on_and_none_else():
    batch_at = fresh_strings(TASK, 3, 4)
    batches = [batch_at(step) for step in range(4 * BLOCK_STEPS)]
    assert {batch.tokens.shape[1] - 1 for batch in batches} == set(range(12, 21))
    numbers = [int((row != IGNORE).sum()) for batch in batches for row in batch.counts]
    assert set(numbers) == {1, 2, 3}
    assert max(abs(numbers.count(n) / len(numbers) - 1 / 3) for n in (1, 2, 3)) < 0.05


@some
@given(seeds, seeds)
def test_no_string_is_both_trained_on_and_held_out(seed, other):
    task = ContextualCounting(length=9, regions=2)  # so few strings that chance alone would repeat some
    batch_at = fresh_strings(task, seed, 32)
    trained = {tuple(row) for step in range(3) for row in batch_at(step).tokens.tolist()}
    sets = [
        {tuple(r) for r in string_batch(task, held_out(task, other, 60, s, **task.largest)).tokens.tolist()}
        for s in ("validation", "test")
    ]
    assert not trained & sets[0]
    assert not trained & sets[1]
    assert not sets[0] & sets[1]


def test_the_largest_strings_are_the_longest_with_most_regions_and_others_may_be_held_out():
    batch = held_out(TASK, 0, 5, **TASK.largest)
    assert set(batch.labels["length"].tolist()) == {20}
    assert (batch.labels["count"] >= 0).all()
    batch = held_out(TASK, 0, 5, length=14, regions=2)
    assert set(batch.labels["length"].tolist()) == {14}
    assert (batch.labels["count"][:, 2] < 0).all()


@some
@given(seeds)
def test_the_loss_is_the_mean_surprise_over_the_counts_that_exist(seed):
    model = counting_model(TASK, SMALL, seed).double()
    found = string_batch(TASK, TASK.sample(stream(seed), 6, length=15))
    chances = model(found.tokens).detach().softmax(dim=-1)
    surprises = [
        -math.log(chances[row, label, count])
        for row, counts in enumerate(found.counts.tolist())
        for label, count in enumerate(counts)
        if count != IGNORE
    ]
    assert count_loss(model, found).item() == pytest.approx(sum(surprises) / len(surprises), abs=1e-9)


@some
@given(seeds, st.floats(0.01, 2))
def test_the_auxiliary_loss_adds_the_regions_times_its_weight_and_nothing_at_weight_zero(seed, weight):
    model = counting_model(TASK, SMALL, seed).double()
    teacher = RegionTeacher(model, seed).double()
    found = string_batch(TASK, TASK.sample(stream(seed), 4, length=15))
    plain = count_loss(model, found)
    assert torch.equal(count_loss(teacher, found), plain)
    guessed = model.encoder(found.tokens) @ teacher.classifier.weight.T
    regions = F.cross_entropy(guessed.flatten(0, 1), found.regions.flatten())
    taught = count_loss(teacher, replace(found, auxiliary=weight))
    assert taught.item() == pytest.approx((plain + weight * regions).item(), abs=1e-9)


def test_the_teacher_shares_the_model_and_draws_other_numbers():
    model = counting_model(TASK, SMALL, 5)
    teacher = RegionTeacher(model, 5)
    assert teacher.model is model
    assert teacher.classifier.weight.shape == (TASK.most + 1, 8)
    assert not torch.equal(teacher.classifier.weight[0], model.encoder.blocks[0].attn.query.weight[0])


def test_the_auxiliary_weight_fades_linearly_and_is_gone_for_good():
    weight = linear_decay(1000, 0.15)
    assert [weight(step) for step in (0, 75, 150, 151, 999)] == [1, 0.5, 0, 0, 0]
    assert [linear_decay(1000, 0.0)(step) for step in (0, 1)] == [0, 0]


def test_the_model_of_a_task_has_its_sizes():
    model = counting_model(TASK, SMALL)
    assert (model.symbols, model.queries, model.classes, model.context) == (5, 3, 21, 21)
    assert model(string_batch(TASK, held_out(TASK, 0, 2, **TASK.largest)).tokens).shape == (2, 3, 21)


def test_learning_is_a_pure_function_of_its_settings_and_follows_every_region(tmp_path):
    config = TrainConfig(steps=12, rows=4, warmup=2, cooldown=0, evaluate_every=6)
    before, recorded = torch.get_rng_state(), []
    (one, training), (other, _) = (
        learn_counting(TASK, SMALL, config, 3, auxiliary=0.5, rows=100, checkpoint=tmp_path / name, record=record)
        for name, record in (("plain", None), ("recorded", lambda *state: recorded.append(state)))
    )
    assert [(model is other, step) for model, step in recorded] == [(True, 0), (True, 6), (True, 12)]
    assert torch.equal(torch.get_rng_state(), before)
    for name, weight in one.state_dict().items():
        assert torch.equal(other.state_dict()[name], weight), name
    assert [entry["step"] for entry in training.history] == [0, 6, 12]
    for entry in training.history:
        shares = [entry[f"region {number}"] for number in (1, 2, 3)]
        assert entry["accuracy"] == pytest.approx(sum(shares) / 3)


def test_other_seeds_and_no_teacher_give_other_models():
    config = TrainConfig(steps=3, rows=4, warmup=1, cooldown=0)
    found = [
        learn_counting(TASK, SMALL, config, seed, auxiliary=a, rows=100)[0]
        for seed, a in ((0, 0.5), (1, 0.5), (0, 0.0))
    ]
    weights = [model.encoder.blocks[0].attn.value.weight for model in found]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_training_that_was_cut_off_while_the_teacher_spoke_or_after_ends_with_the_same_bits(tmp_path):
    config = TrainConfig(steps=20, rows=4, warmup=2, schedule="cosine", cooldown=0, evaluate_every=5)
    batch_at = fresh_strings(TASK, 0, 4, causal_counts=True, auxiliary=linear_decay(20, 0.5))
    whole = RegionTeacher(counting_model(TASK, SMALL, 0))
    train(whole, count_loss, batch_at, config)
    for cut in (7, 13):
        parts, path = RegionTeacher(counting_model(TASK, SMALL, 0)), tmp_path / f"{cut}.safetensors"

        def until(step: int, cut: int = cut) -> StringBatch:
            if step == cut:
                raise KeyboardInterrupt
            return batch_at(step)

        with pytest.raises(KeyboardInterrupt):
            train(parts, count_loss, until, config, checkpoint=path)
        again = RegionTeacher(counting_model(TASK, SMALL, 0))
        train(again, count_loss, batch_at, config, checkpoint=path)
        for name, weight in whole.model.state_dict().items():
            assert torch.equal(again.model.state_dict()[name], weight), name


def test_training_strings_are_as_long_as_the_growth_lets_them():
    task = ContextualCounting(length=(8, 64), regions=1)
    draw = fresh_strings(task, 0, 4, longest=length_curriculum(16, 64, 256))
    reached = [draw(step).tokens.shape[1] - 1 for step in range(256)]
    for block in range(4):
        assert max(reached[64 * block : 64 * block + 64]) <= length_curriculum(16, 64, 256)(64 * block)
    assert max(reached[192:]) > 32


@given(st.integers(0, 9), st.integers(1, 9))
def test_strings_fall_apart_into_rows_and_lose_nothing(rows, at_once):
    task = ContextualCounting(length=12, regions=2)
    for tallied in (None, True):
        whole = string_batch(task, task.sample(stream(3), rows), causal_counts=tallied)
        parts = replace(whole, auxiliary=0.3).split(at_once)
        assert all(len(part) <= at_once and part.auxiliary == 0.3 for part in parts)
        for name in ("tokens", "counts", "regions"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
        if tallied:
            assert torch.equal(torch.cat([part.token_counts.types for part in parts]), whole.token_counts.types)


def test_accuracy_read_in_parts_is_that_of_the_whole(monkeypatch):
    task = ContextualCounting(length=12, regions=2)
    model = counting_model(task, EncoderDecoderConfig(), 0)
    whole = for_model(task, model, task.sample(stream(4), 23))
    expected = label_accuracy(count_logits(model, whole).argmax(dim=-1), whole)
    monkeypatch.setattr("toylab.studies.contextual_counting.data.EVALUATION_ROWS", 5)
    assert count_accuracy(model, whole) == expected == count_accuracy(model, whole, {})


def test_a_share_is_of_the_strings_that_have_the_label_and_of_the_labels_that_a_string_has():
    found = laid_out(TASK, "1[011]1[]0", "[1]0001110", "[1][1]1110")
    answers = torch.tensor([[2, 1, IGNORE], [0, 0, 5], [1, 1, 0]])
    assert label_accuracy(answers, found) == pytest.approx([2 / 3, 1 / 2])


@pytest.mark.parametrize(("auxiliary", "growth"), [(0.5, 0.0), (0.0, 0.5), (0.25, 1.0)])
def test_a_training_is_given_what_its_settings_say_and_followed_on_validation_strings(monkeypatch, auxiliary, growth):
    given, task = [], ContextualCounting(length=(6, 40), regions=2)
    monkeypatch.setattr(data, "train", lambda *arguments, **more: given.extend([*arguments, more]) or Training())
    config = TrainConfig(steps=400, rows=2)
    model, _ = learn_counting(task, SMALL, config, 3, auxiliary=auxiliary, growth=growth, rows=60, progress="told")
    taught, loss, batch_at, same, more = given
    assert isinstance(taught, RegionTeacher) == (auxiliary > 0)
    assert (loss, same, more["progress"], more["checkpoint"]) == (count_loss, config, "told", None)
    expected = fresh_strings(
        task,
        3,
        2,
        causal_counts=True,
        auxiliary=linear_decay(400, auxiliary),
        longest=length_curriculum(12, 40, 400 * growth),
    )
    for step in (0, 60, 130, 390):
        assert torch.equal(batch_at(step).tokens, expected(step).tokens)
        assert batch_at(step).auxiliary == expected(step).auxiliary
        assert torch.equal(batch_at(step).token_counts.log_counts, expected(step).token_counts.log_counts)
    with torch.no_grad():
        model.decoder.head.bias[3] += 1e3
    counts = for_model(task, model, held_out(task, 3, 60, "validation", **task.largest)).counts
    first, second = ((counts == 3).float().mean(dim=0)).tolist()
    told = {"accuracy": (first + second) / 2, "region 1": first, "region 2": second}
    assert first != second
    assert more["evaluate"](model) == pytest.approx(told)


@pytest.mark.parametrize(
    ("encoder", "causal"),
    [({}, True), ({"causal": False}, False), ({"positions": "rotary"}, None), ({"layers": 2}, None)],
)
def test_strings_are_tallied_as_the_encoder_sees_them_where_it_can_use_that(encoder, causal):
    config = replace(SMALL, encoder=replace(SMALL.encoder, **encoder))
    found = for_model(TASK, counting_model(TASK, config), held_out(TASK, 0, 3, **TASK.largest))
    if causal is None:
        assert found.token_counts is None
    else:
        assert torch.equal(found.token_counts.log_counts, count_tokens(found.tokens, TASK.symbols, causal).log_counts)
