"""Laws of looking into a model: watching changes nothing, an edit changes what was asked for, and no trace is left."""

import weakref
from collections import OrderedDict
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from toylab.model.config import ModelConfig
from toylab.model.generate import generate
from toylab.model.transformer import Transformer
from toylab.probes import edit, points, watch

SHAPES = [
    ModelConfig(layers=2, heads=2, width=8, positions=positions, norm=norm)
    for positions, norm in [("sinusoidal", "pre"), ("rotary", "post"), ("alibi", "entry"), ("learned", "none")]
]


def transformer(config=SHAPES[0], seed=0):
    return Transformer(config, vocab=7, context=12, seed=seed)


def tokens(rows=3, length=6):
    return torch.randint(7, (rows, length), generator=torch.Generator().manual_seed(1))


def plain():
    """A model that knows nothing of this house."""
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(
            first=nn.Linear(4, 5), here=nn.Identity(), bend=nn.ReLU(), there=nn.Identity(), last=nn.Linear(5, 2)
        )
    )


def hooks_of(model):
    return [hook for module in model.modules() for hook in module._forward_hooks.values()]


x = torch.randn(3, 4, generator=torch.Generator().manual_seed(2))


# Points ------------------------------------------------------------------------------------------------------------


def test_points_are_the_identities_in_order():
    assert points(plain()) == ("here", "there")
    assert points(nn.Linear(2, 2)) == ()
    assert points(nn.Identity()) == (), "the model itself has no name"
    found = points(transformer())
    assert {"embed", "blocks.0.attn.pattern", "blocks.1.attn.z", "blocks.1.mlp.post", "blocks.1.resid_post"} <= set(
        found
    )
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("config", SHAPES, ids=lambda config: config.positions)
def test_every_point_of_a_transformer_but_absent_positions_is_passed_once(config):
    model = transformer(config)
    with watch(model, "*", every_call=True) as seen:
        model(tokens())
    absent = set(points(model)) - set(seen)
    assert absent == (set() if config.positions in ("learned", "sinusoidal") else {"pos_embed"})
    assert all(len(calls) == 1 for calls in seen.values())


# Watching ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", SHAPES, ids=lambda config: config.positions)
@pytest.mark.parametrize("every_call", [True, False])
def test_watching_changes_no_bit_of_the_logits(config, every_call):
    model = transformer(config)
    before = model(tokens())
    with watch(model, "*", every_call=every_call):
        watched = model(tokens())
    assert torch.equal(before, watched)
    assert torch.equal(before, model(tokens()))


def test_what_is_watched_is_what_passed():
    model = plain()
    with watch(model, "here", "last") as seen:
        out = model(x)
    assert seen["last"] is out, "nothing is copied"
    assert torch.equal(seen["here"], model.first(x))
    assert list(seen) == ["here", "last"]


def test_gradients_flow_through_what_was_watched():
    model = transformer()
    with watch(model, "blocks.0.attn.pattern", "blocks.1.resid_pre") as seen:
        logits = model(tokens())
    (slope,) = torch.autograd.grad(logits.square().sum(), seen["blocks.1.resid_pre"], retain_graph=True)
    assert slope.abs().sum() > 0
    seen["blocks.0.attn.pattern"].square().sum().backward()
    assert model.blocks[0].attn.query.weight.grad.abs().sum() > 0
    assert model.blocks[1].attn.query.weight.grad is None, "the second layer has no part in the first pattern"


def test_the_latest_call_is_kept_or_all_of_them_in_order():
    model = plain()
    with watch(model, "here") as last, watch(model, "here", every_call=True) as every:
        for scale in (1, 2, 3):
            model(scale * x)
    assert [len(calls) for calls in every.values()] == [3]
    assert all(torch.equal(call, model.first(scale * x)) for scale, call in zip((1, 2, 3), every["here"], strict=True))
    assert last["here"] is every["here"][-1]


def test_a_point_that_no_call_reaches_is_not_reported():
    with watch(plain(), "here") as seen:
        pass
    assert seen == {}


def test_nothing_is_recorded_after_the_block():
    model = plain()
    with watch(model, "here", every_call=True) as seen:
        model(x)
    model(x)
    assert len(seen["here"]) == 1


def test_what_was_recorded_dies_with_its_dictionary():
    model = plain()
    with torch.no_grad(), watch(model, "here", "bend", every_call=True) as seen:
        model(x)
    alive = [weakref.ref(calls[0]) for calls in seen.values()]
    assert all(one() is not None for one in alive)
    del seen
    assert all(one() is None for one in alive), "someone keeps what was recorded"


# Names -------------------------------------------------------------------------------------------------------------


def test_a_star_stands_for_any_part_of_the_name_of_a_point():
    model = transformer()
    with (
        watch(model, "blocks.*.attn.pattern") as patterns,
        watch(model, "*") as everything,
        watch(model, "*.1.*") as late,
    ):
        model(tokens())
    assert list(patterns) == ["blocks.0.attn.pattern", "blocks.1.attn.pattern"]
    assert set(everything) == set(points(model))
    assert set(late) == {name for name in points(model) if ".1." in name}
    with watch(model, "blocks.[0]*", "blocks.0.attn.z", "embed") as seen:
        model(tokens())
    assert set(seen) == {name for name in points(model) if name.startswith("blocks.0")} | {"embed"}


def test_any_module_can_be_named_and_stars_serve_models_without_points():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Sequential(nn.Linear(4, 2)))
    with watch(model, "2.*") as inner, watch(model, "2") as outer, watch(model, "*") as every:
        out = model(x)
    assert list(inner) == ["2.0"]
    assert outer["2"] is out
    assert list(every) == ["0", "1", "2.0", "2"]  # in the order of the calls


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("blocks.0.attn.patern", "blocks.0.attn.pattern"),
        ("blocks.0.atn.z", "blocks.0.attn.z"),
        ("blocks.1.resid_pst", "blocks.1.resid_post"),
        ("blocks.7.attn.*", "blocks."),
        ("", "blocks.0"),
        ("nothing like it", "toylab.probes.points lists all"),
    ],
)
def test_a_name_that_matches_nothing_raises_at_once_and_names_the_nearest(wrong, near):
    model = transformer()
    for context in (watch(model, wrong), edit(model, {wrong: torch.zeros_like}), watch(model, "embed", wrong)):
        with pytest.raises(ValueError, match="no point is named") as raised, context:
            pytest.fail("the block was entered")
        assert repr(wrong) in str(raised.value)
        assert near in str(raised.value)
    assert not hooks_of(model)


def test_names_are_those_of_the_tensors_and_stars_do_not_match_modules_between_points():
    # In a model with points, a star must not pick up a layer that returns something else.
    with pytest.raises(ValueError, match="no point is named 'fir\\*'"), watch(plain(), "fir*"):
        pass


# Editing -----------------------------------------------------------------------------------------------------------


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


# Handles -----------------------------------------------------------------------------------------------------------


def contexts(model):
    return [watch(model, "*"), edit(model, {"here": torch.zeros_like, "first": torch.zeros_like})]


@pytest.mark.parametrize("which", [0, 1], ids=["watch", "edit"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, GeneratorExit])
def test_handles_are_removed_also_when_the_block_raises(which, error):
    model = plain()
    before = model(x)

    def fail():
        assert hooks_of(model), "the law would hold for nothing"
        raise error

    with pytest.raises(error), contexts(model)[which]:
        fail()
    assert not hooks_of(model)
    assert torch.equal(model(x), before)


@pytest.mark.parametrize("which", [0, 1], ids=["watch", "edit"])
def test_only_own_handles_are_removed(which):
    model = plain()
    heard = []
    model.here.register_forward_hook(lambda *_: heard.append("before"))
    with contexts(model)[which]:
        model.here.register_forward_hook(lambda *_: heard.append("inside"))
        model(x)
    model(x)
    assert heard == ["before", "inside"] * 2
    assert len(hooks_of(model)) == 2


def test_blocks_may_end_in_any_order():
    model = plain()
    first, second = watch(model, "here"), edit(model, {"here": torch.zeros_like})
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert torch.equal(model(x), model.last(torch.zeros(3, 5)))
    second.__exit__(None, None, None)
    assert not hooks_of(model)


def test_a_model_can_be_entered_again_after_an_error_inside_it():
    model = plain()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), edit(model, {"here": lambda v: v / 0 if False else 1 / 0}):
            model(x)
    with watch(model, "here") as seen:
        model(x)
    assert torch.equal(seen["here"], model.first(x))


# Inside generate ---------------------------------------------------------------------------------------------------


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
