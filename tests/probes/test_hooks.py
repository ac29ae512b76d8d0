"""Laws of looking into a model: watching changes nothing, every name finds its point, and no trace is left."""

import weakref

import pytest
import torch
from torch import nn

from tests.probes.models import SHAPES, hooks_of, plain, tokens, transformer, x
from toylab.probes import edit, points, watch


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


# Watching ------------------------------------------------------------------------------------------------------------


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


# Names ---------------------------------------------------------------------------------------------------------------


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
        with pytest.raises(ValueError, match=r"no .*point is named") as raised, context:
            pytest.fail("the block was entered")
        assert repr(wrong) in str(raised.value)
        assert near in str(raised.value)
    assert not hooks_of(model)


def test_names_are_those_of_the_tensors_and_stars_do_not_match_modules_between_points():
    # In a model with points, a star must not pick up a layer that returns something else.
    with pytest.raises(ValueError, match="point is named 'fir\\*'"), watch(plain(), "fir*"):
        pass


# Handles -------------------------------------------------------------------------------------------------------------


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
