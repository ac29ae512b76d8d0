"""Laws of intervals: those of scipy where scipy has them, and what any interval of a share or a mean must do."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from toylab.verdicts.intervals import bootstrap_interval, interval, median_interval, share_interval, wilson_interval

VALUES = st.lists(st.floats(-100, 100), min_size=2, max_size=12)


@given(st.data(), st.integers(1, 200))
def test_the_wilson_interval_is_that_of_scipy(data, trials):
    successes = data.draw(st.integers(0, trials))
    expected = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    assert wilson_interval(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-5)


def test_the_wilson_interval_by_hand():
    # 5 of 5: the lower end is n / (n + z^2) = 5 / 8.8416.
    assert wilson_interval(5, 5) == (pytest.approx(5 / 8.8416), 1.0)
    assert wilson_interval(0, 5) == (0.0, pytest.approx(3.8416 / 8.8416))


@given(st.data(), st.integers(1, 60))
def test_a_share_lies_in_its_interval_and_failures_mirror_successes(data, trials):
    successes = data.draw(st.integers(0, trials))
    low, high = wilson_interval(successes, trials)
    assert 0 <= low < high <= 1
    assert low - 1e-12 <= successes / trials <= high + 1e-12
    assert wilson_interval(trials - successes, trials) == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_more_trials_make_a_narrower_interval():
    widths = [high - low for low, high in (wilson_interval(n, 2 * n) for n in range(1, 30))]
    assert all(later < earlier for earlier, later in itertools.pairwise(widths))


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (-1, 3), (4, 3)])
def test_a_share_of_nothing_is_refused(successes, trials):
    with pytest.raises(ValueError, match=rf"^successes={successes}, trials={trials}: "):
        wilson_interval(successes, trials)


@given(VALUES)
def test_the_bootstrap_interval_lies_within_the_values_and_is_always_the_same(values):
    low, high = bootstrap_interval(values)
    slack = 1e-9 * max(map(abs, values)) + 1e-300
    assert min(values) - slack <= low <= high <= max(values) + slack
    assert bootstrap_interval(values) == (low, high)


@given(VALUES, st.floats(-5, 5), st.floats(0.1, 5))
def test_the_bootstrap_interval_moves_with_the_values(values, shift, scale):
    low, high = bootstrap_interval(values)
    moved = bootstrap_interval([shift + scale * value for value in values])
    assert moved == pytest.approx((shift + scale * low, shift + scale * high), abs=1e-6)


@pytest.mark.parametrize(("size", "ones"), [(2, 1), (4, 1), (5, 4), (9, 4), (16, 2)])
def test_the_bootstrap_interval_of_zeros_and_ones_has_the_quantiles_of_the_binomial(size, ones):
    # No cumulative chance is within four standard errors of 2.5 or 97.5 %: the quantiles of 2000 means are the exact.
    low, high = stats.binom.ppf([0.025, 0.975], size, ones / size) / size
    assert bootstrap_interval([0.0] * (size - ones) + [1.0] * ones) == pytest.approx((low, high))


def test_the_bootstrap_interval_is_near_that_of_scipy():
    values = np.random.default_rng(0).normal(size=40)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert bootstrap_interval(values.tolist(), 20_000) == pytest.approx((expected.low, expected.high), abs=0.02)


@pytest.mark.parametrize("values", [[], [3.0]])
def test_fewer_than_two_values_have_no_bootstrap_interval(values):
    with pytest.raises(ValueError, match=r"values=.*: an interval needs at least 2"):
        bootstrap_interval(values)


@given(st.floats(-100, 100) | st.booleans())
def test_one_seed_has_no_interval(value):
    assert interval([value]) is None


@given(VALUES, st.lists(st.booleans(), min_size=2, max_size=12))
def test_shares_have_the_interval_of_wilson_and_means_that_of_the_bootstrap(values, passed):
    assert interval(values) == bootstrap_interval(values)
    assert interval(passed) == wilson_interval(sum(passed), len(passed))


@given(st.data(), st.integers(1, 100), st.sampled_from([0.05, 0.05 / 3, 0.01]))
def test_the_exact_interval_of_a_share_is_that_of_scipy(data, trials, level):
    successes = data.draw(st.integers(0, trials))
    expected = stats.binomtest(successes, trials).proportion_ci(1 - level, method="exact")
    assert share_interval(successes, trials, level) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize("level", [0.05, 0.05 / 3])
@pytest.mark.parametrize("size", [1, 5, 6, 7, 10, 20, 30])
def test_the_interval_of_the_median_is_the_narrowest_of_its_confidence(size, level):
    def missed(k):  # the chance that the median lies below the k-th smallest value, or above the k-th largest
        return 2 * stats.binom.cdf(k - 1, size, 0.5)

    found = median_interval(range(1, size + 1), level)
    if found is None:
        assert missed(1) > level
    else:
        low, high = found
        assert (low + high, missed(low) <= level, missed(low + 1) > level) == (size + 1, True, True)


@given(st.lists(st.floats(-100, 100), min_size=6, max_size=20), st.randoms())
def test_the_interval_of_the_median_depends_on_order_alone(values, random):
    low, high = median_interval(values)
    mixed = random.sample(values, len(values))
    assert median_interval(mixed) == (low, high)
    assert median_interval([-value for value in values]) == (-high, -low)
    assert median_interval([value**3 for value in values]) == pytest.approx((low**3, high**3))
    assert low in values
    assert high in values
