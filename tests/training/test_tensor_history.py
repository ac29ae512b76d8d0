"""Laws of tensor histories: frames are what was measured at their step, an interruption leaves no trace, and training
has the same bits without a history."""

from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from tests.examples import fewer
from toylab.files import write_tensors
from toylab.model.config import ModelConfig
from toylab.model.transformer import Transformer
from toylab.tasks import Parity
from toylab.training.batches import next_token_loss, training_batches
from toylab.training.loop import TrainConfig, train
from toylab.training.tensor_history import TensorHistory, read_tensor_history

TASK = Parity(lengths=(1, 4))
CONFIG = TrainConfig(steps=5, warmup=1, cooldown=0, evaluate_every=2)


def weights(model) -> dict[str, torch.Tensor]:
    return {"embedding": model.embedding.weight, "norm": model.unembedding.weight.norm()}


def trained(folder: Path | None = None, stop: int | None = None) -> Transformer:
    """A model trained with a history, if there is a folder, and interrupted after the record of step `stop`."""
    model, record = Transformer.for_task(TASK, ModelConfig(width=8, heads=2), 0), None
    if folder is not None:
        history = TensorHistory(folder / "history.safetensors", weights, {"of": "weights"})

        def record(model, step: int) -> None:
            history.add(model, step)
            if step == stop:
                raise KeyboardInterrupt

    checkpoint = folder and folder / "checkpoint.safetensors"
    train(model, next_token_loss, training_batches(TASK, 0, 8), CONFIG, checkpoint=checkpoint, record=record)
    return model


def test_the_first_frame_is_of_the_initial_model_the_last_of_the_trained_one_and_training_is_the_same(tmp_path):
    model = trained(tmp_path)
    steps, tensors = read_tensor_history(str(tmp_path / "history.safetensors"))
    assert steps == [0, 2, 4, 5]
    initial = Transformer.for_task(TASK, ModelConfig(width=8, heads=2), 0)
    for frame, measured in ((0, initial), (-1, model)):
        for name, tensor in weights(measured).items():
            assert torch.equal(tensors[name][frame], tensor)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), trained().parameters(), strict=True))


@pytest.mark.parametrize("stop", [0, 4, 5])
def test_an_interrupted_history_goes_on_and_ends_with_the_same_bytes(tmp_path, stop):
    for name in ("whole", "resumed"):
        (tmp_path / name).mkdir()
    trained(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "resumed", stop)
    trained(tmp_path / "resumed")
    whole, resumed = ((tmp_path / name / "history.safetensors").read_bytes() for name in ("whole", "resumed"))
    assert whole == resumed


@fewer(0.2)
@example([(3, 0.5), (1, 0.25), (3, -1.0)])
@given(st.lists(st.tuples(st.integers(0, 9), st.floats(-1, 1, width=32)), min_size=1, max_size=6))
def test_frames_are_in_the_order_of_steps_and_a_step_has_its_last_record(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("history") / "history.safetensors"
    for step, value in records:
        TensorHistory(path, lambda _, value=value: {"x": torch.tensor([value])}).add(torch.nn.Identity(), step)
    steps, tensors = read_tensor_history(path)
    assert dict(zip(steps, tensors["x"].flatten().tolist(), strict=True)) == dict(records)
    assert steps == sorted(steps)


@pytest.mark.parametrize("about", [{}, {"steps": 1}, {"steps": [0]}])
def test_a_file_without_a_step_per_frame_is_refused_by_name(tmp_path, about):
    path = tmp_path / "history.safetensors"
    write_tensors(path, {"x": torch.zeros(2, 3)}, about)
    with pytest.raises(ValueError, match=r"history\.safetensors: is no history"):
        read_tensor_history(path)
    with pytest.raises(ValueError, match=r"history\.safetensors: is no history"):
        TensorHistory(path, weights)
