"""Models and edits that hypothesis draws: settings are kept, edits act where they are placed, and leave no trace."""

import torch
from hypothesis import find, given, settings
from hypothesis import strategies as st

from tests.examples import fewer
from toylab.model.positions import POSITIONS
from toylab.model.strategies import edits, model_configs, transformers
from toylab.probes import edit, watch
from toylab.tasks import Parity
from toylab.tasks.strategies import batches

TASK = Parity(lengths=(1, 5))
models = transformers(len(TASK.vocabulary), TASK.context)


@given(model_configs(positions="rotary", layers=1))
def test_fixed_settings_of_a_model_are_kept(config):
    assert (config.positions, config.layers) == ("rotary", 1)


@fewer(0.5)
@given(st.data(), batches(TASK, most=4))
def test_an_edited_model_is_finite_and_the_same_again_afterwards(data, batch):
    model, tokens = data.draw(models), torch.as_tensor(batch.tokens)
    functions = data.draw(edits(model))
    with torch.no_grad(), watch(model, *functions) as before:
        plain = model(tokens)
    with torch.no_grad(), edit(model, functions), watch(model, *functions) as after:
        edited = model(tokens)
    assert edited.isfinite().all()
    first = next(point for point in before if point in functions)  # in the order of the forward pass
    assert torch.equal(after[first], functions[first](before[first]))
    assert torch.equal(model(tokens), plain)


def test_models_of_any_encoding_and_any_edit_can_be_drawn():
    often = settings(max_examples=500, database=None)
    for name in POSITIONS:
        assert find(model_configs(), lambda config, name=name: config.positions == name, settings=often)
    model = find(models, lambda model: model.config.hidden == 0, settings=often)
    assert find(edits(model), lambda functions: torch.zeros_like in functions.values(), settings=often)
