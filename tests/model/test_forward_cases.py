"""The table of cases to which other implementations of the forward pass are held, from the side of torch."""

import json

import pytest
import torch

from tests.cases.make_forward import ENCODINGS, PATH, unpacked
from toylab.model.config import ModelConfig
from toylab.model.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from toylab.model.steering import Steered, Vector
from toylab.model.transformer import Transformer
from toylab.settings import convert_value

CASES = json.loads(PATH.read_text())


def model_of(case):
    kind, config = {
        "Transformer": (Transformer, ModelConfig),
        "EncoderDecoder": (EncoderDecoder, EncoderDecoderConfig),
    }[case["kind"]]
    model = kind(convert_value(config, case["config"], "config"), **case["sizes"])
    missing, unexpected = model.load_state_dict(
        {name: unpacked(one) for name, one in case["weights"].items()}, strict=False
    )
    assert not unexpected
    assert set(missing) <= {"unembedding.weight"}
    if case["steering"]:
        width = model.config.width
        model = Steered(model, {int(at): Vector(width, unpacked(v)) for at, v in case["steering"].items()})
    return model


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_logits_of_a_case_are_those_of_its_weights(case):
    model, logits = model_of(case), torch.tensor(case["logits"], dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model(torch.tensor(case["tokens"])).double(), logits, rtol=1e-4, atol=1e-4)
        exact = model.double()(torch.tensor(case["tokens"]))
    torch.testing.assert_close(exact, logits, rtol=1e-8, atol=1e-8)


def test_every_encoding_is_in_the_table_for_both_kinds_of_model():
    encodings = {(case["kind"], case["config"].get("encoder", case["config"])["positions"]) for case in CASES}
    assert encodings == {(kind, name) for kind in ("Transformer", "EncoderDecoder") for name in ENCODINGS}
