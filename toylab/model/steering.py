"""Steering vectors: a frozen model with trainable additions to its residual stream.

    steered = Steered(model, {3: Vector(64)})
    steered(tokens)              # the model with a vector added after block 3, at every position
    generate(steered, ...)       # the same, autoregressively

Source: Sinii et al. 2025 (arXiv 2509.06608) and 2025 (arXiv 2505.18706): one vector per layer, added after the block at
every position, initialised to zero.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from toylab.console import ToylabError
from toylab.files import read_tensors, write_tensors
from toylab.model.checkpoint import frozen_copy
from toylab.model.device import takes_any_device
from toylab.model.layers import NoOp
from toylab.model.transformer import Transformer
from toylab.probes import Edit, edit, watch
from toylab.settings import check_option

Positions = slice | Iterable[Any] | int
"""Absolute positions: a slice (start, stop), one index, or several."""


class Vector(nn.Module):
    """h + v, the same vector at every position; initialised to zero unless given."""

    def __init__(self, width: int, vector: Float[Tensor, " width"] | None = None) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.zeros(width) if vector is None else vector.detach().clone())

    @takes_any_device
    def forward(self, h: Float[Tensor, "batch position width"]) -> Float[Tensor, "batch position width"]:
        return h + self.vector


class Scaled(nn.Module):
    """h + g(w . (rms(h) - mu) + b) v: a steering vector with an input-dependent scale (rank one).

    rms(h) is h divided by its root mean square; w and b are initialised to zero, v is sampled from N(0, 1).

    Args:
        gate: the function g: identity ("linear") or tanh.
        centre: mu, the mean of rms(h) at the decision position, so that w reads differences between prompts.
        generator: of the initial v.
    """

    centre: Tensor

    def __init__(
        self,
        width: int,
        gate: Literal["linear", "tanh"] = "linear",
        centre: Float[Tensor, " width"] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_option("gate", gate, ("linear", "tanh"))
        self.gate = gate
        self.vector = nn.Parameter(torch.randn(width, generator=generator))
        self.weight = nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.zeros(()))
        self.register_buffer("centre", torch.zeros(width) if centre is None else centre.detach().clone())

    def scale(self, h: Float[Tensor, "batch position width"]) -> Float[Tensor, "batch position"]:
        """The scale g(...) at every position."""
        scale = (rms_normed(h) - self.centre) @ self.weight + self.bias
        return scale.tanh() if self.gate == "tanh" else scale

    @takes_any_device
    def forward(self, h: Float[Tensor, "batch position width"]) -> Float[Tensor, "batch position width"]:
        return h + self.scale(h)[..., None] * self.vector


def rms_normed(h: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
    """RMS normalisation, computed in at least float32, since squares overflow float16."""
    converted = h.to(torch.promote_types(h.dtype, torch.float32))
    return (converted / converted.square().mean(dim=-1, keepdim=True).sqrt().clamp(min=1e-12)).to(h.dtype)


class Steered(nn.Module):
    """A frozen copy of a model with trainable additions after some of its blocks; call it like the model.

    Args:
        additions: from layer to addition; moved to the dtype and device of the model.
        at: absolute positions at which they act, all by default: `slice(8, 9)` or `(8,)` is position 8 only.

    Raises:
        ToylabError: without additions; for a layer out of range; for negative positions, or positions that are all
            beyond the context.
    """

    def __init__(self, model: Transformer, additions: Mapping[int, nn.Module], at: Positions = slice(None)) -> None:
        super().__init__()
        if not additions:
            raise ToylabError("additions: at least one layer is needed, for example {0: Vector(64)}")
        for layer in additions:
            if not 0 <= layer < len(model.blocks):
                raise ToylabError(f"layer={layer}: the model has layers 0 to {len(model.blocks) - 1}")
        positions = _checked_positions(at)
        first = (positions.start or 0) if isinstance(positions, slice) else min(positions)
        if model.config.positions == "learned" and first >= model.context:
            raise ToylabError(
                f"at={positions}: the model's positions end at {model.context - 1}, so nothing would be steered"
            )
        self.model, self.at = frozen_copy(model), positions
        weight = self.model.embedding.weight
        self.additions = nn.ModuleDict({str(operator.index(layer)): addition for layer, addition in additions.items()})
        self.additions.to(weight.device, weight.dtype)

    def edits(self) -> dict[str, Edit]:
        """The additions as edits, by hook point."""
        return {f"blocks.{layer}.resid_post": self._edit(int(layer)) for layer in self.additions}

    def only(self, at: Positions) -> Steered:
        """The same additions, restricted to these positions."""
        return Steered(self.model, {int(layer): addition for layer, addition in self.additions.items()}, at)

    def forward(self, tokens: Int[Tensor, "batch position"], **options) -> Float[Tensor, "batch query vocab"]:
        with edit(self.model, self.edits()):
            return self.model(tokens, **options)

    def _edit(self, layer: int) -> Edit:
        block, addition = self.model.blocks[layer], self.additions[str(layer)]

        def add_vector(h: Tensor) -> Tensor:
            steered = addition(h)
            if self.at == slice(None):
                return steered
            # h may be the first half of the rows only, as in `toylab.probes.PathPatched`.
            assert block.positions is not None  # set where the block began
            return torch.where(_position_mask(block.positions[: len(h)], self.at)[..., None], steered, h)

        return add_vector


def _checked_positions(at: Positions) -> slice | tuple[int, ...]:
    """The positions as Python integers.

    Raises:
        ToylabError: for positions that are not integers, negative, strided or empty.
    """

    def as_position(value: Any) -> int:
        try:
            is_mask = isinstance(value, bool) or getattr(value, "dtype", None) == torch.bool
            number = -1 if is_mask else operator.index(value)
        except TypeError:
            number = -1
        if number < 0:
            raise ToylabError(f"at={at}: {value!r} is not a position; give integers that count from 0")
        return number

    if not isinstance(at, slice):
        positions = tuple(as_position(value) for value in (at if isinstance(at, Iterable) else (at,)))
        if not positions:
            raise ToylabError("at: is empty, so nothing would be steered; leave it out for all positions")
        return positions
    if at.step is not None and at.step != 1:
        raise ToylabError(f"at={at}: a slice must have step 1; give slice(start, stop), or a tuple")
    start, stop = (None if value is None else as_position(value) for value in (at.start, at.stop))
    if stop is not None and stop <= (start or 0):
        raise ToylabError(f"at={at}: is empty, so nothing would be steered; stop must be greater than start")
    return slice(start, stop)


def _position_mask(
    positions: Int[Tensor, "#batch position"], at: slice | tuple[int, ...]
) -> Bool[Tensor, "#batch position"]:
    if not isinstance(at, slice):
        return torch.isin(positions, torch.tensor(at, dtype=positions.dtype, device=positions.device))
    stop = math.inf if at.stop is None else at.stop
    return (positions >= (at.start or 0)) & (positions < stop)


def steer(model: Transformer, layers: Mapping[int, Float[Tensor, " width"]] | None = None) -> Steered:
    """A model steered by the given vectors, by layer; by default, trainable zero vectors after every block."""
    width = model.config.width
    if layers is None:
        return Steered(model, {layer: Vector(width) for layer in range(len(model.blocks))})
    return Steered(model, {layer: Vector(width, vector) for layer, vector in layers.items()})


def save_steering(path: Path | str, steered: Steered) -> None:
    """Save the additions and their positions, without the model."""
    about = {
        "steering": {
            layer: {"kind": type(addition).__name__, "gate": getattr(addition, "gate", None)}
            for layer, addition in steered.additions.items()
        },
        "at": {"from": steered.at.start, "to": steered.at.stop} if isinstance(steered.at, slice) else list(steered.at),
    }
    write_tensors(path, steered.additions.state_dict(), about)


def load_steering(path: Path | str, model: Transformer) -> Steered:
    """Load saved additions into a steered model.

    Raises:
        ToylabError: if the file is missing, damaged, holds no additions, or is for another width or depth.
    """
    tensors, about = read_tensors(path)
    width = model.config.width
    classes = {"Vector": lambda gate: Vector(width), "Scaled": lambda gate: Scaled(width, gate)}
    try:
        additions = {int(layer): classes[entry["kind"]](entry["gate"]) for layer, entry in about["steering"].items()}
        at = about["at"]
        positions = slice(at["from"], at["to"]) if isinstance(at, dict) else tuple(at)
        steered = Steered(model, additions, positions)
        steered.additions.load_state_dict(tensors)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:  # toylab's own classes only
        raise ToylabError(
            f"{path}: does not hold steering vectors for a model of width {width} and {len(model.blocks)} layers "
            f"({type(error).__name__}: {error})"
        ) from error
    return steered


# Effect bound before training ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PreFlight:
    """Estimate of the largest effect of a steering vector on the choice between two tokens.

    Attributes:
        cosine: cosine of the two unembedding rows, with the gain of the final norm folded in.
        distance: norm of the difference of the two rows.
        length: mean norm of the residual stream at the decision position.
        bound: estimated largest shift of the log-odds by a vector of the given norm, in nats; see `pre_flight`.
    """

    cosine: float
    distance: float
    length: float
    bound: float

    def check(self, least: float | int = 3.0) -> None:
        """Raises `ToylabError` if the bound is below `least` nats."""
        if self.bound < least:
            raise ToylabError(
                f"bound={self.bound:.2g} nats: a vector cannot shift these log-odds by the {least:g} nats needed: "
                f"the two rows of the unembedding have a cosine of {self.cosine:.2f} and differ by "
                f"{self.distance:.2g}; "
                "pre-train with unembedding='orthogonal', or with the two tokens in more contexts"
            )


@torch.no_grad()
def pre_flight(
    model: Transformer,
    prompts: Int[Tensor, "batch position"],
    this: int,
    other: int,
    norm: float | int = 15.0,
) -> PreFlight:
    """Estimate how far a vector of the given norm, added before the final norm, can shift the log-odds of `this` over
    `other` as the first token after the prompts.

    The shift is (row of this - row of other) . (N(h + v) - N(h)), where N divides by the standard deviation. For v and
    the rows orthogonal to h, the shift is at most sqrt(width) |v| |difference of rows| / |h + v|, |h + v|^2 = |h|^2 +
    |v|^2. This is an estimate, not a proof: vectors and rows that are not orthogonal to h may exceed it, by a factor of
    up to sqrt(2) for v orthogonal to h, and |h| is a mean over prompts."""
    point = f"blocks.{len(model.blocks) - 1}.resid_post"
    with watch(model, point) as cache:
        model(prompts)
    rows = folded_unembedding(model)[[this, other]]
    length = cache[point][:, -1].norm(dim=-1).mean().item()
    distance = (rows[0] - rows[1]).norm().item()
    bound = math.sqrt(model.config.width) * norm * distance / math.hypot(length, norm)
    cosine = torch.cosine_similarity(rows[0], rows[1], dim=0).item()
    return PreFlight(cosine, distance, length, bound)


def folded_unembedding(model: Transformer) -> Float[Tensor, "vocab width"]:
    """Rows of the unembedding times the gain of the final norm: the directions that logits read.

    Raises:
        ToylabError: for a model without an unembedding.
    """
    if isinstance(model.unembedding, NoOp):
        raise ToylabError("unembedding=none: no token reads the stream; give a model with an unembedding")
    gain = getattr(model.ln_final, "weight", None)
    rows = model.unembedding.weight
    return rows if gain is None else rows * gain
