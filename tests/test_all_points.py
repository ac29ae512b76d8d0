"""An edit acts or raises: every submodule of a model, on every route that computes its logits."""

import copy
import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from toylab.console import ToylabError
from toylab.model.checkpoint import frozen
from toylab.model.config import ModelConfig
from toylab.model.encoder_decoder import ENCODER, EncoderDecoder, EncoderDecoderConfig
from toylab.model.generate import generate
from toylab.model.interop import adopt
from toylab.model.layers import Cache
from toylab.model.token_counts import tally
from toylab.model.transformer import Transformer
from toylab.planted.handwritten import contextual_counter
from toylab.probes import edit, points, watch
from toylab.training.losses import Pairs, both_log_probs

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
    kept = Cache()
    parts = TOKENS.split([5, WIDTH - 6, 1], dim=1)
    return torch.cat([model(part, cache=kept) for part in parts], dim=1)


def counted(model: nn.Module) -> Tensor:
    dtype = next(model.parameters()).dtype
    config = model.config if isinstance(model, Transformer) else model.config.encoder
    return model(TOKENS, tally=tally(TOKENS, VOCAB, config.causal, dtype))


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
        return model(tokens, tally=tally(tokens, model.symbols, True, torch.float64))

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


NORMS = ("pre", "post", "entry", "none")
ROUTES = {f"none, {norm}": 5 for norm in NORMS}
ROUTES |= {f"{positions}, {norm}": 4 for positions in ("learned", "sinusoidal", "rotary", "alibi") for norm in NORMS}
ROUTES |= {"bidirectional": 4, "decoder": 3, "decoder with all parts": 3, "decoder with positions": 2}
ROUTES |= {"hand-written counter": 2}
CASES = [(name, number) for name, count in ROUTES.items() for number in range(count)]
"""Models and numbers of their routes, written down so that collecting the tests builds no model."""


def test_the_cases_are_all_routes_of_all_models():
    assert {name: len(routes) for name, (_, routes) in models().items()} == ROUTES


@torch.no_grad()
@pytest.mark.parametrize(("name", "number"), CASES)
def test_zeroing_any_module_on_any_route_changes_the_logits_or_raises(name, number):
    model, routes = models()[name]
    assert not silent(model, routes[number], modules(model))


@torch.no_grad()
@pytest.mark.parametrize(("name", "number"), CASES)
def test_every_route_visits_every_point_but_those_of_parts_that_are_left_out(name, number):
    model, routes = models()[name]
    with watch(model, "*") as seen:
        routes[number](model)
    parts = dict(model.named_modules())
    for point in seen.unvisited:
        owner, _, last = point.rpartition(".")
        part = {"mlp_out": "mlp", "attn_out": "attn"}.get(last)
        assert last == "pos_embed" or (part and getattr(parts[owner], part) is None), point
    assert set(seen) == set(points(model)) - set(seen.unvisited)


@torch.no_grad()
def test_with_a_tally_every_point_shows_what_it_shows_without():
    for name in ("none, pre", "none, post", "none, entry", "none, none", "bidirectional", "decoder with all parts"):
        model, _ = models()[name]
        for point in points(model):
            with watch(model, point) as usual:
                whole(model)
            with watch(model, point) as seen:
                counted(model)
            assert set(seen) == set(usual)
            for one in seen:
                torch.testing.assert_close(seen[one], usual[one], rtol=0, atol=1e-9)


@torch.no_grad()
def test_listening_behind_the_first_attention_leaves_the_linear_time_route_and_its_bits():
    model, _ = models()["none, pre"]
    plain = counted(model)
    for point in ("blocks.0.attn_out", "blocks.0.resid_post", "blocks.1.attn.pattern", "final"):
        with watch(model, point):
            assert torch.equal(counted(model), plain)
    assert not torch.equal(whole(model), plain), "rounding tells the two routes apart, or the law above says nothing"


# Models of other libraries -------------------------------------------------------------------------------------------


def encoder(norm_first: bool) -> nn.TransformerEncoder:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, norm_first=norm_first)
    return nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(16), enable_nested_tensor=False).eval()


@torch.no_grad()
@pytest.mark.parametrize("patterns", [False, True])
@pytest.mark.parametrize("norm_first", [False, True])
def test_zeroing_any_point_of_a_plain_encoder_changes_its_output_or_raises(norm_first, patterns):
    model = adopt(encoder(norm_first), patterns=patterns)
    x = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(0))
    assert not silent(model, lambda it: it(x), list(points(model)))
    plain = encoder(norm_first)
    assert not silent(plain, lambda it: it(x), modules(plain))


@torch.no_grad()
@pytest.mark.parametrize("patterns", [False, True])
def test_zeroing_any_point_of_gpt2_changes_its_logits_or_raises(patterns):
    hugging = pytest.importorskip("transformers", reason="needs the extra [interop]")
    torch.manual_seed(0)
    config = hugging.GPT2Config(n_layer=2, n_head=2, n_embd=16, vocab_size=VOCAB, n_positions=CONTEXT)
    model = adopt(hugging.GPT2LMHeadModel(config).eval(), patterns=patterns)
    assert not silent(model, whole, list(points(model)))


@torch.no_grad()
@pytest.mark.parametrize("positions", ["standard", "rotary"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_zeroing_any_point_of_a_hooked_transformer_changes_its_logits_or_raises(positions):
    lens = pytest.importorskip("transformer_lens", reason="needs the extra [interop]")
    config = lens.HookedTransformerConfig(
        n_layers=2, n_heads=2, d_model=16, d_head=8, d_mlp=24, n_ctx=CONTEXT, d_vocab=VOCAB, act_fn="gelu",
        normalization_type="LN", positional_embedding_type=positions, rotary_dim=8, seed=0, device="cpu",
    )  # fmt: skip
    hooked = lens.HookedTransformer(config).eval()
    assert not silent(adopt(hooked), whole, list(points(adopt(hooked))))
    assert not silent(hooked, whole, list(points(hooked)))


# Where an edit cannot act --------------------------------------------------------------------------------------------


def _fail_after(model: nn.Module) -> None:
    model(TOKENS)
    raise ZeroDivisionError


def test_a_point_that_the_model_does_not_visit_is_an_error_at_the_end_of_the_block():
    model, _ = models()["rotary, pre"]
    with pytest.raises(ToylabError, match="pos_embed"), edit(model, {"pos_embed": torch.zeros_like}):
        model(TOKENS)
    with edit(model, {"pos_embed": torch.zeros_like}):
        pass  # the model did not run
    with pytest.raises(ZeroDivisionError), edit(model, {"pos_embed": torch.zeros_like}):  # it is not replaced
        _fail_after(model)
    with (
        pytest.raises(ToylabError, match="pos_embed"),
        edit(model, {"pos_embed": torch.zeros_like, "embed": lambda x: x}),
    ):
        generate(model, TOKENS, 2)


def test_a_part_of_a_model_that_runs_alone_is_no_run_of_the_model():
    model, _ = models()["decoder"]
    stream = torch.zeros(1, 4, model.config.encoder.width, dtype=torch.float64)
    with edit(model, {"encoder.embed": torch.zeros_like}):
        model.decoder(stream)


def test_a_name_that_was_not_recorded_says_why():
    model, _ = models()["rotary, pre"]
    with watch(model, "*") as seen:
        model(TOKENS)
    assert seen.unvisited == ("pos_embed",)
    with pytest.raises(ToylabError, match="not visited"):
        seen["pos_embed"]
    with pytest.raises(ToylabError, match="was not watched"):
        seen["blocks.0"]


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_compiled_model_is_refused(wrapped):
    model = Transformer(ModelConfig(width=8), VOCAB, CONTEXT)
    if wrapped:
        model = torch.compile(model, backend="eager")
        names = ["_orig_mod.embed"]
    else:
        model.compile(backend="eager")
        names = ["embed"]
    for context in (edit(model, dict.fromkeys(names, torch.zeros_like)), watch(model, *names)):
        with pytest.raises(ToylabError, match="compiled"), context:
            pytest.fail("the block was entered")


@torch.no_grad()
def test_copies_made_inside_a_block_keep_no_hook():
    model, _ = models()["none, pre"]
    plain, kept = whole(model), counted(model)
    with edit(model, {"blocks.0.attn.z": torch.zeros_like}), watch(model, "*", every_call=True) as seen:
        copies = [copy.deepcopy(model), frozen(model), pickle.loads(pickle.dumps(model))]
        calls = len(seen.get("embed", []))
        for one in copies:
            assert torch.equal(whole(one), plain)
            assert torch.equal(counted(one), kept), "the copy takes the long way"
        assert len(seen.get("embed", [])) == calls
        assert not torch.equal(whole(model), plain)


@torch.no_grad()
def test_an_edit_in_place_leaves_what_was_recorded_before_it():
    def into(x: Tensor) -> Tensor:
        x[:, 0] = 0
        return x

    model, _ = models()["none, none"]
    with watch(model, "blocks.0.resid_post") as seen:
        whole(model)
    before = seen["blocks.0.resid_post"].clone()
    with watch(model, "blocks.0.resid_post") as seen, edit(model, {"blocks.1.resid_pre": into}):
        whole(model)
    assert torch.equal(seen["blocks.0.resid_post"], before)
    with watch(model, "blocks.0.resid_post") as outer, edit(model, {"blocks.0.resid_post": into}):
        whole(model)
    assert torch.equal(outer["blocks.0.resid_post"], before)


@torch.no_grad()
def test_an_edit_acts_on_both_log_probabilities_of_pairs():
    model, _ = models()["learned, pre"]
    pairs = Pairs(TOKENS, TOKENS[:, :3], TOKENS[:, 3:6], torch.zeros(ROWS, dtype=torch.bool))
    assert not silent(model, lambda it: torch.cat(both_log_probs(it, pairs)), modules(model))


def test_attributes_called_hidden_and_taps_are_a_models_own_affair():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.taps = 16, nn.ModuleList([nn.Linear(4, 4)])
            self.act = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.taps[0](x))

    model = Own()
    assert points(model) == ("act",)
    with watch(model, "act") as seen:
        model(torch.zeros(1, 4))
    assert list(seen) == ["act"]
    with pytest.raises(ToylabError, match="no point is named"), watch(model, "upp"):
        pass
