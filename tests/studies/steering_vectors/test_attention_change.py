"""Laws of the change of attention patterns under a vector."""

from dataclasses import replace

import pytest
import torch

from tests.studies.steering_vectors.trainings import LAST, SEED, TASK, WIDTH, base, prompts_of
from toylab.model.steering import steer
from toylab.probes import edit, watch
from toylab.studies.steering_vectors import measures
from toylab.studies.steering_vectors.attention_change import attention_change


def sampled_by(steered):
    return measures.rollouts(steered, TASK, prompts_of()[:12], SEED)


def test_what_comes_after_the_last_attention_changes_no_pattern():
    late = steer(base(), {LAST: torch.ones(WIDTH)})
    assert attention_change(late, sampled_by(late)).steered == 0


def test_the_change_is_the_mean_over_heads_and_counted_positions_of_half_the_differences():
    steered = steer(base(), {LAST - 1: torch.linspace(-3, 3, WIDTH)})
    sampled = sampled_by(steered)
    tokens, point = torch.cat([sampled.prompts, sampled.written[:, :-1]], dim=1), f"blocks.{LAST}.attn.pattern"
    found = []
    for edits in ({}, steered.edits()):
        with edit(steered.model, edits), watch(steered.model, point) as cache, torch.no_grad():
            steered.model(tokens)
            found.append(cache[point].tolist())
    changes, others = [], []
    for row, counted in enumerate(sampled.counted.tolist()):
        for step, counts in enumerate(counted):
            query = sampled.prompts.shape[1] - 1 + step
            for head in range(len(found[0][row])):
                plain = found[0][row][head][query]
                if counts:
                    moved = zip(plain, found[1][row][head][query], strict=True)
                    changes.append(sum(abs(p - q) for p, q in moved) / 2)
                if counts and sampled.counted[row - 1][step]:
                    beside = zip(plain, found[0][row - 1][head][query], strict=True)
                    others.append(sum(abs(p - q) for p, q in beside) / 2)
    change = attention_change(steered, sampled)
    assert change.steered == pytest.approx(sum(changes) / len(changes), abs=1e-5)
    assert change.other_prompts == pytest.approx(sum(others) / len(others), abs=1e-5)
    assert 0 < change.steered != change.other_prompts > 0
    repeated = {name: getattr(sampled, name)[:1].expand(12, -1) for name in ("prompts", "written", "counted")}
    same = replace(sampled, **repeated)
    assert attention_change(steered, same).other_prompts == pytest.approx(0, abs=1e-6)
