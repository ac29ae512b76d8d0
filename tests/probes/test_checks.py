"""Laws of all probes together: NaN and infinity are refused by the argument's name, and masks of 0 and 1 are masks."""

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, is_dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toylab import probes
from toylab.console import ToylabError
from toylab.probes.checks import as_mask, as_whole, check_finite

few = settings(max_examples=10)
ROWS, WIDTH, HEADS, SIZE = 12, 4, 2, 5
GROUP = torch.arange(ROWS) % 2
LINKS = np.array([(row, query, query - 1) for row in range(3) for query in (2, 3, 4)])
BARS = {"carry_threshold": 0.9, "stop_threshold": 0.5, "end_of_input_threshold": 0.25}


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pattern(seed: int) -> torch.Tensor:
    future = torch.ones(SIZE, SIZE).triu(1).bool()
    return normal(seed, 3, HEADS, SIZE, SIZE).masked_fill(future, -torch.inf).softmax(dim=-1)


def classes(like: torch.Tensor) -> dict[str, torch.Tensor]:
    even = (torch.arange(like.shape[-1]) % 2 == 0).expand(like.shape)
    return {"even": even, "odd": ~even}


def dictionary() -> probes.SparseAutoencoder:
    return probes.SparseAutoencoder(WIDTH, 6, 2, torch.Generator().manual_seed(0)).double().requires_grad_(False)


def clouds(*names: str) -> dict[str, torch.Tensor]:
    return {name: normal(number, ROWS, WIDTH) for number, name in enumerate(names)}


SHARES = {"ones": normal(0, ROWS).sigmoid(), "rest": normal(0, ROWS).neg().sigmoid()}
MATRICES = clouds("change", "weight")
INPUTS = {"inputs": normal(5, 7, WIDTH)}
MASKS = {"fires": normal(3, ROWS, 5) > 0, "group": GROUP == 1, "indicator": normal(4, ROWS) > 0}
NUMBERS = {"accuracy": 1.0, "blocked": {"counted": 0.2, "own brackets": 1.0, "outside ones": 1.0}, "floor": 0.25}
BY_LENGTH = {n: {"carry": LINKS, "stop": LINKS, "end of input": LINKS} for n in (1, 2)}


@dataclass(frozen=True)
class Measure:
    """How a probe is called: the arguments that must hold finite numbers, and the others."""

    numbers: Mapping[str, object]
    others: Mapping[str, object]
    infinite: bool = False


def measure(numbers: Mapping[str, object], infinite: bool = False, **others: object) -> Measure:
    return Measure(numbers, others, infinite)


MEASURES = {
    "contrast_cosine": measure({"direction": normal(0, WIDTH), "rows": normal(1, 6, WIDTH)}, token=0, competitor=1),
    "energy_along": measure({"vectors": normal(0, ROWS, WIDTH), "direction": normal(1, WIDTH)}),
    "auc": measure({"high": normal(0, ROWS), "low": normal(1, ROWS)}, infinite=True),
    "class_readout": measure(
        {
            "masses": SHARES,
            "values": {"ones": normal(0, 3), "rest": normal(1, 3)},
            "bias": normal(2, 3),
            "logits": normal(3, ROWS, 3),
        }
    ),
    "conditional_share": measure(MATRICES | INPUTS),
    "cosine_to": measure({"changes": normal(0, ROWS, WIDTH), "direction": normal(1, WIDTH)}),
    "dead_share": measure({"activations": normal(0, ROWS, WIDTH)}, model=dictionary()),
    "relative_change": measure(MATRICES | INPUTS),
    "explained_variance": measure({"activations": normal(0, ROWS, WIDTH)}, model=dictionary()),
    "find_iteration_head": measure(
        {"patterns": {n: [pattern(n), pattern(n + 5)] for n in (1, 2)}} | BARS, links=BY_LENGTH
    ),
    "fit_autoencoder": measure({"activations": normal(0, ROWS, WIDTH), "learning_rate": 0.01}, features=6, steps=2),
    "fit_saturation": measure({"mass": SHARES["ones"]}, counts=torch.arange(ROWS)),
    "amplification": measure({"weight": MATRICES["weight"]} | INPUTS),
    "gradient_norms": measure({"points": normal(0, ROWS, WIDTH)}, function=lambda x: x.square().sum(dim=1)),
    "invariance": measure({"pattern": pattern(0), "threshold": 0.5}, links=LINKS),
    "jacobian_norms": measure({"points": normal(0, ROWS, WIDTH)}, function=torch.sin),
    "left_singular_directions": measure({"weight": MATRICES["weight"]}),
    "linear_probe": measure(
        {"features": normal(0, ROWS, WIDTH), "ridge": 0.01},
        labels=GROUP,
        groups=torch.arange(ROWS) // 2,
        rng=np.random.default_rng(0),
    ),
    "link_mass": measure({"pattern": pattern(0)}, links=LINKS),
    "logit_attribution": measure({"parts": normal(0, 3, 2, WIDTH), "rows": normal(1, 6, WIDTH), "eps": 1e-5}),
    "mass_by_class": measure({"pattern": pattern(0)[:, 0]}, classes=classes(pattern(0)[:, 0])),
    "mass_by_query": measure({"pattern": pattern(0)}, links=LINKS),
    "name_bias": measure({"masses": SHARES, "threshold": 0.7}, counted="ones"),
    "name_circuit": measure(NUMBERS | {"solved": 0.8, "slack": 0.05}),
    "null_share": measure(MATRICES),
    "energy_outside": measure(
        {"vectors": normal(0, ROWS, WIDTH), "directions": torch.eye(ROWS, dtype=torch.float64)[:, :3]}
    ),
    "peakiness": measure({"pattern": pattern(0), "threshold": 0.5}, links=LINKS),
    "predicted_slope": measure({"shares": {"zeros": 0.6, "begin": 0.4}, "growth": {"zeros": 2.0}}),
    **{name: measure({"values": normal(0, 13, WIDTH)}) for name in ("fourier_energy", "read_frequencies")},
    "keep_frequencies": measure({"values": normal(0, 7, WIDTH)}, frequencies=[1, 3]),
    "token_ranks": measure({"scores": normal(0, ROWS)}, infinite=True),
    "rotary_planes": measure({"query": normal(0, WIDTH), "key": normal(1, WIDTH)}),
    "row_cosines": measure({"change": MATRICES["change"]} | INPUTS),
    "score_table": measure({"queries": normal(0, 3, HEADS, WIDTH), "keys": normal(1, 3, HEADS, WIDTH)}),
    "separation": measure(clouds("safe", "unsafe")),
    "span_sine": measure({"after": MATRICES["change"], "before": MATRICES["weight"]}, energy=0.9),
    "split_change": measure(MATRICES),
    "nearness": measure({"activations": normal(0, ROWS, WIDTH), "safe": normal(1, WIDTH), "unsafe": normal(2, WIDTH)}),
    "slope_through_origin": measure({"predicted": normal(0, ROWS)}, counts=torch.arange(ROWS)),
    "token_cosines": measure({"direction": normal(0, WIDTH), "rows": normal(1, 6, WIDTH)}),
    "top_energy": measure({"matrix": MATRICES["change"]}),
    "top_rank": measure({"change": MATRICES["change"]}, rank=2),
    "top_share": measure({"activations": normal(0, ROWS, WIDTH)}),
    "weak_share": measure(INPUTS | {"weight": MATRICES["weight"]}),
}
OTHERS = {
    "takes no numbers but masks, held to the law of masks": ["block_keys", "compare_features"],
    "takes links alone, which are whole numbers": ["shift_links", "uniform_mass"],
    "edits what passes and measures nothing": ["follow_links", "uniform_heads", "zero_heads", "patch_activation"],
    "looks into a model, and hands on what passes as it is": ["PathPatched", "Tap", "edit", "points", "watch"],
    "runs a model, of which nan is refused in test_positions.py": [
        "distance_effects",
        "name_encoding",
        "permutation_sensitivity",
        "shift_sensitivity",
    ],
    "holds what was found": [
        "BiasToken",
        "DistanceEffects",
        "PositionSensitivity",
        "PositionalEffects",
        "FeatureTest",
        "FourierReading",
        "IterationHead",
        "NullShare",
        "ProbeScore",
        "ClassReadout",
        "Saturation",
    ],
    "is no function of tensors": ["CIRCUITS", "Edit"],
    "is a module; its codes are tried below": ["SparseAutoencoder"],
}


def leaves(name: str, value: object) -> list[tuple[str, object]]:
    """The numbers and tensors of an argument, each with the name that an error must give."""
    if isinstance(value, Mapping):
        return [leaf for key, part in value.items() for leaf in leaves(f"{name}[{key!r}]", part)]
    if isinstance(value, list):
        return [leaf for at, part in enumerate(value) for leaf in leaves(f"{name}[{at}]", part)]
    return [(name, value)]


def spoiled(value: object, path: str, name: str, bad: float, place: int) -> object:
    """A copy of an argument in which one number of the leaf of this path is another."""
    if isinstance(value, Mapping):
        return {key: spoiled(part, path, f"{name}[{key!r}]", bad, place) for key, part in value.items()}
    if isinstance(value, list):
        return [spoiled(part, path, f"{name}[{at}]", bad, place) for at, part in enumerate(value)]
    if name != path:
        return value
    if isinstance(value, float):
        return bad
    copy = value.clone()
    copy.view(-1)[place % copy.numel()] = bad
    return copy


CASES = [
    (name, argument, path)
    for name, one in MEASURES.items()
    for argument, value in one.numbers.items()
    for path, _ in leaves(argument, value)
]


def test_every_public_name_is_held_to_the_law_or_has_a_reason_not_to_be():
    excused = [name for names in OTHERS.values() for name in names]
    assert sorted([*MEASURES, *excused]) == sorted(probes.__all__)


@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_of_the_table_answers_with_numbers_before_it_is_spoiled(name):
    one = MEASURES[name]
    getattr(probes, name)(**one.numbers, **one.others)


@pytest.mark.parametrize(("name", "argument", "path"), CASES)
@few
@given(bad=st.sampled_from([math.nan, math.inf, -math.inf]), place=st.integers(0, 10**6))
def test_one_number_that_is_none_is_refused_by_the_name_of_its_argument(name, argument, path, bad, place):
    one = MEASURES[name]
    numbers = one.numbers | {argument: spoiled(one.numbers[argument], path, argument, bad, place)}
    if one.infinite and math.isinf(bad):
        getattr(probes, name)(**numbers, **one.others)
        return
    with pytest.raises(ToylabError) as error:
        getattr(probes, name)(**numbers, **one.others)
    assert str(error.value).startswith(f"{path}: ")


def test_what_a_model_or_a_function_makes_of_sound_numbers_is_looked_at_too():
    model, x = dictionary(), normal(0, ROWS, WIDTH)
    with pytest.raises(ToylabError, match=r"^x: "):
        model.encode(x.log())
    model.encoder[0, 0] = math.nan
    for judge in (probes.dead_share, probes.explained_variance):
        with pytest.raises(ToylabError, match=r"^model.*: holds nan"):
            judge(model, x)
    for norms, root in ((probes.gradient_norms, lambda x: x.sqrt().sum(dim=1)), (probes.jacobian_norms, torch.sqrt)):
        with pytest.raises(ToylabError, match=r"of function: holds (nan|inf) at \[1, "):
            norms(root, torch.tensor([[1.0, 2.0], [1.0, 0.0]]))
        with pytest.raises(ToylabError, match=r"^function\(points\): holds nan at \[0"):
            norms(lambda x, root=root: root(x) + math.nan, torch.ones(2, 2))


def numbers_in(result: object) -> list[float]:
    """Every number of a result."""
    if isinstance(result, torch.nn.Module):
        return numbers_in(list(result.parameters()))
    if is_dataclass(result):
        return numbers_in(asdict(result))
    if isinstance(result, Mapping):
        return numbers_in(list(result.values()))
    if isinstance(result, list | tuple):
        return [number for part in result for number in numbers_in(part)]
    if isinstance(result, torch.Tensor):
        return result.flatten().tolist()
    return [result] if isinstance(result, float) else []


def altered(value: object, change: Callable[[torch.Tensor], torch.Tensor]) -> object:
    """An argument all of whose tensors are others."""
    if isinstance(value, Mapping):
        return {key: altered(part, change) for key, part in value.items()}
    if isinstance(value, list):
        return [altered(part, change) for part in value]
    return change(value) if isinstance(value, torch.Tensor) else value


KINDS = {
    "zeros": torch.zeros_like,
    "the same everywhere": lambda x: torch.full_like(x, 0.1),
    "float16": lambda x: x.half(),
    "bfloat16": lambda x: x.bfloat16(),
    "too small": lambda x: (1e-30 * x).float(),
    "too large": lambda x: (1e30 * x).float(),
}
ALONE = ("zeros", "the same everywhere")
"""Kinds that keep shapes and types, so that one argument can be of them and the others not."""
TRIED = [
    (name, kind, arguments)
    for name, one in MEASURES.items()
    for kind in KINDS
    for arguments in ([tuple(one.numbers), *((argument,) for argument in one.numbers)][: None if kind in ALONE else 1])
]


@pytest.mark.parametrize(("name", "kind", "arguments"), TRIED)
def test_where_there_is_no_answer_none_is_made_up(name, kind, arguments):
    one, change = MEASURES[name], KINDS[kind]
    numbers = {n: altered(value, change) if n in arguments else value for n, value in one.numbers.items()}
    others = dict(one.others)
    if "model" in others and kind not in ALONE:
        others["model"] = dictionary().float()
    with suppress(ToylabError):
        found = numbers_in(getattr(probes, name)(**numbers, **others))
        endless = name == "fit_saturation" and -math.inf in found  # its limit, as its docstring says
        assert all(map(math.isfinite, found)) or endless, found


# Masks ---------------------------------------------------------------------------------------------------------------


def blocked(mask: torch.Tensor) -> torch.Tensor:
    return probes.block_keys(mask)(normal(0, 3, HEADS, SIZE, SIZE))


def by_class(even: torch.Tensor) -> dict[str, torch.Tensor]:
    return probes.mass_by_class(pattern(0)[:, 0], classes(pattern(0)[:, 0]) | {"even": even})


MASKED = [
    ("mask", blocked, normal(7, 3, SIZE, SIZE) > 0),
    ("classes['even']", by_class, classes(pattern(0)[:, 0])["even"]),
    *((name, lambda one, name=name: probes.compare_features(**MASKS | {name: one}), MASKS[name]) for name in MASKS),
]


@pytest.mark.parametrize(("name", "measured", "mask"), MASKED, ids=[name for name, *_ in MASKED])
@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.uint8])
def test_ones_and_zeros_are_the_booleans_they_stand_for(name, measured, mask, kind):
    expected, found = measured(mask), measured(mask.to(kind))
    if isinstance(expected, probes.FeatureTest):
        assert found == expected
    else:
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize(("name", "measured", "mask"), MASKED, ids=[name for name, *_ in MASKED])
@pytest.mark.parametrize("other", [2, -1])
def test_a_mask_of_other_numbers_is_refused_by_name(name, measured, mask, other):
    numbers = mask.long()
    numbers.view(-1)[numbers.numel() // 2] = other
    with pytest.raises(ToylabError) as error:
        measured(numbers)
    assert str(error.value).startswith(f"{name}: holds {other} at ")


# The checks themselves -----------------------------------------------------------------------------------------------


def test_masks_and_whole_numbers_come_from_lists_arrays_and_tensors_alike():
    frozen = np.array([1, 0, 1])
    frozen.flags.writeable = False  # torch warns of sharing such an array
    for given_ in ([1, 0, 1], (True, False, True), frozen, torch.tensor([1.0, 0, 1])):
        assert as_mask("m", given_).tolist() == [True, False, True]
        assert as_whole("n", given_).tolist() == [1, 0, 1]
    assert as_whole("n", range(2, 4)).dtype == torch.int64
    assert as_whole("n", []).tolist() == []
    for refused in ([0.5], [math.nan], [math.inf]):
        with pytest.raises(ToylabError, match=r"^n: holds"):
            as_whole("n", refused)
    with pytest.raises(ToylabError, match=r"^n: holds -1 at \[1\]; every entry must be at least 0"):
        as_whole("n", [3, -1], least=0)


def test_the_place_of_the_first_bad_number_is_named():
    with pytest.raises(ToylabError, match=r"^x\['a'\]\[1\]: holds nan at \[0, 2\]; "):
        check_finite(fine=torch.arange(3), x={"a": [1.0, torch.tensor([[0, 1, math.nan]])]})
