"""Instruments for attention that counts: where it looks, what it compares with, and by which algorithm it answers.

A head that attends evenly to n tokens of interest and to a constant (the *bias token*) puts the share x = n / (n + K)
of its attention on the n tokens, where K is the weight of the bias in units of one such token. So n can be read off,
as long as K stays what it was: what the bias is decides what the model does elsewhere.

Patterns are those of one head, (batch, query, key): a query asks for one count. Classes of keys are masks of the same
shape that exclude each other, by name. Everywhere, NaN and infinity raise `ValueError`.
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
    """For a point `scores`, (batch, head, query, key): these keys get no attention; the rest share it.

    The pattern is not merely zeroed: attention still sums to one, so a head that needs the class cannot pass unnoticed.
    A query that would be left without a key that it sees is left as it is.
    """
    chosen = as_mask("mask", mask)[:, None]

    def block(scores: Tensor) -> Tensor:
        blocked = chosen.to(scores.device)
        seen = scores > torch.finfo(scores.dtype).min / 2  # models hide keys by -inf or by the lowest number
        return scores.masked_fill(blocked & (seen & ~blocked).any(dim=-1, keepdim=True), -torch.inf)

    return block


def mass_by_class(pattern: HeadPattern, classes: KeyClasses) -> dict[str, Float[Tensor, "batch query"]]:
    """The attention that falls on each class of keys.

    Raises:
        ValueError: if the classes overlap or leave out a key that gets attention: then the masses would not sum to one.
    """
    check_finite(pattern=pattern)
    if not classes:
        raise ToylabError("classes: none were given; each key must be in one")
    classes = {name: as_mask(f"classes[{name!r}]", mask) for name, mask in classes.items()}
    held = torch.as_tensor(sum(mask.to(pattern.dtype) for mask in classes.values()))
    if bool((held > 1).any()):
        raise ToylabError(f"classes: {', '.join(classes)} overlap; each key must be in one")
    if bool(((held == 0) & (pattern > 0)).any()):
        raise ToylabError(f"classes: {', '.join(classes)} leave out keys that get attention; add a class for the rest")
    return {name: (pattern * mask).sum(dim=-1) for name, mask in classes.items()}


@dataclass(frozen=True)
class Saturation:
    """The curve n / (n + K) fitted to attention mass.

    Attributes:
        k: the weight of the bias, in units of one counted token.
        r2: the share of the variance of the mass that the curve explains, over single sequences; -inf where the mass
            does not vary.
    """

    k: float
    r2: float


def fit_saturation(mass: Float[Tensor, " sample"], counts: Int[Tensor, " sample"]) -> Saturation:
    """The K for which n / (n + K) is nearest to the mass on n counted tokens, in least squares (K from e^-9 to e^15).

    Raises:
        ValueError: if all counts are equal: any mass then fits some K; for counts below 0 or that are not whole.
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
    for _ in range(9):  # each round looks at 41 values and keeps the two cells around the best
        grid = torch.linspace(low, high, 41, dtype=torch.double, device=m.device)
        best, cell = float(grid[loss(grid).argmin()]), (high - low) / 40
        low, high = max(best - cell, -9.0), min(best + cell, 15.0)
    residual = float(loss(torch.tensor([best], dtype=torch.double, device=m.device)))
    total = 0.0 if bool((m == m[0]).all()) else float((m - m.mean()).square().sum())
    return Saturation(math.exp(best), 1 - residual / total if total > 0 else -torch.inf)


@dataclass(frozen=True)
class BiasToken:
    """What a query compares with.

    Attributes:
        name: of the class that holds most of the attention not on counted tokens, or "mixed".
        share: its part of that attention.
        shares: of all classes.
    """

    name: str
    share: float
    shares: dict[str, float]


def name_bias(masses: Mapping[str, Float[Tensor, " sample"]], counted: str, bar: float = 0.7) -> BiasToken:
    """Name the bias token of one query from its masses by class: the class with at least `bar` of what is not counted.

    Attention alone proves nothing (a class may be read and its value be null): confirm it with `block_keys`.

    Raises:
        ValueError: if there is no class `counted`, or no other.
    """
    if counted not in masses:
        raise ToylabError(f"counted={counted!r}: is none of the classes {', '.join(masses)}")
    if len(masses) < 2:
        raise ToylabError(
            f"masses: have the class {counted!r} alone; give the others too, among which the bias is sought"
        )
    check_nonempty(masses=masses)
    check_finite(masses=masses, bar=bar)
    mean = {name: float(mass.mean()) for name, mass in masses.items() if name != counted}
    total = sum(mean.values())
    shares = {name: value / total if total else 0.0 for name, value in mean.items()}
    first = max(shares, key=shares.__getitem__)
    return BiasToken(first if shares[first] >= bar else "mixed", shares[first], shares)


CIRCUITS = ("counter", "copy", "complement", "other", "unsolved")


def name_circuit(
    accuracy: float, blocked: Mapping[str, float], floor: float, solved: float = 0.8, slack: float = 0.05
) -> str:
    """The algorithm by which a query answers, from its accuracy when classes of keys are blocked.

    - counter: it counts in the attention. Without the ones of its region it knows nothing.
    - copy: the count already stands in its own brackets. Without these it knows nothing, without the ones it is right.
    - complement: it counts the ones outside and subtracts. Without these it knows nothing, without its own it is right.
    - other: none of these alone.
    - unsolved: it is not right often enough to ask.

    Args:
        accuracy: unedited.
        blocked: accuracies with "counted", "own brackets" and "outside ones" blocked.
        floor: accuracy of the best constant answer; "knows nothing" means at most `slack` above it.
        solved: accuracy from which the question makes sense. "Right" means four fifths of the unedited accuracy.
    """
    check_finite(accuracy=accuracy, blocked=blocked, floor=floor, solved=solved, slack=slack)
    if accuracy < solved:
        return "unsolved"
    lost = {name: value <= floor + slack for name, value in blocked.items()}
    kept = blocked["counted"] >= 0.8 * accuracy
    if lost["counted"]:
        return "counter"
    if kept and lost["own brackets"]:
        return "copy"
    if kept and lost["outside ones"]:
        return "complement"
    return "other"


def slope_through_origin(predicted: Tensor, counts: Int[Tensor, " sample"]) -> float:
    """The slope of predictions against true counts, of the line through the origin: 1 if they agree.

    Raises:
        ValueError: if no count is above 0, or one is below.
    """
    check_same_length(predicted=predicted, counts=counts)
    check_finite(predicted=predicted)
    n = as_whole("counts", counts, least=0).double()
    if not bool((n > 0).any()):
        raise ToylabError("counts: are all 0; a slope needs some above")
    return float((predicted.double() * n).sum() / n.square().sum())


def predicted_slope(shares: Mapping[str, float], growth: Mapping[str, float]) -> float:
    """The slope that a counter will have once the number of bias tokens has changed: K / K'.

    K is made of the shares of all classes, and grows with each as its tokens multiply: K' / K = sum of share * growth.

    Args:
        shares: of each class, from `name_bias`.
        growth: by class, how many times as many of its tokens there are now; 1 for those not named.

    Raises:
        ValueError: if nothing is left to compare with: K' is 0.
    """
    check_finite(shares=shares, growth=growth)
    grown = sum(share * growth.get(name, 1.0) for name, share in shares.items())
    if not grown:
        raise ToylabError(
            "shares, growth: no class is left to compare with, so there is no slope; leave this label out"
        )
    return 1 / grown


@dataclass(frozen=True)
class ClassReadout:
    """How well a model is reproduced by one value a class: Golkar et al. 2024, equation 3.

    Attributes:
        kl: mean divergence of the reconstruction from the model, in nats.
        agreement: share of cases in which both have the same likeliest answer.
    """

    kl: float
    agreement: float


def class_readout(
    masses: Mapping[str, Float[Tensor, " sample"]],
    values: Mapping[str, Float[Tensor, " count"]],
    bias: Float[Tensor, " count"],
    logits: Float[Tensor, "sample count"],
) -> ClassReadout:
    """Rebuild the logits of one query as the sum over classes of mass * value + bias, and compare with the model's.

    Args:
        masses: attention on each class.
        values: by class, the mean over its tokens of what one unit of attention adds to the logits; only these classes
            are used, their masses scaled to sum to one. Where none of them gets attention, the bias is all there is.
        bias: of the output head.
        logits: of the model.

    Raises:
        ValueError: without a value, or for a value of a class that has no mass.
    """
    if not values or not set(values) <= set(masses):
        raise ToylabError(f"values: are of the classes {sorted(values)}; give some of {sorted(masses)}")
    check_nonempty(logits=logits)
    check_finite(masses=masses, values=values, bias=bias, logits=logits)
    total = torch.as_tensor(sum(masses[name] for name in values))
    total = torch.where(total > 0, total, 1.0)
    rebuilt = bias + sum((masses[name] / total)[:, None] * value for name, value in values.items())
    model, other = logits.log_softmax(dim=-1), rebuilt.log_softmax(dim=-1)
    p = model.exp()  # an answer of probability 0 adds nothing
    kl = (p * (model - other).masked_fill(p == 0, 0)).sum(dim=-1).mean().item()
    return ClassReadout(kl, (logits.argmax(dim=-1) == rebuilt.argmax(dim=-1)).double().mean().item())
