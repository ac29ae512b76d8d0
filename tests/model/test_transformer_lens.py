"""Laws of TransformerLens: weights that travel give the same logits, and what does not travel is refused by name."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from toylab.model.checkpoint import load_model, save_model
from toylab.model.config import ModelConfig
from toylab.model.interop import adopt
from toylab.model.transformer import Transformer
from toylab.model.transformer_lens import from_hooked, to_hooked
from toylab.planted.handwritten import iteration_head
from toylab.probes import (
    edit,
    name_encoding,
    points,
    watch,
    zero_heads,
)
from toylab.tasks import Parity
from toylab.training import evaluate

pytestmark = pytest.mark.usefixtures("_quiet")

POSITIONS = ("none", "learned", "sinusoidal", "rotary", "alibi")
SETTINGS = (
    {},
    {"biases": False},
    {"hidden": 0},
    {"activation": "relu", "hidden": 20},
    {"activation": "silu", "heads": 4},
    {"activation": "gelu-tanh", "unembedding": "tied"},
)


KINDS = [*itertools.product(POSITIONS, ("pre", "none"))]


def travels(dtype: torch.dtype, most: float, **setting: object) -> None:
    """There and back with the same logits."""
    model = Transformer(ModelConfig(**setting), 9, 11, seed=3).to(dtype)
    x = torch.randint(9, (4, 11), generator=torch.Generator().manual_seed(1))
    hooked = to_hooked(model)
    back = from_hooked(hooked)
    with torch.no_grad():
        assert (hooked(x) - model(x)).abs().max() < most, setting
        assert (back(x) - model(x)).abs().max() < most, setting


def test_our_weights_give_the_same_logits_there_and_back(lens):
    for positions, norm in KINDS:
        travels(torch.float64, 1e-10, positions=positions, norm=norm)
    for setting in SETTINGS:
        travels(torch.float64, 1e-10, positions="learned", **setting)
    travels(torch.float32, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("positions", "norm"), KINDS)
def test_our_weights_give_the_same_logits_in_every_combination_of_settings(lens, positions, norm):
    for setting in SETTINGS:
        travels(torch.float32, 1e-5, positions=positions, norm=norm, **setting)
        travels(torch.float64, 1e-10, positions=positions, norm=norm, **setting)


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


def test_a_bridge_of_transformer_lens_is_refused_by_name_and_watched_under_its_own_names(lens):
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    config = TransformerBridgeConfig(d_model=16, d_head=8, n_layers=1, n_ctx=12, n_heads=2, d_vocab=33, act_fn="gelu")
    bridge = TransformerBridge.boot_native(config, device="cpu")
    with pytest.raises(ValueError, match=r"model=TransformerBridge: known are"):
        adopt(bridge)


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


@pytest.mark.parametrize("positions", POSITIONS)
def test_an_encoding_that_travelled_is_named_there_adopted_or_under_their_names(lens, positions):
    hooked = to_hooked(Transformer(ModelConfig(width=16, positions=positions), 9, 12))
    tokens = torch.randint(9, (4, 12), generator=torch.Generator().manual_seed(0))
    theirs = {
        "patterns": "blocks.*.attn.hook_pattern",
        "scores": "blocks.*.attn.hook_attn_scores",
        "stream": "blocks.0.hook_resid_pre",
    }
    for model, names in ((adopt(hooked), {}), (hooked, theirs)):
        assert name_encoding(model, tokens, np.random.default_rng(0), **names).encoding == positions
