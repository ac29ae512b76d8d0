"""An edit acts or raises: every submodule of a model, on every route that computes its logits."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from tests.routes import (
    CONTEXT,
    LATER,
    ROWS,
    TOKENS,
    VOCAB,
    counted,
    everything,
    missed,
    models,
    modules,
    silent,
    whole,
)
from toylab.console import ToylabError
from toylab.model.checkpoint import frozen_copy
from toylab.model.config import ModelConfig
from toylab.model.generate import generate
from toylab.model.interop import adopt
from toylab.model.transformer import Transformer
from toylab.probes import edit, points, watch
from toylab.training.losses import PreferencePairs, pair_log_probs


def test_on_every_route_edits_act_or_raise_and_every_point_is_visited_and_shows_the_same_with_a_tally():
    obey(everything([name for name in models() if name not in LATER]), 130)


@pytest.mark.slow
def test_on_every_route_of_the_other_encodings_edits_act_or_raise_and_every_point_is_visited():
    obey(everything(LATER), 60)


def obey(found: dict[str, list[str]], least: int) -> None:
    assert len(found) > least, "models or routes are lacking"
    assert {which: names for which, names in found.items() if names} == {}


@torch.no_grad()
def test_every_route_of_every_model_keeps_the_types_that_it_states():
    for model, routes in models().values():
        for route in routes:
            assert route(model).isfinite().all()


class Deaf(nn.Module):
    """One point is visited without effect, and one is never visited."""

    def __init__(self) -> None:
        super().__init__()
        self.heard, self.unheard, self.unvisited = nn.Identity(), nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        self.unheard(x)
        return self.heard(x)


@torch.no_grad()
def test_a_point_without_effect_and_one_that_is_not_visited_are_found():
    def run(model: nn.Module) -> Tensor:
        return model(torch.ones(2))

    assert silent(Deaf(), run, ["heard", "unheard", "unvisited"]) == ["unheard"]
    assert missed(Deaf(), run) == ["unvisited"]


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
        copies = [copy.deepcopy(model), frozen_copy(model), pickle.loads(pickle.dumps(model))]
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
    pairs = PreferencePairs(TOKENS, TOKENS[:, :3], TOKENS[:, 3:6], torch.zeros(ROWS, dtype=torch.bool))
    assert not silent(model, lambda it: torch.cat(pair_log_probs(it, pairs)), modules(model))


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
    with pytest.raises(ToylabError, match=r"no .*point is named"), watch(model, "upp"):
        pass
