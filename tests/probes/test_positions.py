"""Laws of positional effects: other routes to the same numbers, planted truth, and invariances."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.examples import fewer
from toylab.console import ToylabError
from toylab.model.config import ModelConfig
from toylab.model.encoder_decoder import ENCODER, EncoderDecoderConfig
from toylab.model.interop import AdoptedModel
from toylab.model.positions import POSITIONS, NoPositions
from toylab.model.transformer import Transformer
from toylab.probes import (
    Tap,
    distance_effects,
    edit,
    name_encoding,
    permutation_sensitivity,
    points,
    shift_sensitivity,
)
from toylab.studies.contextual_counting.data import counting_model, for_model
from toylab.tasks import ContextualCounting, held_out, stream

VOCAB, WIDTH = 7, 10
seeds = st.integers(0, 99)
names = st.sampled_from(sorted(POSITIONS))
NORMS = ("pre", "post", "entry", "none")


def model_of(positions: str, seed: int = 0, **shape) -> Transformer:
    return Transformer(ModelConfig(width=16, positions=positions, **shape), VOCAB, WIDTH, seed)


def tokens_of(seed: int, rows: int = 4, width: int = WIDTH) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(VOCAB, size=(rows, width)))


def named(model: nn.Module, tokens: torch.Tensor):
    return name_encoding(model, tokens, np.random.default_rng(0))


def relative(before: torch.Tensor, after: torch.Tensor) -> float:
    """Change against that to the next row, number by number."""
    pairs = [(float((a - b).square().sum()), float((b - c).square().sum())) for a, b, c in
             zip(after, before, [before[-1], *before[:-1]], strict=True)]  # fmt: skip
    return math.sqrt(sum(change for change, _ in pairs) / sum(other for _, other in pairs))


# Shift ---------------------------------------------------------------------------------------------------------------


@fewer(0.6)
@given(names, seeds, st.integers(1, WIDTH - 1), st.booleans())
def test_a_hidden_prefix_shifts_a_row_as_its_positions_do(positions, seed, distance, causal):
    model, tokens = model_of(positions, seed, causal=causal).double(), tokens_of(seed)
    found = shift_sensitivity(model, tokens, distance)
    row = tokens[:, :-distance]
    with torch.no_grad():
        before, after = model(row), model(row, positions=distance + torch.arange(row.shape[1])[None])
    assert found.largest == pytest.approx(float((after - before).abs().max()), rel=1e-6, abs=1e-12)
    assert found.relative == pytest.approx(relative(before, after), rel=1e-6, abs=1e-12)
    assert (found.relative > 1e-3) == (max(found.attention.values()) > 1e-3 or positions in ("learned", "sinusoidal"))
    if positions in ("none", "rotary", "alibi"):
        assert max(found.relative, *found.attention.values()) < 1e-12


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_later_position_embeddings_shift_a_row_where_scores_are_hidden(positions):
    model, tokens = model_of(positions), tokens_of(0)
    hidden = AdoptedModel(model, {name: Tap(name) for name in points(model) if not name.endswith("scores")}, {})
    expected = shift_sensitivity(model, tokens, 3)
    found = shift_sensitivity(hidden, tokens, 3)
    assert found.relative == pytest.approx(expected.relative, rel=1e-4)
    assert found.attention == pytest.approx(expected.attention, rel=1e-4)
    blind = AdoptedModel(model, {name: Tap(name) for name in points(model) if name.endswith("pattern")}, {})
    with pytest.raises(ToylabError, match=r"scores='blocks\.\*\.attn\.scores': neither"):
        shift_sensitivity(blind, tokens, 3)


# Permutation ---------------------------------------------------------------------------------------------------------


class Before(nn.Module):
    """One-hot of the token `back` places to the left."""

    def __init__(self, back: int) -> None:
        super().__init__()
        self.back = back

    def forward(self, tokens):
        key = (torch.arange(tokens.shape[1]) - self.back).clamp(min=0)
        return nn.functional.one_hot(tokens[:, key], VOCAB).double()


@given(seeds, st.integers(0, 3), st.integers(1, 4))
def test_a_permutation_changes_what_depended_on_a_moved_token(seed, back, kept):
    tokens = tokens_of(seed)
    found = permutation_sensitivity(Before(back), tokens, np.random.default_rng(seed), kept)
    width, rng = WIDTH - kept, np.random.default_rng(seed)
    order = rng.permuted(np.tile(np.arange(width), (len(tokens), 1)), axis=1)
    places = [[*one, *range(width, WIDTH)] for one in order.tolist()]
    keys = range(WIDTH - kept - back, WIDTH - back)
    moved = [[int(tokens[r, places[r][key]] != tokens[r, key]) for key in keys] for r in range(len(tokens))]
    assert found.largest == max(map(max, moved))
    assert not found.attention


@fewer(0.5)
@given(seeds, st.booleans(), st.integers(1, 3))
def test_order_without_positions_enters_through_the_mask_of_a_second_layer(seed, causal, layers):
    model, tokens = model_of("none", seed, causal=causal, layers=layers).double(), tokens_of(seed)
    found = permutation_sensitivity(model, tokens, np.random.default_rng(seed))
    if causal and layers > 1:
        assert found.relative > 1e-6
    else:
        assert found.relative < 1e-12


@fewer(0.3)
@given(seeds, names, st.booleans())
def test_with_no_token_kept_a_row_is_permuted_as_a_whole(seed, positions, causal):
    task = ContextualCounting(length=(10, 20), regions=(1, 3))
    config = EncoderDecoderConfig(encoder=replace(ENCODER, width=8, positions=positions, causal=causal))
    model = counting_model(task, config, seed).double()
    tokens = for_model(task, model, held_out(task, 0, 6, **task.largest)).tokens
    order = stream(seed, "permutation").permuted(np.tile(np.arange(21), (6, 1)), axis=1)
    permuted = torch.tensor([[row[at] for at in places] for row, places in zip(tokens.tolist(), order, strict=True)])
    found = permutation_sensitivity(model, tokens, stream(seed, "permutation"), kept=0)
    assert found.largest == (model(tokens) - model(permuted)).abs().max()
    assert not found.attention


# Distance ------------------------------------------------------------------------------------------------------------


class Head(nn.Module):
    """Attention of the last token: content + distance + product of both, as a score; nothing else."""

    def __init__(self, content, distance, product: float) -> None:
        super().__init__()
        self.content, self.distance, self.product, self.pattern = content, distance, product, nn.Identity()

    def forward(self, tokens):
        back = torch.arange(tokens.shape[1] - 1, -1, -1)
        a, b = self.content[tokens][:, None, None], self.distance[back]
        return self.pattern((a + b + self.product * a * b).softmax(dim=-1))


@given(seeds, st.integers(4, 12), st.floats(0, 2), st.floats(0.1, 2))
def test_shares_of_a_planted_score_are_those_of_its_parts(seed, width, product, size):
    rng = np.random.default_rng(seed)
    content, distance = torch.from_numpy(rng.normal(size=VOCAB)), size * torch.from_numpy(rng.normal(size=width))
    tokens = tokens_of(seed, 3, width)
    (found,) = distance_effects(Head(content, distance, product), tokens, "pattern").values()
    # every earlier token at every distance, by hand
    a, b = content[tokens[:, :-1]].numpy(), distance[1:].numpy()
    score = a[:, :, None] + b + product * a[:, :, None] * b
    keys = np.arange(width - 1)
    for rotation in keys:  # without the mean of each softmax; content c is at distance width - 1 - p, p = c - rotation
        p = (keys - rotation) % (width - 1)
        score[:, keys, width - 2 - p] -= score[:, keys, width - 2 - p].mean(axis=1, keepdims=True)
    profile = score.mean(axis=(0, 1))
    total = (score**2).mean()
    assert found.profile.numpy() == pytest.approx(profile[None])
    assert float(found.spread) == pytest.approx(total**0.5)
    assert float(found.distance) == pytest.approx((profile**2).mean() / total)
    assert float(found.content) == pytest.approx((score.mean(axis=2) ** 2).mean() / total)
    assert float(found.distance + found.content + found.interaction) == pytest.approx(1)
    if not product:
        assert float(found.interaction) < 1e-9
        assert found.profile[0].numpy() == pytest.approx(b - b.mean())


def test_a_product_of_content_and_distance_is_interaction_and_even_attention_is_nothing():
    content, distance = torch.tensor([1.0, -1, 1, -1, 1, -1, 1]).double(), torch.linspace(-1, 1, 8).double()
    tokens = torch.tensor([[0, 1, 0, 1, 0, 1, 3], [1, 0, 1, 0, 1, 0, 2]])
    only = Head(content, distance, 1.0)
    only.forward = lambda tokens: only.pattern((3 * content[tokens][:, None, None] * distance[-7:]).softmax(dim=-1))
    assert float(distance_effects(only, tokens, "pattern")["pattern"].interaction) > 0.3
    even = distance_effects(Head(torch.zeros(VOCAB), 1e-6 * distance.float(), 0.0), tokens, "pattern")["pattern"]
    assert float(even.distance + even.content + even.interaction) == 0


def test_random_scores_have_the_shares_of_chance():
    generator = torch.Generator().manual_seed(0)
    random = Head(torch.zeros(VOCAB), torch.zeros(WIDTH), 0.0)
    random.forward = lambda tokens: random.pattern(
        torch.randn(len(tokens), 60, WIDTH, WIDTH, generator=generator).softmax(dim=-1)
    )
    found = distance_effects(random, tokens_of(0, 40), "pattern")["pattern"]
    assert float(found.content.mean()) == pytest.approx(1 / 9, rel=0.05)
    assert float(found.distance.mean()) == pytest.approx(1 / 360, rel=0.2)


@given(seeds, st.sampled_from(NORMS))
def test_the_first_layer_has_content_alone_without_positions_and_the_slopes_of_alibi(seed, norm):
    tokens = tokens_of(seed)
    none = distance_effects(model_of("none", seed, norm=norm).double(), tokens)["blocks.0.attn.pattern"]
    assert none.content.tolist() == pytest.approx([1, 1])
    model = model_of("alibi", seed, norm=norm).double()
    alibi = distance_effects(model, tokens)["blocks.0.attn.pattern"]
    assert alibi.interaction.abs().max() < 1e-9
    assert alibi.profile.diff(dim=1).numpy() == pytest.approx(-model.positions.slopes[:, None].expand(-1, WIDTH - 2))


# The encoding --------------------------------------------------------------------------------------------------------


@given(names, seeds, st.sampled_from(NORMS), st.booleans(), st.integers(1, 3))
def test_a_model_behaves_like_the_encoding_that_it_has(positions, seed, norm, causal, layers):
    model = model_of(positions, seed, norm=norm, causal=causal, layers=layers, heads=1 + seed % 2)
    found = named(model, tokens_of(seed))
    assert found.encoding == positions
    assert (found.effect >= 1e-3) == (positions != "none")
    assert found.distance + found.content + found.interaction == pytest.approx(1)


class Bias(NoPositions):
    """A bias that depends on distance and is not linear, as that of T5."""

    def bias(self, query, key):
        distance = (query[:, :, None] - key[:, None, :]).abs()
        return -distance.float().log1p()[:, None]


def test_a_bias_that_is_not_linear_is_relative_and_shuffled_or_constant_tables_are_what_they_are():
    model = model_of("none")
    model.positions = Bias(model.config, WIDTH, torch.Generator())
    assert named(model, tokens_of(0)).encoding == "relative"
    learned, sinusoidal = model_of("learned"), model_of("sinusoidal")
    table = sinusoidal.positions.embed(torch.arange(WIDTH)[None])[0]
    for rows, encoding in (
        (table, "sinusoidal"),
        (table[torch.randperm(WIDTH, generator=torch.Generator().manual_seed(0))], "learned"),
        (table[:1].expand(WIDTH, -1), "none"),
    ):
        learned.positions.table.data = rows.clone()
        assert named(learned, tokens_of(0)).encoding == encoding


def test_weak_positions_are_none_below_a_thousandth():
    for slope, encoding in ((1e-2, "alibi"), (1e-5, "none")):
        model = model_of("alibi", alibi_slope=slope)
        assert named(model, tokens_of(0)).encoding == encoding


def test_the_largest_effect_counts():
    found = named(model_of("learned"), tokens_of(0))
    for shift, distance, interaction, effect in ((0.5, 0.04, 0.09, 0.5), (0, 0.04, 0.09, 0.3), (0, 0.04, 0, 0.2)):
        one = replace(found, shift=replace(found.shift, relative=shift), distance=distance, interaction=interaction)
        assert one.effect == pytest.approx(effect)


# Mistakes ------------------------------------------------------------------------------------------------------------


def test_mistakes_are_said_in_one_line():
    model, tokens = model_of("learned"), tokens_of(0)
    with pytest.raises(ToylabError, match=r"distance=10: must be at least 1 and at most 9"):
        shift_sensitivity(model, tokens, WIDTH)
    with pytest.raises(ToylabError, match="rows=1"):
        named(model, tokens[:1])
    with pytest.raises(ToylabError, match="positions=3: must be at least 4"):
        named(model, tokens[:, :3])
    with pytest.raises(ToylabError, match="kept=9"):
        permutation_sensitivity(model, tokens, np.random.default_rng(0), kept=9)
    with pytest.raises(ToylabError, match=r"varies between calls; give model\.float\(\)\.eval\(\)"):
        named(model_of("learned", dropout=0.5).train(), tokens)
    with pytest.raises(ToylabError, match="model=Transformer: is in half precision"):
        named(model_of("none").bfloat16(), tokens)
    with edit(model, {"final": lambda x: x * torch.nan}):
        for measure in (named, lambda *given: shift_sensitivity(*given, 1)):
            with pytest.raises(ToylabError, match="outputs: holds nan"):
                measure(model, tokens)
    with (
        edit(model, {"blocks.1.attn.pattern": lambda x: x * torch.nan}),
        pytest.raises(ToylabError, match=r"^blocks\.1\.attn\.pattern: holds nan"),
    ):
        distance_effects(model, tokens)
