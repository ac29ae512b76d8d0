"""A transformer, sized by its task and open to inspection at every named point.

Wherever a researcher may want to look stands an `nn.Identity`; its path is its name (`blocks.0.attn.pattern`), the
one TransformerLens uses without its `hook_`. `probes.points(model)` lists them all. What is probed is what was
trained: no weight is folded, and the same code runs whether anybody watches or not.

Axis names: batch, position (query or key inside attention), head, feature (within a head), width, hidden, vocab.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from toylab.console import ToylabError, check_settings, torch_seed, unknown
from toylab.model.positions import POSITIONS
from toylab.model.token_counts import Tally
from toylab.probes.hooks import has_hooks
from toylab.tasks import Task, stream

ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu-tanh": partial(F.gelu, approximate="tanh"),  # no lambda: models can be pickled
    "relu": F.relu,
    "silu": F.silu,
}


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
        for name in ("layers", "heads", "width"):
            if getattr(self, name) < 1:
                raise ToylabError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.hidden is not None and self.hidden < 0:
            raise ToylabError(f"hidden={self.hidden}: must be at least 0; 0 leaves the MLPs out")
        if self.width % self.heads:
            raise ToylabError(
                f"width={self.width}: must be a multiple of heads={self.heads}, for example {self.heads * 16}"
            )
        if self.positions not in POSITIONS:
            raise unknown("positional encoding", self.positions, POSITIONS)
        if self.positions == "sinusoidal":
            placed = self.width if self.position_width is None else self.position_width
            if placed % 2 or not 2 <= placed <= self.width:
                name = "width" if self.position_width is None else "position_width"
                raise ToylabError(
                    f"{name}={placed}: sinusoidal positions need an even number of at most width={self.width}, for "
                    f"example {2 * self.heads * 8 if self.position_width is None else max(2, self.width // 2 * 2)}"
                )
        if self.position_base <= 0:
            raise ToylabError(f"position_base={self.position_base}: must be above 0, for example 10000")
        for name in ("position_frequency", "position_std", "alibi_slope", "embedding_std"):
            if (getattr(self, name) or 0) < 0:
                raise ToylabError(f"{name}={getattr(self, name)}: must be 0 or more, for example 0.01")
        if self.positions == "rotary" and (self.width // self.heads) % 2:
            raise ToylabError(
                f"width={self.width}: rotary positions need an even width per head, for example {2 * self.heads * 8}"
            )


class LayerNorm(nn.LayerNorm):
    """PyTorch's, over the width of the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config.width, bias=config.biases)


class Nothing(nn.Module):
    """Stands where a norm or an unembedding would, and does nothing. Unlike an `nn.Identity` it is no point."""

    def __init__(self, config: ModelConfig | None = None) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x


class Attention(nn.Module):
    """Multi-head attention; every intermediate result passes a named point.

    Two cheaper routes to the same output pass some points by; neither is taken where anything listens to one of them.

    Args:
        few_queries: whether far fewer queries than keys are asked, and none is turned by its position.
    """

    def __init__(self, config: ModelConfig, generator: torch.Generator, few_queries: bool = False) -> None:
        super().__init__()
        self.heads, self.few_queries = config.heads, few_queries
        self.query = linear(config.width, config.width, config.biases, generator)
        self.key = linear(config.width, config.width, config.biases, generator)
        self.value = linear(config.width, config.width, config.biases, generator)
        self.output = linear(config.width, config.width, config.biases, generator)
        self.q, self.k, self.v = nn.Identity(), nn.Identity(), nn.Identity()
        self.scores, self.pattern, self.z = nn.Identity(), nn.Identity(), nn.Identity()

    def forward(
        self,
        reading: Float[Tensor, "batch query width"],
        read: Float[Tensor, "batch key width"],
        geometry: Geometry | None,
        cache: Cache | None = None,
        layer: int = 0,
        tally: Tally | None = None,
    ) -> Float[Tensor, "row asked width"]:
        """Output at every query. With a tally, what is read is one row per type of token, (1, type, width)."""
        if tally is not None:
            return self._by_type(read[0], tally)
        if self.few_queries and not has_hooks(self.k, self.v, self.key, self.value):
            return self._by_few(reading, read, geometry)
        q = self.q(geometry.rotate(self._split(self.query(reading)), geometry.query))
        k = self.k(geometry.rotate(self._split(self.key(read)), geometry.key[:, -read.shape[1] :]))
        v = self.v(self._split(self.value(read)))
        scaled = q * q.shape[-1] ** -0.5  # queries, not scores: they are fewer numbers
        q, k, v = (x.transpose(1, 2) for x in (scaled, k, v))  # batch head position feature
        if cache is not None:
            k, v = cache.extend(layer, k, v)
        scores = q @ k.mT
        pattern = self.pattern(self.scores(scores.add_(geometry.bias)).softmax(dim=-1))
        alone = cache is not None and pattern.shape[2] == 1  # a matrix product this thin would be slow
        mean = (pattern.mT * v).sum(dim=2, keepdim=True) if alone else pattern @ v
        return self.output(self.z(mean.transpose(1, 2)).flatten(2))

    def _by_few(
        self,
        reading: Float[Tensor, "batch query width"],
        read: Float[Tensor, "batch key width"],
        geometry: Geometry,
    ) -> Float[Tensor, "batch query width"]:
        """Without positions, for few queries of many keys; keys and values are never computed.

        A score q . (K x) is also (q K) . x, and a mean of values V x is V times the mean of x: so the few queries are
        mapped back to the residual stream instead of every key and value out of it.
        """
        heads = self.heads
        q = self.q(self._split(self.query(reading))).transpose(1, 2)
        asked = q @ self.key.weight.unflatten(0, (heads, -1))
        scores = asked.flatten(1, 2) @ read.transpose(1, 2)
        if self.key.bias is not None:
            scores = scores + (q @ self.key.bias.view(heads, -1, 1)).flatten(1, 2)
        scores = scores.unflatten(1, (heads, -1)) / math.sqrt(q.shape[-1])
        pattern = self.pattern(self.scores(scores + geometry.bias).softmax(dim=-1))
        mean = (pattern.flatten(1, 2) @ read).unflatten(1, (heads, -1))
        z = (mean @ self.value.weight.unflatten(0, (heads, -1)).transpose(1, 2)).transpose(1, 2)
        if self.value.bias is not None:
            z = z + pattern.sum(dim=-1).transpose(1, 2)[..., None] * self.value.bias.view(heads, -1)
        return self.output(self.z(z).flatten(2))

    def _by_type(self, read: Float[Tensor, "type width"], tally: Tally) -> Float[Tensor, "batch query width"]:
        """Without positions, where all that is read is one row per type of token; see `toylab.model.token_counts`."""
        heads, types = self.heads, len(read)
        q, k, v = (linear(read).view(types, heads, -1).transpose(0, 1) for linear in (self.query, self.key, self.value))
        scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])  # head, query type, key type
        written = v @ self.output.weight.view(-1, heads, q.shape[-1]).permute(1, 2, 0)  # head, key type, width
        seen = (tally.types @ scores.transpose(0, 1).flatten(1)).unflatten(-1, (heads, types))
        pattern = (seen + tally.log_counts[:, :, None]).softmax(dim=-1)
        out = pattern.flatten(2) @ written.flatten(0, 1)
        return out if self.output.bias is None else out + self.output.bias

    def _split(self, x: Float[Tensor, "batch position width"]) -> Float[Tensor, "batch position head feature"]:
        return x.unflatten(-1, (self.heads, -1))


class MLP(nn.Module):
    """Two linear maps with an activation between them."""

    def __init__(self, config: ModelConfig, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.up = linear(config.width, hidden, config.biases, generator)
        self.down = linear(hidden, config.width, config.biases, generator)
        self.activation = ACTIVATIONS[config.activation]
        self.pre, self.post = nn.Identity(), nn.Identity()

    def forward(self, x: Float[Tensor, "batch position width"]) -> Float[Tensor, "batch position width"]:
        return self.down(self.post(self.activation(self.pre(self.up(x)))))


class Block(nn.Module):
    """Attention, then the MLP, both added to the residual stream."""

    def __init__(self, config: ModelConfig, generator: torch.Generator) -> None:
        super().__init__()
        hidden = 4 * config.width if config.hidden is None else config.hidden
        self.norm = config.norm
        self.attn = Attention(config, generator)
        self.mlp = MLP(config, hidden, generator) if hidden else None
        norm = Nothing if config.norm == "none" else LayerNorm
        self.ln1 = norm(config)
        self.ln2 = norm(config) if hidden else None
        self.resid_pre, self.attn_out, self.resid_mid = nn.Identity(), nn.Identity(), nn.Identity()
        self.mlp_out, self.resid_post = nn.Identity(), nn.Identity()
        self.positions: Int[Tensor, "#batch query"] | None = None
        """Of the tokens that last passed `attn_out` and what follows: an edit there may act on some positions alone,
        also while `generate` reads one token at a time."""

    def forward(
        self,
        x: Float[Tensor, "batch position width"],
        geometry: Geometry | None,
        queries: Int[Tensor, "batch query"] | None = None,
        cache: Cache | None = None,
        layer: int = 0,
        tally: Tally | None = None,
    ) -> Float[Tensor, "row asked width"]:
        """The stream at every query. With a tally, `x` is one row per type of token, (1, type, width)."""
        self.positions = torch.arange(tally.types.shape[1], device=x.device)[None] if tally else geometry.query
        x = self.resid_pre(x)
        if self.norm == "entry":
            x = self.ln1(x)
        read = self.ln1(x) if self.norm == "pre" else x
        reading = read
        if queries is not None:
            x, reading = _rows(x, queries), _rows(read, queries)
        attended = self.attn(reading, read, geometry, cache, layer, tally)
        if tally is not None:
            x = tally.types @ x[0]
        x = x + self.attn_out(attended)
        if self.norm == "post":
            x = self.ln1(x)
        x = self.resid_mid(x)
        if self.mlp is not None:
            x = x + self.mlp_out(self.mlp(self.ln2(x) if self.norm in ("pre", "entry") else x))
            if self.norm == "post":
                x = self.ln2(x)
        return self.resid_post(x)

    def before_tally(self) -> tuple[nn.Module, ...]:
        """What runs on types instead of tokens, or not at all, where a tally is given."""
        return self, self.resid_pre, self.ln1, *self.attn.modules()


class Transformer(nn.Module):
    """Tokens in, logits out.

    Args:
        config: the shape.
        vocab: number of tokens.
        context: number of positions that learned positions know; the other encodings have no such limit.
        seed: of the initial weights; nothing else draws on it, and torch's global generator is left alone.
    """

    def __init__(self, config: ModelConfig, vocab: int, context: int, seed: int = 0) -> None:
        super().__init__()
        if config.unembedding == "orthogonal" and vocab > config.width:
            raise ToylabError(
                f"width={config.width}: an orthogonal unembedding of {vocab} tokens needs a width of at least that"
            )
        generator = torch.Generator().manual_seed(torch_seed(seed))
        self.config, self.vocab, self.context = config, vocab, context
        std = config.embedding_std
        if config.unembedding == "tied":
            std = std * config.width**-0.5  # or a token's logit for itself would start near the width
        embeddings = std * torch.randn(vocab, config.width, generator=generator)
        self.embedding = nn.Embedding(vocab, config.width, _weight=embeddings)
        self.positions = POSITIONS[config.positions](config, context, generator)
        self.blocks = nn.ModuleList(Block(config, generator) for _ in range(config.layers))
        self.ln_final = LayerNorm(config) if config.norm in ("pre", "entry") else Nothing()
        self.unembedding = _unembedding(config, self.embedding, generator)
        self.embed, self.pos_embed, self.final = nn.Identity(), nn.Identity(), nn.Identity()

    @classmethod
    def for_task(cls, task: Task, config: ModelConfig | None = None, seed: int = 0) -> Transformer:
        """A model of the task's vocabulary and context."""
        return cls(config or ModelConfig(), len(task.vocabulary), task.context, seed)

    def forward(
        self,
        tokens: Int[Tensor, "batch position"],
        *,
        positions: Int[Tensor, "#batch position"] | None = None,
        segments: Int[Tensor, "batch position"] | None = None,
        queries: Int[Tensor, "batch query"] | None = None,
        cache: Cache | None = None,
        tally: Tally | None = None,
    ) -> Float[Tensor, "batch query vocab"]:
        """Logits for the token after each position (without an unembedding, the final residual stream).

        Args:
            tokens: ids below `vocab`.
            positions: of each token, 0, 1, 2 ... by default (counted on from what `cache` holds).
            segments: tokens see only tokens of their own segment: several sequences packed into one row.
            queries: indices of the positions whose logits are wanted; the last block then computes no others.
            cache: keys and values of earlier tokens, which `tokens` continue; it is extended in place.
            tally: of these tokens: a first layer without positions then runs in linear time. The logits are the same
                but for rounding. It is left aside where anything listens to the points that it passes by (`embed`,
                `resid_pre` and those of `attn`).

        Raises:
            ValueError: for a position past the end of learned positions; for a cache in a bidirectional model, whose
                old keys would have to change with every new token; for a tally with positions, segments, queries or
                a cache, of which it knows nothing.
        """
        if cache is not None and not self.config.causal:
            raise ToylabError("cache: a bidirectional model cannot keep one; call it without, or with causal=True")
        if tally is not None and (
            self.config.positions != "none" or any(x is not None for x in (positions, segments, queries, cache))
        ):
            raise ToylabError("tally: works on whole rows of a model with positions='none'; leave it out otherwise")
        if tally is not None and has_hooks(self.embedding, self.embed, *self.blocks[0].before_tally()):
            tally = None
        past = 0 if cache is None else cache.length
        if positions is None:
            positions = torch.arange(past + tokens.shape[1], device=tokens.device)[None]
        dtype = self.embedding.weight.dtype
        last = len(self.blocks) - 1
        # The first layer needs none with a tally: who sees whom is all in the counts.
        geometry = None
        if tally is None or last:
            geometry = Geometry.of(self.positions, positions, segments, past, dtype, self.config.causal)
        if tally is None:
            x = self.embed(self.embedding(tokens))
            placed = self.positions.embed(geometry.query)
            if placed is not None:
                x = x + self.pos_embed(placed)
        else:
            x = self.embedding.weight[None]
        for layer, block in enumerate(self.blocks):
            if layer == 0 and tally is not None:
                x = block(x, None, tally=tally)
            elif layer == last and queries is not None:
                x = block(x, geometry.at(queries), queries, cache, layer)
            else:
                x = block(x, geometry, None, cache, layer)
        return self.unembedding(self.final(self.ln_final(x)))


@dataclass(frozen=True)
class Geometry:
    """Who may see whom, and from how far: worked out once and shared by all layers."""

    encoding: nn.Module
    query: Int[Tensor, "#batch query"]
    key: Int[Tensor, "#batch key"]
    bias: Float[Tensor, "#batch #head query key"]

    @classmethod
    def of(
        cls,
        encoding: nn.Module,
        positions: Int[Tensor, "#batch key"],
        segments: Int[Tensor, "batch key"] | None,
        past: int,
        dtype: torch.dtype,
        causal: bool = True,
    ) -> Geometry:
        """Queries are the positions from `past` on; a query sees the keys of its segment and, in a causal model, only
        those that do not come after it."""
        query = positions[:, past:]
        seen: Bool[Tensor, "#batch query key"] = (query[:, :, None] >= positions[:, None, :]) | (not causal)
        if segments is not None:
            seen = seen & (segments[:, past:, None] == segments[:, None, :])
        bias = torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, -torch.inf)[:, None]
        extra = encoding.bias(query, positions)
        return cls(encoding, query, positions, bias if extra is None else bias + extra.to(dtype))

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        return self.encoding.rotate(x, positions)

    def at(self, queries: Int[Tensor, "batch query"]) -> Geometry:
        """The same for chosen queries alone."""
        batch = len(queries)
        query = self.query.expand(batch, -1).gather(1, queries)
        bias = self.bias.expand(batch, -1, -1, -1)
        index = queries[:, None, :, None].expand(-1, bias.shape[1], -1, bias.shape[3])
        return Geometry(self.encoding, query, self.key, bias.gather(2, index))


class Cache:
    """Keys and values of the tokens already read, a pair a layer: (batch, head, key, feature)."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def length(self) -> int:
        """How many tokens have been read."""
        return self.layers[0][0].shape[2] if self.layers else 0

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append those of new tokens and return all."""
        if layer in self.layers:
            old_keys, old_values = self.layers[layer]
            keys, values = torch.cat([old_keys, keys], dim=2), torch.cat([old_values, values], dim=2)
        self.layers[layer] = keys, values
        return keys, values

    def keep(self, rows: Bool[Tensor, " row"]) -> None:
        """Forget all other rows."""
        self.layers = {layer: tuple(x[rows] for x in held) for layer, held in self.layers.items()}

    def repeat(self, times: int) -> None:
        """Let each row stand for several, one after the other."""
        for layer, held in self.layers.items():
            self.layers[layer] = tuple(x.repeat_interleave(times, dim=0) for x in held)


@torch.no_grad()
def generate(
    model: nn.Module,
    prompt: Int[Tensor, "batch position"],
    steps: int,
    *,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    stop: int | None = None,
    cache: bool = True,
    samples: int = 1,
    drop: bool = False,
) -> Int[Tensor, "row longer"]:
    """Continue prompts token by token, each token drawn from the model's own distribution.

    Args:
        model: a `Transformer`, or with `cache=False` any module from tokens to logits.
        prompt: one row each, all of one length.
        steps: how many tokens to add; 0 gives the prompts back.
        temperature: 0 takes the likeliest token; above it, tokens are drawn from softmax(logits / temperature).
        generator: the source of randomness; needed above temperature 0. Tokens are drawn on its device, so that one
            of the CPU draws the same for a model that is elsewhere.
        stop: once a row has written this token, it is filled up with it; when all have, generation ends.
        cache: whether keys and values are kept. Without it every step reads the whole row again: slower, the same
            logits, and edits that index the whole row apply.
        samples: continuations of each prompt, which stand in consecutive rows; with a cache the prompt is read once.
        drop: whether rows that have ended leave the batch: faster where they end early, and edits see fewer rows.

    Raises:
        ValueError: for prompts that are empty or no whole numbers; for a negative number of steps; for a temperature
            that is negative or nan, or above 0 without a generator; for less than one sample; for a `stop` that is no
            token; where rows are to be dropped that never end, or without a cache; for logits that are nan.
    """
    if prompt.ndim != 2 or not prompt.shape[1]:
        raise ToylabError(
            f"prompt: has the shape {tuple(prompt.shape)}; give (batch, position), at least one token a row"
        )
    if prompt.is_floating_point() or prompt.dtype == torch.bool:
        raise ToylabError(f"prompt: holds {prompt.dtype}, and tokens are whole numbers; convert it with .long()")
    if steps < 0:
        raise ToylabError(f"steps={steps}: must be at least 0")
    if drop and (stop is None or not cache):
        raise ToylabError("drop=True: rows leave once they have written `stop`, and with a cache; give stop= as well")
    if samples < 1:
        raise ToylabError(f"samples={samples}: must be at least 1")
    if not temperature >= 0:
        raise ToylabError(f"temperature={temperature}: must be 0 (greedy) or more")
    if temperature > 0 and generator is None:
        raise ToylabError(f"temperature={temperature}: drawing needs a generator=torch.Generator().manual_seed(...)")
    kept, prompt = Cache() if cache else None, prompt.long()
    tokens, new = prompt.repeat_interleave(samples, dim=0), prompt
    rows = torch.arange(len(tokens), device=prompt.device)  # which the model still reads
    ended = torch.zeros_like(rows, dtype=torch.bool)
    largest = []
    for step in range(steps):
        logits = (model(new, cache=kept) if cache else model(tokens))[:, -1]
        if stop is not None and not 0 <= stop < logits.shape[-1]:
            raise ToylabError(f"stop={stop}: must be a token, from 0 to {logits.shape[-1] - 1}")
        if cache and step == 0 and samples > 1:
            logits = logits.repeat_interleave(samples, dim=0)
            kept.repeat(samples)
        if temperature == 0:
            values, chosen = logits.max(dim=-1)
            largest.append(values)
        else:
            chances = _chances(logits, temperature).to(generator.device)
            chosen = torch.multinomial(chances, 1, generator=generator)[:, 0].to(tokens.device)
        if stop is not None:
            chosen = chosen.masked_fill(ended, stop)
            ended |= chosen == stop
        written = torch.full_like(tokens[:, :1], 0 if stop is None else stop)
        written[rows, 0] = chosen
        tokens = torch.cat([tokens, written], dim=1)
        if stop is not None and bool(ended.all()):
            break
        if drop and ended.float().mean() > 0.25:  # fewer are not worth copying what is kept
            going = ~ended
            rows, chosen, ended = rows[going], chosen[going], ended[going]
            kept.keep(going)
        new = chosen[:, None]
    if largest and bool(torch.cat(largest).isnan().any()):  # once, or every step would wait for the device
        raise ToylabError("logits: are nan, so no token is the likeliest; look for the point where nan begins")
    return tokens


def _chances(logits: Float[Tensor, "row vocab"], temperature: float) -> Float[Tensor, "row vocab"]:
    """softmax(logits / temperature), which for temperatures towards 0 becomes 1 at the largest logit."""
    if logits.dtype.itemsize < 4:
        logits = logits.float()
    if temperature < 1e-3:  # the quotient might overflow; above, it is left as it was, to the last bit
        logits, temperature = logits - logits.amax(dim=-1, keepdim=True), max(temperature, 1e-30)
    return (logits / temperature).softmax(dim=-1)


def _rows(
    x: Float[Tensor, "batch position width"], at: Int[Tensor, "batch query"]
) -> Float[Tensor, "batch query width"]:
    return x.gather(1, at[:, :, None].expand(-1, -1, x.shape[-1]))


def source(seed: int, purpose: str) -> torch.Generator:
    """A generator for one purpose, independent of every other seed and purpose."""
    return torch.Generator().manual_seed(int(stream(seed, purpose).integers(2**32)))


def linear(inputs: int, outputs: int, bias: bool, generator: torch.Generator) -> nn.Linear:
    """A linear map, weights and biases uniform within 1 / sqrt(inputs) (torch's own default, from our generator)."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=bias)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -(inputs**-0.5), inputs**-0.5, generator=generator)
    return layer


def _unembedding(config: ModelConfig, embedding: nn.Embedding, generator: torch.Generator) -> nn.Module:
    if config.unembedding == "none":
        return Nothing()
    vocab = embedding.num_embeddings
    layer = linear(config.width, vocab, False, generator)
    if config.unembedding == "tied":
        layer.weight = embedding.weight
    elif config.unembedding == "orthogonal":
        columns = torch.linalg.qr(torch.randn(config.width, vocab, generator=generator))[0]
        layer.weight.data = columns.T.contiguous()
    if config.unembedding in ("frozen", "orthogonal"):
        layer.weight.requires_grad_(False)
    return layer
