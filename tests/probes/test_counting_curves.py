"""Laws of the curves of counting: a planted curve is found again, and slopes and readouts are those of algebra."""

import inspect
import math

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.probes.counting_values import SEEDS, double, normal
from toylab.probes import (
    class_readout,
    fit_saturation,
    mass_by_class,
    name_bias,
    predicted_slope,
    slope_through_origin,
)

LOGS = st.floats(-5, 8)


def squares(k: float, mass: torch.Tensor, counts: torch.Tensor) -> float:
    return sum((m - n / (n + k)) ** 2 for m, n in zip(mass.tolist(), counts.tolist(), strict=True))


def nearest(mass: torch.Tensor, counts: torch.Tensor) -> tuple[float, float]:
    """The K from e^-9 to e^15 with the least squares, by scipy from many starts, and those squares."""
    found = []
    for low in np.arange(-9, 15, 0.25):
        best = scipy.optimize.minimize_scalar(
            lambda log_k: squares(math.exp(log_k), mass, counts),
            bounds=(low, low + 0.25),
            method="bounded",
            options={"xatol": 1e-9},
        )
        found.append((best.fun, math.exp(best.x)))
    return min(found)[::-1]


@given(LOGS, st.lists(st.integers(0, 60), max_size=20), st.sampled_from([torch.float32, torch.float64]))
def test_the_planted_weight_of_the_bias_is_found_again(log_k, counts, dtype):
    counts, k = torch.tensor([*counts, 0, 7]), math.exp(log_k)
    mass = (counts.double() / (counts.double() + k)).to(dtype)
    found = fit_saturation(mass, counts)
    assert found.k == pytest.approx(k, rel=1e-3 if dtype == torch.float32 else 2e-6)
    assert found.r2 == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("k", [0.1, math.e, 40.0, 2000.0])
def test_of_exact_masses_the_weight_is_found_in_float64(k):
    counts = torch.arange(30)
    assert fit_saturation(counts.double() / (counts.double() + k), counts).k == pytest.approx(k, rel=1e-9)


@settings(max_examples=15)
@given(LOGS, st.sampled_from([0.001, 0.02, 0.3]), st.integers(5, 40), SEEDS)
def test_of_noisy_masses_it_finds_the_least_squares(log_k, noise, size, seed):
    counts = torch.randint(0, 30, (size,), generator=torch.Generator().manual_seed(seed))
    counts[0], counts[1] = 0, 5
    mass = counts.double() / (counts.double() + math.exp(log_k)) + noise * normal(seed, size)
    found, (k, least) = fit_saturation(mass, counts), nearest(mass, counts)
    # Far out the curve is flat in K, and many K are as good.
    assert squares(found.k, mass, counts) <= least * (1 + 1e-7)
    if math.exp(-8) < k < math.exp(14) and least > 1e-9:
        slope = (squares(k * 1.01, mass, counts) - least) / least
        assert found.k == pytest.approx(k, rel=1e-4 if slope > 1e-6 else 0.1)
    mean = mass.mean().item()
    variance = sum((m - mean) ** 2 for m in mass.tolist())
    assert found.r2 == pytest.approx(1 - squares(found.k, mass, counts) / variance, abs=1e-9)


def test_a_little_noise_moves_the_weight_little():
    counts = torch.arange(200) % 25
    mass = counts.double() / (counts.double() + 6) + 0.02 * normal(0, 200)
    found = fit_saturation(mass, counts)
    assert found.k == pytest.approx(6, rel=0.05)
    assert 0.98 < found.r2 < 1


@given(st.floats(0.02, 0.98), st.integers(1, 50))
def test_one_mass_on_one_count_gives_the_weight_in_closed_form(mass, count):
    found = fit_saturation(double(0, mass), torch.tensor([0, count]))
    assert found.k == pytest.approx(count * (1 - mass) / mass, rel=1e-6)


def test_the_explained_share_of_masses_that_contradict_each_other_worked_out_by_hand():
    # Of two masses on one count the curve takes the middle, 0.5 at n = 4; it leaves 2 * 0.1^2 unexplained.
    found = fit_saturation(double(0, 0.4, 0.6), torch.tensor([0, 4, 4]))
    assert found.k == pytest.approx(4, rel=1e-6)
    mean = 1 / 3
    assert found.r2 == pytest.approx(1 - 0.02 / (mean**2 + (0.4 - mean) ** 2 + (0.6 - mean) ** 2), abs=1e-9)


def test_masses_that_do_not_follow_the_counts_explain_nothing():
    counts = torch.arange(100) % 10 + 1
    assert fit_saturation(normal(0, 100).sigmoid(), counts).r2 < 0.1
    assert fit_saturation(torch.full((100,), 0.5), counts).r2 == -math.inf


@pytest.mark.parametrize(("mass", "end"), [(1.0, -9), (0.0, 15)])
def test_a_weight_out_of_reach_becomes_the_end_of_the_range(mass, end):
    found = fit_saturation(double(mass, mass, mass), torch.tensor([1, 2, 3]))
    assert math.log(found.k) == pytest.approx(end, abs=1e-6)


@pytest.mark.parametrize("count", [0, 3])
def test_equal_counts_fit_any_curve_and_raise(count):
    with pytest.raises(ValueError, match=rf"counts: are all {count}; a curve needs at least two different ones"):
        fit_saturation(double(0.1, 0.2), torch.tensor([count, count]))


# Slopes --------------------------------------------------------------------------------------------------------------


@given(SEEDS, st.integers(1, 30))
def test_the_slope_through_the_origin_is_numpys_least_squares(seed, size):
    counts = torch.randint(0, 20, (size,), generator=torch.Generator().manual_seed(seed))
    counts[0] = 3
    predicted = counts * 0.7 + normal(seed, size)
    expected = np.linalg.lstsq(counts[:, None].double().numpy(), predicted.numpy(), rcond=None)[0]
    assert slope_through_origin(predicted, counts) == pytest.approx(float(expected[0]), abs=1e-10)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=9), st.integers(0, 5))
def test_predictions_that_are_a_multiple_of_the_counts_have_that_slope(counts, factor):
    counts = torch.tensor([*counts, 1])
    assert slope_through_origin(counts * factor, counts) == pytest.approx(factor)


def test_counts_of_nothing_have_no_slope():
    with pytest.raises(ValueError, match="counts: are all 0; a slope needs some above"):
        slope_through_origin(torch.tensor([1, 2]), torch.tensor([0, 0]))


@pytest.mark.parametrize(
    ("shares", "growth", "slope"),
    [
        ({"BoS": 1.0}, {}, 1.0),
        ({"BoS": 1.0}, {"zeros": 9.0}, 1.0),
        ({"BoS": 0.5, "open": 0.25, "close": 0.25}, {"open": 2.0, "close": 2.0}, 1 / 1.5),
        ({"zeros": 0.75, "BoS": 0.25}, {"zeros": 5.0}, 1 / 4),
        ({"zeros": 0.5, "BoS": 0.5}, {"zeros": 0.0}, 2.0),
    ],
)
def test_predicted_slopes_worked_out_by_hand(shares, growth, slope):
    assert predicted_slope(shares, growth) == pytest.approx(slope, rel=1e-12)


@given(st.lists(st.floats(0.1, 4), min_size=3, max_size=3), st.lists(st.integers(1, 5), min_size=3, max_size=3))
def test_the_prediction_comes_true_on_a_planted_counter_whose_string_grows(weights, growth):
    # The counter learned to read n from its mass x with the K of short strings: n = K x / (1 - x).
    names, counts = ("BoS", "brackets", "zeros"), torch.arange(20)
    n, learned = counts.double(), sum(weights)
    grown = dict(zip(names, map(float, growth), strict=True))
    masses = {"ones": n / (n + learned)} | {name: w / (n + learned) for name, w in zip(names, weights, strict=True)}
    k = sum(weight * factor for weight, factor in zip(weights, growth, strict=True))
    x = n / (n + k)
    bias = name_bias(masses, "ones")
    found = slope_through_origin(learned * x / (1 - x), counts)
    assert found == pytest.approx(predicted_slope(bias.shares, grown), rel=1e-9)
    assert fit_saturation(x, counts).k * found == pytest.approx(learned, rel=1e-5)


# One value a class ---------------------------------------------------------------------------------------------------


@given(SEEDS, st.integers(1, 8), st.integers(2, 6), st.integers(1, 4), st.floats(-5, 5))
def test_logits_that_are_made_of_class_values_are_rebuilt_exactly(seed, size, answers, classes, shift):
    shares = normal(seed, size, classes).softmax(dim=1)
    values = {str(number): normal(seed + number + 1, answers) for number in range(classes)}
    masses = {str(number): shares[:, number] for number in range(classes)}
    bias = normal(seed + 99, answers)
    logits = torch.stack(
        [bias + sum(masses[name][row] * value for name, value in values.items()) for row in range(size)]
    )
    # What is added to all logits alike is no difference.
    found = class_readout(masses, values, bias, logits + shift)
    assert found.kl == pytest.approx(0, abs=1e-12)
    assert found.agreement == 1


def test_a_divergence_worked_out_by_hand():
    # The model says 1/4, 3/4; the rebuilt logits are ln 2, 0, so they say 2/3, 1/3.
    values, bias = {"ones": double(math.log(2), 0)}, double(0, 0)
    found = class_readout({"ones": double(1)}, values, bias, double(0, math.log(3))[None])
    assert found.kl == pytest.approx(0.25 * math.log(0.25 / (2 / 3)) + 0.75 * math.log(0.75 / (1 / 3)), abs=1e-12)
    assert found.agreement == 0
    both = class_readout({"ones": double(1, 1)}, values, bias, torch.stack([double(0, math.log(3)), double(7, 0)]))
    p = 1 / (1 + math.exp(-7))
    other = p * math.log(p * 1.5) + (1 - p) * math.log((1 - p) * 3)
    assert both.kl == pytest.approx((found.kl + other) / 2, abs=1e-12)
    assert both.agreement == 0.5


def test_an_answer_that_the_model_denies_adds_nothing_to_the_divergence():
    values, far = {"ones": double(math.log(2), 0, 0)}, 1.5e308  # so far apart that the second answer has probability 0
    found = class_readout({"ones": double(1)}, values, double(0, 0, -math.log(2)), double(far, -far, -far)[None])
    assert found.kl == pytest.approx(-math.log(2 / 3.5), abs=1e-12)


def test_masses_of_the_classes_used_are_scaled_to_one_and_the_others_left_out():
    values, bias = {"a": double(1, 0, 2), "b": double(0, 3, 0)}, double(0.5, 0, 0)
    masses = {"a": double(0.1), "b": double(0.3), "unused": double(0.6)}
    logits = (bias + 0.25 * values["a"] + 0.75 * values["b"])[None]
    assert class_readout(masses, values, bias, logits).kl == pytest.approx(0, abs=1e-12)


@given(SEEDS)
def test_a_divergence_is_never_negative_and_a_wrong_value_shows(seed):
    shares, bias = normal(seed, 20, 2).softmax(dim=1), normal(seed + 1, 4)
    values = {"a": normal(seed + 2, 4), "b": normal(seed + 3, 4)}
    masses = {"a": shares[:, 0], "b": shares[:, 1]}
    logits = bias + shares @ torch.stack(list(values.values()))
    assert class_readout(masses, values | {"b": values["b"] + double(1, 0, 0, 0)}, bias, logits).kl > 1e-4
    assert class_readout(masses, values, bias + double(1, 0, 0, 0), logits).kl > 1e-4


def test_where_no_used_class_gets_attention_the_bias_alone_is_the_answer():
    masses, values = {"ones": double(0, 1), "rest": double(1, 0)}, {"ones": double(5, 0)}
    bias = double(0, math.log(3))
    logits = torch.stack([bias, double(5, 0) + bias])
    found = class_readout(masses, values, bias, logits)
    assert found.kl == pytest.approx(0, abs=1e-12)
    assert found.agreement == 1


# Where there is no answer --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.uint8, torch.int32, torch.float64])
def test_counts_of_any_type_are_counts(kind):
    counts, mass = torch.tensor([0, 1, 3, 8]), double(0.1, 0.2, 0.5, 0.6)
    for fit in (fit_saturation, slope_through_origin):
        assert inspect.unwrap(fit)(mass, counts.to(kind)) == fit(mass, counts)


@pytest.mark.parametrize("fit", [fit_saturation, slope_through_origin])
@pytest.mark.parametrize(
    ("count", "rule"), [(-100, "at least 0"), (2.5, "a whole number"), (math.nan, "a finite number")]
)
def test_counts_that_count_nothing_are_refused(fit, count, rule):
    with pytest.raises(ValueError, match=rf"^counts: holds .* at \[1\]; every entry must be {rule}"):
        inspect.unwrap(fit)(double(0.1, 0.2, 0.3), double(1, count, 3))
    with pytest.raises(ValueError, match=r"=1, counts=3: must"):
        inspect.unwrap(fit)(double(0.1), double(1, 2, 3))


@given(st.floats(0.01, 0.99), st.integers(2, 40))
def test_a_mass_that_does_not_vary_is_not_explained_whatever_its_mean_is_rounded_to(mass, size):
    assert fit_saturation(torch.full((size,), mass, dtype=torch.float64), torch.arange(size)).r2 == -math.inf


def test_nothing_to_measure_is_refused_by_name():
    none = double()
    for name, call in {
        "mass": lambda: fit_saturation(none, torch.tensor([], dtype=torch.long)),
        r"masses\['a'\]": lambda: name_bias({"ones": double(1), "a": none}, "ones"),
        "classes": lambda: mass_by_class(torch.ones(1, 1, 1), {}),
        "logits": lambda: class_readout({"a": none}, {"a": double(1)}, double(1), none[:, None]),
        "values": lambda: class_readout({"a": double(1)}, {}, double(1), double(1)[None]),
        "shares, growth": lambda: predicted_slope({"a": 1.0}, {"a": 0.0}),
    }.items():
        with pytest.raises(ValueError, match=f"^{name}: "):
            call()
    with pytest.raises(ValueError, match=r"values: are of the classes \['b'\]; give some of \['a'\]"):
        class_readout({"a": double(1)}, {"b": double(1)}, double(1), double(1)[None])
