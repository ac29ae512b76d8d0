"""Laws of the training loop: its schedule by hand, its step by hand, and that no interruption leaves a trace."""

import itertools
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrize import is_parametrized, register_parametrization

from toylab.console import ToylabError
from toylab.files import read_tensors, write_tensors
from toylab.model.config import ModelConfig
from toylab.model.transformer import Transformer
from toylab.tasks import Copy
from toylab.training.batches import Scored, fresh, next_token_loss
from toylab.training.loop import DivergedError, TrainConfig, Training, learning_rate, train
from toylab.training.optimizer import as_one

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
    again = build(config=config)
    train(again, next_token_loss, fresh(TASK, 0, 4), PLAIN, checkpoint=checkpoint)
    assert bits(again) == bits(model)


OTHER = {
    "steps": 7, "rows": 5, "learning_rate": 2e-2, "warmup": 1, "schedule": "cosine", "weight_decay": 0.1,
    "betas": (0.8, 0.999), "clip": 1.0, "evaluate_every": 3, "stop_at": 2.0, "stop_after": 2, "cooldown": 1,
}  # fmt: skip


def test_there_is_another_value_of_every_setting():
    assert OTHER.keys() == asdict(PLAIN).keys()


@pytest.mark.parametrize("name", OTHER)
@pytest.mark.parametrize("finished", [True, False])
def test_a_checkpoint_of_other_settings_is_refused_by_their_names(tmp_path, name, finished):
    checkpoint, measured = tmp_path / "checkpoint.safetensors", {"evaluate": lambda _: {"accuracy": 0.0}}
    with suppress(Interrupted):
        loss = next_token_loss if finished else interrupted_at(6)
        train(build(), loss, fresh(TASK, 0, 4), PLAIN, checkpoint=checkpoint, **measured)
    content, model, config = checkpoint.read_bytes(), build(), replace(PLAIN, **{name: OTHER[name]})
    before = bits(model)
    with pytest.raises(ToylabError, match=rf"checkpoint\.safetensors: belongs to a training with {name}=.* \(now "):
        train(model, next_token_loss, fresh(TASK, 0, 4), config, checkpoint=checkpoint, **measured)
    assert bits(model) == before
    assert checkpoint.read_bytes() == content


def test_a_checkpoint_of_another_watched_metric_is_refused_where_that_ends_training(tmp_path):
    def trained(watched: str, stop_at: float | None) -> None:
        train(
            build(), next_token_loss, fresh(TASK, 0, 4), replace(PLAIN, stop_at=stop_at), watched=watched,
            evaluate=lambda _: {"one": 0.0, "other": 0.0}, checkpoint=tmp_path / f"{stop_at}.safetensors",
        )  # fmt: skip

    trained("one", None)
    trained("other", None)
    trained("one", 0.5)
    with pytest.raises(ToylabError, match=r"watched=one \(now other\)"):
        trained("other", 0.5)


@pytest.mark.parametrize("other", [lambda: build(1), lambda: build().double()], ids=["seed", "type"])
def test_a_checkpoint_of_other_initial_weights_is_refused(tmp_path, other):
    checkpoint = tmp_path / "checkpoint.safetensors"
    model = build()
    train(model, next_token_loss, fresh(TASK, 0, 4), PLAIN, checkpoint=checkpoint)
    for wrong in (other(), model):
        with pytest.raises(ToylabError, match=r"checkpoint\.safetensors: belongs to .* other initial weights"):
            train(wrong, next_token_loss, fresh(TASK, 0, 4), PLAIN, checkpoint=checkpoint)


def test_a_frozen_weight_is_part_of_what_a_checkpoint_belongs_to(tmp_path):
    checkpoint = tmp_path / "checkpoint.safetensors"
    shape = replace(SMALL, unembedding="frozen")
    train(build(config=shape), next_token_loss, fresh(TASK, 0, 4), PLAIN, checkpoint=checkpoint)
    other = build(config=shape)
    other.unembedding.weight.data[0, 0] += 1
    with pytest.raises(ToylabError, match="other initial weights"):
        train(other, next_token_loss, fresh(TASK, 0, 4), PLAIN, checkpoint=checkpoint)


def test_settings_of_numpy_are_those_of_python(tmp_path):
    checkpoint = tmp_path / "checkpoint.safetensors"
    config = replace(PLAIN, learning_rate=np.float64(0.5))
    state = train(build(), next_token_loss, fresh(TASK, 0, 4), config, checkpoint=checkpoint)
    plain = replace(PLAIN, learning_rate=0.5)
    assert train(build(), next_token_loss, fresh(TASK, 0, 4), plain, checkpoint=checkpoint) == state


def test_a_checkpoint_of_an_older_version_is_refused_with_what_to_do(tmp_path):
    checkpoint = tmp_path / "checkpoint.safetensors"
    train(build(), next_token_loss, fresh(TASK, 0, 4), PLAIN, checkpoint=checkpoint)
    tensors, about = read_tensors(checkpoint)
    write_tensors(checkpoint, tensors, {name: value for name, value in about.items() if name != "origin"})
    with pytest.raises(ToylabError, match=r"checkpoint\.safetensors: .*version.*; delete it"):
        train(build(), next_token_loss, fresh(TASK, 0, 4), PLAIN, checkpoint=checkpoint)


def test_a_checkpoint_that_cannot_be_written_is_refused_before_any_step(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "checkpoint", tmp_path / ("long" * 100)):
        with pytest.raises(ToylabError, match=r"checkpoint=.*cannot be written"):
            train(build(), interrupted_at(0), fresh(TASK, 0, 4), PLAIN, checkpoint=path)


def test_a_checkpoint_may_be_named_by_text(tmp_path):
    config, checkpoint = replace(PLAIN, evaluate_every=4), str(tmp_path / "checkpoint.safetensors")
    with pytest.raises(Interrupted):
        train(build(), interrupted_at(6), fresh(TASK, 0, 4), config, checkpoint=checkpoint)
    assert train(build(), next_token_loss, fresh(TASK, 0, 4), config, checkpoint=checkpoint).step == config.steps


# Randomness of torch -------------------------------------------------------------------------------------------------


class Dropping(nn.Module):
    """A model with dropout on its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.dropout = build(), nn.Dropout(0.3)

    def forward(self, tokens: torch.Tensor, **options: torch.Tensor | None) -> torch.Tensor:
        return self.dropout(self.inner(tokens, **options))


@settings(max_examples=10)
@given(
    st.integers(1, 4),
    st.lists(st.integers(0, 5), max_size=2),
    st.integers(0, 2**32),
    st.booleans(),
    st.sampled_from([0, 5, 99]),
    st.booleans(),
)
def test_an_interrupted_training_that_draws_from_torch_ends_with_the_same_bits(
    tmp_path_factory, every, calls, seed, dropout, since, drawing
):
    """Whatever the seed of the process that goes on; also where the first number is drawn after it went on."""
    config, data = replace(PLAIN, steps=10, evaluate_every=every), fresh(TASK, 0, 4)

    def evaluate(_: nn.Module) -> dict[str, float]:
        return {"score": torch.rand(()).item() if drawing else 0.0}

    def trained(seed: int, end: int | None, checkpoint: Path | None) -> tuple[dict[str, bytes], list] | None:
        calls = itertools.count()

        def loss(model: nn.Module, batch: tuple[int, Scored]) -> torch.Tensor:
            if next(calls) == end:
                raise Interrupted
            step, scored = batch
            value = next_token_loss(model, scored)
            return value * torch.rand(()) if step >= since else value

        model = Dropping() if dropout else build()
        torch.manual_seed(seed)
        with suppress(Interrupted):
            state = train(
                model, loss, lambda step: (step, data(step)), config, evaluate=evaluate, checkpoint=checkpoint
            )
            return bits(model), state.history

    with torch.random.fork_rng():
        expected = trained(0, None, None)
        checkpoint = tmp_path_factory.mktemp("train") / "checkpoint.safetensors"
        assert trained(0, every + 2, checkpoint) is None  # after the first checkpoint
        for call in calls:
            trained(seed, call, checkpoint)
        assert trained(seed, None, checkpoint) == expected


@pytest.mark.parametrize("end", [None, 5, 99], ids=["whole", "continued", "finished"])
def test_a_training_that_draws_nothing_leaves_the_generator_of_torch_alone(tmp_path, end):
    checkpoint = None if end is None else tmp_path / "checkpoint.safetensors"
    with torch.random.fork_rng(), suppress(Interrupted):
        torch.manual_seed(0)
        if end is not None:
            train(build(), interrupted_at(end), fresh(TASK, 0, 4), PLAIN, checkpoint=checkpoint)
    before = torch.get_rng_state()
    train(build(), next_token_loss, fresh(TASK, 0, 4), PLAIN, checkpoint=checkpoint)
    assert torch.equal(torch.get_rng_state(), before)


# What a callback does to the model -----------------------------------------------------------------------------------


def gradient_of_its_own(model: nn.Module) -> None:
    with torch.enable_grad():
        sum(p.sum() for p in model.parameters()).backward()
    for p in model.parameters():
        p.grad = p.grad.clone()


def memory_of_its_own(model: nn.Module) -> None:
    for p in model.parameters():
        p.data = p.data.clone()


def trained_elsewhere(model: nn.Module) -> None:
    """Its parameters are laid into another vector and come back, with nothing changed."""
    with as_one(p for p in model.parameters() if p.requires_grad):
        pass


def swapped(model: nn.Module) -> None:
    held = [p.data for p in model.parameters()]
    for p in model.parameters():
        p.data = torch.zeros_like(p)
    for p, data in zip(model.parameters(), held, strict=True):
        p.data = data.clone()


HARMLESS = {
    "gradients cleared": lambda model: model.zero_grad(),
    "gradients zeroed": lambda model: model.zero_grad(set_to_none=False),
    "gradients measured": gradient_of_its_own,
    "another type and back": lambda model: model.double().float(),
    "memory of its own": memory_of_its_own,
    "swapped and back": swapped,
    "trained elsewhere": trained_elsewhere,
    "frozen and back": lambda model: model.requires_grad_(False).requires_grad_(True),
    "evaluation mode": lambda model: model.eval(),
    "training mode": lambda model: model.train(),
    "reloaded": lambda model: model.load_state_dict(model.state_dict()),
}


def meddled(what: Callable[[nn.Module], Any], where: str, model: nn.Module, at: int = 0, **options: Any) -> Training:
    """Train while a callback does something to the model from a step on."""
    config, data, at_step = replace(PLAIN, steps=9), fresh(TASK, 0, 4), itertools.count()

    def do(place: str) -> None:
        if place == where and next(at_step) >= at:
            what(model)

    def loss(model: nn.Module, scored: Scored) -> torch.Tensor:
        do("loss")
        value = next_token_loss(model, scored)
        do("loss, after the model ran")
        return value

    def batch_at(step: int) -> Scored:
        do("batch_at")
        return data(step)

    return train(
        model, loss, batch_at, config, record=lambda *_: do("record"),
        evaluate=lambda _: do("evaluate") or {"score": 1.0}, **options,
    )  # fmt: skip


PLACES = ("evaluate", "record", "batch_at", "loss", "loss, after the model ran")


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("what", HARMLESS)
def test_what_a_callback_does_and_leaves_as_it_was_changes_no_bit_of_the_training(what, where):
    if (what, where) == ("reloaded", PLACES[-1]):
        return  # autograd itself refuses a change in place between the two passes
    plain, other = build(), build()
    expected = meddled(lambda _: None, where, plain)
    assert free_of_times(meddled(HARMLESS[what], where, other)) == free_of_times(expected)
    assert bits(other) == bits(plain)
    assert bits(other) != bits(build())


@pytest.mark.parametrize("where", PLACES[:4])
def test_values_that_a_callback_gives_to_a_parameter_are_trained_on(where):
    def in_place(model: nn.Module) -> None:
        with torch.no_grad():
            model.unembedding.weight.mul_(0.5)

    def rebound(model: nn.Module) -> None:
        model.unembedding.weight.data = 0.5 * model.unembedding.weight.data

    one, other = build(), build()
    meddled(in_place, where, one)
    meddled(rebound, where, other)
    assert bits(one) == bits(other)


def replaced(model: nn.Module) -> None:
    model.unembedding.weight = nn.Parameter(model.unembedding.weight.detach().clone())


def grown(model: nn.Module) -> None:
    model.unembedding.bias = nn.Parameter(torch.zeros(len(TASK.vocabulary)))


class Doubled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


REFUSED = {
    "another type": (lambda model: model.double(), "'embedding.weight': was torch.float32 .* became torch.float64"),
    "replaced": (replaced, "'unembedding.weight': was replaced"),
    "assigned": (lambda model: model.load_state_dict(build().state_dict(), assign=True), "'.*': was replaced"),
    "grown": (grown, "'unembedding.bias': was replaced, or its requires_grad changed"),
    "frozen": (lambda model: model.unembedding.requires_grad_(False), "'unembedding.weight': .*requires_grad changed"),
    "parametrized": (
        lambda model: (
            is_parametrized(model.unembedding) or register_parametrization(model.unembedding, "weight", Doubled())
        ),
        "'unembedding.weight': was replaced",
    ),
}


@pytest.mark.parametrize("where", PLACES[:4])
@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("at", [0, 2])
def test_what_would_end_the_training_of_a_parameter_is_refused_by_its_name(what, where, at):
    do, words = REFUSED[what]
    with pytest.raises(ToylabError, match=f"parameter {words}"):
        meddled(do, where, build(), at)


def test_a_parameter_that_takes_another_shape_is_refused_by_its_name():
    with pytest.raises(ToylabError, match=r"parameter 'ln_final\.bias': was .* became torch\.float32 of \(1, 8\)"):
        meddled(lambda model: setattr(model.ln_final.bias, "data", torch.zeros(1, 8)), "record", build())


def test_a_parameter_that_is_unfrozen_during_training_is_refused_by_its_name():
    model = build()
    model.unembedding.requires_grad_(False)
    with pytest.raises(ToylabError, match=r"parameter 'unembedding\.weight': .*requires_grad changed"):
        meddled(lambda model: model.requires_grad_(True), "record", model, 1)


def test_parameters_have_their_own_memory_after_a_training_that_was_meddled_with():
    model = build()
    meddled(memory_of_its_own, "loss, after the model ran", model)
    parameters = list(model.parameters())
    assert len({p.untyped_storage().data_ptr() for p in parameters}) == len(parameters)
    assert all(p.grad is None for p in parameters)


# What the loss depends on --------------------------------------------------------------------------------------------


class Headed(nn.Module):
    """A model with a part that its loss may use or not."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(3, 3), nn.Linear(3, 1)

    def forward(self, x: torch.Tensor, headed: bool) -> torch.Tensor:
        y = self.inner(x)
        return (self.head(y) if headed else y).square().mean()


def headed(since: int) -> Callable[[Headed, int], torch.Tensor]:
    """A loss that uses the head from a step on."""
    return lambda model, step: model(torch.ones(2, 3), step >= since)


@pytest.mark.parametrize("steps", [1, 2, 6])
def test_a_parameter_that_the_loss_does_not_depend_on_is_named_at_the_first_evaluation(tmp_path, steps):
    checkpoint = tmp_path / "checkpoint.safetensors"
    config = replace(PLAIN, steps=steps, weight_decay=0.1)
    words = rf"'head\.weight': the loss does not depend on it in the first {min(steps, 2)} steps"
    with pytest.raises(ToylabError, match=words):
        train(Headed(), headed(99), lambda step: step, config, checkpoint=checkpoint)
    assert not checkpoint.exists()
    model = Headed()
    model.head.requires_grad_(False)
    assert train(model, headed(99), lambda step: step, config).step == steps


def test_a_parameter_that_the_loss_reaches_before_the_first_evaluation_is_trained():
    model = Headed()
    before = bits(model)
    train(model, headed(1), lambda step: step, PLAIN)
    assert all(held != before[name] for name, held in bits(model).items())


def test_the_first_step_is_like_the_others_whether_all_is_reached_or_not():
    """The vector of gradients is filled by another way in the first step; a frozen head takes that way out."""
    whole, parts = Headed(), Headed()
    parts.load_state_dict(whole.state_dict())
    train(whole, headed(0), lambda step: step, replace(PLAIN, steps=1))
    oracle = torch.optim.AdamW(parts.parameters(), lr=PLAIN.learning_rate, betas=PLAIN.betas, weight_decay=0)
    headed(0)(parts, 0).backward()
    oracle.step()
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-7)


LOST = {
    "detached": lambda model, x: model.weight.detach().sum(),
    "a number": lambda model, x: torch.tensor(model.weight.item()),
    "another parameter": lambda model, x: nn.Parameter(torch.ones(())) * model.weight.item(),
    "gradients switched off": torch.no_grad()(lambda model, x: model.weight.sum()),
}


@pytest.mark.parametrize("loss", LOST.values(), ids=LOST)
def test_a_loss_that_depends_on_no_parameter_is_refused(loss):
    with pytest.raises(ToylabError, match="loss: does not depend on any parameter"):
        train(Number(), loss, lambda step: step, PLAIN)


def test_a_hook_that_takes_a_gradient_away_is_refused_and_one_that_changes_it_is_heard():
    model, other = Number(3.0), Number(3.0)
    model.weight.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    with pytest.raises(ToylabError, match=r"loss: does not depend|'weight': a hook took its gradient away"):
        train(model, lambda m, _: m.weight.square().sum(), lambda step: step, PLAIN)
    other.weight.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", torch.zeros_like(p)))
    train(other, lambda m, _: m.weight.square().sum(), lambda step: step, PLAIN)
    assert other.weight.item() == 3


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


@pytest.mark.parametrize("value", [math.nan, math.inf, torch.tensor(math.nan), np.float32("inf")])
def test_a_metric_that_is_no_number_is_refused_by_its_name_and_step(value):
    scores = iter([1.0, value])
    with pytest.raises(ToylabError, match=r"score=(nan|inf): .*at step 2"):
        train(build(), next_token_loss, fresh(TASK, 0, 4), PLAIN, evaluate=lambda _: {"score": next(scores)})


def test_metrics_of_numpy_and_torch_are_numbers_in_the_history_and_in_a_checkpoint(tmp_path):
    values = itertools.cycle([np.float32(0.5), torch.tensor(0.5), np.int64(1), 1, 0.5])
    state = train(
        build(), next_token_loss, fresh(TASK, 0, 4), replace(PLAIN, evaluate_every=1), checkpoint=tmp_path / "c",
        evaluate=lambda _: {"score": next(values)},
    )  # fmt: skip
    assert [entry["score"] for entry in state.history] == [0.5, 0.5, 1, 1, 0.5, 0.5, 0.5]
    assert all(type(entry["score"]) in (int, float) for entry in state.history)


@pytest.mark.parametrize("evaluate", [None, lambda model: {"loss on held-out rows": 1.0}])
def test_a_stop_rule_that_nothing_measures_is_refused_before_any_step(evaluate):
    config = TrainConfig(steps=3, rows=4, stop_at=0.9)
    with pytest.raises(ValueError, match=r"stop_at=0\.9: watches 'accuracy', which evaluate= must measure"):
        train(Transformer.for_task(Copy()), next_token_loss, fresh(Copy(), 0, 4), config, evaluate=evaluate)
