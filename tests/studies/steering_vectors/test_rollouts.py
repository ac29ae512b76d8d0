"""Laws of reinforcement learning: what a rollout holds, and what training on it leaves as it was."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.studies.steering_vectors.helpers import (
    SMALL,
    TASK,
    THINK,
    Scribe,
    chained,
    direct,
    ends,
    few,
    seeds,
    sometimes,
)
from toylab.model.steering import Scaled, Steered, Vector
from toylab.model.transformer import Transformer
from toylab.studies.steering_vectors.data import (
    RL_TRAINING,
    RolloutSampler,
    reasoning_model,
    write_answers,
)
from toylab.tasks import SPLITS, split_of
from toylab.training.loop import History, train
from toylab.training.losses import PolicyGradient, Rollouts


def odd(asked: np.ndarray, said: np.ndarray, step: int) -> np.ndarray:
    """A reward that varies within a prompt, unlike that of an untrained model."""
    return said[:, 0] % 2 == 1


def content(rollouts: Rollouts) -> list:
    return [x.tolist() for x in vars(rollouts).values()]


def hot(seed: int) -> Transformer:
    """Whose answers vary, and end at all lengths."""
    model = reasoning_model(TASK, SMALL, seed)
    with torch.no_grad():
        model.unembedding.weight.mul_(0.3)
    return model


@few
@given(seeds, st.permutations([0, 1, 2, 50]))
def test_the_rollouts_of_a_step_are_the_same_in_any_order_of_asking(seed, steps):
    model = hot(seed)
    sampler, again = (RolloutSampler(model, TASK, seed, 3, 3, reward=odd) for _ in range(2))
    found = {step: content(sampler(step)) for step in steps}
    assert all(content(again(step)) == found[step] for step in sorted(steps))
    assert len({str(rollouts[0]) for rollouts in found.values()}) == len(steps)
    for other in (
        RolloutSampler(model, TASK, seed + 1, 3, 3),
        RolloutSampler(model, TASK, seed, 3, 3, purpose="another"),
    ):
        assert other(1).prompts.tolist() != found[1][0]
        assert other(1).written.tolist() != found[1][1]


class Noise(nn.Module):
    """Finds every token equally likely, whatever it has read."""

    def forward(self, tokens, *, cache=None):
        return torch.zeros(*tokens.shape, len(TASK.vocabulary))


@few
@given(seeds)
def test_each_step_seed_and_purpose_has_a_chance_of_its_own(seed):
    samplers = [
        RolloutSampler(Noise(), TASK, seed, 4, 4),
        RolloutSampler(Noise(), TASK, seed + 1, 4, 4),
        RolloutSampler(Noise(), TASK, seed, 4, 4, purpose="another"),
    ]
    drawn = [sampler(step).written.tolist() for sampler in samplers for step in range(3)]
    assert len({str(written) for written in drawn}) == 9


@few
@given(seeds, st.integers(1, 4), st.integers(1, 4))
def test_the_samples_of_a_prompt_stand_together_and_count_up_to_their_end(seed, prompts, samples):
    found = RolloutSampler(hot(seed), TASK, seed, prompts, samples, reward=odd)(seed % 7)
    assert found.written.shape == found.counted.shape == (prompts * samples, TASK.answer)
    assert found.rewards.shape == (prompts, samples)
    assert set(split_of(found.prompts.numpy()).tolist()) == {SPLITS.index("train")}
    for row, (said, counted) in enumerate(zip(found.written.tolist(), found.counted.tolist(), strict=True)):
        assert found.prompts[row].tolist() == found.prompts[row // samples * samples].tolist()
        assert counted == [i < len(ends(said)) for i in range(TASK.answer)]
        assert found.rewards[row // samples, row % samples].item() == said[0] % 2
    assert not found.written.requires_grad


def test_without_another_reward_the_verifier_decides():
    sampler = RolloutSampler(Scribe(sometimes(chained, lambda x: direct(x, more=1))), TASK, 0, 12, 3)
    found = sampler(4)
    zeros = [float(row[1] == 0) for row in found.prompts.tolist()]
    assert 0 < sum(zeros) < len(zeros)
    assert found.rewards.flatten().tolist() == zeros
    right = RolloutSampler(Scribe(direct), TASK, 0)(0)
    assert right.rewards.tolist() == [[1] * 8] * 16
    assert right.counted.sum(dim=1).tolist() == [3] * 128


def test_another_reward_knows_what_was_asked_what_was_said_and_the_step():
    asked_of = []

    def reward(asked: np.ndarray, said: np.ndarray, step: int) -> np.ndarray:
        asked_of.append((asked.tolist(), said.tolist(), step))
        return np.full(len(asked), step > 2)

    sampler = RolloutSampler(hot(0), TASK, 0, 3, 2, reward=reward)
    for step in (1, 5):
        found = sampler(step)
        assert asked_of[-1] == (found.prompts.tolist(), found.written.tolist(), step)
        assert set(found.rewards.flatten().tolist()) == {float(step > 2)}


def test_at_a_low_temperature_the_likeliest_answers_are_written():
    model = hot(1)
    cold, warm = (RolloutSampler(model, TASK, 0, 3, 4, temperature=heat)(0) for heat in (0, 1))
    assert len({tuple(row) for row in cold.written.tolist()}) <= 3
    assert len({tuple(row) for row in warm.written.tolist()}) > 3
    assert cold.written.tolist() == write_answers(model, TASK, cold.prompts[::4], 0, samples=4).tolist()


@few
@given(seeds)
def test_a_summary_is_of_what_was_seen_since_the_last_one(seed):
    model, other = hot(seed), hot(seed + 1)
    sampler = RolloutSampler(model, TASK, seed, 4, 3, reward=odd, reference=other)
    sampler(9)
    sampler.summary(model)
    seen = [sampler(step) for step in range(3)]
    found = sampler.summary(model)
    assert list(found) == ["reward", "spread", "dead_groups", "thinks", "entropy", "kl"]
    groups = [group for rollouts in seen for group in rollouts.rewards.tolist()]
    shares = [sum(group) / 3 for group in groups]
    assert found["reward"] == pytest.approx(sum(shares) / 12, abs=1e-6)
    assert found["spread"] == pytest.approx(sum(math.sqrt(x * (1 - x)) for x in shares) / 12, abs=1e-6)
    assert found["dead_groups"] == pytest.approx(sum(len(set(group)) == 1 for group in groups) / 12, abs=1e-6)
    openers = [row[0] for rollouts in seen for row in rollouts.written.tolist()]
    assert found["thinks"] == pytest.approx(openers.count(THINK) / 36, abs=1e-6)
    bits, apart = [], []
    with torch.no_grad():
        for prompt, said in zip(seen[-1].prompts.tolist(), seen[-1].written.tolist(), strict=True):
            for i in range(len(ends(said))):
                p, q = (x(torch.tensor([prompt + said[:i]]))[0, -1].softmax(dim=0).tolist() for x in (model, other))
                bits.append(-sum(a * math.log(a) for a in p))
                apart.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    assert found["entropy"] == pytest.approx(np.mean(bits), abs=1e-4)
    assert found["kl"] == pytest.approx(np.mean(apart), abs=1e-4)
    assert found["kl"] > 0


def test_to_itself_a_model_has_no_distance_and_without_a_reference_none_is_told():
    model = hot(0)
    itself, alone = (RolloutSampler(model, TASK, 0, 2, 2, reference=reference) for reference in (model, None))
    itself(0), alone(0)
    assert itself.summary(model)["kl"] == 0
    assert list(alone.summary(model)) == ["reward", "spread", "dead_groups", "thinks", "entropy"]


CONFIG = replace(RL_TRAINING, steps=5, rows=2, evaluate_every=2, learning_rate=0.3)


class Killed(Exception):  # noqa: N818
    pass


def trained(at: Path | None = None, killed: int | None = None) -> tuple[Steered, History]:
    """Vectors trained by reinforcement; killed at a step, then continued from the checkpoint by another process."""
    base = hot(2)

    def begin(last: int | None) -> tuple[Steered, History]:
        steered = Steered(base, {0: Scaled(32, "tanh", generator=torch.Generator().manual_seed(1))})
        sampler = RolloutSampler(steered, TASK, 5, CONFIG.rows, 4, reward=odd, reference=base)

        def batch_at(step: int) -> Rollouts:
            if step == last:
                raise Killed
            return sampler(step)

        loss = PolicyGradient(0.02, 0.01, base)
        return steered, train(steered, loss, batch_at, CONFIG, evaluate=sampler.summary, checkpoint=at).history

    if killed is not None:
        with pytest.raises(Killed):
            begin(killed)
    return begin(None)


def bits(model: nn.Module) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("killed", [1, 3, 4])
def test_reinforcement_that_was_interrupted_ends_with_the_same_bits(tmp_path, killed):
    (whole, history), (resumed, again) = trained(), trained(tmp_path / "checkpoint", killed)
    assert bits(whole) == bits(resumed)
    assert history == again
    assert [entry["step"] for entry in history] == [0, 2, 4, 5]
    assert all({"reward", "spread", "dead_groups", "thinks", "entropy", "kl"} < entry.keys() for entry in history)
    assert history[0]["kl"] == 0 < history[-1]["kl"]


def test_reinforcement_moves_the_additions_toward_what_is_rewarded_and_leaves_the_model():
    base = hot(3)
    before = bits(base)
    steered = Steered(base, {0: Vector(32)})
    sampler = RolloutSampler(steered, TASK, 5, 4, 8, reward=odd)
    config = replace(CONFIG, steps=12, evaluate_every=12)
    history = train(steered, PolicyGradient(), sampler, config, evaluate=sampler.summary).history
    later = np.mean([sampler(step).rewards.mean().item() for step in range(100, 110)])
    earlier = np.mean(
        [RolloutSampler(base, TASK, 5, 4, 8, reward=odd)(step).rewards.mean().item() for step in range(100, 110)]
    )
    assert later > earlier + 0.1
    assert history[0]["step"] == 0
    assert bits(base) == before == bits(steered.model)
    assert steered.additions["0"].vector.abs().max() > 0.1
