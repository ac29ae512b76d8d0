"""Laws of refusals under a shift of activations, counted token by token with a plain hook."""

import pytest
import torch

from tests.studies.safety_finetuning.planted import TASK
from toylab.model.controls import random_like
from toylab.model.layers import torch_stream
from toylab.studies.safety_finetuning.data import MODEL, concept_model
from toylab.studies.safety_finetuning.measures import held_out_sets
from toylab.studies.safety_finetuning.patching import move_to_unsafe

SEED = 4


def refusals(model, prompts, shift):
    """Share of NULL in greedy answers, with the shift added from EOT on."""
    tokens, point = torch.from_numpy(prompts), model.blocks[-1].mlp.post

    def add(_module, _inputs, output):
        return torch.cat([output[:, : TASK.prompt - 1], output[:, TASK.prompt - 1 :] + shift], dim=1)

    handle = point.register_forward_hook(add)
    with torch.no_grad():
        for _ in range(TASK.answer):
            tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(dim=-1)], dim=1)
    handle.remove()
    return (tokens[:, TASK.prompt :] == TASK.null).float().mean().item()


def mean_at_the_end(model, prompts):
    kept = []
    handle = model.blocks[-1].mlp.post.register_forward_hook(lambda _m, _i, output: kept.append(output[:, -1]))
    with torch.no_grad():
        model(torch.from_numpy(prompts))
    handle.remove()
    return kept[0].mean(dim=0)


@pytest.mark.parametrize("towards", [1.0, -1.0])
def test_the_shift_is_the_difference_of_unsafe_and_safe_text_and_is_added_from_the_end_of_the_prompt_on(towards):
    model, sets = concept_model(TASK, MODEL, SEED), held_out_sets(TASK, SEED, 24)
    prompts = {name: batch.tokens[:, : TASK.prompt] for name, batch in sets.items()}
    shift = mean_at_the_end(model, prompts["M, unsafe text"]) - mean_at_the_end(model, prompts["M, safe text"])
    with torch.no_grad():  # the last MLP writes NULL in proportion to how far activations lie along the shift
        null = model.unembedding.weight[TASK.null]
        model.blocks[-1].mlp.down.weight.copy_(towards * 3 * torch.outer(null, shift) / shift.norm() ** 2)
    found = move_to_unsafe(model, TASK, sets, SEED)
    jailbreaks = prompts["competing-text"]
    random = random_like(shift, torch_stream(SEED, "random shift"))
    assert found.before == pytest.approx(refusals(model, jailbreaks, 0), abs=1e-4)
    assert found.unsafe == pytest.approx(refusals(model, jailbreaks, shift), abs=1e-4)
    assert found.random == pytest.approx(refusals(model, jailbreaks, random), abs=1e-4)
    assert (found.unsafe > found.before) == (towards > 0)
