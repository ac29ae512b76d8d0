"""Laws of trainings that a folder keeps: trained once, continued where interrupted, and never read damaged."""

import itertools
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.training.small_trainings import PLAIN, TASK, Interrupted, bits, build, interrupted_at
from toylab.console import ToylabError
from toylab.model.steering import Steered, Vector, load_steering, save_steering
from toylab.runs.store import train_and_keep
from toylab.training.batches import next_token_loss, training_batches
from toylab.training.loop import Training, train

FILES = ("model.safetensors", "metrics.jsonl")


def learn(checkpoint: Path, loss=next_token_loss, calls: list | None = None) -> tuple[torch.nn.Module, Training]:
    model = build()
    (calls if calls is not None else []).append(checkpoint.name)
    return model, train(model, loss, training_batches(TASK, 0, PLAIN.rows), PLAIN, checkpoint=checkpoint)


def never(checkpoint: Path) -> tuple[torch.nn.Module, Training]:
    raise AssertionError("trained again")


def test_what_was_trained_is_read_with_its_history_and_not_trained_again(tmp_path):
    model, history = train_and_keep(tmp_path, learn)
    again, read = train_and_keep(tmp_path, never)
    assert bits(again) == bits(model) != bits(build())
    assert read == history
    assert [entry["step"] for entry in history] == [0, 2, 4, 6]
    assert {*FILES} < {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("call", range(1, PLAIN.steps + 1))
def test_a_training_that_was_interrupted_at_any_step_ends_with_the_same_files(tmp_path, call):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    train_and_keep(whole, learn)
    with pytest.raises(Interrupted):
        train_and_keep(parts, partial(learn, loss=interrupted_at(call)))
    assert not any((parts / name).exists() for name in FILES)
    steps = itertools.count()

    def counted(model, batch):
        next(steps)
        return next_token_loss(model, batch)

    train_and_keep(parts, partial(learn, loss=counted))
    done = (call - 1) // PLAIN.evaluate_every * PLAIN.evaluate_every
    assert next(steps) == PLAIN.steps - done + (not done)  # without a checkpoint, the first evaluation has one, too
    assert [(parts / name).read_bytes() for name in FILES] == [(whole / name).read_bytes() for name in FILES]


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_refused_by_name_and_made_again_once_deleted(tmp_path, name):
    train_and_keep(tmp_path, learn)
    intact = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(intact[:-7])
    with pytest.raises(ToylabError, match=rf"{name}: is damaged"):
        train_and_keep(tmp_path, never)
    (tmp_path / "model.safetensors").unlink()
    train_and_keep(tmp_path, learn)
    assert (tmp_path / name).read_bytes() == intact


def test_trainings_of_several_names_do_not_meet_and_one_without_a_file_is_read_by_nobody(tmp_path):
    calls = []
    train_and_keep(tmp_path, partial(learn, calls=calls))
    for _ in range(2):
        train_and_keep(tmp_path, partial(learn, calls=calls), "-luck", file=None)
    assert calls == ["checkpoint.safetensors", "checkpoint-luck.safetensors", "checkpoint-luck.safetensors"]
    assert (tmp_path / "metrics-luck.jsonl").read_bytes() == (tmp_path / "metrics.jsonl").read_bytes()


def test_what_is_no_model_is_kept_as_its_own_functions_do(tmp_path):
    base = build().requires_grad_(False)

    def steer(checkpoint: Path) -> tuple[Steered, Training]:
        steered = Steered(base, {0: Vector(base.config.width)})
        return steered, train(steered, next_token_loss, training_batches(TASK, 0, 4), PLAIN, checkpoint=checkpoint)

    keep = partial(
        train_and_keep, file="vector.safetensors", load=partial(load_steering, model=base), save=save_steering
    )
    steered, history = keep(tmp_path, steer)
    again, read = keep(tmp_path, never)
    assert bits(again.additions) == bits(steered.additions)
    assert read == history
