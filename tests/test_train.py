"""Laws of the training loop: its schedule by hand, its step by hand, and that no interruption leaves a trace."""

import itertools
import math
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from tasks import Copy
from toylab.batches import fresh, next_token_loss
from toylab.files import read_tensors
from toylab.model import ModelConfig, Transformer
from toylab.train import DivergedError, TrainConfig, Training, learning_rate, train

TASK = Copy(lengths=(1, 3), p=3)
SMALL = ModelConfig(layers=1, heads=1, width=8, hidden=8)
PLAIN = TrainConfig(
    steps=6, rows=4, learning_rate=1e-2, warmup=0, schedule="constant", weight_decay=0.0, betas=(0.9, 0.999), clip=1e9,
    evaluate_every=2, stop_at=None, stop_after=1, cooldown=0,
)  # fmt: skip


def build(seed: int = 0, config: ModelConfig = SMALL) -> Transformer:
    return Transformer.for_task(TASK, config, seed)


def bits(model: nn.Module) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


class Number(nn.Module):
    """The smallest model: one weight."""

    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([value]))


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
@settings(max_examples=15)
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
    history = train(build(), next_token_loss, fresh(TASK, 0, config.rows), config).history
    losses = [entry["loss"] for entry in history]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.5 * losses[0]


def test_what_is_frozen_stays_and_everything_else_is_trained():
    model = build(config=replace(SMALL, unembedding="frozen"))
    before = bits(model)
    train(model, next_token_loss, fresh(TASK, 0, 4), PLAIN)
    assert [name for name, held in bits(model).items() if held == before[name]] == ["unembedding.weight"]


def test_the_same_training_twice_ends_with_the_same_bits_and_another_seed_with_others():
    def trained(seed: int) -> dict[str, bytes]:
        model = build()
        train(model, next_token_loss, fresh(TASK, seed, 4), PLAIN)
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


# Interruptions -------------------------------------------------------------------------------------------------------


class Interrupted(Exception):  # noqa: N818
    pass


def interrupted_at(call: int):
    """The loss, which raises at one of its calls."""
    calls = itertools.count()

    def loss(model: nn.Module, batch: object) -> torch.Tensor:
        if next(calls) == call:
            raise Interrupted
        return next_token_loss(model, batch)

    return loss


def free_of_times(state: Training) -> dict:
    return {name: value for name, value in asdict(state).items() if name != "cpu_seconds"}


@settings(max_examples=20)
@given(
    st.lists(st.integers(0, 14), min_size=1, max_size=3),
    st.integers(1, 5),
    st.sampled_from(["constant", "cosine"]),
    st.none() | st.just(0.5),
    st.sampled_from(["learned", "frozen"]),
)
def test_an_interrupted_training_ends_with_the_bits_of_one_that_was_not(
    tmp_path_factory, calls, every, schedule, stop_at, unembedding
):
    config = replace(
        PLAIN, steps=12, warmup=4, schedule=schedule, evaluate_every=every, weight_decay=0.1, stop_at=stop_at,
        stop_after=2, cooldown=3, clip=1.0,
    )  # fmt: skip
    shape = replace(SMALL, unembedding=unembedding)

    def evaluate(model: nn.Module) -> dict[str, float]:
        return {"accuracy": float(model.embedding.weight[0, 0] > -100)}

    whole = build(config=shape)
    expected = train(whole, next_token_loss, fresh(TASK, 0, 4), config, evaluate=evaluate)
    checkpoint = tmp_path_factory.mktemp("train") / "checkpoint.safetensors"
    for call in calls:
        with suppress(Interrupted):
            train(
                build(config=shape), interrupted_at(call), fresh(TASK, 0, 4), config,
                evaluate=evaluate, checkpoint=checkpoint,
            )  # fmt: skip
    continued = build(config=shape)
    state = train(continued, next_token_loss, fresh(TASK, 0, 4), config, evaluate=evaluate, checkpoint=checkpoint)
    assert bits(continued) == bits(whole)
    assert free_of_times(state) == free_of_times(expected)


def test_a_finished_training_is_not_trained_on(tmp_path):
    checkpoint = tmp_path / "checkpoint.safetensors"
    model = build()
    state = train(model, next_token_loss, fresh(TASK, 0, 4), PLAIN, checkpoint=checkpoint)
    again = build()
    assert train(again, interrupted_at(0), fresh(TASK, 0, 4), PLAIN, checkpoint=checkpoint) == state
    assert bits(again) == bits(model)


def test_continuing_starts_at_the_last_evaluation(tmp_path):
    config, checkpoint, asked = replace(PLAIN, steps=10, evaluate_every=4), tmp_path / "checkpoint.safetensors", []
    with pytest.raises(Interrupted):
        train(build(), interrupted_at(7), fresh(TASK, 0, 4), config, checkpoint=checkpoint)
    source = fresh(TASK, 0, 4)
    train(build(), next_token_loss, lambda step: asked.append(step) or source(step), config, checkpoint=checkpoint)
    assert asked == [4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("unembedding", ["learned", "tied", "frozen", "orthogonal"])
def test_a_model_of_every_unembedding_can_be_continued(tmp_path, unembedding):
    config = replace(SMALL, width=16, unembedding=unembedding)
    checkpoint = tmp_path / "checkpoint.safetensors"
    model = build(config=config)
    train(model, next_token_loss, fresh(TASK, 0, 4), PLAIN, checkpoint=checkpoint)
    again = build(1, config)
    train(again, next_token_loss, fresh(TASK, 0, 4), PLAIN, checkpoint=checkpoint)
    assert bits(again) == bits(model)


# Divergence ----------------------------------------------------------------------------------------------------------


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


# Damaged checkpoints -------------------------------------------------------------------------------------------------


class Content(bytes):
    """Of a file; pytest need not print all of it."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


@pytest.fixture(scope="module")
def intact(tmp_path_factory) -> Content:
    path = tmp_path_factory.mktemp("intact") / "checkpoint.safetensors"
    with pytest.raises(Interrupted):
        train(build(), interrupted_at(5), fresh(TASK, 0, 4), PLAIN, checkpoint=path)
    return Content(path.read_bytes())


def resume_from(content: bytes, folder: Path, model: nn.Module | None = None) -> Training:
    path = folder / "checkpoint.safetensors"
    path.write_bytes(content)
    return train(model or build(), next_token_loss, fresh(TASK, 0, 4), PLAIN, checkpoint=path)


def test_an_intact_checkpoint_continues(intact, tmp_path):
    assert resume_from(intact, tmp_path).step == PLAIN.steps


@given(st.data())
def test_a_checkpoint_cut_short_anywhere_is_refused_by_name(intact, tmp_path_factory, data):
    end = data.draw(st.integers(0, len(intact) - 1))
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors: .*delete this file and run"):
        resume_from(intact[:end], tmp_path_factory.mktemp("cut"))


@pytest.mark.parametrize("part", ["header", "weights"])
@settings(phases=[Phase.explicit, Phase.reuse, Phase.generate])  # there is no simplest bit to look for
@given(st.data())
def test_a_checkpoint_with_one_bit_flipped_anywhere_is_refused_by_name(intact, tmp_path_factory, part, data):
    header = 8 + int.from_bytes(intact[:8], "little")
    at = data.draw(st.integers(0, header - 1) if part == "header" else st.integers(header, len(intact) - 1))
    changed = bytearray(intact)
    changed[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors: "):
        resume_from(bytes(changed), tmp_path_factory.mktemp("flipped"))


@pytest.mark.parametrize("change", [{"width": 16}, {"layers": 2}, {"hidden": 4}, {"biases": False}])
def test_a_checkpoint_of_another_shape_is_refused_by_name(intact, tmp_path, change):
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors: holds a model of another shape; .*settings"):
        resume_from(intact, tmp_path, build(config=replace(SMALL, **change)))


def test_refusing_a_checkpoint_leaves_the_file_as_it_is(intact, tmp_path):
    for content in (intact[:-7], b"", b"not a checkpoint at all"):
        with pytest.raises(ValueError, match=r"checkpoint\.safetensors"):
            resume_from(content, tmp_path)
        assert (tmp_path / "checkpoint.safetensors").read_bytes() == content


# Mistakes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["steps", "rows", "evaluate_every", "stop_after"])
@pytest.mark.parametrize("value", [0, -3])
def test_a_count_below_one_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"^{name}={value}: must be at least 1"):
        TrainConfig(**{name: value})


@pytest.mark.parametrize("name", ["warmup", "cooldown"])
def test_a_span_below_zero_is_refused(name):
    with pytest.raises(ValueError, match=rf"^{name}=-1: must be at least 0"):
        TrainConfig(**{name: -1})


@pytest.mark.parametrize("name", ["learning_rate", "clip"])
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_scale_that_is_not_positive_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"^{name}={value}: must be a positive number, for example 1e-3"):
        TrainConfig(**{name: value})


@pytest.mark.parametrize("evaluate", [None, lambda model: {"loss on held-out rows": 1.0}])
def test_a_stop_rule_that_nothing_measures_is_refused_before_any_step(evaluate):
    config = TrainConfig(steps=3, rows=4, stop_at=0.9)
    with pytest.raises(ValueError, match=r"stop_at=0\.9: watches 'accuracy', which evaluate= must measure"):
        train(Transformer.for_task(Copy()), next_token_loss, fresh(Copy(), 0, 4), config, evaluate=evaluate)
