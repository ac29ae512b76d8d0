"""Laws of patching where all is known: what is put back, the algebra of two readers, and what is refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.probes.patched_models import (
    LATER,
    LAYERS,
    LENGTH,
    POINT,
    POSITIONS,
    SEEDS,
    WIDTH,
    adder,
    close,
    few,
    hooks,
    normal,
    prompts,
    streams,
    transformer,
)
from toylab import generate
from toylab.probes import PathPatched, edit, patch_activation, watch


@few
@given(SEEDS, st.integers(0, LAYERS - 1))
def test_a_whole_layer_put_back_makes_a_corrupted_run_the_clean_one(seed, layer):
    model, clean, corrupted = transformer(seed), prompts(seed), prompts(seed + 1)
    point = f"blocks.{layer}.resid_post"
    with watch(model, point) as seen:
        expected = model(clean)
    assert not torch.allclose(model(corrupted), expected)
    with edit(model, {point: patch_activation(seen[point])}):
        assert torch.equal(model(corrupted), expected)


@few
@given(SEEDS, st.integers(0, LAYERS - 1), st.sampled_from(POSITIONS))
def test_what_is_put_back_is_put_at_its_positions_and_nowhere_else(seed, layer, named):
    positions, places = named
    model, clean, corrupted = transformer(seed), prompts(seed), prompts(seed + 1)
    point = f"blocks.{layer}.resid_post"
    with watch(model, point) as there:
        model(clean)
    with watch(model, point) as usual:
        unpatched = model(corrupted)
    kept, before = there[point].clone(), usual[point].clone()
    with edit(model, {point: patch_activation(there[point], positions)}), watch(model, point) as seen:
        patched = model(corrupted)
    for place in range(LENGTH):
        assert torch.equal(seen[point][:, place], (kept if place in places else before)[:, place])
    first = min(places, default=LENGTH)
    assert torch.equal(patched[:, :first], unpatched[:, :first]), "the past does not hear of a patch"
    assert torch.equal(there[point], kept)
    assert torch.equal(usual[point], before)


def test_an_activation_is_put_into_a_copy_and_gradients_reach_both_runs():
    x, kept = normal(0, 2, 4, 3).requires_grad_(True), normal(1, 2, 4, 3).requires_grad_(True)
    before = x.detach().clone()
    patch_activation(kept, [1, 2])(x).sum().backward()
    assert torch.equal(x, before)
    assert x.grad[0, :, 0].tolist() == [1, 0, 0, 1]
    assert kept.grad[0, :, 0].tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("positions", [slice(None), [1, 4]])
def test_what_was_recorded_in_another_run_can_be_put_back_along_chosen_paths(rows, positions):
    model, clean, corrupted = transformer(0), prompts(0, rows), prompts(1, rows)
    (there,), _ = streams(model, clean, POINT)
    change = patch_activation(there, positions)
    _, expected = streams(model, corrupted, edits={POINT: change})
    close(PathPatched(model, change, POINT)(corrupted), expected)
    close(PathPatched(model, change, POINT, blind=LATER)(corrupted), model(corrupted))


# Path patching where all is known ------------------------------------------------------------------------------------


class TwoReaders(nn.Module):
    """h, then h + tanh(h A), then that + tanh(that B), then C."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.stream, self.read_a, self.read_b, self.read_out = (nn.Identity() for _ in range(4))
        self.a, self.b, self.c = normal(seed, 3, WIDTH, WIDTH)

    def forward(self, x):
        h = self.stream(x)
        h = h + torch.tanh(self.read_a(h) @ self.a)
        h = h + torch.tanh(self.read_b(h) @ self.b)
        return self.read_out(h) @ self.c


READERS = ("read_a", "read_b", "read_out")


def blind_readers_are_those_of_the_algebra(paths, seed):
    model, x, change = TwoReaders(seed), normal(seed + 1, 2, 4, WIDTH), adder(seed + 2)
    d = change(x) - x
    for mask in range(8):
        blind = [name for i, name in enumerate(READERS) if mask >> i & 1]
        seen_a, seen_b, seen_out = (0 if name in blind else 1 for name in READERS)
        a = torch.tanh((x + seen_a * d) @ model.a)
        b = torch.tanh((x + a + seen_b * d) @ model.b)
        close(paths(model, change, "stream", blind=blind)(x), (x + a + b + seen_out * d) @ model.c)


def blind_readers_that_hear_nothing_of_the_others(model, change, point, blind=()):
    return PathPatched(model, change, point, clean=blind)


def a_reader_beside_that_goes_blind_with_the_first(model, change, point, blind=()):
    return PathPatched(model, change, point, blind=["read_a", "read_b"] if "read_a" in blind else blind)


def all_blind_but_the_named(model, change, point, blind=()):
    return PathPatched(model, change, point, blind=[name for name in READERS if name not in blind])


@few
@given(SEEDS)
def test_every_set_of_blind_readers_is_that_of_the_algebra(seed):
    blind_readers_are_those_of_the_algebra(PathPatched, seed)


@pytest.mark.parametrize(
    "mutant",
    [
        blind_readers_that_hear_nothing_of_the_others,
        a_reader_beside_that_goes_blind_with_the_first,
        all_blind_but_the_named,
        lambda model, change, point, blind=(): PathPatched(model, change, point),
    ],
)
def test_broken_paths_are_caught_by_the_algebra(mutant):
    with pytest.raises(AssertionError):
        blind_readers_are_those_of_the_algebra(mutant, 0)


@few
@given(SEEDS, st.sets(st.sampled_from(READERS)))
def test_a_reader_made_clean_undoes_all_that_reached_it(seed, clean):
    model, x, change = TwoReaders(seed), normal(seed + 1, 2, 4, WIDTH), adder(seed + 2)
    plain_b = x + torch.tanh(x @ model.a)
    h = change(x)
    h = h + torch.tanh((x if "read_a" in clean else h) @ model.a)
    h = h + torch.tanh((plain_b if "read_b" in clean else h) @ model.b)
    expected = model(x) if "read_out" in clean else h @ model.c
    close(PathPatched(model, change, "stream", clean=clean)(x), expected)


def test_two_readers_by_hand():
    # tanh is the identity to first order: with A = B = 1, a small change d makes 4 of itself, half through each reader.
    model, x, d = TwoReaders(0), torch.zeros(1, 1, WIDTH).double(), torch.full((WIDTH,), 1e-7).double()
    model.a = model.b = model.c = torch.eye(WIDTH).double()
    for blind, factor in [((), 4), (("read_a",), 2), (("read_b",), 3), (("read_a", "read_b"), 1), (READERS, 0)]:
        found = PathPatched(model, lambda x: x + d, "stream", blind=blind)(x)
        assert (found / 1e-7).flatten().tolist() == pytest.approx([factor] * WIDTH, abs=1e-6)


# What is left behind, and what is refused ----------------------------------------------------------------------------


def test_nothing_stays_on_the_model_after_a_run_and_hooks_of_others_do():
    model, tokens = transformer(0), prompts(0)
    before = model(tokens)
    paths = PathPatched(model, adder(0), POINT, blind=LATER, clean=["blocks.*.attn.q"], clean_scale="ln_final")
    assert hooks(model) == 0, "hooks are set only while the model runs"
    paths(tokens)
    generate(paths, tokens, 3)
    assert hooks(model) == 0
    assert torch.equal(model(tokens), before)
    with watch(model, POINT):
        paths(tokens)
        assert hooks(model) == 1


def stumble(x):
    raise RuntimeError("on purpose")


@pytest.mark.parametrize(
    ("change", "point", "options", "error"),
    [
        (stumble, POINT, {"blind": LATER, "clean": ["blocks.1.attn.q"], "clean_scale": "ln_final"}, RuntimeError),
        (torch.zeros_like, "blocks.9.resid_post", {"blind": LATER}, ValueError),
        (torch.zeros_like, POINT, {"blind": LATER, "clean": ["blocks.1.attn.w"]}, ValueError),
        (torch.zeros_like, POINT, {"blind": [*LATER, "blocks.9.ln1"]}, (ValueError, AttributeError)),
        (torch.zeros_like, POINT, {"blind": LATER, "clean_scale": "ln_last"}, (ValueError, AttributeError)),
        (lambda x: x[:, 1:], POINT, {"blind": LATER}, (ValueError, RuntimeError)),
    ],
)
def test_nothing_stays_on_the_model_after_an_error(change, point, options, error):
    model, tokens = transformer(0), prompts(0)
    before = model(tokens)
    with pytest.raises(error):
        PathPatched(model, change, point, **options)(tokens)
    assert hooks(model) == 0
    assert torch.equal(model(tokens), before)


@pytest.mark.parametrize("reader", ["blocks.2.ln2", "ln_final"])
def test_a_blind_reader_of_chosen_queries_is_refused(reader):
    model, tokens = transformer(0), prompts(0)
    paths = PathPatched(model, adder(0), POINT, blind=[reader])
    with pytest.raises(ValueError, match=r"^queries: a blind reader needs the stream at all positions"):
        paths(tokens, queries=torch.tensor([[0, 3], [2, 5], [4, 4]]))
    assert hooks(model) == 0


def test_a_reader_that_does_not_run_behind_the_change_is_refused():
    model, tokens = transformer(0), prompts(0)
    with pytest.raises(ValueError, match=r"^blind='blocks.0.ln1': runs before the change"):
        PathPatched(model, adder(0), POINT, blind="blocks.0.ln1")(tokens)
    model.blocks[1].forward = lambda x, *rest: x
    with pytest.raises(ValueError, match=r"^blind='blocks.1.ln1': is never run"):
        PathPatched(model, adder(0), POINT, blind="blocks.1.ln1")(tokens)
    assert hooks(model) == 0


def test_a_wrong_name_is_refused_with_those_that_are_near():
    model, tokens = transformer(0), prompts(0)
    with pytest.raises(ValueError, match=r"named 'blocks.0.resid_pots'; .*nearest.* blocks.0.resid_post"):
        PathPatched(model, adder(0), "blocks.0.resid_pots")(tokens)
    with pytest.raises(ValueError, match=r"named 'blocks.1.attn.w'"):
        PathPatched(model, adder(0), POINT, clean=["blocks.1.attn.w"])(tokens)
