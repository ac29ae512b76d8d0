"""Models of every kind with the routes that compute their logits, and what edits of their points do."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor, nn

from toylab.console import ToylabError
from toylab.model.config import ModelConfig
from toylab.model.encoder_decoder import ENCODER, EncoderDecoder, EncoderDecoderConfig
from toylab.model.layers import KVCache
from toylab.model.token_counts import count_tokens
from toylab.model.transformer import Transformer
from toylab.planted.handwritten import contextual_counter
from toylab.probes import edit, points, watch

VOCAB, CONTEXT, ROWS, WIDTH = 7, 24, 3, 10
TOKENS = torch.randint(VOCAB, (ROWS, WIDTH), generator=torch.Generator().manual_seed(4))
Route = Callable[[nn.Module], Tensor]


def packed(model: nn.Module) -> Tensor:
    """Two sequences per row."""
    places = torch.cat([torch.arange(6), torch.arange(WIDTH - 6)])
    return model(TOKENS, positions=places[None], segments=(torch.arange(WIDTH) < 6).long().expand(ROWS, -1))


def queries(model: nn.Module) -> Tensor:
    return model(TOKENS, queries=torch.tensor([[2, 9], [0, 4], [9, 9]]))


def cached(model: nn.Module) -> Tensor:
    """A prompt, some more tokens at once, then one token alone."""
    kept = KVCache()
    parts = TOKENS.split([5, WIDTH - 6, 1], dim=1)
    return torch.cat([model(part, cache=kept) for part in parts], dim=1)


def counted(model: nn.Module) -> Tensor:
    dtype = next(model.parameters()).dtype
    config = model.config if isinstance(model, Transformer) else model.config.encoder
    return model(TOKENS, token_counts=count_tokens(TOKENS, VOCAB, config.causal, dtype))


def padded(model: nn.Module) -> Tensor:
    return model(TOKENS, seen=torch.arange(WIDTH).expand(ROWS, -1) < torch.tensor([[WIDTH], [6], [2]]))


def whole(model: nn.Module) -> Tensor:
    return model(TOKENS)


@cache
def models() -> Mapping[str, tuple[nn.Module, list[Route]]]:
    """Models of every kind with the routes that each knows, by name."""
    found: dict[str, tuple[nn.Module, list[Route]]] = {}
    for positions in ("none", "learned", "sinusoidal", "rotary", "alibi"):
        for norm in ("pre", "post", "entry", "none"):
            config = ModelConfig(width=8, positions=positions, norm=norm, hidden=12 if norm != "none" else 0)
            model = Transformer(config, VOCAB, CONTEXT, seed=1).double()
            found[f"{positions}, {norm}"] = model, [whole, packed, queries, cached]
            if positions == "none":
                found[f"{positions}, {norm}"][1].append(counted)
    bidirectional = ModelConfig(width=8, layers=1, positions="none", causal=False, unembedding="tied")
    found["bidirectional"] = Transformer(bidirectional, VOCAB, CONTEXT).double(), [whole, packed, queries, counted]
    small, large = (
        EncoderDecoderConfig(),
        EncoderDecoderConfig(
            encoder=replace(ENCODER, heads=2, hidden=12, biases=True), self_attention=True, residual=True, hidden=12
        ),
    )
    for name, config in (("decoder", small), ("decoder with all parts", large)):
        model = EncoderDecoder(config, VOCAB, 3, 9, CONTEXT, seed=1).double()
        found[name] = model, [whole, counted, padded]
    placed = replace(small, encoder=replace(ENCODER, positions="rotary", width=8, causal=False))
    found["decoder with positions"] = EncoderDecoder(placed, VOCAB, 3, 9, CONTEXT, seed=1).double(), [whole, padded]
    found["hand-written counter"] = contextual_counter(3, CONTEXT).double(), [_short(counted), _short(whole)]
    return found


def _short(route: Route) -> Route:
    """The hand-written counter knows five symbols and begins with the last of them."""

    def run(model: nn.Module) -> Tensor:
        tokens = torch.tensor([[4, 1, 2, 1, 0, 3, 1, 2, 1, 3], [4, 2, 3, 2, 1, 3, 0, 2, 1, 3]])
        if route is whole:
            return model(tokens)
        return model(tokens, token_counts=count_tokens(tokens, model.symbols, True, torch.float64))

    run.__name__ = route.__name__
    return run


def silent(model: nn.Module, route: Route, names: list[str]) -> list[str]:
    """The modules whose zeroing neither changed the logits nor raised."""
    plain, found = route(model), []
    for name in names:
        try:
            with edit(model, {name: torch.zeros_like}):
                changed = route(model)
        except (ToylabError, TypeError):  # not visited; or it gives no single tensor
            continue
        if torch.equal(changed, plain):
            found.append(name)
    assert torch.equal(route(model), plain), "an edit stayed"
    return found


def modules(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_modules() if name]


def missed(model: nn.Module, route: Route) -> list[str]:
    """The points that a route does not visit, but those of parts that are left out."""
    with watch(model, "*") as seen:
        route(model)
    assert set(seen) == set(points(model)) - set(seen.unvisited)
    parts, found = dict(model.named_modules()), []
    for point in seen.unvisited:
        owner, _, last = point.rpartition(".")
        part = {"mlp_out": "mlp", "attn_out": "attn"}.get(last)
        if last != "pos_embed" and not (part and getattr(parts[owner], part) is None):
            found.append(point)
    return found


def moved_by_a_tally(name: str) -> list[str]:
    """The points at which something else passes with a tally than without."""
    model, _ = models()[name]
    found = []
    for point in points(model):
        with watch(model, point) as usual:
            whole(model)
        with watch(model, point) as seen:
            counted(model)
        if set(seen) != set(usual) or not all(near(seen[one], usual[one]) for one in seen):
            found.append(point)
    return found


def near(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=1e-9)


TALLIED = ("none, pre", "none, post", "none, entry", "none, none", "bidirectional", "decoder with all parts")


LATER = ("learned, post", "learned, none", "sinusoidal, pre", "sinusoidal, entry", "rotary, post", "rotary, none",
         "alibi, pre", "alibi, entry")  # fmt: skip
"""For slow tests: each encoding and each place of the norms is also in others."""


@torch.no_grad()
def everything(names: Collection[str]) -> dict[str, list[str]]:
    """All that is found of these models.

    By model and route, the modules whose zeroing changed nothing and did not raise, and the points that no route
    visits though they should; and the points that token counts change.
    """
    found = {}
    for name in names:
        model, routes = models()[name]
        for route in routes:
            found[f"silent: {name}, {route.__name__}"] = silent(model, route, modules(model))
            found[f"missed: {name}, {route.__name__}"] = missed(model, route)
    return found | {f"moved: {name}": moved_by_a_tally(name) for name in TALLIED if name in names}
