"""Laws of the models that runs keep: they come back as they were, or are refused by name."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toylab.files import read_tensors, write_tensors
from toylab.model.checkpoint import load_model, save_model
from toylab.model.config import ModelConfig
from toylab.model.positions import POSITIONS, NoPositions
from toylab.model.transformer import Transformer


@settings(max_examples=20)
@given(
    st.integers(0, 2**32),
    st.sampled_from(["learned", "tied", "frozen", "orthogonal"]),
    st.sampled_from(["none", "learned", "sinusoidal", "rotary", "alibi"]),
    st.sampled_from(["pre", "none"]),
    st.booleans(),
)
def test_a_model_comes_back_from_its_file_as_it_was(tmp_path_factory, seed, unembedding, positions, norm, biases):
    config = ModelConfig(width=16, unembedding=unembedding, positions=positions, norm=norm, biases=biases, hidden=8)
    model, path = Transformer(config, 9, 6, seed), tmp_path_factory.mktemp("runs") / "model.safetensors"
    save_model(path, model)
    again = load_model(path)
    assert (again.config, again.vocab, again.context) == (config, 9, 6)
    assert list(again.state_dict()) == list(model.state_dict())
    for (name, one), other in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other), name
        assert one.requires_grad == other.requires_grad, name
    assert (again.unembedding.weight is again.embedding.weight) == (unembedding == "tied")
    tokens = torch.randint(9, (2, 6))
    assert torch.equal(again(tokens), model(tokens))


def test_a_model_in_double_precision_keeps_all_its_bits(tmp_path):
    model = Transformer(ModelConfig(width=16), 9, 6).double()
    with torch.no_grad():
        model.embedding.weight += 1e-12
    save_model(tmp_path / "model.safetensors", model)
    assert torch.equal(load_model(tmp_path / "model.safetensors").embedding.weight, model.embedding.weight)


def test_loading_a_model_draws_nothing_from_torchs_own_generator(tmp_path):
    save_model(tmp_path / "model.safetensors", Transformer(ModelConfig(), 9, 6))
    before = torch.get_rng_state()
    load_model(tmp_path / "model.safetensors")
    assert torch.equal(torch.get_rng_state(), before)


def test_what_an_encoding_of_ones_own_raises_keeps_its_class(tmp_path, monkeypatch):
    monkeypatch.setitem(POSITIONS, "own", NoPositions)
    save_model(tmp_path / "model.safetensors", Transformer(ModelConfig(width=8, positions="own"), 9, 6))
    assert load_model(tmp_path / "model.safetensors").config.positions == "own"

    class Own(NoPositions):
        def __init__(self, *arguments):
            raise ValueError("of the encoding")

    monkeypatch.setitem(POSITIONS, "own", Own)
    with pytest.raises(ValueError, match=r"^of the encoding$"):
        load_model(tmp_path / "model.safetensors")


BAD_MODELS = {
    "weights that are no numbers": lambda tensors, about: ({name: t.bool() for name, t in tensors.items()}, about),
    "no weights": lambda tensors, about: ({}, about),
    "of no kind": lambda tensors, about: (tensors, {**about, "kind": ["Transformer"]}),
    "huge": lambda tensors, about: (tensors, {**about, "vocab": 2**70}),
    "no header": lambda tensors, about: ({}, {}),
    "an unknown field": lambda tensors, about: (tensors, {**about, "config": {**about["config"], "colour": "red"}}),
    "an impossible shape": lambda tensors, about: (tensors, {**about, "config": {**about["config"], "heads": 3}}),
    "another shape than its weights": lambda tensors, about: (tensors, {**about, "vocab": 10}),
    "a weight missing": lambda tensors, about: (dict(list(tensors.items())[1:]), about),
    "a weight too many": lambda tensors, about: ({**tensors, "extra": torch.zeros(1)}, about),
    "words for numbers": lambda tensors, about: (tensors, {**about, "vocab": "nine"}),
}


@pytest.mark.parametrize("change", BAD_MODELS.values(), ids=BAD_MODELS)
def test_a_file_that_is_no_model_is_refused_by_name(tmp_path, change):
    path = tmp_path / "model.safetensors"
    save_model(path, Transformer(ModelConfig(width=8), 9, 6))
    write_tensors(path, *change(*read_tensors(path)))
    with pytest.raises(ValueError, match=r"model\.safetensors: "):
        load_model(path)
