"""Positional encodings: one class each, and the table `POSITIONS`.

An encoding may speak at three places, and each class overrides only those where it does: it adds a vector to the
embedding (`embed`), turns queries and keys (`rotate`), or adds to the attention scores (`bias`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from toylab.console import ToylabError


@runtime_checkable
class EncodingConfig(Protocol):
    """What an encoding may know of a model: these fields of `toylab.model.config.ModelConfig`, which checks them."""

    @property
    def width(self) -> int: ...

    @property
    def heads(self) -> int: ...

    @property
    def position_base(self) -> float: ...

    @property
    def position_frequency(self) -> float: ...

    @property
    def position_width(self) -> int | None: ...

    @property
    def position_std(self) -> float: ...

    @property
    def alibi_slope(self) -> float | int | None: ...


class NoPositions(nn.Module):
    """No position at all: order is seen only through the causal mask (NoPE). The base of all other encodings."""

    def __init__(self, config: EncodingConfig, context: int, generator: torch.Generator) -> None:
        super().__init__()

    def embed(self, positions: Int[Tensor, "#batch position"]) -> Float[Tensor, "#batch position width"] | None:
        """What is added to the token embeddings."""
        return None

    def rotate(
        self, x: Float[Tensor, "batch position head feature"], positions: Int[Tensor, "#batch position"]
    ) -> Float[Tensor, "batch position head feature"]:
        """What becomes of a query or a key at its position."""
        return x

    def bias(
        self, query: Int[Tensor, "#batch query"], key: Int[Tensor, "#batch key"]
    ) -> Float[Tensor, "#batch head query key"] | None:
        """What is added to the attention scores."""
        return None


class LearnedPositions(NoPositions):
    """A trained vector for every position up to the context length."""

    def __init__(self, config: EncodingConfig, context: int, generator: torch.Generator) -> None:
        super().__init__(config, context, generator)
        self.table = nn.Parameter(torch.randn(context, config.width, generator=generator))
        self.table.data *= config.position_std

    def embed(self, positions):
        # A captured graph (torch.export, torch.compile) has no numbers to look at; there the table refuses by itself.
        if positions.numel() and not torch.compiler.is_compiling():
            first, last = map(int, positions.aminmax())
            if first < 0:
                raise ToylabError(f"position={first}: learned positions start at 0; count from there")
            if last >= len(self.table):
                raise ToylabError(
                    f"position={last}: learned positions end at {len(self.table) - 1}; give the model a larger context "
                    "or another positional encoding"
                )
        return self.table[positions]


class _FixedPositions(NoPositions):
    """An encoding made of fixed numbers that follow from the config: in the model's type, and in float32 where that is
    less precise. An angle grows with position, and so does its error."""

    name: str
    """Of the numbers; a buffer that no file holds."""

    def __init__(self, config: EncodingConfig, context: int, generator: torch.Generator) -> None:
        super().__init__(config, context, generator)
        self.config, self.dtype = config, torch.get_default_dtype()
        self.register_buffer(self.name, self.fixed(_wide(self.dtype)), persistent=False)

    def fixed(self, dtype: torch.dtype) -> Float[Tensor, " number"]:
        """The numbers, worked out in a type."""
        raise NotImplementedError

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _FixedPositions:
        before = self.get_buffer(self.name)
        super()._apply(fn, recurse)
        after = self.get_buffer(self.name)
        self.dtype, made = after.dtype, self.fixed(_wide(after.dtype)).to(after.device)
        if not before.is_meta:  # what an edit has changed stays changed
            old = self.fixed(before.dtype).to(before.device)
            made = torch.where((before == old).to(after.device), made, before.to(after.device, made.dtype))
        self._buffers[self.name] = made
        return self


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


class SinusoidalPositions(_FixedPositions):
    """Fixed sines and cosines at frequencies that fall geometrically (Vaswani et al. 2017, section 3.5).

    The vector holds the sines, then the cosines, then zeros where positions do not take up the whole width.
    """

    name = "frequencies"
    frequencies: Tensor

    def fixed(self, dtype):
        width = self.config.position_width
        return _frequencies(self.config.width if width is None else width, self.config, dtype)

    def embed(self, positions):
        angles = positions[..., None] * self.frequencies
        vectors = self.config.position_std * torch.cat([angles.sin(), angles.cos()], dim=-1)
        return F.pad(vectors, (0, self.config.width - vectors.shape[-1])).to(self.dtype)


class RotaryPositions(_FixedPositions):
    """Turns each pair of query and key features by an angle that grows with position (Su et al. 2021, RoPE)."""

    name = "frequencies"
    frequencies: Tensor

    def fixed(self, dtype):
        return _frequencies(self.config.width // self.config.heads, self.config, dtype)

    def rotate(self, x, positions):
        angles = (positions[..., None] * self.frequencies)[:, :, None, :]
        sine, cosine = angles.sin(), angles.cos()
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1).to(x.dtype)


class ALiBiPositions(_FixedPositions):
    """Lowers scores in proportion to distance (Press et al. 2021), by |distance| where both directions are seen.

    Head h = 1, 2 ... has slope 2^(-8 h / heads), or all have `alibi_slope`. Where the number of heads is no power of
    two, the authors' code takes the slopes of the power below and every other one of the power above instead.
    """

    name = "slopes"
    slopes: Tensor

    def fixed(self, dtype):
        given, heads = self.config.alibi_slope, self.config.heads
        slopes = [2 ** (-8 * (h + 1) / heads) if given is None else float(given) for h in range(heads)]
        return torch.tensor(slopes, dtype=dtype)

    def bias(self, query, key):
        distance = (query[:, :, None] - key[:, None, :]).abs()
        return -self.slopes[:, None, None] * distance[:, None]


POSITIONS: dict[str, type[NoPositions]] = {
    "none": NoPositions,
    "learned": LearnedPositions,
    "sinusoidal": SinusoidalPositions,
    "rotary": RotaryPositions,
    "alibi": ALiBiPositions,
}


def _frequencies(size: int, config: EncodingConfig, dtype: torch.dtype) -> Float[Tensor, " half"]:
    """Angular frequencies, falling geometrically from the fastest towards `position_base` times less."""
    steps = torch.arange(0, size, 2, dtype=dtype)
    return config.position_frequency * torch.exp(-math.log(config.position_base) * steps / size)
