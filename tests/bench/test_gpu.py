"""Laws of the check of a device: equal devices agree, and what differs on a device is reported."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.accelerator import DEVICE, Accelerator
from toylab import cli
from toylab.bench import gpu
from toylab.runs import registry


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(gpu, "TRAINING", replace(gpu.TRAINING, steps=2, evaluate_every=2))
    monkeypatch.setattr(gpu, "POPULATIONS", ())


def differences(make, device=DEVICE) -> dict[str, float]:
    expected = gpu.compute_case(make, torch.device("cpu"))
    with Accelerator():
        found = gpu.compute_case(make, device)
    return {name: gpu.relative_difference(found[name], expected[name]) for name in gpu.TOLERANCES}


def test_every_study_is_checked():
    assert set(gpu.DEVICE_CASES) == set(registry.study_names())


@pytest.mark.parametrize("study", gpu.DEVICE_CASES)
def test_an_accelerator_that_computes_what_the_cpu_does_meets_every_tolerance(study):
    found = differences(gpu.DEVICE_CASES[study])
    assert all(found[name] <= tolerance for name, tolerance in gpu.TOLERANCES.items()), found


class Wrong(nn.Module):
    """A model whose outputs on the accelerator are scaled."""

    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, tokens, **options):
        return self.model(tokens, **options) * (self.factor if tokens.device == DEVICE else 1)


def test_a_device_that_computes_other_numbers_is_reported():
    def make(device):
        case = gpu.iteration_head_case(device)
        return replace(case, model=Wrong(case.model, 1.1), probe=lambda model: [1.1 if device == DEVICE else 1.0])

    found = differences(make)
    assert all(found[name] > gpu.TOLERANCES[name] for name in ("logits", "loss and gradient", "probe")), found
    assert found["short training"] > 0
    assert found["probe"] == pytest.approx(0.1, rel=1e-5)


def test_a_device_that_gives_nan_meets_no_tolerance():
    one = torch.tensor([1.0, -2.0])
    assert gpu.relative_difference(one, one) == 0
    assert gpu.relative_difference(torch.tensor([1.0, -1.0]), one) == 0.5
    assert gpu.relative_difference(torch.tensor([torch.nan, -2.0]), one) == float("inf")


def test_the_command_keeps_a_record_of_the_device(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu, "DEVICE_CASES", {"iteration-head": gpu.DEVICE_CASES["iteration-head"]})
    monkeypatch.setattr(gpu, "POPULATIONS", (1,))
    assert cli.run(["bench", "gpu", "--device", "cpu", "--out", str(tmp_path)]) == 0
    assert "iteration-head: short training" in capsys.readouterr().out
    (kept,) = tmp_path.glob("*.json")
    record = json.loads(kept.read_text(encoding="utf-8"))
    assert record["device"] == "cpu"
    assert [one["ours"] for one in record["found"]][:4] == [0, 0, 0, 0]
    assert record["found"][-1]["work"] == "1 seed as one program"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_command_says_so(capsys, tmp_path):
    assert cli.run(["bench", "gpu", "--out", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert "device=cuda: is not available" in message
    assert "there are cpu" in message
