"""Laws of the training loop: its schedule by hand, its step by hand, its modes, and where it ends."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.examples import fewer
from tests.training.small_trainings import (
    PLAIN,
    SMALL,
    TASK,
    Number,
    bits,
    build,
)
from toylab.console import ToylabError
from toylab.files import read_tensors
from toylab.model.transformer import Transformer
from toylab.tasks import Copy
from toylab.training.batches import next_token_loss, training_batches
from toylab.training.loop import DivergedError, TrainConfig, first_step, learning_rate, train

# The learning rate ---------------------------------------------------------------------------------------------------

FLAT = replace(PLAIN, steps=100, learning_rate=8.0, warmup=4, cooldown=10)
WAVE = replace(FLAT, schedule="cosine", steps=104)

BY_HAND = [
    (FLAT, 0, None, 2.0),  # warm-up: a quarter, half, three quarters, all
    (FLAT, 1, None, 4.0),
    (FLAT, 3, None, 8.0),
    (FLAT, 4, None, 8.0),
    (FLAT, 50, None, 8.0),
    (FLAT, 90, None, 8.0),  # ten steps are left, and the cool-down has ten
    (FLAT, 95, None, 4.0),
    (FLAT, 99, None, 0.8),
    (FLAT, 50, 50, 8.0),  # the stop rule was met at step 50
    (FLAT, 55, 50, 4.0),
    (FLAT, 60, 50, 0.0),
    (FLAT, 70, 50, 0.0),
    (FLAT, 96, 95, 3.2),  # met in the cool-down of the end, which is shorter: never above either
    (FLAT, 97, 95, 2.4),
    (FLAT, 100, 95, 0.0),
    (replace(FLAT, cooldown=0), 99, None, 8.0),
    (WAVE, 3, None, 8.0),
    (WAVE, 4, None, 8.0),
    (WAVE, 29, None, 4.0 * (1 + math.sqrt(0.5))),  # an eighth of the wave
    (WAVE, 54, None, 4.0),
    (WAVE, 104, None, 0.0),
    (WAVE, 59, 54, 2.0),
]


@pytest.mark.parametrize(("config", "step", "since", "rate"), BY_HAND)
def test_the_learning_rate_is_what_one_works_out_by_hand(config, step, since, rate):
    assert learning_rate(config, step, since) == pytest.approx(rate, abs=1e-12)


@st.composite
def schedules(draw: st.DrawFn) -> TrainConfig:
    return replace(
        PLAIN,
        steps=draw(st.integers(1, 60)),
        warmup=draw(st.integers(0, 30)),
        schedule=draw(st.sampled_from(["constant", "cosine"])),
        cooldown=draw(st.integers(0, 30)),
    )


@given(schedules(), st.none() | st.integers(0, 60))
def test_the_learning_rate_stays_between_zero_and_its_peak(config, since):
    for step in range(since or 0, config.steps + 1):
        assert 0 <= learning_rate(config, step, since) <= config.learning_rate * (1 + 1e-9)


@given(schedules(), st.none() | st.integers(0, 60))
def test_after_the_warm_up_the_learning_rate_never_rises(config, since):
    start = config.warmup if since is None else max(since, config.warmup)
    rates = [learning_rate(config, step, since) for step in range(start, config.steps)]
    assert all(later <= earlier + 1e-15 for earlier, later in itertools.pairwise(rates))


@given(schedules(), st.none() | st.integers(0, 60))
def test_with_a_cool_down_the_last_step_is_a_small_one(config, since):
    config = replace(config, schedule="constant", cooldown=max(config.cooldown, 1), warmup=0)
    since = None if since is None or since >= config.steps else since
    last = config.steps if since is None else min(config.steps, since + config.cooldown)
    assert learning_rate(config, last - 1, since) <= config.learning_rate / config.cooldown * (1 + 1e-9)


# One step ------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32), st.floats(0, 0.5), st.floats(0.05, 2), st.sampled_from([(0.9, 0.999), (0.8, 0.95)]))
@fewer(0.4)
def test_a_step_is_that_of_adamw_with_a_shortened_gradient(seed, decay, clip, betas):
    config = replace(PLAIN, steps=5, warmup=3, weight_decay=decay, clip=clip, betas=betas)
    model = nn.Linear(3, 2).double()
    source = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.from_numpy(source.normal(size=parameter.shape)))
    inputs = source.normal(size=(config.steps, 4, 3))
    weight, bias = (p.detach().numpy().copy() for p in model.parameters())
    moments = {name: (np.zeros_like(p), np.zeros_like(p)) for name, p in (("weight", weight), ("bias", bias))}
    for step, x in enumerate(inputs):
        y = x @ weight.T + bias  # the loss below is the sum of squares, whose slope is 2 y
        slopes = {"weight": 2 * y.T @ x, "bias": 2 * y.sum(axis=0)}
        norm = math.sqrt(sum((g**2).sum() for g in slopes.values()))
        rate = config.learning_rate * min((step + 1) / 3, 1)
        for (name, slope), value in zip(slopes.items(), (weight, bias), strict=True):
            slope = slope * min(1, clip / (norm + 1e-6))
            first, second = moments[name]
            first += (1 - betas[0]) * (slope - first)
            second += (1 - betas[1]) * (slope**2 - second)
            mean, square = first / (1 - betas[0] ** (step + 1)), second / (1 - betas[1] ** (step + 1))
            value -= rate * decay * value + rate * mean / (np.sqrt(square) + 1e-8)
    train(model, lambda m, x: m(x).square().sum(), lambda step: torch.from_numpy(inputs[step]), config)
    np.testing.assert_allclose(model.weight.detach().numpy(), weight, rtol=0, atol=1e-9)
    np.testing.assert_allclose(model.bias.detach().numpy(), bias, rtol=0, atol=1e-9)


def test_the_loss_of_a_small_task_goes_down_in_a_few_dozen_steps():
    config = replace(PLAIN, steps=60, rows=16, evaluate_every=20, clip=1.0)
    history = train(build(), next_token_loss, training_batches(TASK, 0, config.rows), config).history
    losses = [entry["loss"] for entry in history]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.5 * losses[0]


def test_what_is_frozen_stays_and_everything_else_is_trained():
    model = build(config=replace(SMALL, unembedding="frozen"))
    before = bits(model)
    train(model, next_token_loss, training_batches(TASK, 0, 4), PLAIN)
    assert [name for name, held in bits(model).items() if held == before[name]] == ["unembedding.weight"]


def test_the_same_training_twice_ends_with_the_same_bits_and_another_seed_with_others():
    def trained(seed: int) -> dict[str, bytes]:
        model = build()
        train(model, next_token_loss, training_batches(TASK, seed, 4), PLAIN)
        return bits(model)

    assert trained(0) == trained(0)
    assert trained(0) != trained(1)


# What is written down ------------------------------------------------------------------------------------------------


@given(st.integers(1, 30), st.integers(1, 12))
def test_the_history_has_the_mean_loss_since_the_last_evaluation(steps, every):
    losses = [float(step * step % 7) for step in range(steps)]
    config = replace(PLAIN, steps=steps, evaluate_every=every)
    asked = []

    def loss(model: Number, step: int) -> torch.Tensor:
        return 0 * model.weight.sum() + losses[step]

    def evaluate(model: Number) -> dict[str, float]:
        asked.append(torch.is_grad_enabled() or model.training)
        return {"score": float(len(asked))}

    state = train(Number(), loss, lambda step: step, config, evaluate=evaluate)
    ends = sorted({*range(every, steps + 1, every), steps})
    assert [entry["step"] for entry in state.history] == [0, *ends]
    assert state.history[0]["loss"] == losses[0]
    for entry, (start, end) in zip(state.history[1:], itertools.pairwise([0, *ends]), strict=True):
        assert entry["loss"] == pytest.approx(np.mean(losses[start:end]))
        assert entry["learning_rate"] == learning_rate(config, end)
    assert [entry["score"] for entry in state.history] == list(range(1, len(ends) + 2))
    assert not any(asked)
    assert state.step == steps


@given(st.lists(st.sampled_from([0.2, 0.9]), min_size=8, max_size=8), st.integers(1, 3), st.integers(0, 7))
def test_training_ends_a_cool_down_after_the_metric_was_high_often_enough_in_a_row(scores, in_a_row, cooldown):
    every, steps = 3, 21
    config = replace(PLAIN, steps=steps, evaluate_every=every, stop_at=0.9, stop_after=in_a_row, cooldown=cooldown)
    given_out = iter([*scores, *[0.0] * 20])
    state = train(
        Number(), lambda m, _: m.weight.square().sum(), lambda step: step, config,
        evaluate=lambda _: {"score": next(given_out)}, watched="score",
    )  # fmt: skip
    met = next((n for n in range(in_a_row - 1, 8) if all(s == 0.9 for s in scores[n - in_a_row + 1 : n + 1])), None)
    if met is None:
        assert state.cooling_since is None
        assert state.step == steps
    else:
        assert state.cooling_since == met * every
        assert state.step == min(met * every + cooldown, steps)
        assert state.history[-1]["step"] == state.step
        if cooldown and met * every + cooldown <= steps:
            assert state.history[-1]["learning_rate"] == 0


def test_without_a_stop_value_no_metric_ends_a_training():
    state = train(
        Number(), lambda m, _: m.weight.square().sum(), lambda step: step, PLAIN, evaluate=lambda _: {"accuracy": 1.0}
    )
    assert state.step == PLAIN.steps


# Modes ---------------------------------------------------------------------------------------------------------------


class Modes(nn.Module):
    """Says in which mode it is asked; the inner part is kept out of training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.inner, self.seen = nn.Parameter(torch.ones(())), nn.Dropout().eval(), []

    def told(self) -> tuple[bool, bool]:
        return self.training, self.inner.training


@pytest.mark.parametrize("meddling", [lambda m: None, nn.Module.eval, nn.Module.train])
def test_a_model_is_trained_in_training_mode_and_evaluated_in_evaluation_mode(meddling):
    model, modes = Modes(), {"loss": set(), "evaluate": set(), "record": set()}

    def loss(model: Modes, _: int) -> torch.Tensor:
        modes["loss"].add(model.told())
        return model.weight.square()

    def evaluate(model: Modes) -> dict[str, float]:
        modes["evaluate"].add(model.told())
        meddling(model)
        return {}

    def record(model: Modes, _: int) -> None:
        modes["record"].add(model.told())

    train(model, loss, lambda step: step, PLAIN, evaluate=evaluate)
    train(model, loss, lambda step: step, PLAIN, record=record)
    assert modes == {"loss": {(True, False)}, "evaluate": {(False, False)}, "record": {(False, False)}}
    assert model.told() == (True, False)


@pytest.mark.parametrize("evaluate", [None, lambda _: {}])
def test_a_model_in_evaluation_mode_is_trained_in_training_mode_and_given_back_as_it_was(evaluate):
    model, modes = Modes().eval(), set()
    train(model, lambda m, _: modes.add(m.told()) or m.weight.square(), lambda step: step, PLAIN, evaluate=evaluate)
    assert modes == {(True, True)}
    assert model.told() == (False, False)


# Divergence ----------------------------------------------------------------------------------------------------------


@fewer(0.3)
@given(st.integers(0, 11), st.integers(1, 5), st.sampled_from([math.nan, math.inf, -math.inf]))
def test_a_loss_that_is_no_number_ends_training_and_names_step_and_learning_rate(tmp_path_factory, at, every, value):
    config = replace(PLAIN, steps=12, evaluate_every=every, learning_rate=0.125)
    checkpoint = tmp_path_factory.mktemp("train") / "checkpoint.safetensors"

    def loss(model: Number, step: int) -> torch.Tensor:
        return model.weight.square().sum() + (value if step == at and not torch.is_inference_mode_enabled() else 0)

    with pytest.raises(DivergedError, match=rf"(?s)at step {at}: .*learning_rate than 0\.125") as error:
        train(Number(), loss, lambda step: step, config, checkpoint=checkpoint)
    good = at // every * every
    assert checkpoint.exists() == (good > 0)
    if good:
        assert str(checkpoint) in str(error.value)
        tensors, about = read_tensors(checkpoint)
        assert about["step"] == good
        assert all(tensor.isfinite().all() for tensor in tensors.values())
        calm = train(Number(), lambda m, _: m.weight.square().sum(), lambda s: s, config, checkpoint=checkpoint)
        assert calm.step == 12


@pytest.mark.parametrize("at", range(4))
def test_a_gradient_that_is_no_number_does_not_reach_the_checkpoint(tmp_path, at):
    config, checkpoint = replace(PLAIN, steps=8, evaluate_every=2), tmp_path / "checkpoint.safetensors"

    def loss(model: Number, step: int) -> torch.Tensor:
        # The root of zero is zero, and its slope is infinite: such a loss looks well one last time.
        return model.weight.square().sum() + ((0 * model.weight).sqrt().sum() if step == at else 0)

    with pytest.raises(DivergedError, match=r"learning_rate"):
        train(Number(), loss, lambda step: step, config, checkpoint=checkpoint)
    assert checkpoint.exists() == (at >= 2)
    if checkpoint.exists():
        assert all(tensor.isfinite().all() for tensor in read_tensors(checkpoint)[0].values())


# Mistakes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rows", "evaluate_every", "stop_after"])
@pytest.mark.parametrize("value", [0, -3])
def test_a_count_below_one_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"^{name}={value}: must be at least 1"):
        TrainConfig(**{name: value})


def test_a_training_of_no_step_leaves_the_model_and_is_measured_once():
    model = nn.Linear(2, 1)
    before = [p.clone() for p in model.parameters()]
    done = train(model, lambda m, x: m(x).mean(), lambda step: torch.ones(1, 2), TrainConfig(steps=0))
    assert all(map(torch.equal, model.parameters(), before))
    assert [entry["step"] for entry in done.history] == [0]


def test_the_first_step_of_a_metric_is_that_at_which_it_reaches_the_threshold():
    history = [{"step": 0}, {"step": 10, "accuracy": 0.4}, {"step": 20, "accuracy": 0.5}, {"step": 30, "accuracy": 0.9}]
    assert [first_step(history, "accuracy", bar) for bar in (0.4, 0.41, 0.5, 0.9, 0.91)] == [10, 20, 20, 30, None]


@pytest.mark.parametrize("name", ["steps", "warmup", "cooldown"])
def test_a_span_below_zero_is_refused(name):
    with pytest.raises(ValueError, match=rf"^{name}=-1: must be at least 0"):
        TrainConfig(**{name: -1})


@pytest.mark.parametrize("name", ["learning_rate", "clip"])
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_scale_that_is_not_positive_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"^{name}={value}: .*above 0; .*1e-3"):
        TrainConfig(**{name: value})


@pytest.mark.parametrize("value", [math.nan, math.inf, torch.tensor(math.nan), np.float32("inf")])
def test_a_metric_that_is_no_number_is_refused_by_its_name_and_step(value):
    scores = iter([1.0, value])
    with pytest.raises(ToylabError, match=r"score=(nan|inf): .*at step 2"):
        train(build(), next_token_loss, training_batches(TASK, 0, 4), PLAIN, evaluate=lambda _: {"score": next(scores)})


def test_metrics_of_numpy_and_torch_are_numbers_in_the_history_and_in_a_checkpoint(tmp_path):
    values = itertools.cycle([np.float32(0.5), torch.tensor(0.5), np.int64(1), 1, 0.5])
    state = train(
        build(), next_token_loss, training_batches(TASK, 0, 4), replace(PLAIN, evaluate_every=1),
        checkpoint=tmp_path / "c",
        evaluate=lambda _: {"score": next(values)},
    )  # fmt: skip
    assert [entry["score"] for entry in state.history] == [0.5, 0.5, 1, 1, 0.5, 0.5, 0.5]
    assert all(type(entry["score"]) in (int, float) for entry in state.history)


@pytest.mark.parametrize("evaluate", [None, lambda model: {"loss on held-out rows": 1.0}])
def test_a_stop_rule_that_nothing_measures_is_refused_before_any_step(evaluate):
    config = TrainConfig(steps=3, rows=4, stop_at=0.9)
    with pytest.raises(ValueError, match=r"^stop_at=0\.9: .*'accuracy'.*; give"):
        train(Transformer.for_task(Copy()), next_token_loss, training_batches(Copy(), 0, 4), config, evaluate=evaluate)
