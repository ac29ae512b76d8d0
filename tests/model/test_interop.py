"""Laws of foreign models: the same probes see the same things in models of other libraries."""

import numpy as np
import pytest
import torch
from torch import nn

from toylab.model.generate import generate
from toylab.model.interop import adopt
from toylab.probes import (
    PathPatched,
    edit,
    explained_variance,
    fit_autoencoder,
    left_singular_directions,
    link_mass,
    name_encoding,
    null_share,
    patch_activation,
    points,
    token_cosines,
    uniform_heads,
    watch,
    zero_heads,
)
from toylab.survey import survey
from toylab.tasks import AssociativeRecall

pytestmark = pytest.mark.usefixtures("_quiet")


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
        with edit(model, {last: patch_activation(seen[last])}):
            assert torch.allclose(model(other), clean, atol=1e-5)
        blind = PathPatched(
            model, lambda x: x + 1.0, "blocks.0.mlp_out", blind=["blocks.1.ln1", "blocks.1.ln2", "ln_final"]
        )
        assert torch.allclose(blind(TOKENS), clean, atol=1e-4)
        partly = PathPatched(model, lambda x: x * 2.0, "blocks.0.mlp_out", blind=["blocks.1.ln1"])
        assert not torch.allclose(partly(TOKENS), clean, atol=1e-2)
        cosines = token_cosines(seen["final"], theirs.lm_head.weight)
        assert cosines.shape == (6, 12, 33)
        best = (cosines * theirs.lm_head.weight.norm(dim=1)).argmax(dim=-1)
        assert torch.equal(best, clean.argmax(dim=-1))  # the lens at the last layer is the model itself
    up = theirs.transformer.h[0].mlp.c_fc.weight.detach().T  # Conv1D holds its weights the other way round
    away = torch.randn(up.shape, generator=torch.Generator().manual_seed(0)).double()
    directions = left_singular_directions(up)
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
    with pytest.raises(ValueError, match=r"'blocks\.0\.attn\.scores' .*: GPT-2"):
        resolve_one(model, "blocks.0.attn.scores")
    with pytest.raises(ValueError, match=r"pattern' can be watched .*not edited: .*after"):
        with_edit(model, "blocks.0.attn.pattern")
    with pytest.raises(ValueError, match=r"resid_mid' can be watched .*not edited: .*adds"):
        with_edit(model, "blocks.1.resid_mid")
    with pytest.raises(ValueError, match=r"named 'blocks\.0.attn\.patern'.* nearest"):
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
    with edit(model, {"blocks.0.resid_post": patch_activation(there["blocks.0.resid_post"])}):
        assert torch.allclose(model(torch.zeros_like(STREAM)), plain, atol=1e-5)


def test_what_a_plain_encoder_hides_is_said_in_one_sentence():
    model = adopt(encoder(True))
    with watch(model, "blocks.0.attn.pattern"), pytest.raises(ValueError, match="fused attention kernel keeps no"):
        model(STREAM)
    with pytest.raises(ValueError, match=r"attn\.z' .*nn\.MultiheadAttention"):
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


def test_an_adopted_model_refuses_what_toylabs_own_models_take(hugging):
    model = adopt(gpt2(hugging))
    with pytest.raises(ValueError, match=r"cache: .*cache=False"):
        generate(model, TOKENS, 2)
    assert generate(model, TOKENS, 2, cache=False).shape == (6, 14)
    with pytest.raises(ValueError, match="segments"):
        model(TOKENS, segments=torch.zeros_like(TOKENS))


def test_the_encoding_of_gpt2_is_learned_and_dropout_is_refused(hugging):
    theirs = gpt2(hugging)
    found = name_encoding(adopt(theirs, patterns=True), TOKENS, np.random.default_rng(0))
    assert found.encoding == "learned"
    assert found.shift.relative > 0.05
    theirs.train()
    with pytest.raises(ValueError, match="varies between calls"):
        name_encoding(adopt(theirs, patterns=True), TOKENS, np.random.default_rng(0))
    theirs.eval().transformer.wpe.weight.data[:] = theirs.transformer.wpe.weight[0]
    assert name_encoding(adopt(theirs, patterns=True), TOKENS, np.random.default_rng(0)).encoding == "none"
