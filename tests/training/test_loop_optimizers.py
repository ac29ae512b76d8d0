"""Laws of optimizers of torch, schedules and the hook for loggers in the training loop."""

import itertools
import math
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

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
    Interrupted,
    Number,
    bits,
    build,
    free_of_times,
    interrupted_at,
)
from toylab.console import ToylabError
from toylab.files import read_tensors
from toylab.training.batches import next_token_loss, training_batches
from toylab.training.loop import DivergedError, TrainConfig, learning_rate, train

# Optimizers of torch -------------------------------------------------------------------------------------------------


def matrices_apart(parameters: list[nn.Parameter]) -> list[torch.optim.Optimizer]:
    """Muon takes matrices alone."""
    flat = [p for p in parameters if p.ndim != 2]
    return [torch.optim.Muon([p for p in parameters if p.ndim == 2], lr=0.02), torch.optim.Adam(flat, lr=0.01)]


def two_groups(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": parameters[:2], "lr": 0.3}, {"params": parameters[2:]}], lr=0.05, momentum=0.5)


class Counting(torch.optim.SGD):
    """Its steps depend on a number that it keeps in its param group and on one of a parameter."""

    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            group["steps"] = group.get("steps", 0) + 1
            for p in group["params"]:
                self.state[p]["mine"] = self.state[p].get("mine", 0.0) + 0.25
                p.data -= 1e-3 * group["steps"] * self.state[p]["mine"]


OPTIMIZERS = {
    "SGD": partial(torch.optim.SGD, lr=0.1),
    "momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "Adam": torch.optim.Adam,
    "AdamW": partial(torch.optim.AdamW, lr=0.01, amsgrad=True),
    "NAdam": torch.optim.NAdam,
    "Adafactor": torch.optim.Adafactor,
    "ASGD": torch.optim.ASGD,
    "Rprop": torch.optim.Rprop,
    "two groups": two_groups,
    "numbers of its own": partial(Counting, lr=0.1),
}
if hasattr(torch.optim, "Muon"):  # since torch 2.9
    OPTIMIZERS["Muon"] = matrices_apart


def frozen(model: nn.Module) -> nn.Module:
    model.embedding.weight.requires_grad_(False)
    return model


@pytest.mark.parametrize("name", OPTIMIZERS)
@fewer(0.3)
@given(
    st.integers(0, 2**32),
    st.sampled_from(["learned", "tied", "frozen"]),
    st.sampled_from([1e9, 0.3]),
    st.sampled_from(["constant", "cosine"]),
    st.booleans(),
)
def test_steps_are_those_of_the_optimizer_in_a_loop_of_its_own(name, seed, unembedding, clip, schedule, freeze):
    """With torch's clipping and a LambdaLR."""
    config = replace(PLAIN, warmup=2, clip=clip, schedule=schedule, learning_rate=0.25)
    shape, data = replace(SMALL, unembedding=unembedding), training_batches(TASK, 0, 4)
    ours, theirs = build(seed, shape).double(), build(seed, shape).double()
    if freeze and unembedding != "tied":
        frozen(ours), frozen(theirs)
    state = train(ours, next_token_loss, data, config, optimizer=OPTIMIZERS[name])
    made = OPTIMIZERS[name]([p for p in theirs.parameters() if p.requires_grad])
    optimizers = made if isinstance(made, list) else [made]
    first = optimizers[0].param_groups[0]["lr"]
    scheduled = [
        torch.optim.lr_scheduler.LambdaLR(one, lambda step: learning_rate(config, step) / config.learning_rate)
        for one in optimizers
    ]
    for step in range(config.steps):
        theirs.zero_grad()
        next_token_loss(theirs, data(step)).backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), clip)
        for one in (*optimizers, *scheduled):
            one.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        atol = 3e-3 if name == "Muon" else 1e-5  # which orthogonalizes in bfloat16
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=atol)
    assert state.history[0]["learning_rate"] == pytest.approx(first / 2)  # of two steps of warm-up
    assert bits(ours) != bits(build(seed, shape).double())


def test_adamw_of_torch_is_the_default_up_to_rounding():
    config = replace(PLAIN, warmup=2, clip=1.0, learning_rate=0.02)
    ours, theirs = build().double(), build().double()
    expected = train(ours, next_token_loss, training_batches(TASK, 0, 4), config)
    adamw = partial(torch.optim.AdamW, lr=0.02, betas=PLAIN.betas, weight_decay=0)
    found = train(theirs, next_token_loss, training_batches(TASK, 0, 4), config, optimizer=adamw)
    assert [entry["learning_rate"] for entry in found.history] == [e["learning_rate"] for e in expected.history]
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", OPTIMIZERS)
@fewer(0.2)
@given(
    st.lists(st.integers(0, 8), min_size=1, max_size=2),
    st.integers(1, 4),
    st.sampled_from(["learned", "tied", "frozen"]),
    st.sampled_from([torch.float32, torch.float64]),
    st.booleans(),
)
def test_an_interrupted_training_with_any_optimizer_ends_with_the_same_bits(
    tmp_path_factory, name, calls, every, unembedding, dtype, scheduled
):
    config, shape = replace(PLAIN, evaluate_every=every), replace(SMALL, unembedding=unembedding)
    checkpoint = tmp_path_factory.mktemp("train") / "checkpoint.safetensors"
    more = {"optimizer": OPTIMIZERS[name], "schedule": (lambda step: 1 / (1 + step)) if scheduled else None}

    def trained(loss=next_token_loss, checkpoint: Path | None = None) -> tuple[dict[str, bytes], dict]:
        model = build(config=shape).to(dtype)
        state = train(model, loss, training_batches(TASK, 0, 4), config, checkpoint=checkpoint, **more)
        return bits(model), free_of_times(state)

    for call in calls:
        with suppress(Interrupted):
            trained(interrupted_at(call), checkpoint)
    assert trained(checkpoint=checkpoint) == trained()


def test_a_state_of_another_dtype_than_the_parameters_keeps_it(tmp_path):
    """A product in float32, for parameters in float64."""
    checkpoint, seen = tmp_path / "checkpoint.safetensors", []

    class Seen(torch.optim.NAdam):
        def step(self, closure=None):
            super().step(closure)
            seen.append(next(iter(self.state.values()))["mu_product"].clone())

    given_ = (training_batches(TASK, 0, 4), PLAIN)
    train(build().double(), next_token_loss, *given_, optimizer=Seen)
    expected = seen.copy()
    seen.clear()
    with suppress(Interrupted):
        train(build().double(), interrupted_at(5), *given_, optimizer=Seen, checkpoint=checkpoint)
    assert read_tensors(checkpoint)[1]["optimizer"]["state.0"]["mu_product"] == "cpu"
    train(build().double(), next_token_loss, *given_, optimizer=Seen, checkpoint=checkpoint)
    assert {one.dtype for one in seen} == {torch.float32}
    assert torch.equal(torch.stack(seen), torch.stack(expected))


@pytest.mark.parametrize("other", [None, torch.optim.NAdam, partial(torch.optim.Adam, lr=0.1)])
def test_a_checkpoint_of_another_optimizer_is_refused(tmp_path, other):
    checkpoint, data = tmp_path / "checkpoint.safetensors", training_batches(TASK, 0, 4)
    train(build(), next_token_loss, data, PLAIN, checkpoint=checkpoint, optimizer=torch.optim.Adam)
    with pytest.raises(ToylabError, match=r"belongs to a training with optimizer=Adam \(.*lr: 0\.001.* \(now "):
        train(build(), next_token_loss, data, PLAIN, checkpoint=checkpoint, optimizer=other)


def half(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters[1:], lr=0.1)


def twice(parameters: list[nn.Parameter]) -> list[torch.optim.Optimizer]:
    return [torch.optim.SGD(parameters, lr=0.1), torch.optim.Adam(parameters[:1])]


WRONG = {
    "its step needs a closure": (torch.optim.LBFGS, r"^optimizer=LBFGS: must be .* whose step needs no closure"),
    "nothing": (lambda parameters: None, r"^optimizer=<lambda>: must be a class or a function"),
    "an empty list": (lambda parameters: [], r"^optimizer=<lambda>: must be a class or a function"),
    "half": (half, r"^parameter 'embedding\.weight': is in 0 param groups"),
    "twice": (twice, r"^parameter 'embedding\.weight': is in 2 param groups"),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_optimizer_that_cannot_train_the_model_is_refused_by_name(name):
    make, words = WRONG[name]
    model = build()
    before = bits(model)
    with pytest.raises(ToylabError, match=words):
        train(model, next_token_loss, training_batches(TASK, 0, 4), PLAIN, optimizer=make)
    assert bits(model) == before


def test_weight_decay_of_the_default_is_refused_beside_another_optimizer():
    config = replace(PLAIN, weight_decay=0.1)
    with pytest.raises(ToylabError, match=r"^weight_decay=0\.1: is of the default AdamW; set 0"):
        train(build(), next_token_loss, training_batches(TASK, 0, 4), config, optimizer=torch.optim.Adam)


def test_a_state_that_no_checkpoint_holds_is_refused_by_name(tmp_path):
    class Listing(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            for p in self.param_groups[0]["params"]:
                self.state[p]["past"] = [p.detach().clone()]

    given_ = {"optimizer": Listing}
    train(build(), next_token_loss, training_batches(TASK, 0, 4), PLAIN, **given_)
    with pytest.raises(ToylabError, match=r"^optimizer: its 'past' is a list; train without checkpoint="):
        train(
            build(), next_token_loss, training_batches(TASK, 0, 4), PLAIN, checkpoint=tmp_path / "checkpoint", **given_
        )


def test_a_gradient_that_is_not_finite_ends_training_before_the_optimizer_steps():
    model = Number(2.0)
    with pytest.raises(DivergedError, match=r"norm of the gradient=nan at step 0: .* smaller learning_rate than 0\.5"):
        train(
            model, lambda m, _: (m.weight * 0 + 1).log().sqrt().sum(), lambda step: step, PLAIN,
            optimizer=partial(torch.optim.SGD, lr=0.5),
        )  # fmt: skip
    assert model.weight.item() == 2


class Late(nn.Module):
    """A model with a part that its loss does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(2, 2), nn.Linear(2, 2)


@pytest.mark.parametrize("optimizer", [None, torch.optim.SGD])
@pytest.mark.parametrize("since", [1, 99])
def test_a_parameter_that_no_gradient_reaches_is_named_whatever_the_optimizer(optimizer, since):
    def loss(model: Late, step: int) -> torch.Tensor:
        layers = [model.used, model.unused] if step >= since else [model.used]
        return sum((layer(torch.ones(2)).square().sum() for layer in layers), torch.zeros(()))

    refused = pytest.raises(ToylabError, match=r"'unused\.weight': the loss does not depend")
    with refused if since > PLAIN.evaluate_every else nullcontext():
        train(Late(), loss, lambda step: step, PLAIN, optimizer=optimizer)


# Schedules -----------------------------------------------------------------------------------------------------------


@fewer(0.3)
@given(
    st.integers(0, 4),
    st.sampled_from(["constant", "cosine"]),
    st.integers(0, 3),
    st.none() | st.just(0.5),
    st.sampled_from([None, torch.optim.Adam]),
)
def test_a_schedule_in_the_place_of_the_one_of_the_config_gives_the_same_training(
    warmup, schedule, cooldown, stop_at, optimizer
):
    """A peak of 1/4 divides without rounding."""
    config = replace(PLAIN, warmup=warmup, schedule=schedule, cooldown=cooldown, learning_rate=0.25, stop_at=stop_at)
    more = {"evaluate": lambda _: {"accuracy": 1.0}, "optimizer": optimizer}
    expected, found = build(), build()
    by_name = train(expected, next_token_loss, training_batches(TASK, 0, 4), config, **more)
    other = replace(config, warmup=3, schedule="constant")
    by_function = train(
        found, next_token_loss, training_batches(TASK, 0, 4), other,
        schedule=lambda step: learning_rate(config, step) / 0.25, **more,
    )  # fmt: skip
    assert bits(found) == bits(expected)
    assert free_of_times(by_function) == free_of_times(by_name)


def test_after_early_stopping_the_rate_falls_and_stays_below_the_schedule():
    config = TrainConfig(steps=10, evaluate_every=1, learning_rate=0.5, stop_at=0.5, stop_after=1, cooldown=4)
    schedule = [0.8, 0.9, 0.1, 0.9, 0.9, *[0.0] * 6]
    state = train(
        build(), next_token_loss, training_batches(TASK, 0, 4), config, schedule=lambda step: schedule[step],
        evaluate=lambda _: {"accuracy": 1.0},
    )  # fmt: skip
    assert [entry["learning_rate"] for entry in state.history] == pytest.approx([0.4, 0.3, 0.05, 0.1, 0.0])


@pytest.mark.parametrize("factor", [-0.5, math.nan, math.inf])
def test_a_factor_that_is_none_is_refused_with_its_step_before_any_training(factor):
    with pytest.raises(ToylabError, match=rf"^schedule\(6\)={factor}: must be at least 0 and below inf; 1 is the peak"):
        train(build(), interrupted_at(0), lambda step: step, PLAIN, schedule=lambda step: factor if step == 6 else 1.0)


def test_a_checkpoint_of_another_schedule_is_refused(tmp_path):
    given_ = (next_token_loss, training_batches(TASK, 0, 4), PLAIN)
    train(build(), *given_, checkpoint=tmp_path / "checkpoint", schedule=lambda step: 1.0)
    train(build(), *given_, checkpoint=tmp_path / "checkpoint", schedule=lambda step: torch.tensor(1))
    for other in (None, lambda step: 0.5):
        with pytest.raises(ToylabError, match=r"belongs to a training with schedule=a function with digest .* \(now "):
            train(build(), *given_, checkpoint=tmp_path / "checkpoint", schedule=other)


# The hook for loggers ------------------------------------------------------------------------------------------------


@fewer(0.3)
@given(st.integers(0, 9), st.integers(1, 4), st.booleans())
def test_every_entry_of_the_history_is_reported_once_over_all_resumes(tmp_path_factory, call, every, spoiled):
    config, reported = replace(PLAIN, steps=8, evaluate_every=every), []
    checkpoint = tmp_path_factory.mktemp("train") / "checkpoint.safetensors"

    def report(step: int, metrics: dict) -> None:
        assert checkpoint.exists() == (step > 0)
        reported.append((step, dict(metrics)))
        if spoiled:
            metrics.clear()

    def trained(loss) -> list:
        return train(
            build(), loss, training_batches(TASK, 0, 4), config, checkpoint=checkpoint, on_evaluation=report
        ).history

    with suppress(Interrupted):
        trained(interrupted_at(call))
    if not checkpoint.exists():
        reported.clear()
    history = trained(next_token_loss)
    assert reported == [(entry["step"], entry) for entry in history]
    reported.clear()
    assert trained(next_token_loss) == history
    assert reported == []


def test_a_report_that_fails_costs_no_step(tmp_path):
    calls = itertools.count()

    def report(step: int, metrics: dict) -> None:
        if next(calls) == 2:
            raise Interrupted

    given_ = (next_token_loss, training_batches(TASK, 0, 4), PLAIN)
    with pytest.raises(Interrupted):
        train(build(), *given_, checkpoint=tmp_path / "checkpoint", on_evaluation=report)
    assert read_tensors(tmp_path / "checkpoint")[1]["step"] == 4
