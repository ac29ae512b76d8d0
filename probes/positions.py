"""Effects of token positions on a model: shift, permutation, attention by distance, and the encoding they point to.

Each measure compares a row with the same tokens at other positions, so it works on any module from tokens to outputs.
The default names of points are those of `toylab.Transformer` and of adopted models. The control of each measure is a
model without positions: see docs/points.md.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from toylab.console import ToylabError
from toylab.probes.checks import check_finite
from toylab.probes.hooks import edit, match_points, points, watch
from toylab.settings import check_range

PATTERNS, SCORES, STREAM = "blocks.*.attn.pattern", "blocks.*.attn.scores", "blocks.0.resid_pre"
FLOOR = 0.001
"""Effects of positions below this share of the effect of content count as no effect; rounding of float32 has 1e-7."""
REGULAR = 0.99
"""Share of variance from which a profile counts as linear, and the geometry of embeddings as a function of distance."""
UNIFORM = 1e-4
"""Spread of attention scores in nats below which a head attends uniformly, up to rounding."""

Tokens = Int[Tensor, "row position"]


@dataclass(frozen=True)
class PositionSensitivity:
    """Change of a model when positions or their tokens are moved.

    Attributes:
        largest: largest absolute change of an output.
        relative: root mean square of the change, divided by that of the change to the outputs of another row: 0 for no
            effect, 1 for the effect of other tokens, infinite if the outputs of all rows are equal.
        attention: by pattern point, the total variation distance between the attention before and after a shift,
            averaged over rows, heads and queries.
    """

    largest: float
    relative: float
    attention: Mapping[str, float] = field(default_factory=dict)


def shift_sensitivity(
    model: nn.Module, tokens: Tokens, distance: int, *, patterns: str = PATTERNS, scores: str = SCORES
) -> PositionSensitivity:
    """Change when all positions are shifted by `distance`: 0 for relative encodings and without positions.

    The row is `tokens` without its last `distance` tokens. As shifted row, it follows `distance` tokens that are hidden
    from it at the points `scores`; a model without such points (GPT-2) gets the later vectors at its point `pos_embed`.

    Raises:
        ToylabError: for a distance that leaves no token; for a model without any of these points; for one row.
    """
    check_range("the shifted row keeps a token", distance=distance, least=1, most=tokens.shape[1] - 1)
    row = tokens[:, :-distance]
    before, attention = _run(model, row, patterns)
    names = [*points(model), *dict(model.named_modules())]
    if fnmatch.filter(names, scores):

        def hide(scores: Tensor) -> Tensor:
            scores[..., distance:, :distance] = -torch.inf
            return scores

        with edit(model, {scores: hide}):
            after, shifted = _run(model, torch.cat([row[:, :1].expand(-1, distance), row], dim=1), patterns)
        after, shifted = after[:, distance:], {name: x[..., distance:, distance:] for name, x in shifted.items()}
    elif "pos_embed" in names:
        later = _run(model, tokens, "pos_embed")[1]["pos_embed"][:, distance:]
        with edit(model, {"pos_embed": lambda _: later}):
            after, shifted = _run(model, row, patterns)
    else:
        raise ToylabError(f"scores={scores!r}: neither this nor 'pos_embed' is a hook point; name the attention scores")
    change = {name: float((shifted[name] - x).abs().sum(dim=-1).mean() / 2) for name, x in attention.items()}
    return _sensitivity(before, after, change)


def permutation_sensitivity(
    model: nn.Module, tokens: Tokens, rng: np.random.Generator, kept: int = 1
) -> PositionSensitivity:
    """Change of the outputs at the last `kept` positions under a random permutation of the tokens before them.

    A causal model of several layers is sensitive without positions too: its mask orders the tokens. With `kept` = 0,
    all tokens are permuted and all outputs compared, as for models with one output per row.

    Raises:
        ToylabError: for fewer than two tokens to permute; for one row.
    """
    width = tokens.shape[1] - kept
    check_range("at least two tokens are permuted", kept=kept, least=0, most=tokens.shape[1] - 2)
    order = torch.from_numpy(rng.permuted(np.tile(np.arange(width), (len(tokens), 1)), axis=1)).to(tokens.device)
    permuted = torch.cat([tokens[:, :width].gather(1, order), tokens[:, width:]], dim=1)
    before, after = (_run(model, one)[0] for one in (tokens, permuted))
    return _sensitivity(before[:, -kept:], after[:, -kept:])


@dataclass(frozen=True)
class DistanceEffects:
    """Shares of the variance of a head's attention scores; they sum to 1, or are 0 for uniform attention.

    Attributes:
        profile: score by distance 1, 2 ... in nats, averaged over tokens and rows; the mean over distances is 0.
        distance: share that the profile explains; for random scores 1/(keys rows).
        content: share that the mean score of each key token of each row explains; for random scores 1/keys.
        interaction: the rest, in which the effect of distance depends on the tokens.
        spread: standard deviation of the scores in nats.
    """

    profile: Float[Tensor, "head distance"]
    distance: Float[Tensor, " head"]
    content: Float[Tensor, " head"]
    interaction: Float[Tensor, " head"]
    spread: Float[Tensor, " head"]


def distance_effects(model: nn.Module, tokens: Tokens, patterns: str = PATTERNS) -> dict[str, DistanceEffects]:
    """How far distance, and how far content, explains the attention of the last position; by pattern point.

    Scores are logarithms of attention. All cyclic rotations of the earlier tokens place each token once at each
    distance: a Latin square, in which the denominator of the softmax is the effect of a rotation, which is removed. In
    the first layer the shares are exact: without positions, content is 1; ALiBi has no interaction.

    Raises:
        ToylabError: for fewer than four tokens per row; for NaN in a pattern.
    """
    keys = tokens.shape[1] - 1
    check_range("three tokens before the last one separate distance from content", positions=keys + 1, least=4)
    places = torch.arange(keys, device=tokens.device)
    tables: dict[str, list[Tensor]] = {}
    for rotation in range(keys):
        rotated = torch.cat([tokens[:, (places + rotation) % keys], tokens[:, -1:]], dim=1)
        for name, pattern in _run(model, rotated, patterns)[1].items():
            last = pattern[:, :, -1, :keys]
            check_finite(**{name: last})
            tables.setdefault(name, []).append(last.clamp(min=torch.finfo(last.dtype).tiny).double().log())
    return {name: _decompose(torch.stack(table, dim=2)) for name, table in tables.items()}


def _decompose(scores: Float[Tensor, "row head rotation place"]) -> DistanceEffects:
    """The analysis of variance of the Latin square; content c is at place p in rotation (c - p)."""
    rows, _, keys, _ = scores.shape
    centred = scores - scores.mean(dim=3, keepdim=True)
    by_place = centred.mean(dim=(0, 2))
    places = torch.arange(keys, device=scores.device)
    by_content = centred[:, :, (places[:, None] - places) % keys, places].mean(dim=3)
    total = centred.square().sum(dim=(0, 2, 3))
    spread = (total / (rows * keys**2)).sqrt()
    distance, content = rows * keys * by_place.square().sum(dim=1), keys * by_content.square().sum(dim=(0, 2))
    parts = torch.stack([distance, content, (total - distance - content).clamp(min=0)])
    return DistanceEffects(by_place.flip(1), *torch.where(spread >= UNIFORM, parts / total, 0.0), spread=spread)


@dataclass(frozen=True)
class PositionalEffects:
    """The encoding that a model behaves like, with the evidence.

    Attributes:
        encoding: none, learned, sinusoidal, rotary, alibi, or relative: a bias by distance that is not linear (T5).
        shift: change under a shift by a quarter of the row.
        permutation: change at the last position under a permutation of the earlier tokens.
        distance, content, interaction: shares of `DistanceEffects` in the first layer, heads weighted by variance.
        linearity: share of the variance of the profiles of the first layer that straight lines explain.
        regularity: share of the variance of squared distances between the residual streams at two positions of a
            row of one token that their distance explains; 1 for sinusoidal positions.
    """

    encoding: str
    shift: PositionSensitivity
    permutation: PositionSensitivity
    distance: float
    content: float
    interaction: float
    linearity: float
    regularity: float

    @property
    def effect(self) -> float:
        """The largest effect of positions, as a share of the effect of content; below `FLOOR`, the encoding is none."""
        return max(self.shift.relative, self.distance**0.5, self.interaction**0.5)


def name_encoding(
    model: nn.Module,
    tokens: Tokens,
    rng: np.random.Generator,
    *,
    patterns: str = PATTERNS,
    scores: str = SCORES,
    stream: str = STREAM,
) -> PositionalEffects:
    """The positional encoding that a model behaves like in its first layer and its outputs.

    A model that changes under a shift has absolute positions: sinusoidal if embeddings at equal distances are equally
    far apart, else learned. Otherwise, a first layer whose scores depend on distance is relative: rotary if the effect
    depends on the tokens, else a bias, which ALiBi has linear. Order that enters through the causal mask alone is none.

    Args:
        tokens: at least two rows, of the width and the tokens that the model was trained on.
        rng: of the permutation, which is reported only.
        patterns, scores, stream: names of points: of all layers, see `shift_sensitivity`, and before the first layer.

    Raises:
        ToylabError: for fewer than four tokens per row; for one row; for half precision; for varying outputs (dropout).
    """
    outputs, again = (_run(model, tokens)[0] for _ in range(2))
    check_finite(outputs=outputs)
    if torch.finfo(outputs.dtype).eps > FLOOR**2 or not torch.equal(outputs, again):
        name = type(model).__name__
        raise ToylabError(f"model={name}: is in half precision or varies between calls; give model.float().eval()")
    (layer,) = distance_effects(model, tokens, match_points(model, patterns)[0]).values()
    shift = shift_sensitivity(model, tokens, max(1, tokens.shape[1] // 4), patterns=patterns, scores=scores)
    weights = layer.spread.square() / layer.spread.square().sum().clamp(min=UNIFORM**2)
    shares = torch.stack([layer.distance, layer.content, layer.interaction])
    distance, content, interaction = (shares @ weights).tolist()
    line = torch.linspace(-1, 1, layer.profile.shape[1]).to(layer.profile)
    linearity = _explained(layer.profile, (layer.profile @ line / line.square().sum())[:, None] * line)
    x = _run(model, tokens[:2, :1].repeat(1, tokens.shape[1]), stream)[1][stream][0].double()
    squares = (x[:, None] - x).square().sum(dim=-1)
    lags = [squares.diagonal(lag) for lag in range(1, len(x))]
    regularity = _explained(torch.cat(lags), torch.cat([lag.mean().expand_as(lag) for lag in lags]))
    encoding = "none"
    if shift.relative >= FLOOR:
        encoding = "sinusoidal" if regularity >= REGULAR else "learned"
    elif interaction**0.5 >= FLOOR:
        encoding = "rotary"
    elif distance**0.5 >= FLOOR:
        encoding = "alibi" if linearity >= REGULAR else "relative"
    permutation = permutation_sensitivity(model, tokens, rng)
    return PositionalEffects(encoding, shift, permutation, distance, content, interaction, linearity, regularity)


def _explained(values: Tensor, fit: Tensor) -> float:
    """Share of the variance of the values that a fit explains; 0 for constant values."""
    total = (values - values.mean()).square().sum()
    return float(1 - (values - fit).square().sum() / total) if total > 0 else 0.0


def _run(model: nn.Module, tokens: Tokens, *names: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Outputs, and activations by point."""
    with torch.no_grad(), watch(model, *names) as cache:
        outputs = model(tokens)
    return outputs, dict(cache)


def _sensitivity(before: Tensor, after: Tensor, attention: Mapping[str, float] | None = None) -> PositionSensitivity:
    check_range("the change is compared with that to another row", rows=len(before), least=2)
    check_finite(outputs=before, shifted_or_permuted_outputs=after)
    change, other = (after - before).double(), (before.roll(1, dims=0) - before).double()
    size, scale = (float(x.square().mean().sqrt()) for x in (change, other))
    relative = size / scale if scale else float("inf") if size else 0.0
    return PositionSensitivity(float(change.abs().max()), relative, attention or {})
