"""Laws of a transformer's shape: the choices that there are, and shapes that are impossible."""

import pytest

from tests.model.small_transformers import ACTIVATION_NAMES
from toylab.model.config import ModelConfig
from toylab.model.layers import ACTIVATIONS


def test_the_choices_of_a_config_are_those_that_exist():
    assert set(ACTIVATION_NAMES) == set(ACTIVATIONS)
    with pytest.raises(ValueError, match="no positional encoding 'rotery'; did you mean rotary"):
        ModelConfig(positions="rotery")


MISTAKES = [
    ({"layers": 0}, r"^layers=0: .*at least 1"),
    ({"heads": 0}, r"^heads=0: .*at least 1"),
    ({"width": 0}, r"^width=0: .*at least 1"),
    ({"hidden": -1}, r"^hidden=-1: .*at least 0"),
    ({"width": 30, "heads": 4}, r"^width=30: .*multiple of heads=4, for example \d+$"),
    ({"width": 15, "heads": 1, "positions": "sinusoidal"}, r"^width=15: .*even .*for example \d+$"),
    ({"width": 15, "heads": 3, "positions": "sinusoidal"}, r"^width=15: .*even .*for example \d+$"),
    ({"position_width": 0, "positions": "sinusoidal"}, r"^position_width=0: .*for example \d+$"),
    ({"position_width": 3, "positions": "sinusoidal"}, r"^position_width=3: .*even .*for example \d+$"),
    ({"position_width": 64, "width": 32, "positions": "sinusoidal"}, r"^position_width=64: .*width=32, for example"),
    ({"width": 10, "heads": 2, "positions": "rotary"}, r"^width=10: .*even width per head, for example \d+$"),
]


@pytest.mark.parametrize(("given", "message"), MISTAKES)
def test_an_impossible_shape_is_refused_with_its_value_and_a_remedy(given, message):
    with pytest.raises(ValueError, match=message) as error:
        ModelConfig(**given)
    if "for example" in str(error.value):
        name, remedy = str(error.value).split("=")[0], int(str(error.value).split()[-1])
        ModelConfig(**{**given, name: remedy})
