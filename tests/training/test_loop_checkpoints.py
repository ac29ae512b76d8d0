"""Laws of checkpoints: no interruption leaves a trace, and none is taken for that of another training."""

import itertools
import time
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.damage import NO_SHRINKING, Content, cut_short, with_a_bit_flipped
from tests.examples import fewer
from tests.training.small_trainings import (
    PLAIN,
    SMALL,
    TASK,
    Interrupted,
    bits,
    build,
    free_of_times,
    interrupted_at,
)
from toylab.console import ToylabError
from toylab.files import read_tensors, write_tensors
from toylab.training.batches import ScoredBatch, next_token_loss, training_batches
from toylab.training.loop import Training, train

# Interruptions -------------------------------------------------------------------------------------------------------


@fewer(0.3)
@given(
    st.lists(st.integers(0, 11), min_size=1, max_size=2),
    st.integers(1, 5),
    st.sampled_from(["constant", "cosine"]),
    st.none() | st.just(0.5),
    st.sampled_from(["learned", "frozen"]),
)
def test_an_interrupted_training_ends_with_the_bits_of_one_that_was_not(
    tmp_path_factory, calls, every, schedule, stop_at, unembedding
):
    config = replace(
        PLAIN, steps=9, warmup=3, schedule=schedule, evaluate_every=every, weight_decay=0.1, stop_at=stop_at,
        stop_after=2, cooldown=3, clip=1.0,
    )  # fmt: skip
    shape = replace(SMALL, unembedding=unembedding)

    def evaluate(model: nn.Module) -> dict[str, float]:
        return {"accuracy": float(model.embedding.weight[0, 0] > -100)}

    whole = build(config=shape)
    expected = train(whole, next_token_loss, training_batches(TASK, 0, 4), config, evaluate=evaluate)
    checkpoint = tmp_path_factory.mktemp("train") / "checkpoint.safetensors"
    for call in calls:
        with suppress(Interrupted):
            train(
                build(config=shape), interrupted_at(call), training_batches(TASK, 0, 4), config,
                evaluate=evaluate, checkpoint=checkpoint,
            )  # fmt: skip
    continued = build(config=shape)
    state = train(
        continued, next_token_loss, training_batches(TASK, 0, 4), config, evaluate=evaluate, checkpoint=checkpoint
    )
    assert bits(continued) == bits(whole)
    assert free_of_times(state) == free_of_times(expected)


@pytest.mark.parametrize("call", range(PLAIN.steps + 1))
def test_the_time_of_an_interrupted_training_is_that_of_one_that_was_not(tmp_path, monkeypatch, call):
    """On a clock that ticks once a batch: the time of a part that was lost does not count."""
    clock, source = [0], training_batches(TASK, 0, 4)
    monkeypatch.setattr(time, "process_time", lambda: clock[0])

    def batch_at(step: int) -> ScoredBatch:
        clock[0] += 1
        return source(step)

    whole = train(build(), next_token_loss, batch_at, PLAIN)
    assert whole.cpu_seconds == PLAIN.steps + 1  # one batch is measured before the first step
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(Interrupted):
        train(build(), interrupted_at(call), batch_at, PLAIN, checkpoint=checkpoint)
    assert train(build(), next_token_loss, batch_at, PLAIN, checkpoint=checkpoint).cpu_seconds == whole.cpu_seconds


def test_a_finished_training_is_not_trained_on(tmp_path):
    checkpoint = tmp_path / "checkpoint.safetensors"
    model = build()
    state = train(model, next_token_loss, training_batches(TASK, 0, 4), PLAIN, checkpoint=checkpoint)
    again = build()
    assert train(again, interrupted_at(0), training_batches(TASK, 0, 4), PLAIN, checkpoint=checkpoint) == state
    assert bits(again) == bits(model)


def test_continuing_starts_at_the_last_evaluation(tmp_path):
    config, checkpoint, asked = replace(PLAIN, steps=10, evaluate_every=4), tmp_path / "checkpoint.safetensors", []
    with pytest.raises(Interrupted):
        train(build(), interrupted_at(7), training_batches(TASK, 0, 4), config, checkpoint=checkpoint)
    source = training_batches(TASK, 0, 4)
    train(build(), next_token_loss, lambda step: asked.append(step) or source(step), config, checkpoint=checkpoint)
    assert asked == [4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("unembedding", ["learned", "tied", "frozen", "orthogonal"])
def test_a_model_of_every_unembedding_can_be_continued(tmp_path, unembedding):
    config = replace(SMALL, width=16, unembedding=unembedding)
    checkpoint = tmp_path / "checkpoint.safetensors"
    model = build(config=config)
    train(model, next_token_loss, training_batches(TASK, 0, 4), PLAIN, checkpoint=checkpoint)
    again = build(config=config)
    train(again, next_token_loss, training_batches(TASK, 0, 4), PLAIN, checkpoint=checkpoint)
    assert bits(again) == bits(model)


OTHER = {
    "steps": 7, "rows": 5, "learning_rate": 2e-2, "warmup": 1, "schedule": "cosine", "weight_decay": 0.1,
    "betas": (0.8, 0.999), "clip": 1.0, "evaluate_every": 3, "stop_at": 2.0, "stop_after": 2, "cooldown": 1,
}  # fmt: skip


def test_there_is_another_value_of_every_setting():
    assert OTHER.keys() == asdict(PLAIN).keys()


@pytest.mark.parametrize("finished", [True, False])
def test_a_checkpoint_of_other_settings_is_refused_by_their_names(tmp_path, finished):
    checkpoint, measured = tmp_path / "checkpoint.safetensors", {"evaluate": lambda _: {"accuracy": 0.0}}
    with suppress(Interrupted):
        loss = next_token_loss if finished else interrupted_at(6)
        train(build(), loss, training_batches(TASK, 0, 4), PLAIN, checkpoint=checkpoint, **measured)
    content, model = checkpoint.read_bytes(), build()
    before = bits(model)
    for name, other in OTHER.items():
        config = replace(PLAIN, **{name: other})
        with pytest.raises(ToylabError, match=rf"checkpoint\.safetensors: belongs to a training with {name}=.* \(now "):
            train(model, next_token_loss, training_batches(TASK, 0, 4), config, checkpoint=checkpoint, **measured)
        assert bits(model) == before
        assert checkpoint.read_bytes() == content


def test_a_checkpoint_of_another_watched_metric_is_refused_where_that_ends_training(tmp_path):
    def trained(watched: str, stop_at: float | None) -> None:
        train(
            build(), next_token_loss, training_batches(TASK, 0, 4), replace(PLAIN, stop_at=stop_at), watched=watched,
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
    train(model, next_token_loss, training_batches(TASK, 0, 4), PLAIN, checkpoint=checkpoint)
    for wrong in (other(), model):
        with pytest.raises(ToylabError, match=r"checkpoint\.safetensors: belongs to .* other initial weights"):
            train(wrong, next_token_loss, training_batches(TASK, 0, 4), PLAIN, checkpoint=checkpoint)


def test_a_frozen_weight_is_part_of_what_a_checkpoint_belongs_to(tmp_path):
    checkpoint = tmp_path / "checkpoint.safetensors"
    shape = replace(SMALL, unembedding="frozen")
    train(build(config=shape), next_token_loss, training_batches(TASK, 0, 4), PLAIN, checkpoint=checkpoint)
    other = build(config=shape)
    other.unembedding.weight.data[0, 0] += 1
    with pytest.raises(ToylabError, match="other initial weights"):
        train(other, next_token_loss, training_batches(TASK, 0, 4), PLAIN, checkpoint=checkpoint)


def test_settings_of_numpy_are_those_of_python(tmp_path):
    checkpoint = tmp_path / "checkpoint.safetensors"
    config = replace(PLAIN, learning_rate=np.float64(0.5))
    state = train(build(), next_token_loss, training_batches(TASK, 0, 4), config, checkpoint=checkpoint)
    plain = replace(PLAIN, learning_rate=0.5)
    assert train(build(), next_token_loss, training_batches(TASK, 0, 4), plain, checkpoint=checkpoint) == state


def test_a_checkpoint_of_an_older_version_is_refused_with_what_to_do(tmp_path):
    checkpoint = tmp_path / "checkpoint.safetensors"
    train(build(), next_token_loss, training_batches(TASK, 0, 4), PLAIN, checkpoint=checkpoint)
    tensors, about = read_tensors(checkpoint)
    write_tensors(checkpoint, tensors, {name: value for name, value in about.items() if name != "origin"})
    with pytest.raises(ToylabError, match=r"checkpoint\.safetensors: .*version.*; delete it"):
        train(build(), next_token_loss, training_batches(TASK, 0, 4), PLAIN, checkpoint=checkpoint)


def test_a_checkpoint_that_cannot_be_written_is_refused_before_any_step(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "checkpoint", tmp_path / ("long" * 100)):
        with pytest.raises(ToylabError, match=r"checkpoint=.*cannot be written"):
            train(build(), interrupted_at(0), training_batches(TASK, 0, 4), PLAIN, checkpoint=path)


def test_a_checkpoint_may_be_named_by_text(tmp_path):
    config, checkpoint = replace(PLAIN, evaluate_every=4), str(tmp_path / "checkpoint.safetensors")
    with pytest.raises(Interrupted):
        train(build(), interrupted_at(6), training_batches(TASK, 0, 4), config, checkpoint=checkpoint)
    assert (
        train(build(), next_token_loss, training_batches(TASK, 0, 4), config, checkpoint=checkpoint).step
        == config.steps
    )


# Randomness of torch -------------------------------------------------------------------------------------------------


class Dropping(nn.Module):
    """A model with dropout on its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.dropout = build(), nn.Dropout(0.3)

    def forward(self, tokens: torch.Tensor, **options: torch.Tensor | None) -> torch.Tensor:
        return self.dropout(self.inner(tokens, **options))


@fewer(0.25)
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
    config, data = replace(PLAIN, steps=8, evaluate_every=every), training_batches(TASK, 0, 4)

    def evaluate(_: nn.Module) -> dict[str, float]:
        return {"score": torch.rand(()).item() if drawing else 0.0}

    def trained(seed: int, end: int | None, checkpoint: Path | None) -> tuple[dict[str, bytes], list] | None:
        calls = itertools.count()

        def loss(model: nn.Module, batch: tuple[int, ScoredBatch]) -> torch.Tensor:
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


@fewer(0.25)
@given(st.integers(1, 4), st.integers(2, 7), st.integers(0, 2**32), st.sampled_from([None, torch.optim.Adam]))
def test_an_interrupted_training_with_dropout_in_the_model_ends_with_the_same_bits(
    tmp_path_factory, every, call, seed, optimizer
):
    config, shape = replace(PLAIN, evaluate_every=every), replace(SMALL, dropout=0.3)
    checkpoint = tmp_path_factory.mktemp("train") / "checkpoint.safetensors"

    def trained(seed: int, loss=next_token_loss, **more) -> dict[str, bytes]:
        torch.manual_seed(seed)
        model = build(config=shape)
        train(model, loss, training_batches(TASK, 0, 4), config, optimizer=optimizer, **more)
        return bits(model)

    with torch.random.fork_rng():
        expected = trained(0)
        assert trained(1) != expected
        with suppress(Interrupted):
            trained(0, interrupted_at(call), checkpoint=checkpoint)
        assert trained(seed if checkpoint.exists() else 0, checkpoint=checkpoint) == expected


@pytest.mark.parametrize("end", [None, 5, 99], ids=["whole", "continued", "finished"])
def test_a_training_that_draws_nothing_leaves_the_generator_of_torch_alone(tmp_path, end):
    checkpoint = None if end is None else tmp_path / "checkpoint.safetensors"
    with torch.random.fork_rng(), suppress(Interrupted):
        torch.manual_seed(0)
        if end is not None:
            train(build(), interrupted_at(end), training_batches(TASK, 0, 4), PLAIN, checkpoint=checkpoint)
    before = torch.get_rng_state()
    train(build(), next_token_loss, training_batches(TASK, 0, 4), PLAIN, checkpoint=checkpoint)
    assert torch.equal(torch.get_rng_state(), before)


# Damaged checkpoints -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def intact(tmp_path_factory) -> Content:
    path = tmp_path_factory.mktemp("intact") / "checkpoint.safetensors"
    with pytest.raises(Interrupted):
        train(build(), interrupted_at(5), training_batches(TASK, 0, 4), PLAIN, checkpoint=path)
    return Content(path.read_bytes())


def resume_from(content: bytes, folder: Path, model: nn.Module | None = None) -> Training:
    path = folder / "checkpoint.safetensors"
    path.write_bytes(content)
    return train(model or build(), next_token_loss, training_batches(TASK, 0, 4), PLAIN, checkpoint=path)


def test_an_intact_checkpoint_continues(intact, tmp_path):
    assert resume_from(intact, tmp_path).step == PLAIN.steps


# All damage to a file of tensors is tried in tests/test_files_damage.py; here, that a training reads it the same way.
@settings(fewer(0.25), phases=NO_SHRINKING)
@given(st.data())
def test_a_checkpoint_cut_short_anywhere_is_refused_by_name(intact, tmp_path_factory, data):
    with pytest.raises(ToylabError, match=r"checkpoint\.safetensors: .*delete it and rerun"):
        resume_from(cut_short(intact, data), tmp_path_factory.mktemp("cut"))


@pytest.mark.parametrize("part", ["header", "weights"])
@settings(fewer(0.25), phases=NO_SHRINKING)
@given(st.data())
def test_a_checkpoint_with_one_bit_flipped_anywhere_is_refused_by_name(intact, tmp_path_factory, part, data):
    with pytest.raises(ToylabError, match=r"checkpoint\.safetensors: "):
        resume_from(with_a_bit_flipped(intact, part, data), tmp_path_factory.mktemp("flipped"))


@pytest.mark.parametrize("change", [{"width": 16}, {"layers": 2}, {"hidden": 4}, {"biases": False}])
def test_a_checkpoint_of_another_shape_is_refused_by_name(intact, tmp_path, change):
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors: holds a model of another shape; .*settings"):
        resume_from(intact, tmp_path, build(config=replace(SMALL, **change)))


def test_refusing_a_checkpoint_leaves_the_file_as_it_is(intact, tmp_path):
    for content in (intact[:-7], b"", b"not a checkpoint at all"):
        with pytest.raises(ValueError, match=r"checkpoint\.safetensors"):
            resume_from(content, tmp_path)
        assert (tmp_path / "checkpoint.safetensors").read_bytes() == content
