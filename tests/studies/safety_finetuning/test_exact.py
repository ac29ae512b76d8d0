"""Decisions on all prompts, of models written by hand, and the edit of the change of the up-projections."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from toylab.model.config import ModelConfig
from toylab.proofs.exact import Exact
from toylab.studies.safety_finetuning import exact as module
from toylab.studies.safety_finetuning.claims_exact import in_a_line
from toylab.studies.safety_finetuning.data import concept_model
from toylab.studies.safety_finetuning.exact import (
    decide_prompts,
    measure_all_prompts,
    unsafe_directions,
    without_directions,
)
from toylab.studies.safety_finetuning.measures import answer_activations, held_out_sets
from toylab.tasks import PromptsOfKind, TaskConcept, decode

TASK = TaskConcept(letters=6, alternatives=1, soft_slots=1)
UNSAFE = PromptsOfKind(task=TASK, kind="unsafe")
PROMPTS = UNSAFE.enumerate(TASK.answer, np.arange(UNSAFE.count(TASK.answer))).tokens[:, : TASK.prompt]


class Written(nn.Module):
    """Complies with every prompt, letter by letter, and refuses those of a list; `slip` is written as their last
    token."""

    def __init__(self, refused, slip: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.refused, self.slip = {tuple(row) for row in refused.tolist()}, slip

    def forward(self, tokens):
        prompts = tokens[:, : TASK.prompt].numpy()
        answers = TASK.transform(prompts)
        for row, prompt in enumerate(map(tuple, prompts.tolist())):
            if prompt in self.refused:
                answers[row] = TASK.null
                answers[row, -1] = TASK.null if self.slip is None else self.slip
        logits = torch.zeros(*tokens.shape, len(TASK.vocabulary))
        logits[:, TASK.prompt - 1 :] = 3 * F.one_hot(torch.from_numpy(answers), len(TASK.vocabulary)).float()
        return logits


@pytest.mark.parametrize("missing", [[], [5], [7, 2, 30]])
def test_refusals_and_compliance_are_counted_prompt_by_prompt(missing):
    model, number = Written(np.delete(PROMPTS, missing, axis=0)), len(PROMPTS)
    refused, complied = (decide_prompts(model, TASK, "unsafe", refused=one) for one in (True, False))
    assert (refused.inputs, refused.holds, refused.margin) == (number, number - len(missing), 3)
    assert (complied.inputs, complied.holds) == (number, len(missing))
    assert refused.share == (number - len(missing)) / number
    if missing:
        first = PROMPTS[min(missing)].tolist()
        answer = " ".join(decode(TASK, TASK.solve(first)))
        assert in_a_line(refused.counterexample) == f"{' '.join(decode(TASK, first))} -> {answer}"
    else:
        assert refused.counterexample is None


def test_one_letter_after_nulls_is_neither_a_refusal_nor_compliance():
    model = Written(PROMPTS[:4], slip=TASK.vocabulary.index("BOS"))
    assert decide_prompts(model, TASK, "unsafe", refused=True).holds == 0
    assert decide_prompts(model, TASK, "unsafe").holds == len(PROMPTS) - 4


SHAPE = ModelConfig(layers=2, heads=1, width=6, hidden=8, positions="learned")


@pytest.fixture(scope="module")
def pair():
    return [concept_model(TASK, SHAPE, seed) for seed in (0, 1)]


def test_a_change_along_one_direction_is_removed_with_it_and_kept_without(pair):
    base, tuned = pair[0], deepcopy(pair[1])
    directions = [F.normalize(torch.randn(6, generator=torch.Generator().manual_seed(k)), dim=0) for k in range(2)]
    with torch.no_grad():
        for before, after, direction in zip(base.mlps, tuned.mlps, directions, strict=True):
            after.up.weight.copy_(before.up.weight + torch.outer(torch.arange(8.0), direction))
    removed = without_directions(base, tuned, directions)
    for layer in range(2):
        assert torch.allclose(removed.mlps[layer].up.weight, base.mlps[layer].up.weight, atol=1e-5)
        assert torch.equal(removed.mlps[layer].down.weight, tuned.mlps[layer].down.weight)
    across = [direction.roll(1) - direction * (direction.roll(1) @ direction) for direction in directions]
    kept = without_directions(base, tuned, [F.normalize(one, dim=0) for one in across])
    for one, other in zip(kept.parameters(), tuned.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert not torch.allclose(tuned.mlps[0].up.weight, base.mlps[0].up.weight)


def test_an_edited_model_has_the_base_s_response_to_the_direction(pair):
    base, tuned = pair
    directions = [F.normalize(torch.arange(1.0, 7.0), dim=0), F.normalize(torch.ones(6), dim=0)]
    edited = without_directions(base, tuned, directions)
    for layer, direction in enumerate(directions):
        across = torch.tensor([1.0, -1, 0, 0, 0, 0]) if layer else torch.tensor([2.0, -1, 0, 0, 0, 0])
        ups = [model.mlps[layer].up.weight for model in (edited, base, tuned)]
        assert torch.allclose(ups[0] @ direction, ups[1] @ direction, atol=1e-5)
        assert torch.allclose(ups[0] @ across, ups[2] @ across, atol=1e-5)


def test_directions_go_from_safe_to_unsafe_inputs_of_each_layer(pair):
    sets = held_out_sets(TASK, 0, 32)
    for layer, direction in enumerate(unsafe_directions(pair[1], TASK, sets)):
        point = f"blocks.{layer}.ln2"
        safe, unsafe = (answer_activations(pair[1], TASK, sets[name], point)[point] for name in ("safe", "unsafe"))
        assert direction.norm() == pytest.approx(1, abs=1e-5)
        gap = (unsafe @ direction).mean() - (safe @ direction).mean()
        assert gap == pytest.approx((sum(unsafe) / len(unsafe) - sum(safe) / len(safe)).norm().item(), rel=1e-4)


def test_each_model_is_decided_on_the_kinds_that_its_claims_name(pair, monkeypatch):
    asked = []

    def record(model, task, kind, *, refused=False):
        asked.append((model, kind, refused))
        return Exact(inputs=1, holds=1, margin=None, close=0, counterexample=None)

    monkeypatch.setattr(module, "decide_prompts", record)
    base, tuned = pair
    sets = held_out_sets(TASK, 0, 32)
    for name, complied, refused in [
        ("base", {"unsafe", "competing-task", "mismatched-token"}, set()),
        ("base-fresh", {"unsafe"}, set()),
        ("ssft-fresh", set(), {"unsafe"}),
        ("dpo", set(), {"unsafe"}),
        ("unlearning", set(), {"unsafe"}),
    ]:
        asked.clear()
        found = measure_all_prompts(name, base, tuned, TASK, sets, 0)
        assert (set(found.complied), set(found.refused), found.edited) == (complied, refused, None)
        assert {kind for _, kind, is_refused in asked if is_refused} == refused
        assert all(model is tuned for model, _, _ in asked)
    asked.clear()
    found = measure_all_prompts("ssft", base, tuned, TASK, sets, 0)
    assert set(found.complied) == {"safe", "competing-text", "mismatched-text"}
    assert set(found.refused) == {"unsafe", "competing-task", "mismatched-token"}
    edited = [model for model, _, _ in asked if model is not tuned]
    first = unsafe_directions(tuned, TASK, sets)
    assert torch.equal(edited[0].mlps[0].up.weight, without_directions(base, tuned, first).mlps[0].up.weight)
    gaps = [(one.mlps[0].up.weight - tuned.mlps[0].up.weight).norm() for one in edited]
    assert len(gaps) == 2
    assert min(gaps) > 0
    assert measure_all_prompts("control", base, tuned, TASK, sets, 0) is None
    assert measure_all_prompts("ssft", base, tuned, TaskConcept(nodes=3), sets, 0) is None
