"""Laws of foreign models: the same probes see the same things, and weights that travel give the same logits."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from toylab.model.checkpoint import load_model, save_model
from toylab.model.config import ModelConfig
from toylab.model.generate import generate
from toylab.model.interop import adopt
from toylab.model.transformer import Transformer
from toylab.model.transformer_lens import from_hooked, to_hooked
from toylab.planted.handwritten import iteration_head
from toylab.probes import (
    Paths,
    edit,
    explained_variance,
    fit_autoencoder,
    leading,
    link_mass,
    null_share,
    points,
    put_back,
    token_cosines,
    uniform_heads,
    watch,
    zero_heads,
)
from toylab.survey import survey
from toylab.tasks import AssociativeRecall, Parity
from toylab.training import evaluate

POSITIONS = ("none", "learned", "sinusoidal", "rotary", "alibi")
SETTINGS = (
    {},
    {"biases": False},
    {"hidden": 0},
    {"activation": "relu", "hidden": 20},
    {"activation": "silu", "heads": 4},
    {"activation": "gelu-tanh", "unembedding": "tied"},
)


@pytest.fixture(scope="module")
def lens():
    """TransformerLens, whose import warns of this and that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("transformer_lens", reason="needs the extra [interop]")


@pytest.fixture(scope="module")
def hugging():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("transformers", reason="needs the extra [interop]")


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield


def gpt2(hugging, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    config = hugging.GPT2Config(n_layer=2, n_head=4, n_embd=32, vocab_size=33, n_positions=24, initializer_range=0.3)
    return hugging.GPT2LMHeadModel(config).eval()


def encoder(norm_first: bool, seed: int = 0) -> nn.TransformerEncoder:
    torch.manual_seed(seed)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=norm_first)
    norm = nn.LayerNorm(32) if norm_first else None
    return nn.TransformerEncoder(layer, 2, norm=norm, enable_nested_tensor=False).eval()


TOKENS = torch.randint(33, (6, 12), generator=torch.Generator().manual_seed(0))
STREAM = torch.randn(6, 12, 32, generator=torch.Generator().manual_seed(0))


# Weights that travel -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("positions", "norm"), [*itertools.product(POSITIONS, ("pre", "none"))])
def test_our_weights_give_the_same_logits_there_and_back(lens, positions, norm):
    for dtype, most in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        for setting in SETTINGS:
            model = Transformer(ModelConfig(positions=positions, norm=norm, **setting), 9, 11, seed=3).to(dtype)
            x = torch.randint(9, (4, 11), generator=torch.Generator().manual_seed(1))
            hooked = to_hooked(model)
            back = from_hooked(hooked)
            with torch.no_grad():
                assert (hooked(x) - model(x)).abs().max() < most, setting
                assert (back(x) - model(x)).abs().max() < most, setting


def test_a_bidirectional_model_travels_too(lens):
    model = Transformer(ModelConfig(causal=False, positions="learned"), 9, 11, seed=3).double()
    x = torch.arange(9)[None]
    with torch.no_grad():
        assert (to_hooked(model)(x) - model(x)).abs().max() < 1e-10
        assert (from_hooked(to_hooked(model))(x) - model(x)).abs().max() < 1e-10


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ({"norm": "post"}, "norm=post"),
        ({"norm": "entry"}, "norm=entry"),
        ({"unembedding": "none"}, "unembedding=none"),
        ({"positions": "rotary", "position_frequency": 0.5}, "position_frequency=0.5"),
        ({"positions": "alibi", "alibi_slope": 0.1}, "alibi_slope=0.1"),
        ({"positions": "alibi", "causal": False}, "causal=False"),
    ],
)
def test_what_they_do_not_know_is_refused_by_name(lens, setting, name):
    with pytest.raises(ValueError, match=name):
        to_hooked(Transformer(ModelConfig(**setting), 9, 11))


def test_learned_positions_end_where_they_end(lens):
    with pytest.raises(ValueError, match="context=12: learned positions end at 11"):
        to_hooked(Transformer(ModelConfig(positions="learned"), 9, 11), context=12)
    longer = to_hooked(Transformer(ModelConfig(positions="sinusoidal"), 9, 11), context=30)
    assert longer(torch.zeros(1, 30, dtype=torch.long)).shape == (1, 30, 9)


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"normalization_type": "RMS"}, "normalization_type=RMS"),
        ({"act_fn": "solu_ln"}, "act_fn=solu_ln"),
        ({"gated_mlp": True}, "gated_mlp=True"),
        ({"eps": 1e-3}, "eps=0.001"),
        ({"n_key_value_heads": 1}, "n_key_value_heads=1"),
        ({"parallel_attn_mlp": True}, "parallel_attn_mlp=True"),
        ({"positional_embedding_type": "shortformer"}, "positional_embedding_type=shortformer"),
        ({"d_head": 4}, "d_head=4"),
        ({"attn_scale": 1.0}, "attn_scale=1.0"),
    ],
)
def test_what_we_do_not_know_is_refused_by_name(lens, changed, name):
    sizes = {"n_layers": 1, "n_heads": 2, "d_model": 16, "d_head": 8, "d_mlp": 8, "n_ctx": 9, "d_vocab": 7}
    cfg = lens.HookedTransformerConfig(**({"act_fn": "gelu"} | sizes | changed))
    with pytest.raises(ValueError, match=name):
        from_hooked(lens.HookedTransformer(cfg))


def test_a_bias_of_the_unembedding_is_refused(lens):
    hooked = to_hooked(Transformer(ModelConfig(), 9, 11))
    hooked.unembed.b_U.data[0] = 1
    with pytest.raises(ValueError, match="b_U"):
        from_hooked(hooked)


def test_a_circuit_that_travelled_is_still_found(lens):
    task = Parity(lengths=(2, 6))
    hooked = adopt(to_hooked(iteration_head(task)))
    batches = {n: task.batch(np.random.default_rng(0).choice(task.inputs, (8, n)), np.full(8, n)) for n in (4, 5, 6)}
    found = evaluate.search_iteration_head(hooked, batches)
    assert found.found
    assert (found.layer, found.head) == (1, 0)
    assert evaluate.accuracy(hooked, batches).sequence == 1


# Probes on foreign models --------------------------------------------------------------------------------------------


def test_both_libraries_show_the_same_at_every_point_they_share(lens):
    for positions in POSITIONS:
        model = Transformer(ModelConfig(positions=positions), 9, 11, seed=2).double()
        hooked = adopt(to_hooked(model))
        x = torch.arange(9)[None]
        shared = [name for name in points(hooked) if name in points(model)]
        assert {"blocks.1.attn.pattern", "blocks.0.attn.q", "blocks.1.mlp.post", "blocks.1.resid_post"} <= set(shared)
        assert set(points(model)) - set(shared) <= {"pos_embed"}
        with watch(model, *shared) as ours, watch(hooked, *shared) as theirs:
            model(x), hooked(x)
        for name in ours:
            a, b = ours[name], theirs[name]
            if name.endswith("scores"):  # theirs may differ by a number a query, of which the pattern knows nothing
                a, b = (x - x.max(dim=-1, keepdim=True).values for x in (a, b))
            assert torch.allclose(a, b, atol=1e-9), name
        with edit(model, {"blocks.0.attn.z": zero_heads(1)}), edit(hooked, {"blocks.0.attn.z": zero_heads(1)}):
            assert torch.allclose(model(x), hooked(x), atol=1e-9)


def test_a_hooked_transformer_has_points_without_being_adopted(lens):
    hooked = to_hooked(Transformer(ModelConfig(), 9, 11))
    assert "blocks.0.attn.hook_pattern" in points(hooked)
    with watch(hooked, "blocks.*.attn.hook_pattern") as seen:
        hooked(torch.arange(9)[None])
    assert len(seen) == 2


def test_gpt2_shows_its_parts_and_they_add_up(hugging):
    theirs = gpt2(hugging)
    model = adopt(theirs, patterns=True)
    assert "blocks.1.attn.z" in points(model)
    with watch(model, "*") as seen, torch.no_grad():
        logits = model(TOKENS)
    assert set(seen) == set(points(model))
    with torch.no_grad():
        assert torch.equal(logits, theirs(TOKENS).logits)
    stream = seen["embed"] + seen["pos_embed"]
    for i in range(2):
        assert torch.allclose(seen[f"blocks.{i}.resid_pre"], stream, atol=1e-5)
        stream = stream + seen[f"blocks.{i}.attn_out"]
        assert torch.allclose(seen[f"blocks.{i}.resid_mid"], stream, atol=1e-5)
        stream = stream + seen[f"blocks.{i}.mlp_out"]
        assert torch.allclose(seen[f"blocks.{i}.resid_post"], stream, atol=1e-5)
        q, k, v = (seen[f"blocks.{i}.attn.{one}"].transpose(1, 2) for one in "qkv")
        hidden = torch.ones(12, 12).triu(1).bool()
        pattern = (q @ k.mT / 8**0.5).masked_fill(hidden, -torch.inf).softmax(dim=-1)
        assert torch.allclose(seen[f"blocks.{i}.attn.pattern"], pattern, atol=1e-5)
        assert torch.allclose(seen[f"blocks.{i}.attn.z"], (pattern @ v).transpose(1, 2), atol=1e-5)
    assert torch.allclose(logits, seen["final"] @ theirs.lm_head.weight.T, atol=1e-5)


def test_a_head_of_gpt2_is_switched_off_by_name_and_by_weights_alike(hugging):
    theirs = gpt2(hugging)
    model = adopt(theirs)
    with torch.no_grad():
        with edit(model, {"blocks.1.attn.z": zero_heads(2)}):
            cut = model(TOKENS)
        assert not torch.allclose(cut, model(TOKENS))
        theirs.transformer.h[1].attn.c_proj.weight[16:24] = 0  # what head 2 of width 8 writes
        assert torch.allclose(cut, model(TOKENS), atol=1e-6)


def test_queries_of_gpt2_are_edited_without_touching_keys_and_values(hugging):
    model = adopt(gpt2(hugging), patterns=True)
    with watch(model, "blocks.0.attn.*") as plain, torch.no_grad():
        model(TOKENS)
    with edit(model, {"blocks.0.attn.q": torch.zeros_like}), watch(model, "blocks.0.attn.*") as seen, torch.no_grad():
        model(TOKENS)
    even = torch.ones(12, 12).tril() / torch.arange(1, 13)[:, None]
    assert torch.allclose(seen["blocks.0.attn.pattern"], even.expand(6, 4, 12, 12), atol=1e-6)
    for name in ("blocks.0.attn.k", "blocks.0.attn.v"):
        assert torch.equal(seen[name], plain[name])


def test_patching_paths_lens_null_space_and_autoencoder_work_on_gpt2(hugging):
    theirs = gpt2(hugging)
    model = adopt(theirs)
    other = TOKENS.flip(0)
    with torch.no_grad():
        clean = model(TOKENS)
        with watch(model, "blocks.*.resid_post", "final") as seen:
            model(TOKENS)
        last = "blocks.1.resid_post"
        with edit(model, {last: put_back(seen[last])}):
            assert torch.allclose(model(other), clean, atol=1e-5)
        blind = Paths(model, lambda x: x + 1.0, "blocks.0.mlp_out", blind=["blocks.1.ln1", "blocks.1.ln2", "ln_final"])
        assert torch.allclose(blind(TOKENS), clean, atol=1e-4)
        partly = Paths(model, lambda x: x * 2.0, "blocks.0.mlp_out", blind=["blocks.1.ln1"])
        assert not torch.allclose(partly(TOKENS), clean, atol=1e-2)
        cosines = token_cosines(seen["final"], theirs.lm_head.weight)
        assert cosines.shape == (6, 12, 33)
        best = (cosines * theirs.lm_head.weight.norm(dim=1)).argmax(dim=-1)
        assert torch.equal(best, clean.argmax(dim=-1))  # the lens at the last layer is the model itself
    up = theirs.transformer.h[0].mlp.c_fc.weight.detach().T  # Conv1D holds its weights the other way round
    away = torch.randn(up.shape, generator=torch.Generator().manual_seed(0)).double()
    directions = leading(up)
    assert null_share((away - directions @ (directions.T @ away)).float(), up).lift == pytest.approx(4 / 3, rel=1e-3)
    activations = seen[last].flatten(0, 1)
    assert explained_variance(fit_autoencoder(activations, features=64, k=8, steps=100), activations) > 0.3


def test_a_survey_of_gpt2_finds_which_head_reads_each_link(hugging):
    task = AssociativeRecall(pairs=3, keys=8, values=8)
    found = survey(adopt(gpt2(hugging), patterns=True), task.sample(np.random.default_rng(0), 16))
    assert [one.link for one in found.readings] == ["previous token", "induction"]
    assert found.accuracy < 0.5


def test_a_fused_kernel_hides_the_pattern_and_one_sentence_says_so(hugging):
    model = adopt(gpt2(hugging))
    with watch(model, "blocks.0.attn.pattern"), pytest.raises(ValueError, match="fused attention kernel keeps no"):
        model(TOKENS)
    with pytest.raises(ValueError, match=r"'blocks\.0\.attn\.scores' cannot be seen here: GPT-2"):
        resolve_one(model, "blocks.0.attn.scores")
    with pytest.raises(ValueError, match=r"pattern' can be watched here and not edited: it is reported after"):
        with_edit(model, "blocks.0.attn.pattern")
    with pytest.raises(ValueError, match=r"resid_mid' can be watched here and not edited: the block also adds"):
        with_edit(model, "blocks.1.resid_mid")
    with pytest.raises(ValueError, match=r"no point is named 'blocks\.0.attn\.patern'; the nearest are"):
        resolve_one(model, "blocks.0.attn.patern")


def resolve_one(model: nn.Module, name: str) -> None:
    with watch(model, name):
        pass


def with_edit(model: nn.Module, name: str) -> None:
    with edit(model, {name: uniform_heads(0)}):
        pass


# A plain encoder of torch, which is always there ---------------------------------------------------------------------


@pytest.mark.parametrize("norm_first", [True, False])
def test_a_plain_encoder_shows_its_parts_and_they_add_up(norm_first):
    theirs = encoder(norm_first)
    before = theirs(STREAM)
    model = adopt(theirs, patterns=True)
    with watch(model, "*") as seen:
        after = model(STREAM)
    assert torch.allclose(before, after, atol=1e-5)
    assert set(seen) == set(points(model))
    for i, layer in enumerate(theirs.layers):
        name = f"blocks.{i}"
        added = seen[f"{name}.resid_pre"] + seen[f"{name}.attn_out"]
        mid = added if norm_first else layer.norm1(added)
        assert torch.allclose(seen[f"{name}.resid_mid"], mid, atol=1e-5)
        added = mid + seen[f"{name}.mlp_out"]
        assert torch.allclose(seen[f"{name}.resid_post"], added if norm_first else layer.norm2(added), atol=1e-5)
        assert torch.allclose(seen[f"{name}.attn.pattern"].sum(dim=-1), torch.ones(6, 4, 12), atol=1e-5)


@pytest.mark.parametrize("norm_first", [True, False])
def test_link_mass_and_edits_work_on_a_plain_encoder(norm_first):
    model = adopt(encoder(norm_first), patterns=True)
    with watch(model, "blocks.*.attn.pattern") as seen:
        plain = model(STREAM)
    links = np.array([[row, 5, 3] for row in range(6)])
    mass = link_mass(seen["blocks.1.attn.pattern"], links)
    assert torch.allclose(mass, seen["blocks.1.attn.pattern"][:, :, 5, 3].mean(dim=0))
    with edit(model, {"blocks.0.attn_out": torch.zeros_like}):
        cut = model(STREAM)
    assert not torch.allclose(plain, cut, atol=1e-3)
    with watch(model, "blocks.0.resid_post") as there:
        model(STREAM)
    with edit(model, {"blocks.0.resid_post": put_back(there["blocks.0.resid_post"])}):
        assert torch.allclose(model(torch.zeros_like(STREAM)), plain, atol=1e-5)


def test_what_a_plain_encoder_hides_is_said_in_one_sentence():
    model = adopt(encoder(True))
    with watch(model, "blocks.0.attn.pattern"), pytest.raises(ValueError, match="fused attention kernel keeps no"):
        model(STREAM)
    with pytest.raises(ValueError, match=r"attn\.z' cannot be seen here: nn\.MultiheadAttention is one function"):
        resolve_one(model, "blocks.0.attn.z")


def test_a_model_of_nobody_is_refused_with_a_way_out():
    with pytest.raises(ValueError, match=r"model=Linear: known are .*`taps`"):
        adopt(nn.Linear(2, 2))
    own = nn.Sequential(nn.Identity())
    with pytest.raises(ValueError, match=r"model=Sequential: known are .*probes\.points"):
        adopt(own)
    theirs = encoder(True)
    with watch(theirs, "layers.0.self_attn"), pytest.raises(TypeError, match=r"got tuple; .*adopt"):
        theirs(STREAM)


def test_a_bridge_of_transformer_lens_is_refused_by_name_and_watched_under_its_own_names(lens):
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    config = TransformerBridgeConfig(d_model=16, d_head=8, n_layers=1, n_ctx=12, n_heads=2, d_vocab=33, act_fn="gelu")
    bridge = TransformerBridge.boot_native(config, device="cpu")
    with pytest.raises(ValueError, match=r"model=TransformerBridge: known are"):
        adopt(bridge)


def test_an_adopted_model_refuses_what_toylabs_own_models_take(hugging):
    model = adopt(gpt2(hugging))
    with pytest.raises(ValueError, match=r"cache: .*cache=False"):
        generate(model, TOKENS, 2)
    assert generate(model, TOKENS, 2, cache=False).shape == (6, 14)
    with pytest.raises(ValueError, match="segments"):
        model(TOKENS, segments=torch.zeros_like(TOKENS))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rotary_models_that_travelled_survive_saving_or_are_refused(lens, tmp_path, dtype):
    def hooked(**more) -> nn.Module:
        config = lens.HookedTransformerConfig(
            n_layers=1, n_heads=2, d_model=32, d_head=16, d_mlp=64, n_ctx=48, d_vocab=33, act_fn="gelu",
            normalization_type="LN", positional_embedding_type="rotary", rotary_dim=16, dtype=dtype, device="cpu",
            seed=0, **more,
        )  # fmt: skip
        return lens.HookedTransformer(config).eval()

    tokens = torch.arange(40)[None] % 33
    for base in (10_000, 500):
        theirs = hooked(rotary_base=base)
        save_model(tmp_path / "model.safetensors", from_hooked(theirs))
        back = load_model(tmp_path / "model.safetensors")
        torch.testing.assert_close(back(tokens), theirs(tokens), rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-10)
    with pytest.raises(ValueError, match="scaled"):
        from_hooked(hooked(use_NTK_by_parts_rope=True, NTK_by_parts_factor=8.0, NTK_original_ctx_len=16))
