"""Laws of editing a model: an edit changes what was asked for, also in every step of generate."""

from collections import OrderedDict
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.probes.models import SHAPES, hooks_of, plain, tokens, transformer, x
from toylab.model.generate import generate
from toylab.probes import edit, watch


def test_an_edit_is_what_the_rest_of_the_model_computes_with():
    model = plain()
    put = torch.randn(3, 5, generator=torch.Generator().manual_seed(3))
    with edit(model, {"here": lambda _: put}):
        out = model(x)
    assert torch.equal(out, model.last(model.bend(put)))


def test_editing_with_what_was_watched_changes_no_bit():
    model = transformer()
    with watch(model, "*") as seen:
        before = model(tokens())
    with edit(model, {name: partial(lambda value, _: value, value) for name, value in seen.items()}):
        assert torch.equal(model(tokens()), before)
    with edit(model, {"*": lambda passed: passed}):
        assert torch.equal(model(tokens()), before)


def test_no_edits_are_no_change():
    model = plain()
    with edit(model, {}):
        assert not hooks_of(model)


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=4))
def test_nested_edits_compose_from_the_outside_in(lines):
    model = plain()

    def nested(remaining):
        if not remaining:
            return model(x)
        (a, b), *rest = remaining
        with edit(model, {"here": lambda passed: a * passed + b}):
            return nested(rest)

    expected = model.first(x)
    for a, b in lines:
        expected = a * expected + b
    assert torch.equal(nested(lines), model.last(model.bend(expected)))


def test_a_watch_sees_what_the_edits_around_it_made():
    model = plain()
    with watch(model, "here") as before, edit(model, {"here": torch.zeros_like}), watch(model, "here") as after:
        model(x)
    assert torch.equal(before["here"], model.first(x))
    assert torch.equal(after["here"], torch.zeros(3, 5))


def test_a_star_edits_every_match():
    model = transformer()
    with (
        edit(model, {"blocks.*.attn_out": torch.zeros_like, "blocks.*.mlp_out": torch.zeros_like}),
        watch(model, "*") as seen,
    ):
        model(tokens())
    assert torch.equal(seen["blocks.1.resid_post"], seen["blocks.0.resid_pre"])


@pytest.mark.parametrize("names", [("here", "*"), ("*", "here"), ("h*", "*re")])
def test_two_names_that_meet_at_one_point_both_act_or_raise(names):
    # Dropping one of them in silence would report an experiment that was not made.
    model = nn.Sequential(OrderedDict(here=nn.Identity(), last=nn.Linear(4, 1)))
    functions = dict(zip(names, (lambda v: v + 1, lambda v: v * 2), strict=True))
    try:
        with edit(model, functions), watch(model, "here") as seen:
            model(x)
    except ValueError:
        return
    assert torch.equal(seen["here"], (x + 1) * 2)


def test_gradients_flow_through_an_edit_into_what_it_added():
    model = transformer()
    vector = torch.zeros(8, requires_grad=True)
    with edit(model, {"blocks.0.resid_post": lambda passed: passed + vector}):
        model(tokens())[..., 0].sum().backward()
    assert vector.grad.abs().sum() > 0
    assert model.embedding.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("wrong", [lambda v: v[:1], lambda v: v.T, lambda v: v.sum(), lambda v: v[:, None]])
def test_an_edit_that_changes_the_shape_raises_with_both_shapes(wrong):
    model = plain()
    shape = tuple(wrong(torch.zeros(3, 5)).shape)
    with pytest.raises(ValueError, match="changes the shape") as raised, edit(model, {"here": wrong}):
        model(x)
    assert "'here'" in str(raised.value)
    assert f"from (3, 5) to {shape}" in str(raised.value)
    assert not hooks_of(model)


@pytest.mark.parametrize("wrong", [lambda v: None, lambda v: (v,), lambda v: v.tolist(), lambda v: v.detach().numpy()])
def test_an_edit_that_gives_no_tensor_raises(wrong):
    model = plain()
    with pytest.raises(TypeError, match="here: expected one tensor, got"), edit(model, {"here": wrong}):
        model(x)
    assert not hooks_of(model)


def test_a_module_that_gives_no_tensor_cannot_be_watched_or_edited():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.memory = nn.LSTM(4, 4)

        def forward(self, value):
            return self.memory(value)[0]

    model = Outer()
    for context in (watch(model, "memory"), edit(model, {"memory": lambda value: value})):
        with pytest.raises(TypeError, match="memory: expected one tensor, got tuple"), context:
            model(x)
    assert not hooks_of(model)


# Inside generate -----------------------------------------------------------------------------------------------------


def double(config):
    return transformer(config).double()


@pytest.mark.parametrize("config", SHAPES, ids=lambda config: config.positions)
def test_generate_can_be_watched_step_by_step_with_and_without_a_cache(config):
    model = double(config)
    prompt, steps = tokens(2, 4), 3
    seen = {}
    for cache in (True, False):
        with watch(model, "blocks.*.attn.pattern", every_call=True) as seen[cache]:
            generate(model, prompt, steps, cache=cache)
    for name in ("blocks.0.attn.pattern", "blocks.1.attn.pattern"):
        assert [tuple(call.shape) for call in seen[True][name]] == [(2, 2, 4, 4), (2, 2, 1, 5), (2, 2, 1, 6)]
        assert [tuple(call.shape) for call in seen[False][name]] == [(2, 2, 4, 4), (2, 2, 5, 5), (2, 2, 6, 6)]
        for kept, whole in zip(seen[True][name], seen[False][name], strict=True):
            torch.testing.assert_close(kept[:, :, -1], whole[:, :, -1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("cache", [True, False])
def test_watching_generate_changes_no_token_and_an_edit_reaches_every_step(cache):
    model = double(SHAPES[0])
    prompt = tokens(2, 4)
    free = generate(model, prompt, 5, cache=cache)
    with watch(model, "*", every_call=True) as seen:
        assert torch.equal(generate(model, prompt, 5, cache=cache), free)
    assert {len(calls) for calls in seen.values()} == {5}
    wanted = 3 if (free[:, 4:] != 3).any() else 4
    with edit(model, {"unembedding": lambda logits: torch.eye(7).double()[wanted].expand_as(logits)}):
        forced = generate(model, prompt, 5, cache=cache)
    assert (forced[:, 4:] == wanted).all()
    assert torch.equal(generate(model, prompt, 5, cache=cache), free)
    assert not hooks_of(model)
