"""Fine-tuning losses: supervised, preference optimisation and policy gradient.

A loss is a function of a model and a batch, for `toylab.training.loop.train`. Preference losses take `PreferencePairs`
and use the log-probabilities of both answers under teacher forcing:

| loss | per pair | source |
| --- | --- | --- |
| `RefusalLoss` | `-log p(chosen)` | supervised safety fine-tuning (SSFT) |
| `Unlearning` | `-log p(chosen) + w max(log p(rejected), -cap)` | gradient ascent; Jain et al. 2024, section 3.2 |
| `DPO` | `-log sigmoid(beta (g(chosen) - g(rejected)))` | Rafailov et al. 2023, equation 7 |
| `NPO` | `-log p(chosen) + w 2 / beta log(1 + exp(beta g(rejected)))` | Zhang et al. 2024, equation 3 |

Here g = log p - log p_ref is the log-ratio to a frozen reference model, summed over the tokens of the answer; log p is
a mean over tokens. NPO divides its second term by the number of answer tokens, so all losses but DPO are in nats per
token. The value of DPO depends on the length of the answer and is not comparable with the others.

`PolicyGradient` takes `Rollouts`: answers sampled from the model and their rewards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from toylab.console import ToylabError
from toylab.model.checkpoint import frozen_copy
from toylab.model.layers import KVCache
from toylab.model.transformer import Transformer
from toylab.probes.checks import check_finite
from toylab.settings import check_range, check_settings


@dataclass(frozen=True)
class PreferencePairs:
    """Prompts with a chosen and a rejected answer.

    Attributes:
        prompts: prompts of equal length, up to the token before the answer.
        chosen, rejected: the two answers, of equal length.
        unsafe: whether the prompt should be refused.
    """

    prompts: Int[Tensor, "batch position"]
    chosen: Int[Tensor, "batch answer"]
    rejected: Int[Tensor, "batch answer"]
    unsafe: Bool[Tensor, " batch"]

    def __len__(self) -> int:
        return len(self.prompts)


def answer_log_probs(
    model: nn.Module, prompts: Int[Tensor, "batch position"], answers: Int[Tensor, "batch answer"]
) -> Float[Tensor, "batch answer"]:
    """Log-probability in nats of each answer token, given the prompt and the preceding answer tokens.

    Args:
        model: a `Transformer`, or any module that takes tokens and `queries`, the positions of the logits to return.

    Raises:
        ToylabError: for an empty batch, or empty prompts or answers.
    """
    return _gather(_step_log_probs(model, prompts, answers), answers)


def _step_log_probs(
    model: nn.Module, prompts: Int[Tensor, "row position"], written: Int[Tensor, "row step"]
) -> Float[Tensor, "row step vocab"]:
    """Log-probabilities over the vocabulary at each step of `written`, under teacher forcing."""
    _refuse_empty(prompts, written)
    tokens = torch.cat([prompts, written[:, :-1]], dim=1)
    queries = torch.arange(prompts.shape[1] - 1, tokens.shape[1], device=tokens.device).expand(len(tokens), -1)
    return model(tokens, queries=queries).log_softmax(dim=-1)


def _gather(log_probs: Float[Tensor, "row step vocab"], tokens: Int[Tensor, "row step"]) -> Float[Tensor, "row step"]:
    return log_probs.gather(-1, tokens[..., None].long())[..., 0]


def _refuse_empty(prompts: Tensor, answers: Tensor) -> None:
    if not prompts.numel() or not answers.numel():
        raise ToylabError(
            f"prompts of shape {tuple(prompts.shape)}, answers of {tuple(answers.shape)}: the mean over no token is "
            "undefined; give at least one row, and one token in each"
        )


def pair_log_probs(
    model: nn.Module, pairs: PreferencePairs
) -> tuple[Float[Tensor, "batch answer"], Float[Tensor, "batch answer"]]:
    """`answer_log_probs` of chosen and rejected answers; a causal `Transformer` processes each prompt once."""
    _refuse_empty(pairs.prompts, pairs.chosen)
    answers = torch.cat([pairs.chosen, pairs.rejected])
    if not isinstance(model, Transformer) or not model.config.causal:
        chosen, rejected = answer_log_probs(model, pairs.prompts.repeat(2, 1), answers).chunk(2)
        return chosen, rejected
    cache = KVCache()
    last = torch.full((len(pairs), 1), pairs.prompts.shape[1] - 1, device=pairs.prompts.device)
    first = model(pairs.prompts, queries=last, cache=cache)
    cache.layers = {i: (k.repeat(2, 1, 1, 1), v.repeat(2, 1, 1, 1)) for i, (k, v) in cache.layers.items()}
    logits = first.repeat(2, 1, 1)
    if answers.shape[1] > 1:
        logits = torch.cat([logits, model(answers[:, :-1], cache=cache)], dim=1)
    chosen, rejected = _gather(logits.log_softmax(dim=-1), answers).chunk(2)
    return chosen, rejected


@dataclass(frozen=True)
class RefusalLoss:
    """Cross entropy of the chosen answers, in nats per token: refusals on unsafe prompts, the transform on safe ones.

    On safe prompts only, this is the control condition: the same fine-tuning without refusals.
    """

    def __call__(self, model: nn.Module, pairs: PreferencePairs) -> Float[Tensor, ""]:
        return -answer_log_probs(model, pairs.prompts, pairs.chosen).mean()


@dataclass(frozen=True)
class ConstantAnswerLoss:
    """`RefusalLoss` with one repeated letter in place of a refusal.

    A control for refusals: the model learns to tell unsafe prompts from safe ones, and no refusal.
    """

    letter: int = 0

    def __call__(self, model: nn.Module, pairs: PreferencePairs) -> Float[Tensor, ""]:
        chosen = torch.where(pairs.unsafe[:, None], self.letter, pairs.chosen)
        return RefusalLoss()(model, replace(pairs, chosen=chosen))


@dataclass(frozen=True)
class Unlearning:
    """Gradient descent on the chosen answers and ascent on the rejected ones, in nats per token.

    Attributes:
        weight: weight of the ascent term.
        cap: cross entropy in nats beyond which a rejected token has no gradient. The ascent term is unbounded below
            without a cap.
    """

    weight: float | int = 0.1
    cap: float | int = 20.0

    def __post_init__(self) -> None:
        check_settings(self)
        check_range("for example 0.1", weight=self.weight, above=0)
        check_range("for example 20", cap=self.cap, above=0)

    def __call__(self, model: nn.Module, pairs: PreferencePairs) -> Float[Tensor, ""]:
        chosen, rejected = pair_log_probs(model, pairs)
        return -chosen.mean() - self.weight * (-rejected).clamp(max=self.cap).mean()


class DPO:
    """Direct preference optimisation against a frozen reference model.

    With log-ratios g = log p(answer) - log p_ref(answer), summed over the tokens of the answer:
    loss = -log sigmoid(beta g(chosen) - beta_rejected g(rejected)).

    Args:
        reference: the model before fine-tuning; copied and frozen.
        beta: strength of the implicit KL penalty; small values let the model move far from the reference.
        beta_rejected: beta of the rejected answer; equal to `beta` if not given, as in Rafailov et al. 2023.
        average: whether log-ratios are means over the tokens of the answer instead of sums.
        anchor: weight of the cross entropy of the chosen answers, in nats per token; it prevents their likelihood from
            falling together with the likelihood of the rejected answers (Pang et al. 2024, equation 1).
    """

    def __init__(
        self,
        reference: nn.Module,
        beta: float | int = 0.1,
        beta_rejected: float | int | None = None,
        *,
        average: bool = False,
        anchor: float | int = 0.0,
    ) -> None:
        check_range("for example 0.1", beta=beta, beta_rejected=beta_rejected, above=0, below=math.inf)
        check_range("0 leaves it out", anchor=anchor, least=0, below=math.inf)
        self.reference, self.average, self.anchor = frozen_copy(reference), average, anchor
        self.beta, self.beta_rejected = beta, beta if beta_rejected is None else beta_rejected

    @classmethod
    def as_published(cls, reference: nn.Module) -> DPO:
        """The loss in the code of Jain et al. 2024: means over tokens, beta .1 for the chosen and .01 for the rejected
        answer. At log-ratios of a few nats per token the sigmoid stays near 1/2, so the gradient is that of
        `Unlearning`."""
        return cls(reference, 0.1, 0.01, average=True)

    def __call__(self, model: nn.Module, pairs: PreferencePairs) -> Float[Tensor, ""]:
        log_probs = pair_log_probs(model, pairs)
        with torch.no_grad():
            before = pair_log_probs(self.reference, pairs)
        gains = [
            _log_ratio(log_prob, reference_log_prob)
            for log_prob, reference_log_prob in zip(log_probs, before, strict=True)
        ]
        chosen, rejected = (gain.mean(dim=1) if self.average else gain.sum(dim=1) for gain in gains)
        loss = -F.logsigmoid(self.beta * chosen - self.beta_rejected * rejected).mean()
        return loss - self.anchor * log_probs[0].mean() if self.anchor else loss


class NPO:
    """Negative preference optimisation of the rejected answers, plus cross entropy of the chosen ones.

    The rejected term is 2 / beta log(1 + (p / p_ref)^beta) with summed log-probabilities, divided by the number of
    answer tokens to give nats per token. Its gradient vanishes as p falls; for beta -> 0 it is gradient ascent.

    Args:
        reference: the model before fine-tuning; copied and frozen.
        weight: weight of the rejected term.
    """

    def __init__(self, reference: nn.Module, beta: float | int = 0.1, weight: float | int = 1.0) -> None:
        check_range("for example 0.1", beta=beta, weight=weight, above=0, below=math.inf)
        self.reference, self.beta, self.weight = frozen_copy(reference), beta, weight

    def __call__(self, model: nn.Module, pairs: PreferencePairs) -> Float[Tensor, ""]:
        chosen, rejected = pair_log_probs(model, pairs)
        with torch.no_grad():
            before = answer_log_probs(self.reference, pairs.prompts, pairs.rejected)
        log_ratio = _log_ratio(rejected, before).sum(dim=1)
        rejected_term = -2 / self.beta * F.logsigmoid(-self.beta * log_ratio).mean() / rejected.shape[1]
        return -chosen.mean() + self.weight * rejected_term


@dataclass(frozen=True)
class Rollouts:
    """Answers sampled from a model, several per prompt, with their rewards.

    Attributes:
        prompts: one row per sample; the samples of a prompt are consecutive.
        written: sampled tokens after each prompt.
        counted: mask of the sampled tokens up to and including the end token.
        rewards: reward of each sample, per prompt.

    Raises:
        ToylabError: for an empty batch; for rewards that are not finite, or not one per row.
    """

    prompts: Int[Tensor, "row position"]
    written: Int[Tensor, "row step"]
    counted: Bool[Tensor, "row step"]
    rewards: Shaped[Tensor, "prompt sample"]

    def __post_init__(self) -> None:
        _refuse_empty(self.prompts, self.written)
        if self.rewards.numel() != len(self.prompts):
            raise ToylabError(f"rewards: {self.rewards.numel()} for {len(self.prompts)} rows; give one each")
        check_finite(rewards=self.rewards)

    def log_probs(self, model: nn.Module) -> Float[Tensor, "row step vocab"]:
        """Log-probabilities over the vocabulary at each step, in nats; equal rows are computed once."""
        start = self.prompts.shape[1]
        rows, index = torch.cat([self.prompts, self.written], dim=1).unique(dim=0, return_inverse=True)
        return _step_log_probs(model, rows[:, :start], rows[:, start:])[index]

    def mean(self, values: Float[Tensor, "row step"]) -> Float[Tensor, ""]:
        """Mean over the tokens in `counted`."""
        self.refuse_uncounted()
        return values.masked_fill(~self.counted, 0).sum() / self.counted.sum()

    def refuse_uncounted(self) -> None:
        """Raise `ToylabError` if `counted` is nowhere True; checked on the CPU only, to avoid a device sync."""
        if self.counted.is_cpu and not bool(self.counted.any()):
            raise ToylabError("counted: is nowhere True, so no token is in the loss; mark each row up to its end token")


def up_to_end(end: int, written: Int[Tensor, "row step"]) -> Bool[Tensor, "row step"]:
    """Mask of the tokens up to and including the first `end` of each row."""
    is_end = (written == end).long()
    return is_end.cumsum(dim=1) - is_end == 0


def leave_one_out(rewards: Shaped[Tensor, "prompt sample"]) -> Float[Tensor, "prompt sample"]:
    """Leave-one-out advantage: the reward of a sample minus the mean reward of the other samples of its prompt.

    Not normalised by the standard deviation. Source: Kool et al. 2019; Ahmadian et al. 2024, equation 6.

    Raises:
        ToylabError: for a single sample per prompt; for a reward that is not finite.
    """
    samples = rewards.shape[1]
    check_range("the leave-one-out baseline needs others, for example 8 a prompt", samples=samples, least=2)
    check_finite(rewards=rewards)
    if not rewards.is_floating_point():
        rewards = rewards.to(torch.get_default_dtype())
    return (rewards - rewards.mean(dim=1, keepdim=True)) * samples / (samples - 1)


class PolicyGradient:
    """On-policy REINFORCE with the leave-one-out baseline (RLOO; Ahmadian et al. 2024).

    loss = - mean over samples of advantage * sum over tokens of log p(token)
           - entropy * mean entropy per token + kl * mean KL per token to a reference.

    A prompt whose samples all have the same reward contributes no gradient through the first term.

    Args:
        entropy: weight of the entropy bonus, in nats; it prevents early collapse to one opening token.
        kl: weight of KL(model || reference), in nats.
        reference: the model before fine-tuning, copied and frozen; required for `kl`.

    Raises:
        ToylabError: for a weight that is not a number of at least 0, or `kl` without a reference.
    """

    def __init__(self, entropy: float | int = 0.0, kl: float | int = 0.0, reference: nn.Module | None = None) -> None:
        check_range("0 leaves it out", entropy=entropy, kl=kl, least=0, below=math.inf)
        if kl and reference is None:
            raise ToylabError(f"kl={kl}: needs reference=, the model that the KL is measured against")
        self.entropy, self.kl = entropy, kl
        self.reference = None if reference is None else frozen_copy(reference)

    def __call__(self, model: nn.Module, rollouts: Rollouts) -> Float[Tensor, ""]:
        rollouts.refuse_uncounted()
        advantages = leave_one_out(rollouts.rewards).flatten()
        log_probs = rollouts.log_probs(model)
        chosen = _gather(log_probs, rollouts.written).masked_fill(~rollouts.counted, 0).sum(dim=1)
        chosen = chosen.masked_fill((chosen == -torch.inf) & (advantages == 0), 0)  # 0 * -inf is NaN
        loss = -(advantages * chosen).mean()
        if self.entropy:
            loss = loss - self.entropy * rollouts.mean(entropy(log_probs))
        if self.kl:
            assert self.reference is not None  # or the constructor had refused
            with torch.no_grad():
                before = rollouts.log_probs(self.reference)
            loss = loss + self.kl * rollouts.mean(kl_divergence(log_probs, before))
        return loss


def entropy(log_probs: Float[Tensor, "*shape vocab"]) -> Float[Tensor, "*shape"]:
    """Entropy of each distribution in nats; 0 log 0 = 0."""
    p = log_probs.exp()
    return -(p * log_probs.masked_fill(p == 0, 0)).sum(dim=-1)


def kl_divergence(
    log_probs: Float[Tensor, "*shape vocab"], others: Float[Tensor, "*shape vocab"]
) -> Float[Tensor, "*shape"]:
    """KL(p || q) in nats of each pair of distributions: 0 where p is 0, infinite where only q is 0."""
    p = log_probs.exp()
    return (p * (log_probs - others).masked_fill(p == 0, 0)).sum(dim=-1)


def _log_ratio(now: Float[Tensor, "row step"], then: Float[Tensor, "row step"]) -> Float[Tensor, "row step"]:
    """Log-ratio log p - log p_ref per token, in nats; 0 where both probabilities are 0."""
    return (now - then).masked_fill((now == -torch.inf) & (then == -torch.inf), 0)
