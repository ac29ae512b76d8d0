"""Laws of the device of a run: jobs compute there, results are those of the CPU, and a CPU run knows nothing of it."""

import json
from dataclasses import replace

import pytest
import torch

from tests.accelerator import DEVICE, Accelerator, is_far
from toylab.console import ToylabError
from toylab.model.checkpoint import load_model
from toylab.model.config import ModelConfig
from toylab.model.device import on_chosen_device, use_device
from toylab.model.transformer import Transformer
from toylab.runs.jobs import execute
from toylab.runs.study import Job
from toylab.runs.task_training import TaskTraining
from toylab.survey import Recipe
from toylab.tasks import Polynomial
from toylab.training.batches import device_of, next_token_loss, training_batches
from toylab.training.loop import TrainConfig, train

TASK = Polynomial(p=3, lengths=(1, 3))
FEW = TrainConfig(steps=4, warmup=1, cooldown=1, evaluate_every=2, rows=4)
MODEL = ModelConfig(width=16)


def test_a_model_is_trained_on_the_device_and_comes_back():
    places = []

    def weights() -> tuple:
        model = Transformer.for_task(TASK, MODEL)
        batches = training_batches(TASK, 0, 4)

        def loss(model, batch):
            places.append((device_of(model), batch.tokens.device))
            return next_token_loss(model, batch)

        def evaluate(model):  # as a study does that knows of no device
            batch = batches(9)
            return {"loss": next_token_loss(model, batch).item()}

        history = train(model, loss, batches, FEW, evaluate=evaluate).history
        assert device_of(model) == torch.device("cpu")
        return model.state_dict(), history

    expected, history = weights()
    assert set(places) == {(torch.device("cpu"),) * 2}
    places.clear()
    with Accelerator(), use_device(str(DEVICE)):
        computed, far_history = weights()
        assert set(places) == {(DEVICE, DEVICE)}
        assert not any(map(is_far, computed.values()))
    assert all(x.allclose(expected[name], atol=1e-5) for name, x in computed.items())
    assert [entry["loss"] for entry in far_history] == pytest.approx([entry["loss"] for entry in history], abs=1e-5)


@pytest.mark.parametrize("far_tokens", [True, False])
def test_logits_lie_where_the_tokens_lie(far_tokens):
    model = Transformer.for_task(TASK, MODEL)
    tokens = torch.tensor([[0, 1, 2]])
    expected = model(tokens, queries=torch.tensor([[1, 2]]))
    with Accelerator():
        far = model.to(DEVICE)
        queries = torch.tensor([[1, 2]])
        logits = far(tokens.to(DEVICE) if far_tokens else tokens, queries=queries.to(DEVICE) if far_tokens else queries)
        assert is_far(logits) == far_tokens
        assert logits.cpu().allclose(expected, atol=1e-6)


@pytest.mark.parametrize("end_weight", [1.0, 4.0])
def test_a_run_on_a_device_measures_what_a_run_on_the_cpu_measures(tmp_path, end_weight):
    recipe = vars(Recipe(model=MODEL, train=FEW, batches="packed", end_weight=end_weight, growth=2))
    study = TaskTraining(task=TASK, seeds=(0,), **recipe)
    (expected,) = execute(study, "training on p", tmp_path / "cpu", 1, progress=False).values()
    with Accelerator():
        (computed,) = execute(study, "training on p", tmp_path / "far", 1, progress=False, device=str(DEVICE)).values()
    assert computed.survey.accuracy == pytest.approx(expected.survey.accuracy, abs=1e-6)
    records = [json.loads((tmp_path / name / "settings.json").read_text()) for name in ("cpu", "far")]
    assert records[1]["machine"] == f"{records[0]['machine']}, {DEVICE}"
    models = [load_model(Job("train", 0).folder(tmp_path / name) / "model.safetensors") for name in ("cpu", "far")]
    weights = [model.embedding.weight for model in models]
    assert torch.allclose(*weights, atol=1e-6)
    assert not any(map(is_far, weights))


def test_a_device_that_is_not_there_is_named_with_those_that_are():
    for name in ("cuda:99", "gpu", "", "cpu:"):
        with pytest.raises(ToylabError, match="there are cpu"), use_device(name):
            pass
    model = Transformer.for_task(TASK, MODEL)
    with use_device("cpu"), on_chosen_device(model):
        assert device_of(model) == torch.device("cpu")


def test_the_device_is_none_of_the_settings(tmp_path):
    study = TaskTraining(task=TASK, seeds=(0,), model=MODEL, train=replace(FEW, steps=0))
    execute(study, "training on p", tmp_path, 1, progress=False)
    with Accelerator():  # as a run that was begun on the CPU
        again = execute(replace(study, seeds=(0, 1)), "training on p", tmp_path, 1, progress=False, device=str(DEVICE))
    assert {job.seed for job in again} == {0, 1}
