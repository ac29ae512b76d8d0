"""What a language model is taught after pre-training: to prefer one answer to another, or what earns a reward.

Every loss is a function of a model and a batch, for the one training loop. Those on two answers to one prompt take
`PreferencePairs` and work on log-probabilities of whole answers, token by token, given the prompt and the right tokens
before (teacher forcing):

| loss | of a pair | source |
| --- | --- | --- |
| `RefusalLoss` | -log p(chosen) | supervised safety fine-tuning (SSFT) |
| `Unlearning` | -log p(chosen) + w log p(rejected), capped | gradient ascent; Jain et al. 2024, section 3.2 |
| `DPO` | -log sigmoid of beta times the gain of chosen over rejected | Rafailov et al. 2023, equation 7 |
| `NPO` | -log p(chosen) and 2 / beta log(1 + (p / p_ref)^beta) of rejected | Zhang et al. 2024, equation 3 |

A loss is a mean over tokens where that says nothing else: per-token numbers do not depend on the length of answers, the
sums of DPO and NPO do, and the two must not be mixed.

`PolicyGradient` works on what the model wrote itself, a batch of `Rollouts`, and on what each answer earned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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
    """Prompts of one length, each with an answer to prefer and one to avoid.

    Attributes:
        prompts: up to the token after which the answer begins.
        chosen, rejected: the two answers, of one length.
        unsafe: whether the prompt is one to refuse.
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
    """Log-probability of each token of the answers, in nats, given the prompt and the tokens before it.

    Args:
        model: a `Transformer`, or any module that takes tokens and the `queries` whose logits are wanted.

    Raises:
        ValueError: without a row, or for prompts or answers without a token.
    """
    return _at(_predicted(model, prompts, answers), answers)


def _predicted(
    model: nn.Module, prompts: Int[Tensor, "row position"], written: Int[Tensor, "row step"]
) -> Float[Tensor, "row step vocab"]:
    """Log-probability of every token that might stand in place of each written one."""
    _refuse_empty(prompts, written)
    tokens = torch.cat([prompts, written[:, :-1]], dim=1)
    queries = torch.arange(prompts.shape[1] - 1, tokens.shape[1], device=tokens.device).expand(len(tokens), -1)
    return model(tokens, queries=queries).log_softmax(dim=-1)


def _at(log_probs: Float[Tensor, "row step vocab"], tokens: Int[Tensor, "row step"]) -> Float[Tensor, "row step"]:
    return log_probs.gather(-1, tokens[..., None].long())[..., 0]


def _refuse_empty(prompts: Tensor, answers: Tensor) -> None:
    if not prompts.numel() or not answers.numel():
        raise ToylabError(
            f"prompts of shape {tuple(prompts.shape)}, answers of {tuple(answers.shape)}: a mean over no token is no "
            "number; give at least one row, and one token in each"
        )


def pair_log_probs(
    model: nn.Module, pairs: PreferencePairs
) -> tuple[Float[Tensor, "batch answer"], Float[Tensor, "batch answer"]]:
    """`answer_log_probs` of the chosen and of the rejected answers; a `Transformer` reads their prompt once."""
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
    chosen, rejected = _at(logits.log_softmax(dim=-1), answers).chunk(2)
    return chosen, rejected


@dataclass(frozen=True)
class RefusalLoss:
    """Cross entropy of the chosen answers in nats a token: refusals where one should refuse, the transform elsewhere.

    On safe prompts alone this is the control: the same training, with nothing about refusing in it.
    """

    def __call__(self, model: nn.Module, pairs: PreferencePairs) -> Float[Tensor, ""]:
        return -answer_log_probs(model, pairs.prompts, pairs.chosen).mean()


@dataclass(frozen=True)
class Unlearning:
    """Descend on the chosen answers, ascend on the rejected ones, in nats a token.

    Attributes:
        weight: of the ascent.
        cap: surprise in nats at which a token counts as unlearned, and is pushed no further. Ascent has no minimum:
            without a cap the surprise grows for as long as one trains.
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

    With gains g = log p(answer) - log p_ref(answer), summed over the tokens of the answer:
    loss = -log sigmoid(beta g(chosen) - beta_rejected g(rejected)).

    Args:
        reference: the model that training starts from; copied and frozen.
        beta: how hard a gain is to earn; small values let the model move far.
        beta_rejected: the same for the rejected answer; `beta` if not given, as in the paper.
        average: whether gains are means over tokens instead of sums.
        anchor: weight of the cross entropy of the chosen answers in nats a token, which keeps their likelihood from
            sinking along with that of the rejected ones (Pang et al. 2024, equation 1).
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
        answer. Gains of a few nats a token leave the sigmoid near 1/2, so its gradient is that of `Unlearning`."""
        return cls(reference, 0.1, 0.01, average=True)

    def __call__(self, model: nn.Module, pairs: PreferencePairs) -> Float[Tensor, ""]:
        log_probs = pair_log_probs(model, pairs)
        with torch.no_grad():
            before = pair_log_probs(self.reference, pairs)
        gains = [_gain(now, then) for now, then in zip(log_probs, before, strict=True)]
        chosen, rejected = (gain.mean(dim=1) if self.average else gain.sum(dim=1) for gain in gains)
        loss = -F.logsigmoid(self.beta * chosen - self.beta_rejected * rejected).mean()
        return loss - self.anchor * log_probs[0].mean() if self.anchor else loss


class NPO:
    """Negative preference optimisation: unlearning that slows down by itself, and the cross entropy of the chosen.

    Of the rejected answer, 2 / beta log(1 + (p / p_ref)^beta) with summed log-probabilities; for beta towards 0 its
    gradient becomes that of plain ascent. Divided by the answer's tokens, to stand beside nats a token.

    Args:
        reference: the model that training starts from; copied and frozen.
        weight: of the rejected answer's part.
    """

    def __init__(self, reference: nn.Module, beta: float | int = 0.1, weight: float | int = 1.0) -> None:
        check_range("for example 0.1", beta=beta, weight=weight, above=0, below=math.inf)
        self.reference, self.beta, self.weight = frozen_copy(reference), beta, weight

    def __call__(self, model: nn.Module, pairs: PreferencePairs) -> Float[Tensor, ""]:
        chosen, rejected = pair_log_probs(model, pairs)
        with torch.no_grad():
            before = answer_log_probs(self.reference, pairs.prompts, pairs.rejected)
        gain = _gain(rejected, before).sum(dim=1)
        pushed = -2 / self.beta * F.logsigmoid(-self.beta * gain).mean() / rejected.shape[1]
        return -chosen.mean() + self.weight * pushed


@dataclass(frozen=True)
class Rollouts:
    """What a model wrote after prompts, several times each, and what it got for it.

    Attributes:
        prompts: one row a sample; the samples of a prompt stand in consecutive rows.
        written: the tokens after each prompt.
        counted: which of them the model chose: up to its end and with it.
        rewards: prompt by prompt, of each sample.

    Raises:
        ValueError: without a row or a token; for rewards that are not finite, or not one a row.
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
        """Of every token that might have been written at each step, in nats."""
        return _predicted(model, self.prompts, self.written)

    def mean(self, values: Float[Tensor, "row step"]) -> Float[Tensor, ""]:
        """Over the tokens that were chosen."""
        self.refuse_uncounted()
        return values.masked_fill(~self.counted, 0).sum() / self.counted.sum()

    def refuse_uncounted(self) -> None:
        """Raise `ToylabError` where no token counts, and looking makes no device wait."""
        if self.counted.is_cpu and not bool(self.counted.any()):
            raise ToylabError("counted: is nowhere True, so no token was chosen; count each row up to its end")


def up_to_end(end: int, written: Int[Tensor, "row step"]) -> Bool[Tensor, "row step"]:
    """Which tokens of each row stand before its first `end`, or are it."""
    ended = (written == end).long()
    return ended.cumsum(dim=1) - ended == 0


def leave_one_out(rewards: Shaped[Tensor, "prompt sample"]) -> Float[Tensor, "prompt sample"]:
    """The advantage of each sample: its reward minus the mean of the others of its prompt.

    Source: Kool et al. 2019; Ahmadian et al. 2024, equation 6. Nothing is divided by the spread.

    Raises:
        ValueError: for one sample a prompt, which has no others; for a reward that is not finite.
    """
    samples = rewards.shape[1]
    check_range("the leave-one-out baseline needs others, for example 8 a prompt", samples=samples, least=2)
    check_finite(rewards=rewards)
    if not rewards.is_floating_point():
        rewards = rewards.to(torch.get_default_dtype())
    return (rewards - rewards.mean(dim=1, keepdim=True)) * samples / (samples - 1)


class PolicyGradient:
    """REINFORCE with the leave-one-out baseline (RLOO), on what the model itself has just written.

    loss = - mean over samples of advantage * sum over tokens of log p(token)
           - entropy * mean entropy of a token + kl * mean KL of a token to a reference.

    A prompt whose samples are all right or all wrong gives no gradient through the first term.

    Args:
        entropy: weight of the entropy, in nats; it keeps a model from settling on one opener too early.
        kl: weight of KL(model || reference), in nats.
        reference: the model that training starts from, copied and frozen; needed for `kl`.

    Raises:
        ValueError: for a weight that is not a number of at least 0, or `kl` without a reference.
    """

    def __init__(self, entropy: float | int = 0.0, kl: float | int = 0.0, reference: nn.Module | None = None) -> None:
        check_range("0 leaves it out", entropy=entropy, kl=kl, least=0, below=math.inf)
        if kl and reference is None:
            raise ToylabError(f"kl={kl}: needs reference=, the model to stay near to")
        self.entropy, self.kl = entropy, kl
        self.reference = None if reference is None else frozen_copy(reference)

    def __call__(self, model: nn.Module, rollouts: Rollouts) -> Float[Tensor, ""]:
        rollouts.refuse_uncounted()
        advantages = leave_one_out(rollouts.rewards).flatten()
        log_probs = rollouts.log_probs(model)
        chosen = _at(log_probs, rollouts.written).masked_fill(~rollouts.counted, 0).sum(dim=1)
        chosen = chosen.masked_fill((chosen == -torch.inf) & (advantages == 0), 0)  # nothing asks for what it denies
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
    """In nats, of each distribution; what has probability 0 adds nothing."""
    p = log_probs.exp()
    return -(p * log_probs.masked_fill(p == 0, 0)).sum(dim=-1)


def kl_divergence(
    log_probs: Float[Tensor, "*shape vocab"], others: Float[Tensor, "*shape vocab"]
) -> Float[Tensor, "*shape"]:
    """KL(p || q) in nats, of each pair of distributions: what p denies adds nothing, and what q alone denies makes it
    infinite."""
    p = log_probs.exp()
    return (p * (log_probs - others).masked_fill(p == 0, 0)).sum(dim=-1)


def _gain(now: Float[Tensor, "row step"], then: Float[Tensor, "row step"]) -> Float[Tensor, "row step"]:
    """How much likelier tokens have become, in nats: 0 where they are impossible now as then."""
    return (now - then).masked_fill((now == -torch.inf) & (then == -torch.inf), 0)
