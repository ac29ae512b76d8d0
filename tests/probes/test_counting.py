"""Laws of the instruments for counting: blocked keys, masses that add up, the bias, the name of each circuit."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.probes.counting_values import SEEDS, double, normal
from toylab.model.config import ModelConfig
from toylab.model.transformer import Transformer
from toylab.probes import (
    CIRCUITS,
    block_keys,
    edit,
    mass_by_class,
    name_bias,
    name_circuit,
    watch,
)

BATCH, HEADS, ASKING, KEYS = 2, 3, 4, 6


def random_mask(seed: int, share: float) -> torch.Tensor:
    return torch.rand(BATCH, ASKING, KEYS, generator=torch.Generator().manual_seed(seed)) < share


@given(SEEDS, st.sampled_from([0.0, 0.3, 0.8, 1.0]))
def test_blocked_keys_get_no_attention_and_the_rest_share_it_as_before(seed, share):
    scores, mask = normal(seed, BATCH, HEADS, ASKING, KEYS), random_mask(seed, share)
    kept = scores.clone()
    before, after = scores.softmax(dim=-1), block_keys(mask)(scores).softmax(dim=-1)
    assert torch.equal(scores, kept), "the edit wrote into what it was given"
    for row, head, query in itertools.product(range(BATCH), range(HEADS), range(ASKING)):
        blocked = mask[row, query].tolist()
        old, new = before[row, head, query].tolist(), after[row, head, query].tolist()
        assert sum(new) == pytest.approx(1, abs=1e-12)
        left = sum(a for a, away in zip(old, blocked, strict=True) if not away)
        if all(blocked):
            assert new == old
        else:
            expected = [0 if away else a / left for a, away in zip(old, blocked, strict=True)]
            assert new == pytest.approx(expected, abs=1e-12)
            assert all(b == 0 for b, away in zip(new, blocked, strict=True) if away)


def test_a_query_whose_keys_are_all_blocked_is_left_alone_and_only_it():
    scores, mask = normal(0, 1, 2, 2, 3), torch.tensor([[[True, True, True], [True, False, False]]])
    after = block_keys(mask)(scores)
    assert torch.equal(after[:, :, 0], scores[:, :, 0])
    assert after[:, :, 1].isinf().tolist() == [[[True, False, False]] * 2]


@given(
    SEEDS, st.sampled_from([0.3, 0.8]), st.sampled_from([torch.float16, torch.float32, torch.float64]), st.booleans()
)
def test_a_query_keeps_its_scores_where_no_key_that_it_sees_would_be_left(seed, share, kind, lowest):
    scores, mask = normal(seed, BATCH, HEADS, ASKING, KEYS).to(kind), random_mask(seed, share)
    hidden = torch.ones(ASKING, KEYS).triu(1).bool()  # the first query sees one key
    scores = scores.masked_fill(hidden, torch.finfo(kind).min if lowest else -math.inf)
    before, after = (one.double().softmax(dim=-1) for one in (scores, block_keys(mask)(scores)))
    for row, query in itertools.product(range(BATCH), range(ASKING)):
        left = (~mask[row, query] & ~hidden[query]).any()
        if left:
            assert (after[row, :, query, mask[row, query] | hidden[query]] == 0).all()
            torch.testing.assert_close(after[row, :, query].sum(dim=-1), torch.ones(HEADS).double())
        else:
            assert torch.equal(after[row, :, query], before[row, :, query])


def test_knocking_out_the_first_token_of_a_causal_model_leaves_no_nan():
    model = Transformer(ModelConfig(heads=2, width=8, positions="none"), 5, KEYS)
    tokens = torch.arange(KEYS)[None] % 5
    first = torch.zeros(1, KEYS, KEYS, dtype=torch.bool)
    first[:, :, 0] = True
    edits = {"blocks.*.attn.scores": block_keys(first)}
    with torch.no_grad(), edit(model, edits), watch(model, "blocks.*.attn.pattern") as seen:
        assert model(tokens).isfinite().all()
    for pattern in seen.values():
        assert (pattern[:, :, 1:, 0] == 0).all()
        assert (pattern[:, :, 0, 0] == 1).all()


def test_gradients_flow_through_what_is_not_blocked():
    scores, mask = normal(0, BATCH, HEADS, ASKING, KEYS).requires_grad_(True), random_mask(1, 0.4)
    (slope,) = torch.autograd.grad((normal(2, *scores.shape) * block_keys(mask)(scores).softmax(dim=-1)).sum(), scores)
    cut = (mask & ~mask.all(dim=-1, keepdim=True))[:, None].expand_as(scores)
    assert (slope[cut] == 0).all()
    assert (slope[~cut] != 0).all()


# Masses --------------------------------------------------------------------------------------------------------------


def partition(seed: int, classes: int) -> dict[str, torch.Tensor]:
    """Random classes that exclude each other and leave nothing out."""
    which = torch.randint(classes, (BATCH, ASKING, KEYS), generator=torch.Generator().manual_seed(seed))
    return {f"class {number}": which == number for number in range(classes)}


@given(SEEDS, st.integers(1, 5))
def test_masses_of_classes_are_sums_over_their_keys_and_add_up_to_one(seed, classes):
    pattern, masks = normal(seed, BATCH, ASKING, KEYS).softmax(dim=-1), partition(seed, classes)
    found = mass_by_class(pattern, masks)
    assert list(found) == list(masks)
    for name, row, query in itertools.product(masks, range(BATCH), range(ASKING)):
        keys = masks[name][row, query].nonzero()[:, 0].tolist()
        expected = sum(float(pattern[row, query, key]) for key in keys)
        assert found[name][row, query].item() == pytest.approx(expected, abs=1e-12)
    torch.testing.assert_close(sum(found.values()), torch.ones(BATCH, ASKING).double(), rtol=0, atol=1e-12)


def test_classes_that_overlap_raise_and_are_named():
    pattern, masks = normal(0, BATCH, ASKING, KEYS).softmax(dim=-1), partition(0, 2)
    masks["class 0"] = masks["class 0"].clone()
    masks["class 0"][1, 2, 3] = masks["class 1"][1, 2, 3] = True
    with pytest.raises(ValueError, match=r"classes: class 0, class 1 overlap; each key must be in one"):
        mass_by_class(pattern, masks)


def test_a_key_left_out_raises_if_and_only_if_it_gets_attention():
    pattern, masks = normal(0, BATCH, ASKING, KEYS).softmax(dim=-1), partition(0, 2)
    masks = {name: mask.clone() for name, mask in masks.items()}
    for mask in masks.values():
        mask[1, 2, 3] = False
    with pytest.raises(ValueError, match=r"class 0, class 1 leave out keys that get attention; add a class for the"):
        mass_by_class(pattern, masks)
    blocked = pattern.clone()
    blocked[1, 2, 3] = 0
    assert sum(mass_by_class(blocked, masks).values())[1, 2].item() == pytest.approx(blocked[1, 2].sum().item())


# The bias token ------------------------------------------------------------------------------------------------------


def test_a_bias_worked_out_by_hand():
    masses = {"ones": double(0.5, 0.3), "BoS": double(0.4, 0.5), "brackets": double(0.1, 0.0), "zeros": double(0, 0.2)}
    found = name_bias(masses, "ones")
    assert found.name == "BoS"
    assert found.share == pytest.approx(0.45 / 0.6)
    assert found.shares == pytest.approx({"BoS": 0.75, "brackets": 0.05 / 0.6, "zeros": 0.1 / 0.6})


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=6), st.integers(0, 5), st.floats(0, 1))
def test_the_bias_is_the_class_that_holds_most_of_what_is_not_counted(weights, counted, bar):
    counted %= len(weights)
    masses = {str(number): double(weight, weight) for number, weight in enumerate(weights)}
    found = name_bias(masses, str(counted), bar)
    rest = {name: weights[int(name)] for name in masses if int(name) != counted}
    assert set(found.shares) == set(rest)
    assert sum(found.shares.values()) == pytest.approx(1)
    largest = max(rest.values()) / sum(rest.values())
    assert found.share == pytest.approx(largest)
    if abs(largest - bar) > 1e-9:
        assert (found.name == "mixed") == (largest < bar)
    if found.name != "mixed":
        assert rest[found.name] == max(rest.values())


def test_at_the_bar_a_bias_has_a_name_and_below_it_is_mixed():
    masses = {"ones": double(0.5), "a": double(0.375), "b": double(0.125)}
    assert name_bias(masses, "ones", threshold=0.75).name == "a"
    assert name_bias(masses, "ones", threshold=0.7500001).name == "mixed"


def test_where_all_attention_is_on_what_is_counted_there_is_no_bias():
    found = name_bias({"ones": double(1, 1), "a": double(0, 0), "b": double(0, 0)}, "ones")
    assert (found.name, found.share, found.shares) == ("mixed", 0, {"a": 0, "b": 0})


def test_a_counted_class_that_is_not_there_raises_and_the_others_are_named():
    with pytest.raises(ValueError, match=r"counted='twos': is none of the classes ones, rest"):
        name_bias({"ones": double(1), "rest": double(0)}, "twos")


# The circuit ---------------------------------------------------------------------------------------------------------


FLOOR = 0.25
ONES, BRACKETS, OUTSIDE = "counted", "own brackets", "outside ones"
TABLE = [
    # accuracy, and when the counted ones, the own brackets, the ones outside are blocked
    (1.0, 0.1, 1.0, 1.0, "counter"),
    (1.0, 0.3, 0.1, 0.1, "counter"),
    (0.8, 0.25, 0.8, 0.8, "counter"),
    (1.0, 1.0, 0.1, 1.0, "copy"),
    (1.0, 0.8, 0.3, 1.0, "copy"),
    (1.0, 1.0, 0.1, 0.1, "copy"),
    (1.0, 1.0, 1.0, 0.1, "complement"),
    (0.9, 0.73, 0.9, 0.2, "complement"),
    (1.0, 1.0, 1.0, 1.0, "other"),
    (1.0, 0.5, 0.1, 1.0, "other"),
    (1.0, 0.79, 1.0, 0.1, "other"),
    (1.0, 0.31, 1.0, 1.0, "other"),
    (1.0, 1.0, 0.31, 0.31, "other"),
    (0.79, 0.1, 0.79, 0.79, "unsolved"),
    (0.3, 0.3, 0.1, 0.1, "unsolved"),
]


@pytest.mark.parametrize(("accuracy", "ones", "brackets", "outside", "name"), TABLE)
def test_every_row_of_the_table_has_its_circuit(accuracy, ones, brackets, outside, name):
    assert name_circuit(accuracy, {ONES: ones, BRACKETS: brackets, OUTSIDE: outside}, FLOOR) == name


def test_the_table_holds_every_circuit():
    assert {name for *_, name in TABLE} == set(CIRCUITS)


@given(*[st.floats(0, 1)] * 5, st.floats(0, 0.2), st.floats(0.3, 1))
def test_a_circuit_has_the_name_that_its_definition_gives(accuracy, ones, brackets, outside, floor, slack, solved):
    found = name_circuit(accuracy, {ONES: ones, BRACKETS: brackets, OUTSIDE: outside}, floor, solved, slack)
    fits = {
        "unsolved": accuracy < solved,
        "counter": accuracy >= solved and ones <= floor + slack,
        "copy": accuracy >= solved and brackets <= floor + slack < ones and ones >= 0.8 * accuracy,
        "complement": accuracy >= solved and outside <= floor + slack < ones and ones >= 0.8 * accuracy,
    }
    assert fits[found] if found != "other" else not any(fits.values())


def test_the_floor_decides_what_knowing_nothing_means():
    blocked = {ONES: 0.5, BRACKETS: 1.0, OUTSIDE: 1.0}
    assert name_circuit(1.0, blocked, floor=0.5) == "counter"
    assert name_circuit(1.0, blocked, floor=0.25) == "other"
    assert name_circuit(1.0, blocked, floor=0.25, slack=0.25) == "counter"
