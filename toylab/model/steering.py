"""Steering: a frozen model whose residual stream is moved by a few trained numbers.

    steered = Steered(model, {3: Vector(64)})
    steered(tokens)              # the model with a vector added after block 3, at every position
    generate(steered, ...)       # the same, token by token

Source: Sinii et al. 2025 (arXiv 2509.06608) and 2025 (arXiv 2505.18706): one vector a layer, added after the block, at
every position, zero at first.
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
from toylab.model.layers import NoOp
from toylab.model.transformer import Transformer
from toylab.probes import Edit, edit, watch
from toylab.settings import check_option

Positions = slice | Iterable[Any] | int
"""Absolute positions: from a start up to a stop, or whole numbers one by one."""


class Vector(nn.Module):
    """h + v: the same vector everywhere. Zero at first, unless one is given."""

    def __init__(self, width: int, vector: Float[Tensor, " width"] | None = None) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.zeros(width) if vector is None else vector.detach().clone())

    def forward(self, h: Float[Tensor, "batch position width"]) -> Float[Tensor, "batch position width"]:
        return h + self.vector


class Scaled(nn.Module):
    """h + g(w . (rms(h) - mu) + b) v: one vector, at each token as long as the token asks for (rank one).

    rms(h) is h over its root mean square; w and b are zero at first, v is drawn.

    Args:
        gate: g: the number itself, or tanh, which bounds it.
        centre: mu, the mean of rms(h) where the decision falls: with it, w sees what differs between prompts.
        generator: of v.
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
        """g(...) at every token."""
        scale = (rms_normed(h) - self.centre) @ self.weight + self.bias
        return scale.tanh() if self.gate == "tanh" else scale

    def forward(self, h: Float[Tensor, "batch position width"]) -> Float[Tensor, "batch position width"]:
        return h + self.scale(h)[..., None] * self.vector


def rms_normed(h: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
    """Each row over its root mean square, worked out in float32 at least: squares leave the range of float16."""
    wide = h.to(torch.promote_types(h.dtype, torch.float32))
    return (wide / wide.square().mean(dim=-1, keepdim=True).sqrt().clamp(min=1e-12)).to(h.dtype)


class Steered(nn.Module):
    """A frozen copy of a model with trainable additions after some of its blocks; called like the model itself.

    Args:
        additions: by layer; they take the model's type, and go where it is.
        at: the absolute positions at which they act, all by default: `slice(8, 9)` or `(8,)` is position 8 alone.

    Raises:
        ValueError: without an addition, for a layer that the model does not have, for positions counted from the end,
            and for none that the model can have.
    """

    def __init__(self, model: Transformer, additions: Mapping[int, nn.Module], at: Positions = slice(None)) -> None:
        super().__init__()
        if not additions:
            raise ToylabError("additions: at least one layer is needed, for example {0: Vector(64)}")
        for layer in additions:
            if not 0 <= layer < len(model.blocks):
                raise ToylabError(f"layer={layer}: the model has layers 0 to {len(model.blocks) - 1}")
        places = _checked(at)
        first = (places.start or 0) if isinstance(places, slice) else min(places)
        if model.config.positions == "learned" and first >= model.context:
            raise ToylabError(
                f"at={places}: the model's positions end at {model.context - 1}, so nothing would be steered"
            )
        self.model, self.at = frozen_copy(model), places
        like = self.model.embedding.weight
        self.additions = nn.ModuleDict({str(operator.index(layer)): one for layer, one in additions.items()})
        self.additions.to(like.device, like.dtype)

    def edits(self) -> dict[str, Edit]:
        """The additions as edits of the model, by point."""
        return {f"blocks.{layer}.resid_post": self._edit(int(layer)) for layer in self.additions}

    def only(self, at: Positions) -> Steered:
        """The same additions, acting at these positions alone."""
        return Steered(self.model, {int(layer): addition for layer, addition in self.additions.items()}, at)

    def forward(self, tokens: Int[Tensor, "batch position"], **options) -> Float[Tensor, "batch query vocab"]:
        with edit(self.model, self.edits()):
            return self.model(tokens, **options)

    def _edit(self, layer: int) -> Edit:
        block, addition = self.model.blocks[layer], self.additions[str(layer)]

        def move(h: Tensor) -> Tensor:
            moved = addition(h)
            if self.at == slice(None):
                return moved
            # Half of the rows may be asked for alone, as `toylab.probes.PathPatched` does.
            assert block.positions is not None  # set where the block began
            return torch.where(_among(block.positions[: len(h)], self.at)[..., None], moved, h)

        return move


def _checked(at: Positions) -> slice | tuple[int, ...]:
    """The same positions as Python's own integers.

    Raises:
        ValueError: for what is no whole number, counts from the end or in steps, or leaves nothing.
    """

    def place(value: Any) -> int:
        try:
            masks = isinstance(value, bool) or getattr(value, "dtype", None) == torch.bool
            number = -1 if masks else operator.index(value)
        except TypeError:
            number = -1
        if number < 0:
            raise ToylabError(f"at={at}: {value!r} is no position; they are whole numbers that count from 0")
        return number

    if not isinstance(at, slice):
        places = tuple(place(value) for value in (at if isinstance(at, Iterable) else (at,)))
        if not places:
            raise ToylabError("at: names no position, so nothing would be steered; leave it out for all")
        return places
    if at.step is not None and at.step != 1:
        raise ToylabError(f"at={at}: positions count one by one; give slice(start, stop), or a tuple")
    start, stop = (None if value is None else place(value) for value in (at.start, at.stop))
    if stop is not None and stop <= (start or 0):
        raise ToylabError(f"at={at}: holds no position, so nothing would be steered; stop must lie behind start")
    return slice(start, stop)


def _among(positions: Int[Tensor, "#batch position"], at: slice | tuple[int, ...]) -> Bool[Tensor, "#batch position"]:
    if not isinstance(at, slice):
        return torch.isin(positions, torch.tensor(at, dtype=positions.dtype, device=positions.device))
    stop = math.inf if at.stop is None else at.stop
    return (positions >= (at.start or 0)) & (positions < stop)


def steer(model: Transformer, layers: Mapping[int, Float[Tensor, " width"]] | None = None) -> Steered:
    """A model steered by given vectors, by layer; without any, by trainable zeros after every block."""
    width = model.config.width
    if layers is None:
        return Steered(model, {layer: Vector(width) for layer in range(len(model.blocks))})
    return Steered(model, {layer: Vector(width, vector) for layer, vector in layers.items()})


def save_steering(path: Path | str, steered: Steered) -> None:
    """Save the additions alone: a few hundred numbers."""
    about = {
        "steering": {
            layer: {"kind": type(addition).__name__, "gate": getattr(addition, "gate", None)}
            for layer, addition in steered.additions.items()
        },
        "at": {"from": steered.at.start, "to": steered.at.stop} if isinstance(steered.at, slice) else list(steered.at),
    }
    write_tensors(path, steered.additions.state_dict(), about)


def load_steering(path: Path | str, model: Transformer) -> Steered:
    """A model steered by what was saved.

    Raises:
        ValueError: if the file is missing, damaged, holds something else, or was made for another width or depth.
    """
    tensors, about = read_tensors(path)
    width = model.config.width
    kinds = {"Vector": lambda gate: Vector(width), "Scaled": lambda gate: Scaled(width, gate)}
    try:
        additions = {int(layer): kinds[held["kind"]](held["gate"]) for layer, held in about["steering"].items()}
        at = about["at"]
        places = slice(at["from"], at["to"]) if isinstance(at, dict) else tuple(at)
        steered = Steered(model, additions, places)
        steered.additions.load_state_dict(tensors)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:  # all of it is ours
        raise ToylabError(
            f"{path}: does not hold steering vectors for a model of width {width} and {len(model.blocks)} layers "
            f"({type(error).__name__}: {error})"
        ) from error
    return steered


# Can it work? --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PreFlight:
    """Whether a vector can move a choice between two tokens at all.

    Attributes:
        cosine: of the two rows of the unembedding, with the final norm's gain folded in.
        distance: length of their difference.
        length: mean length of the residual stream where the choice falls.
        bound: how far a vector of the given norm can shift their log-odds, in nats: an estimate, see `pre_flight`.
    """

    cosine: float
    distance: float
    length: float
    bound: float

    def check(self, least: float | int = 3.0) -> None:
        """Raises `ValueError` if the bound is below `least` nats, saying why."""
        if self.bound < least:
            raise ToylabError(
                f"bound={self.bound:.2g} nats: a vector cannot move this choice by the {least:g} nats needed: "
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
    """How far a vector of the given norm, added before the final norm, can shift the log-odds of `this` over `other` as
    the first token after the prompts.

    The shift is (row of this - row of other) . (N(h + v) - N(h)), where N divides by the standard deviation: at most
    sqrt(width) |v| |difference of rows| / |h + v|, with |h + v|^2 = |h|^2 + |v|^2, for v and the rows across h. Vectors
    and rows that lean on h may exceed it, by a factor of up to sqrt(2) for v across h, and |h| is a mean over prompts:
    an estimate to refuse by, no proof.
    """
    point = f"blocks.{len(model.blocks) - 1}.resid_post"
    with watch(model, point) as seen:
        model(prompts)
    rows = folded_unembedding(model)[[this, other]]
    length = seen[point][:, -1].norm(dim=-1).mean().item()
    distance = (rows[0] - rows[1]).norm().item()
    bound = math.sqrt(model.config.width) * norm * distance / math.hypot(length, norm)
    cosine = torch.cosine_similarity(rows[0], rows[1], dim=0).item()
    return PreFlight(cosine, distance, length, bound)


def folded_unembedding(model: Transformer) -> Float[Tensor, "vocab width"]:
    """Rows of the unembedding times the final norm's gain: what each token reads from the normalised stream.

    Raises:
        ValueError: for a model without an unembedding.
    """
    if isinstance(model.unembedding, NoOp):
        raise ToylabError("unembedding=none: no token reads the stream; give a model with an unembedding")
    gain = getattr(model.ln_final, "weight", None)
    rows = model.unembedding.weight
    return rows if gain is None else rows * gain
