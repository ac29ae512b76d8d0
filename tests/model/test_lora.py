"""Laws of confined fine-tuning: nothing changes at first, then no more than the rank allows and nowhere else."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from toylab.model.lora import add_lora, merge_lora
from toylab.studies.safety_finetuning.data import MODEL, concept_model, fine_tuning_batches
from toylab.tasks import TaskConcept
from toylab.training.loop import TrainConfig, train
from toylab.training.losses import RefusalLoss

TASK = TaskConcept()
SMALL = replace(MODEL, width=16, heads=2)


def test_confining_and_releasing_changes_no_bit():
    model = concept_model(TASK, SMALL, 0)
    before = deepcopy(model.state_dict())
    batch = fine_tuning_batches(TASK, 0, 4, 0.5)(0)
    expected = model(batch.prompts)
    assert torch.equal(add_lora(model, 2)(batch.prompts), expected)
    after = merge_lora(model).state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_what_may_change_has_the_type_of_the_model(dtype):
    model = add_lora(concept_model(TASK, SMALL, 0).to(dtype), 2)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert model(fine_tuning_batches(TASK, 0, 4, 0.5)(0).prompts).dtype == dtype


@pytest.mark.parametrize("rank", [1, 3])
def test_training_changes_the_mlps_by_the_rank_and_nothing_else(rank):
    model = add_lora(concept_model(TASK, SMALL, 0), rank, seed=1)
    train(
        model, RefusalLoss(), fine_tuning_batches(TASK, 0, 8, 0.5), TrainConfig(steps=5, rows=8, warmup=1, cooldown=0)
    )
    start = dict(concept_model(TASK, SMALL, 0).named_parameters())
    for name, weight in merge_lora(model).named_parameters():
        change = (weight - start[name]).detach()
        if ".mlp." in name and name.endswith("weight"):
            assert torch.linalg.matrix_rank(change.double(), tol=1e-6) == rank
        else:
            assert not change.any()


@pytest.mark.parametrize("rank", [0, 17])
def test_a_rank_that_no_change_can_have_is_refused(rank):
    with pytest.raises(ValueError, match=f"^rank={rank}: must be at least 1 and at most 16"):
        add_lora(concept_model(TASK, SMALL, 0), rank)
