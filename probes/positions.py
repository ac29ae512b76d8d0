"""Effects of token positions on a model: shift, permutation, attention by distance, and the encoding they point to.

Every measure compares a row with the same tokens at other positions, so it works on any module from tokens to outputs.
Attention is read at the hook points of its patterns; the default names are those of `toylab.Transformer` and of
adopted models. Each measure has its control, a model without positions, in docs/points.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from toylab.console import ToylabError
from toylab.probes.checks import check_finite
from toylab.probes.hooks import edit, match_points, watch
from toylab.settings import check_range

PATTERNS, SCORES, STREAM = "blocks.*.attn.pattern", "blocks.*.attn.scores", "blocks.0.resid_pre"
FLOOR = 0.001
"""Effects of positions below this share of the effect of content count as no effect; rounding of float32 has 1e-7."""
REGULAR = 0.99
"""Share of variance from which a profile counts as linear, and the geometry of embeddings as a function of distance."""
UNIFORM = 1e-4
"""Spread of attention scores in nats below which a head attends uniformly, up to rounding."""

Tokens = Int[Tensor, "row position"]
EncodingName = Literal["none", "learned", "sinusoidal", "rotary", "alibi", "relative"]


@dataclass(frozen=True)
class PositionSensitivity:
    """Change of the outputs and of the attention of a model.

    Attributes:
        largest: largest absolute change of an output.
        relative: root mean square of the change, divided by that of the change to the outputs of another row: 0 for no
            effect, 1 for the effect of other tokens, infinite if the outputs of all rows are equal.
        attention: from each pattern point to the total variation distance between the attention before and after, from
            0 to 1, averaged over rows, heads and queries.
    """

    largest: float
    relative: float
    attention: Mapping[str, float]


def shift_sensitivity(
    model: nn.Module, tokens: Tokens, distance: int, *, patterns: str = PATTERNS, scores: str = SCORES
) -> PositionSensitivity:
    """Change when all positions are shifted by `distance`: 0 for relative encodings and without positions.

    The row is `tokens` without its last `distance` tokens, so no position exceeds those of `tokens`. As shifted row, it
    follows `distance` tokens that are hidden from it at the points `scores`. A model without such points (GPT-2 of
    transformers) gets the later vectors at its point `pos_embed`.

    Raises:
        ToylabError: for a distance that leaves no token; for a model without any of these points; for one row.
    """
    check_range("the shifted row keeps a token", distance=distance, least=1, most=tokens.shape[1] - 1)
    row = tokens[:, :-distance]
    before, attention = _run(model, row, patterns)
    if _matches(model, scores):

        def hide(scores: Tensor) -> Tensor:
            scores[..., distance:, :distance] = -torch.inf
            return scores

        with edit(model, {scores: hide}):
            after, shifted = _run(model, torch.cat([row[:, :1].expand(-1, distance), row], dim=1), patterns)
        after, shifted = after[:, distance:], {name: x[..., distance:, distance:] for name, x in shifted.items()}
    elif _matches(model, "pos_embed"):
        with torch.no_grad(), watch(model, "pos_embed") as cache:
            model(tokens)
        with edit(model, {"pos_embed": lambda _: cache["pos_embed"][:, distance:]}):
            after, shifted = _run(model, row, patterns)
    else:
        raise ToylabError(
            f"model={type(model).__name__}: has neither hook points {scores!r}, at which tokens are hidden, nor "
            "'pos_embed', so its positions cannot be shifted; name the points of its attention scores"
        )
    return _sensitivity(before, after, attention, shifted)


def permutation_sensitivity(
    model: nn.Module, tokens: Tokens, rng: np.random.Generator, kept: int = 1, *, patterns: str = PATTERNS
) -> PositionSensitivity:
    """Change of the outputs at the last `kept` positions under a random permutation of the tokens before them.

    A causal model of several layers is sensitive without positional encoding too: its mask orders the tokens. One layer
    without positions, or a bidirectional model without positions, has 0. With `kept` = 0, all tokens are permuted, all
    outputs are compared, and no attention; this is meant for models with one output per row.

    Raises:
        ToylabError: for fewer than two tokens to permute; for one row.
    """
    width = tokens.shape[1] - kept
    check_range("at least two tokens are permuted", kept=kept, least=0, most=tokens.shape[1] - 2)
    order = torch.from_numpy(rng.permuted(np.tile(np.arange(width), (len(tokens), 1)), axis=1)).to(tokens.device)
    permuted = torch.cat([tokens[:, :width].gather(1, order), tokens[:, width:]], dim=1)
    before, attention = _run(model, tokens, patterns if kept else None)
    after, moved = _run(model, permuted, patterns if kept else None)
    if kept:
        before, after = before[:, -kept:], after[:, -kept:]
    place = torch.cat([order, torch.arange(width, tokens.shape[1], device=order.device).expand(len(order), -1)], dim=1)
    index = place[:, None, None]
    attention = {
        name: x[:, :, -kept:].gather(3, index.expand(-1, x.shape[1], kept, -1)) for name, x in attention.items()
    }
    return _sensitivity(before, after, attention, {name: x[:, :, -kept:] for name, x in moved.items()})


@dataclass(frozen=True)
class DistanceEffects:
    """Attention scores of each head explained by distance and by content; shares of a variance that sum to 1.

    Scores are logarithms of the attention of the last position, up to a constant for each row. All shares of a head
    with uniform attention are 0. Independent random scores give 1/m for content, 1/(m rows) for distance and the rest
    for the interaction, with m keys.

    Attributes:
        profile: score by distance 1, 2 ... in nats, averaged over tokens and rows; the mean over distances is 0.
        distance: share that the profile explains.
        content: share that the tokens explain: the mean score of each key token of each row over all distances.
        interaction: the rest, in which the effect of distance depends on the tokens.
        spread: standard deviation of the scores in nats.
    """

    profile: Float[Tensor, "head distance"]
    distance: Float[Tensor, " head"]
    content: Float[Tensor, " head"]
    interaction: Float[Tensor, " head"]
    spread: Float[Tensor, " head"]


def distance_effects(model: nn.Module, tokens: Tokens, patterns: str = PATTERNS) -> dict[str, DistanceEffects]:
    """How much of the variance of the attention scores of the last position distance explains, and how much content.

    All cyclic rotations of the earlier tokens place each token once at each distance. In this Latin square, distance
    and content are balanced, and the logarithm of the softmax's denominator is the effect of a rotation, which is
    removed. In the first layer, the shares are exact: without positions content is 1; ALiBi has no interaction.

    Returns:
        The effects in each layer, by pattern point.

    Raises:
        ToylabError: for fewer than four tokens per row.
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
    rotation_of = (places[:, None] - places) % keys  # content, place
    by_content = centred[:, :, rotation_of, places].mean(dim=3)
    total = centred.square().sum(dim=(0, 2, 3))
    spread = (total / (rows * keys**2)).sqrt()
    distance, content = rows * keys * by_place.square().sum(dim=1), keys * by_content.square().sum(dim=(0, 2))
    uneven = spread >= UNIFORM

    def share(part: Tensor) -> Tensor:
        return torch.where(uneven, part.clamp(min=0) / total, 0.0)

    return DistanceEffects(
        profile=by_place.flip(1),
        distance=share(distance),
        content=share(content),
        interaction=share(total - distance - content),
        spread=spread,
    )


@dataclass(frozen=True)
class PositionalEffects:
    """The encoding that a model behaves like, with the evidence.

    Attributes:
        encoding: "relative" is a bias by distance that is not linear, such as that of T5.
        shift: change under a shift of all positions by a quarter of the row.
        permutation: change at the last position under a permutation of the earlier tokens.
        distance, content, interaction: shares of `DistanceEffects` in the first layer, heads weighted by variance.
        linearity: share of the variance of the profiles of the first layer that straight lines explain.
        regularity: share of the variance of squared distances between the residual streams at two positions of a
            row of one token that their distance explains; 1 for sinusoidal positions.
    """

    encoding: EncodingName
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
        patterns, scores: names of points with a `*` for the layers; see `shift_sensitivity`.
        stream: the point of the residual stream before the first layer.

    Raises:
        ToylabError: for fewer than four tokens per row; for one row; for half precision; for a model whose outputs vary
            between calls.
    """
    outputs, again = (_run(model, tokens, None)[0] for _ in range(2))
    check_finite(outputs=outputs)
    if torch.finfo(outputs.dtype).eps > FLOOR**2:
        raise ToylabError(
            f"model={type(model).__name__}: gives {outputs.dtype}, whose rounding looks like an effect; give "
            "model.float()"
        )
    if not torch.equal(outputs, again):
        raise ToylabError(
            f"model={type(model).__name__}: gives other outputs to the same tokens; call model.eval() to end dropout"
        )
    layer = next(iter(distance_effects(model, tokens, match_points(model, patterns)[0]).values()))
    shift = shift_sensitivity(model, tokens, max(1, tokens.shape[1] // 4), patterns=patterns, scores=scores)
    variance = layer.spread.square()
    pooled = {
        name: float((getattr(layer, name) * variance).sum() / variance.sum().clamp(min=UNIFORM**2))
        for name in ("distance", "content", "interaction")
    }
    linearity, regularity = _linearity(layer.profile), _regularity(model, tokens, stream)
    encoding: EncodingName = "none"
    if shift.relative >= FLOOR:
        encoding = "sinusoidal" if regularity >= REGULAR else "learned"
    elif pooled["interaction"] ** 0.5 >= FLOOR:
        encoding = "rotary"
    elif pooled["distance"] ** 0.5 >= FLOOR:
        encoding = "alibi" if linearity >= REGULAR else "relative"
    permutation = permutation_sensitivity(model, tokens, rng, patterns=patterns)
    return PositionalEffects(encoding, shift, permutation, **pooled, linearity=linearity, regularity=regularity)


def _linearity(profile: Float[Tensor, "head distance"]) -> float:
    line = torch.arange(profile.shape[1], dtype=profile.dtype, device=profile.device)
    line = (line - line.mean()) / (line - line.mean()).norm()
    return _explained(profile, (profile @ line)[:, None] * line)


def _regularity(model: nn.Module, tokens: Tokens, stream: str) -> float:
    with torch.no_grad(), watch(model, stream) as cache:
        model(tokens[:1, :1].expand(1, tokens.shape[1]).contiguous())
    x = cache[stream][0].double()
    squares = (x[:, None] - x).square().sum(dim=-1)
    pairs = [squares.diagonal(lag) for lag in range(1, len(x))]
    means = [pair.mean().expand_as(pair) for pair in pairs]
    return _explained(torch.cat(pairs), torch.cat(means))


def _explained(values: Tensor, fit: Tensor) -> float:
    """Share of the variance of the values that a fit with the same mean explains; 0 for constant values."""
    total = (values - values.mean()).square().sum()
    return float(1 - (values - fit).square().sum() / total) if total > 0 else 0.0


def _matches(model: nn.Module, pattern: str) -> bool:
    try:
        return bool(match_points(model, pattern))
    except ToylabError:
        return False


def _run(model: nn.Module, tokens: Tokens, patterns: str | None) -> tuple[Tensor, dict[str, Tensor]]:
    """Outputs, and attention patterns by point."""
    with torch.no_grad(), watch(model, *([] if patterns is None else [patterns])) as cache:
        outputs = model(tokens)
    return outputs, dict(cache)


def _sensitivity(
    before: Tensor, after: Tensor, attention: Mapping[str, Tensor], moved: Mapping[str, Tensor]
) -> PositionSensitivity:
    check_range("the change is compared with that to another row", rows=len(before), least=2)
    check_finite(outputs=before, outputs_after=after)
    before, after = before.double(), after.double()
    change, other = after - before, before.roll(1, dims=0) - before
    scale = float(other.square().mean().sqrt())
    size = float(change.square().mean().sqrt())
    return PositionSensitivity(
        largest=float(change.abs().max()),
        relative=size / scale if scale else float("inf") if size else 0.0,
        attention={name: float((moved[name] - x).abs().sum(dim=-1).mean() / 2) for name, x in attention.items()},
    )
