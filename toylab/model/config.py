"""Architecture of a transformer: a frozen dataclass, validated on construction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from toylab.console import ToylabError, unknown_name
from toylab.model.positions import POSITIONS
from toylab.settings import check_range, check_settings, later_field


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Architecture of a `Transformer`; vocabulary size and context come from the task."""

    layers: int = 2
    heads: int = 2
    """Attention heads per layer."""
    width: int = 32
    """Width of the residual stream (d_model)."""
    hidden: int | None = None
    """Width of the MLPs (d_mlp): 4 * width if None, 0 for an attention-only model."""
    activation: Literal["gelu", "gelu-tanh", "relu", "silu"] = "gelu"
    norm: Literal["pre", "post", "entry", "none"] = "pre"
    """Placement of LayerNorm: before each sublayer (pre), after each residual addition (post), on the stream itself at
    the entry of each block and before the MLP (entry, as in the code of Cabannes et al. 2024), or nowhere."""
    biases: bool = True
    """Whether linear layers and norms have biases."""
    causal: bool = True
    """Causal or bidirectional attention."""
    positions: str = "sinusoidal"
    """Positional encoding: none, learned, sinusoidal, rotary, alibi, or another key of `model.positions.POSITIONS`."""
    position_base: float = 10_000.0
    """Base of the frequencies of sinusoidal and rotary positions: about the ratio of fastest to slowest."""
    position_frequency: float = 1.0
    """Highest angular frequency, in radians per position."""
    position_width: int | None = None
    """Number of coordinates with sinusoidal positions; all if None. The rest of the stream holds content only."""
    position_std: float = 1.0
    """Scale of sinusoidal, and initial scale of learned, position embeddings."""
    alibi_slope: float | int | None = None
    """ALiBi slope of all heads; None for the per-head slopes of Press et al. 2021."""
    embedding_std: float | int = 1.0
    """Standard deviation of the initial token embeddings."""
    unembedding: Literal["learned", "tied", "frozen", "orthogonal", "none"] = "learned"
    """Unembedding: trained, tied to the embedding, frozen at random or at orthonormal rows, or none (the model then
    returns the final residual stream, as an encoder does)."""
    dropout: float | int = later_field(0.0)
    """Probability with which an entry of an attention or MLP output is zeroed in training mode, before its hook point
    (`attn_out`, `mlp_out`) and the addition to the residual stream; the other entries are divided by 1 - dropout. Drawn
    from torch's global generator."""

    def __post_init__(self) -> None:
        check_settings(self)
        check_range(layers=self.layers, heads=self.heads, width=self.width, least=1)
        check_range("0 leaves the MLPs out", hidden=self.hidden, least=0)
        check_range("0 switches it off", dropout=self.dropout, least=0, below=1)
        if self.width % self.heads:
            raise ToylabError(
                f"width={self.width}: must be a multiple of heads={self.heads}, for example {self.heads * 16}"
            )
        if self.positions not in POSITIONS:
            raise unknown_name("positional encoding", self.positions, POSITIONS)
        if self.positions == "sinusoidal":
            position_width = self.width if self.position_width is None else self.position_width
            if position_width % 2 or not 2 <= position_width <= self.width:
                name = "width" if self.position_width is None else "position_width"
                raise ToylabError(
                    f"{name}={position_width}: sinusoidal positions need an even number of at most width={self.width}, "
                    f"for example {2 * self.heads * 8 if self.position_width is None else max(2, self.width // 2 * 2)}"
                )
        check_range("for example 10000", position_base=self.position_base, above=0)
        names = ("position_frequency", "position_std", "alibi_slope", "embedding_std")
        check_range("for example 0.01", **{name: getattr(self, name) for name in names}, least=0)
        if self.positions == "rotary" and (self.width // self.heads) % 2:
            raise ToylabError(
                f"width={self.width}: rotary positions need an even width per head, for example {2 * self.heads * 8}"
            )
