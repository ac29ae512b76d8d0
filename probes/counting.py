"""Probes of counting by attention: attention mass per token class, the bias token, and the algorithm of a query.

Two terms are used throughout. A *token class* is a named kind of key token, for example the ones of a region or its
brackets; it is given as a mask (batch, query, key), and the masks of different classes are disjoint. The *mass* on a
class is the sum of a query's attention weights on the keys of this class.

A head that attends uniformly to n counted tokens and to a reference (the *bias token*) has the mass x = n / (n + K) on
the n tokens. K is the attention weight of the bias token divided by the weight of one counted token. The count n can be
decoded from x if K is constant, so the bias token determines how the model generalises.

Patterns are of one head, (batch, query, key), with one query per count. NaN and infinity raise `ToylabError`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from toylab.console import ToylabError
from toylab.probes.checks import as_mask, as_whole, check_finite, check_nonempty, check_same_length
from toylab.probes.hooks import Edit

HeadPattern = Float[Tensor, "batch query key"]
KeyMask = Bool[Tensor, "batch query key"] | Integer[Tensor, "batch query key"]
"""Booleans, or integers 0 and 1."""
KeyClasses = Mapping[str, KeyMask]


def block_keys(mask: KeyMask) -> Edit:
    """Mask keys before the softmax; an edit for a point `scores`, (batch, head, query, key).

    Attention is renormalised over the remaining keys. A query without any remaining key is left unchanged.
    """
    key_mask = as_mask("mask", mask)[:, None]

    def block(scores: Tensor) -> Tensor:
        blocked = key_mask.to(scores.device)
        visible = scores > torch.finfo(scores.dtype).min / 2  # masks use -inf or the minimum of the dtype
        return scores.masked_fill(blocked & (visible & ~blocked).any(dim=-1, keepdim=True), -torch.inf)

    return block


def mass_by_class(pattern: HeadPattern, classes: KeyClasses) -> dict[str, Float[Tensor, "batch query"]]:
    """The mass on each token class, per query; the masses of all classes sum to one.

    Raises:
        ToylabError: if the classes overlap, or a key with attention is in no class.
    """
    check_finite(pattern=pattern)
    if not classes:
        raise ToylabError("classes: none were given; each key must be in one")
    classes = {name: as_mask(f"classes[{name!r}]", mask) for name, mask in classes.items()}
    classes_per_key = torch.as_tensor(sum(mask.to(pattern.dtype) for mask in classes.values()))
    if bool((classes_per_key > 1).any()):
        raise ToylabError(f"classes: {', '.join(classes)} overlap; each key must be in one")
    if bool(((classes_per_key == 0) & (pattern > 0)).any()):
        raise ToylabError(f"classes: {', '.join(classes)} leave out keys that get attention; add a class for the rest")
    return {name: (pattern * mask).sum(dim=-1) for name, mask in classes.items()}


@dataclass(frozen=True)
class Saturation:
    """Fit of the saturation curve n / (n + K) to the mass on n counted tokens.

    Attributes:
        k: attention weight of the bias token divided by the weight of one counted token.
        r2: coefficient of determination over sequences; -inf if the mass does not vary.
    """

    k: float
    r2: float


def fit_saturation(mass: Float[Tensor, " sample"], counts: Int[Tensor, " sample"]) -> Saturation:
    """Least-squares fit of K in n / (n + K) to the mass on n counted tokens, for K from e^-9 to e^15.

    Raises:
        ToylabError: if all counts are equal, since any mass then fits some K; for negative or fractional counts.
    """
    check_nonempty(mass=mass)
    check_same_length(mass=mass, counts=counts)
    check_finite(mass=mass)
    counts = as_whole("counts", counts, least=0)
    if int(counts.min()) == int(counts.max()):
        raise ToylabError(f"counts: are all {int(counts.min())}; a curve needs at least two different ones")
    n, m = counts.double(), mass.double()

    def loss(log_k: Tensor) -> Tensor:
        return (m - n / (n + log_k[:, None].exp())).square().sum(dim=1)

    low, high = -9.0, 15.0
    for _ in range(9):  # grid search: refine the two cells around the best of 41 values
        grid = torch.linspace(low, high, 41, dtype=torch.double, device=m.device)
        best, cell = float(grid[loss(grid).argmin()]), (high - low) / 40
        low, high = max(best - cell, -9.0), min(best + cell, 15.0)
    residual = float(loss(torch.tensor([best], dtype=torch.double, device=m.device)))
    total = 0.0 if bool((m == m[0]).all()) else float((m - m.mean()).square().sum())
    return Saturation(math.exp(best), 1 - residual / total if total > 0 else -torch.inf)


@dataclass(frozen=True)
class BiasToken:
    """The bias token of a query: the token class that competes with the counted tokens for attention.

    Attributes:
        name: class with the largest mass besides the counted tokens; "mixed" if its share is below the threshold.
        share: mass of the largest class divided by the mass of all classes besides the counted tokens.
        shares: the same fraction for every class besides the counted tokens.
    """

    name: str
    share: float
    shares: dict[str, float]


def name_bias(masses: Mapping[str, Float[Tensor, " sample"]], counted: str, threshold: float = 0.7) -> BiasToken:
    """Identify the bias token of a query from the masses of the token classes.

    The bias token is the class with at least `threshold` of the mass besides the counted tokens.

    Attention is not causal evidence (the value of an attended class may be zero); confirm with `block_keys`.

    Raises:
        ToylabError: if there is no class `counted`, or no other.
    """
    if counted not in masses:
        raise ToylabError(f"counted={counted!r}: is none of the classes {', '.join(masses)}")
    if len(masses) < 2:
        raise ToylabError(f"masses: hold the class {counted!r} only; add the classes that may be the bias token")
    check_nonempty(masses=masses)
    check_finite(masses=masses, threshold=threshold)
    mean = {name: float(mass.mean()) for name, mass in masses.items() if name != counted}
    total = sum(mean.values())
    shares = {name: value / total if total else 0.0 for name, value in mean.items()}
    first = max(shares, key=shares.__getitem__)
    return BiasToken(first if shares[first] >= threshold else "mixed", shares[first], shares)


CIRCUITS = ("counter", "copy", "complement", "other", "unsolved")


def name_circuit(
    accuracy: float, blocked: Mapping[str, float], floor: float, solved: float = 0.8, slack: float = 0.05
) -> str:
    """Classify the algorithm of a query by its accuracy when classes of keys are blocked.

    A class is *necessary* if blocking it leaves at most `floor + slack`, and *unnecessary* if blocking it keeps at
    least four fifths of the accuracy.

    - counter: the ones of its region are necessary; the head counts them.
    - copy: the brackets of its region are necessary, the ones inside are not; an earlier layer wrote the count.
    - complement: the ones outside its region are necessary, the ones inside are not; the model subtracts.
    - other: none of these.
    - unsolved: the accuracy is below `solved`.

    Args:
        accuracy: accuracy without intervention.
        blocked: accuracies with "counted", "own brackets" and "outside ones" blocked.
        floor: accuracy of the best constant answer.
        solved: minimum accuracy for a classification.
    """
    check_finite(accuracy=accuracy, blocked=blocked, floor=floor, solved=solved, slack=slack)
    if accuracy < solved:
        return "unsolved"
    necessary = {name: value <= floor + slack for name, value in blocked.items()}
    counted_unnecessary = blocked["counted"] >= 0.8 * accuracy
    if necessary["counted"]:
        return "counter"
    if counted_unnecessary and necessary["own brackets"]:
        return "copy"
    if counted_unnecessary and necessary["outside ones"]:
        return "complement"
    return "other"


def slope_through_origin(predicted: Tensor, counts: Int[Tensor, " sample"]) -> float:
    """Least-squares slope through the origin of predictions against true counts; 1 if they agree.

    Raises:
        ToylabError: if all counts are 0, or one is negative.
    """
    check_same_length(predicted=predicted, counts=counts)
    check_finite(predicted=predicted)
    n = as_whole("counts", counts, least=0).double()
    if not bool((n > 0).any()):
        raise ToylabError("counts: are all 0; a slope needs some above")
    return float((predicted.double() * n).sum() / n.square().sum())


def predicted_slope(shares: Mapping[str, float], growth: Mapping[str, float]) -> float:
    """Predicted slope K / K' of a counter after the number of bias tokens has changed.

    K is the sum of the weights of all classes besides the counted one. The weight of a class is proportional to its
    number of tokens, so K' / K is the sum over classes of share * growth.

    Args:
        shares: share of each class, from `name_bias`.
        growth: from class to the factor by which its number of tokens grew; 1 for classes not listed.

    Raises:
        ToylabError: if K' is 0, so that no bias token is left.
    """
    check_finite(shares=shares, growth=growth)
    relative_k = sum(share * growth.get(name, 1.0) for name, share in shares.items())
    if not relative_k:
        raise ToylabError("shares, growth: no bias token is left, so the slope is undefined; leave this label out")
    return 1 / relative_k


@dataclass(frozen=True)
class ClassReadout:
    """Quality of the reconstruction of logits from one value vector per token class (Golkar et al. 2024, eq. 3).

    Attributes:
        kl: mean KL(model || reconstruction), in nats.
        agreement: fraction of cases with the same argmax.
    """

    kl: float
    agreement: float


def class_readout(
    masses: Mapping[str, Float[Tensor, " sample"]],
    values: Mapping[str, Float[Tensor, " count"]],
    bias: Float[Tensor, " count"],
    logits: Float[Tensor, "sample count"],
) -> ClassReadout:
    """Reconstruct the logits of a query as bias + sum over classes of mass * value, and compare with the model.

    Args:
        masses: mass on each token class, for every case.
        values: from class to its mean contribution to the logits per unit of attention. Only these classes are used,
            with masses renormalised to sum to one; without attention on any of them, only the bias remains.
        bias: bias of the output head.
        logits: logits of the model.

    Raises:
        ToylabError: without values, or for a value of a class without mass.
    """
    if not values or not set(values) <= set(masses):
        raise ToylabError(f"values: are of the classes {sorted(values)}; give some of {sorted(masses)}")
    check_nonempty(logits=logits)
    check_finite(masses=masses, values=values, bias=bias, logits=logits)
    total = torch.as_tensor(sum(masses[name] for name in values))
    total = torch.where(total > 0, total, 1.0)
    rebuilt = bias + sum((masses[name] / total)[:, None] * value for name, value in values.items())
    model_log_probs, rebuilt_log_probs = logits.log_softmax(dim=-1), rebuilt.log_softmax(dim=-1)
    p = model_log_probs.exp()  # 0 log 0 = 0
    kl = (p * (model_log_probs - rebuilt_log_probs).masked_fill(p == 0, 0)).sum(dim=-1).mean().item()
    return ClassReadout(kl, (logits.argmax(dim=-1) == rebuilt.argmax(dim=-1)).double().mean().item())
