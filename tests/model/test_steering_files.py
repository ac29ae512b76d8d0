"""Laws of saved steering: the same bits again, and refused by name where a file holds none for a model."""

import re
from pathlib import Path

import pytest
import torch

from tests.model.small_steerings import KINDS, VOCAB, WIDTH, additions, build, rows
from toylab.files import read_tensors, write_tensors
from toylab.model.steering import (
    Steered,
    load_steering,
    save_steering,
    steer,
)
from toylab.model.transformer import Transformer

PLACES = [slice(None), slice(2, 5), slice(3, None), slice(None, 4), (1, 6), (0,)]


@pytest.mark.parametrize(("kind", "at"), [*((k, PLACES[1]) for k in KINDS), *(("all kinds", at) for at in PLACES)])
def test_what_was_saved_steers_to_the_same_bits(tmp_path, kind, at):
    model, path, tokens = build().float(), tmp_path / "of" / "steering.safetensors", rows(0)
    steered = Steered(model, additions(3)[kind], at).float()
    save_steering(path, steered)
    found = load_steering(path, model)
    assert torch.equal(found(tokens), steered(tokens))
    assert not torch.equal(found(tokens), model(tokens))
    assert found.at == at
    assert [type(x) for x in found.additions.values()] == [type(x) for x in steered.additions.values()]
    one, other = (x.additions.state_dict() for x in (found, steered))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert {id(x) for x in found.parameters() if x.requires_grad} == {id(x) for x in found.additions.parameters()}
    again = tmp_path / "again.safetensors"
    save_steering(again, found)
    assert again.read_bytes() == path.read_bytes()


def test_the_additions_alone_are_saved(tmp_path):
    path = tmp_path / "steering.safetensors"
    save_steering(path, Steered(build(), additions(0)["scaled"]))
    tensors, _ = read_tensors(path)
    assert {name: tuple(x.shape) for name, x in tensors.items()} == {
        "2.vector": (WIDTH,), "2.weight": (WIDTH,), "2.bias": (), "2.centre": (WIDTH,),
    }  # fmt: skip


def refused(path: Path, model: Transformer) -> str:
    with pytest.raises(ValueError, match=re.escape(f"{path}: ")) as error:
        load_steering(path, model)
    assert str(error.value).startswith(f"{path}: ")
    return str(error.value)


def test_files_that_hold_no_steering_for_the_model_are_refused_by_name(tmp_path):
    model, path = build().float(), tmp_path / "steering.safetensors"
    assert "there is no such file" in refused(path, model)
    save_steering(path, steer(model))
    load_steering(path, model)
    assert "for a model of width 8" in refused(path, build(width=8))
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], content[:-4] + b"abcd", b"", b"{}"):
        path.write_bytes(damaged)
        assert "is damaged" in refused(path, model)
    fine = {"steering": {"0": {"kind": "Vector", "gate": None}}, "at": {"from": None, "to": None}}
    vector = {"0.vector": torch.ones(WIDTH)}
    write_tensors(path, vector, fine)
    assert torch.equal(load_steering(path, model).additions["0"].vector, torch.ones(WIDTH))
    for tensors, about in (
        ({"embedding.weight": torch.ones(VOCAB, WIDTH)}, {"model": 1}),
        (vector, {"at": fine["at"]}),
        (vector, {"steering": fine["steering"]}),
        (vector, {**fine, "steering": ["0"]}),
        (vector, {**fine, "steering": {"0": {}}}),
        (vector, {**fine, "steering": {"0": {"kind": "Scaled", "gate": "linear"}}}),
        (vector, {**fine, "at": {}}),
        (vector, {**fine, "at": 3}),
        ({}, fine),
        ({**vector, "1.vector": torch.ones(WIDTH)}, fine),
    ):
        write_tensors(path, tensors, about)
        assert f"does not hold steering vectors for a model of width {WIDTH}" in refused(path, model)
