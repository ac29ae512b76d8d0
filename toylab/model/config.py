"""The shape of a model: a frozen dataclass, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from toylab.console import ToylabError, unknown_name
from toylab.model.positions import POSITIONS
from toylab.settings import check_range, check_settings


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of a `Transformer`; its vocabulary and context come from the task."""

    layers: int = 2
    heads: int = 2
    """Attention heads in each layer."""
    width: int = 32
    """Size of the residual stream."""
    hidden: int | None = None
    """Size of the MLP layers: 4 * width if not given, 0 for an attention-only model."""
    activation: Literal["gelu", "gelu-tanh", "relu", "silu"] = "gelu"
    norm: Literal["pre", "post", "entry", "none"] = "pre"
    """Where LayerNorm stands: before each part, after each addition, on the stream itself at the entry of each block
    and before the MLP (as in the published code of iteration heads), or nowhere."""
    biases: bool = True
    """Whether linear maps and norms have biases."""
    causal: bool = True
    """Whether a position sees only what does not come after it; a bidirectional model sees everything."""
    positions: str = "sinusoidal"
    """A name of `toylab.model.positions.POSITIONS`: none, learned, sinusoidal, rotary, alibi, or one added there."""
    position_base: float = 10_000.0
    """How many times slower the slowest sinusoid turns than the fastest, in sinusoidal and rotary positions."""
    position_frequency: float = 1.0
    """Angular frequency of the fastest of them, in radians a position."""
    position_width: int | None = None
    """Number of coordinates that sinusoidal positions occupy: all, if not given. The others stay free for content."""
    position_std: float = 1.0
    """Scale of learned (initially) and sinusoidal position vectors."""
    alibi_slope: float | int | None = None
    """Slope of ALiBi in every head; by default the heads get those of Press et al. 2021."""
    embedding_std: float | int = 1.0
    """Scale of the initial token embeddings."""
    unembedding: Literal["learned", "tied", "frozen", "orthogonal", "none"] = "learned"
    """Whether the unembedding is trained, is the embedding itself, stays as drawn, stays at orthonormal rows, or is
    left out: the model then returns its final residual stream, as an encoder does."""

    def __post_init__(self) -> None:
        check_settings(self)
        check_range(layers=self.layers, heads=self.heads, width=self.width, least=1)
        check_range("0 leaves the MLPs out", hidden=self.hidden, least=0)
        if self.width % self.heads:
            raise ToylabError(
                f"width={self.width}: must be a multiple of heads={self.heads}, for example {self.heads * 16}"
            )
        if self.positions not in POSITIONS:
            raise unknown_name("positional encoding", self.positions, POSITIONS)
        if self.positions == "sinusoidal":
            placed = self.width if self.position_width is None else self.position_width
            if placed % 2 or not 2 <= placed <= self.width:
                name = "width" if self.position_width is None else "position_width"
                raise ToylabError(
                    f"{name}={placed}: sinusoidal positions need an even number of at most width={self.width}, for "
                    f"example {2 * self.heads * 8 if self.position_width is None else max(2, self.width // 2 * 2)}"
                )
        check_range("for example 10000", position_base=self.position_base, above=0)
        names = ("position_frequency", "position_std", "alibi_slope", "embedding_std")
        check_range("for example 0.01", **{name: getattr(self, name) for name in names}, least=0)
        if self.positions == "rotary" and (self.width // self.heads) % 2:
            raise ToylabError(
                f"width={self.width}: rotary positions need an even width per head, for example {2 * self.heads * 8}"
            )
