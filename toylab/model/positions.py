"""Positional encodings, and the table `POSITIONS`.

An encoding hooks in at one of three places: it adds a vector to the embedding (`embed`), rotates queries and keys
(`rotate`), or adds a bias to the attention scores (`bias`).
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
    """The fields of `toylab.model.config.ModelConfig` that encodings use."""

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
    """No positional encoding (NoPE): order enters only through the causal mask. Base class of all encodings."""

    def __init__(self, config: EncodingConfig, context: int, generator: torch.Generator) -> None:
        super().__init__()

    def embed(self, positions: Int[Tensor, "#batch position"]) -> Float[Tensor, "#batch position width"] | None:
        """Vector added to the token embeddings, if any."""
        return None

    def rotate(
        self, x: Float[Tensor, "batch position head feature"], positions: Int[Tensor, "#batch position"]
    ) -> Float[Tensor, "batch position head feature"]:
        """Queries or keys after rotation by their position."""
        return x

    def bias(
        self, query: Int[Tensor, "#batch query"], key: Int[Tensor, "#batch key"]
    ) -> Float[Tensor, "#batch head query key"] | None:
        """Bias added to the attention scores, if any."""
        return None


class LearnedPositions(NoPositions):
    """A trainable embedding for every position up to the context length."""

    def __init__(self, config: EncodingConfig, context: int, generator: torch.Generator) -> None:
        super().__init__(config, context, generator)
        self.table = nn.Parameter(torch.randn(context, config.width, generator=generator))
        self.table.data *= config.position_std

    def embed(self, positions):
        # Traced graphs (torch.export, torch.compile) have no values to check; there the indexing itself raises.
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
    """An encoding with a fixed buffer computed from the config, in at least float32, since the rounding error of an
    angle grows with position."""

    name: str
    """Name of the (non-persistent) buffer."""

    def __init__(self, config: EncodingConfig, context: int, generator: torch.Generator) -> None:
        super().__init__(config, context, generator)
        self.config, self.dtype = config, torch.get_default_dtype()
        self.register_buffer(self.name, self.fixed(_wide(self.dtype)), persistent=False)

    def fixed(self, dtype: torch.dtype) -> Float[Tensor, " number"]:
        """The buffer, computed in the given dtype."""
        raise NotImplementedError

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _FixedPositions:
        before = self.get_buffer(self.name)
        super()._apply(fn, recurse)
        after = self.get_buffer(self.name)
        self.dtype, buffer = after.dtype, self.fixed(_wide(after.dtype)).to(after.device)
        if not before.is_meta:  # keep modified entries
            unmodified = self.fixed(before.dtype).to(before.device)
            buffer = torch.where((before == unmodified).to(after.device), buffer, before.to(after.device, buffer.dtype))
        self._buffers[self.name] = buffer
        return self


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


class SinusoidalPositions(_FixedPositions):
    """Sinusoidal position embeddings with geometric frequencies (Vaswani et al. 2017, section 3.5).

    The vector holds all sines, then all cosines, then zeros up to the width.
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
    """Rotates each pair of query and key features by an angle proportional to position (RoPE, Su et al. 2021)."""

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
    """Subtracts slope * |distance| from the attention scores (ALiBi, Press et al. 2021).

    Head h = 1, 2 ... has slope 2^(-8 h / heads), or all heads have `alibi_slope`. If the number of heads is not a power
    of two, the authors' code differs: it uses the slopes of the power below and every other slope of the power above.
    """

    name = "slopes"
    slopes: Tensor

    def fixed(self, dtype):
        slope, heads = self.config.alibi_slope, self.config.heads
        slopes = [2 ** (-8 * (h + 1) / heads) if slope is None else float(slope) for h in range(heads)]
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
    """Geometric angular frequencies, from `position_frequency` down to about `position_frequency / position_base`."""
    steps = torch.arange(0, size, 2, dtype=dtype)
    return config.position_frequency * torch.exp(-math.log(config.position_base) * steps / size)
