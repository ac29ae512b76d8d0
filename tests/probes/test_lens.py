"""Laws of the lens: what a direction says about tokens, and parts of a stream that add up to the model's own logits."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toylab import ModelConfig, Transformer
from toylab.probes import contrast_cosine, logit_attribution, token_cosines, token_ranks, watch

SEEDS = st.integers(0, 2**31)
SIZES = st.integers(2, 9)
few = settings(max_examples=8)
VOCAB, WIDTH = 7, 6


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def double(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(found, expected, tolerance: float = 1e-9):
    assert np.shape(found) == np.shape(expected)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def cosine(x, y) -> float:
    """By hand, one product at a time."""
    return math.fsum(a * b for a, b in zip(x, y, strict=True)) / (math.hypot(*x) * math.hypot(*y))


def random_norms(model, seed):
    """The model in float64, with gains and biases of its norms drawn, so that leaving one out shows."""
    model = model.double()
    for i, norm in enumerate(module for module in model.modules() if isinstance(module, torch.nn.LayerNorm)):
        norm.weight.data = 1 + normal(seed + i, *norm.weight.shape) / 2
        if norm.bias is not None:
            norm.bias.data = normal(seed + i + 50, *norm.bias.shape)
    return model


# Laws, each with a mistake that it must catch ------------------------------------------------------------------------


def cosines_are_those_of_every_pair_by_hand(token_cosines, seed):
    directions, rows = 3 * normal(seed, 4, WIDTH), 5 * normal(seed + 1, VOCAB, WIDTH)
    expected = [[cosine(x, row) for row in rows.tolist()] for x in directions.tolist()]
    close(token_cosines(directions, rows), expected)
    close(token_cosines(directions[0], rows), expected[0])


def a_row_has_cosine_one_with_itself_at_any_scale(token_cosines, seed):
    rows = normal(seed, VOCAB, WIDTH)
    close(token_cosines(rows, rows).diagonal(), [1] * VOCAB)
    close(token_cosines(-0.01 * rows, 30 * rows).diagonal(), [-1] * VOCAB)


def ranks_count_the_larger_scores_and_the_equal_ones_before(ranks, seed):
    scores = torch.from_numpy(np.random.default_rng(seed).integers(0, 4, (3, VOCAB))).double()
    counted = [
        [1 + sum(s > row[i] or (s == row[i] and j < i) for j, s in enumerate(row)) for i in range(VOCAB)]
        for row in scores.tolist()
    ]
    assert ranks(scores).tolist() == counted


def against_is_the_cosine_with_the_difference_of_two_rows(against, seed):
    directions, rows = 3 * normal(seed, 4, WIDTH), 5 * normal(seed + 1, VOCAB, WIDTH)
    difference = [a - b for a, b in zip(rows[2].tolist(), rows[5].tolist(), strict=True)]
    close(against(directions, rows, 2, 5), [cosine(x, difference) for x in directions.tolist()])


def parts_add_up_to_the_layer_norm_of_the_stream(attribution, seed):
    parts, rows = normal(seed, 3, 4, WIDTH) + 1, normal(seed + 1, VOCAB, WIDTH)
    for eps in (1e-5, 0.5):
        stream = torch.nn.functional.layer_norm(parts.sum(dim=0), [WIDTH], eps=eps)
        close(attribution(parts, rows, eps=eps).sum(dim=0), stream @ rows.T)


def each_part_is_heard_alone_at_the_scale_of_the_sum(attribution, seed):
    parts, rows = normal(seed, 3, 4, WIDTH) + 1, normal(seed + 1, VOCAB, WIDTH)
    found = attribution(parts, rows)
    sums = parts.sum(dim=0)
    for case in range(4):
        scale = math.sqrt(np.var(sums[case].numpy()) + 1e-5)
        for part in range(3):
            x = parts[part, case].numpy()
            close(found[part, case], rows.numpy() @ (x - x.mean()) / scale)


def own_scale(parts, rows, centred=True, eps=1e-5):
    return torch.stack([logit_attribution(part[None], rows, centred, eps)[0] for part in parts])


def fixed_eps(parts, rows, centred=True, eps=1e-5):
    return logit_attribution(parts, rows, centred)


def never_centred(parts, rows, centred=True, eps=1e-5):
    return logit_attribution(parts, rows, False, eps)


def equal_ones_backwards(scores):
    return token_ranks(scores.flip(-1)).flip(-1)


BROKEN = [
    (token_cosines, lambda x, rows: x @ rows.T, cosines_are_those_of_every_pair_by_hand),
    (token_cosines, lambda x, rows: token_cosines(x, rows - rows.mean(dim=0)), cosines_are_those_of_every_pair_by_hand),
    (token_cosines, lambda x, rows: token_cosines(x, rows).abs(), a_row_has_cosine_one_with_itself_at_any_scale),
    (token_ranks, lambda scores: token_ranks(scores) - 1, ranks_count_the_larger_scores_and_the_equal_ones_before),
    (token_ranks, lambda scores: token_ranks(-scores), ranks_count_the_larger_scores_and_the_equal_ones_before),
    (token_ranks, lambda scores: scores.argsort(dim=-1) + 1, ranks_count_the_larger_scores_and_the_equal_ones_before),
    (token_ranks, equal_ones_backwards, ranks_count_the_larger_scores_and_the_equal_ones_before),
    (
        contrast_cosine,
        lambda x, rows, a, b: contrast_cosine(x, rows, b, a),
        against_is_the_cosine_with_the_difference_of_two_rows,
    ),
    (
        contrast_cosine,
        lambda x, rows, a, b: token_cosines(x, rows)[:, a] - token_cosines(x, rows)[:, b],
        against_is_the_cosine_with_the_difference_of_two_rows,
    ),
    (logit_attribution, never_centred, parts_add_up_to_the_layer_norm_of_the_stream),
    (logit_attribution, fixed_eps, parts_add_up_to_the_layer_norm_of_the_stream),
    (logit_attribution, own_scale, each_part_is_heard_alone_at_the_scale_of_the_sum),
]


@pytest.mark.parametrize(("sound", "law"), dict.fromkeys((sound, law) for sound, _, law in BROKEN))
@few
@given(SEEDS)
def test_every_lens_obeys_its_law(sound, law, seed):
    law(sound, seed)


@pytest.mark.parametrize(("mutant", "law"), [case[1:] for case in BROKEN])
def test_a_broken_lens_is_caught_by_its_law(mutant, law):
    with pytest.raises(AssertionError):
        law(mutant, 0)


# Directions and tokens -----------------------------------------------------------------------------------------------


def test_a_lens_by_hand():
    rows = double([1, 0], [0, 2], [-3, 0], [3, 3])
    found = token_cosines(double(2, 0), rows)
    close(found, [1, 0, -1, math.sqrt(0.5)])
    assert token_ranks(found).tolist() == [1, 3, 4, 2]
    assert token_ranks(double(5, 7, 5, 7, 0)).tolist() == [3, 1, 4, 2, 5]
    assert contrast_cosine(double(2, 0), rows, 0, 3).item() == pytest.approx(-2 / math.sqrt(13))


@given(SEEDS, SIZES, SIZES)
def test_a_row_comes_first_in_its_own_lens_and_last_in_that_of_its_opposite(seed, vocab, width):
    rows = normal(seed, vocab, width)
    assert token_ranks(token_cosines(rows, rows)).diagonal().tolist() == [1] * vocab
    assert token_ranks(token_cosines(-rows, rows)).diagonal().tolist() == [vocab] * vocab


@given(SEEDS, SIZES, SIZES, st.sampled_from([1e-3, 0.5, 1e4]))
def test_neither_the_length_of_a_direction_nor_that_of_a_row_matters(seed, vocab, width, scale):
    directions, rows = normal(seed, 2, 3, width), normal(seed + 1, vocab, width)
    lengths = normal(seed + 2, vocab, 1).exp()
    close(token_cosines(scale * directions, lengths * rows), token_cosines(directions, rows))
    close(contrast_cosine(scale * directions, 3 * rows, 0, 1), contrast_cosine(directions, rows, 0, 1))
    close(token_cosines(-directions, rows), -token_cosines(directions, rows))


@given(SEEDS, SIZES)
def test_ranks_are_every_number_once_and_sort_the_scores(seed, vocab):
    scores = torch.from_numpy(np.random.default_rng(seed).integers(0, 4, (2, 3, vocab))).double()
    found = token_ranks(scores)
    assert found.shape == scores.shape
    assert (found.sort(dim=-1).values == torch.arange(1, vocab + 1)).all()
    placed = torch.empty_like(scores).scatter(-1, found - 1, scores)
    assert (placed.diff(dim=-1) <= 0).all()
    assert torch.equal(token_ranks(scores.exp() * 10 - 3), found), "only the order counts"


@given(SEEDS, SIZES, SIZES)
def test_against_turns_its_sign_with_the_tokens_and_is_one_for_their_difference(seed, vocab, width):
    directions, rows = normal(seed, 3, width), normal(seed + 1, vocab, width)
    close(contrast_cosine(directions, rows, 1, 0), -contrast_cosine(directions, rows, 0, 1))
    assert contrast_cosine(rows[1] - rows[0], rows, 1, 0).item() == pytest.approx(1)
    # What all rows share, no choice between two of them can see.
    close(contrast_cosine(directions, rows + normal(seed + 2, width), 1, 0), contrast_cosine(directions, rows, 1, 0))
    close(contrast_cosine(directions, rows, 0, 0), [0] * 3)


# Whose words a logit is made of --------------------------------------------------------------------------------------


@settings(max_examples=12)
@given(
    SEEDS,
    st.integers(1, 3),
    st.sampled_from([0, 5]),
    st.booleans(),
    st.sampled_from(["sinusoidal", "learned", "rotary"]),
)
def test_all_that_was_written_to_the_stream_adds_up_to_the_logits_of_the_model(seed, layers, hidden, biases, positions):
    config = ModelConfig(layers=layers, heads=2, width=8, hidden=hidden, biases=biases, positions=positions)
    model = random_norms(Transformer(config, VOCAB, 5, seed), seed)
    tokens = torch.randint(0, VOCAB, (3, 5), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad(), watch(model, "embed", "pos_embed", "blocks.*.attn_out", "blocks.*.mlp_out") as seen:
        logits = model(tokens)
    assert len(seen) == 1 + (positions != "rotary") + layers * (1 + (hidden > 0))
    parts = torch.stack([part.expand(3, 5, 8) for part in seen.values()])
    rows, unfolded = model.unembedding.weight * model.ln_final.weight, model.unembedding.weight
    constant = unfolded @ model.ln_final.bias if biases else 0
    found = logit_attribution(parts, rows).detach()
    assert found.shape == (len(parts), 3, 5, VOCAB)
    close(found.sum(dim=0), (logits - constant).detach())
    close(logit_attribution(parts[:, :, -1], rows).detach(), found[:, :, -1])


@few
@given(SEEDS, st.sampled_from([1e-6, 1e-3, 1.0]))
def test_a_norm_that_only_scales_is_written_by_hand(seed, eps):
    parts, rows = normal(seed, 4, 3, WIDTH) + 2, normal(seed + 1, VOCAB, WIDTH)
    expected = []
    for case in parts.sum(dim=0).tolist():
        scale = math.sqrt(sum(x * x for x in case) / WIDTH + eps)
        expected.append([sum(a * b for a, b in zip(row, case, strict=True)) / scale for row in rows.tolist()])
    found = logit_attribution(parts, rows, centred=False, eps=eps)
    close(found.sum(dim=0), expected)
    assert not np.allclose(found.sum(dim=0), logit_attribution(parts, rows, eps=eps).sum(dim=0))


@few
@given(SEEDS, st.booleans())
def test_parts_merge_and_split_and_scale_with_their_sum_alone(seed, centred):
    parts, rows = normal(seed, 4, 3, WIDTH), normal(seed + 1, VOCAB, WIDTH)
    found = logit_attribution(parts, rows, centred)
    merged = torch.stack([parts[0] + parts[2], parts[1] + parts[3]])
    close(logit_attribution(merged, rows, centred), torch.stack([found[0] + found[2], found[1] + found[3]]))
    close(logit_attribution(parts, 5 * rows, centred), 5 * found)
    close(logit_attribution(100 * parts, rows, centred, eps=0.0), logit_attribution(parts, rows, centred, eps=0.0))


def test_the_small_number_under_the_root_is_heard_by_a_small_stream():
    parts, rows = double([[0.03, -0.03]], [[-0.02, 0.02]]), double([1, 0])
    # The sum is (.01, -.01): its mean square is 1e-4, and with eps = 3e-4 the root is .02.
    close(logit_attribution(parts, rows, eps=3e-4), [[[1.5]], [[-1]]])
    close(logit_attribution(parts, rows, eps=0.0), [[[3]], [[-2]]])


# Where there is no direction -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.float16, torch.float32, torch.float64])
def test_what_has_no_length_has_cosine_zero_and_what_is_short_has_its_own(kind):
    rows = torch.tensor([[1.0, 0], [0, 0], [1, 0], [3, 4]]).to(kind)
    assert token_cosines(torch.zeros(2).to(kind), rows).tolist() == [0] * 4
    assert token_cosines(rows[0], rows).tolist()[:3] == [1, 0, 1]
    assert contrast_cosine(rows[0], rows, 0, 2).item() == contrast_cosine(0 * rows[0], rows, 0, 3).item() == 0
    short = 1e-4 if kind == torch.float16 else 1e-15
    torch.testing.assert_close(token_cosines(short * rows[3], rows), token_cosines(rows[3], rows), rtol=0, atol=2e-3)


@pytest.mark.parametrize("centred", [True, False])
def test_a_stream_of_no_length_needs_an_eps(centred):
    parts = torch.stack([torch.eye(3), -torch.eye(3)])  # they cancel
    assert not logit_attribution(parts, torch.eye(3), centred).sum(dim=0).any()
    for eps in (0.0, -1.0):
        with pytest.raises(ValueError, match=f"eps={eps}: the stream of some case has no length"):
            logit_attribution(parts, torch.eye(3), centred, eps=eps)


def test_infinite_scores_have_their_rank():
    assert token_ranks(double(0, -math.inf, math.inf, 2)).tolist() == [3, 4, 1, 2]
