"""Laws of criteria: what they accept is an interval, and what they say is what they do."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toylab.console import ToylabError
from toylab.verdicts.criterion import Criterion, above, at_least, at_most, below, between

numbers = st.floats(-1e6, 1e6)
SAYS = {">=": at_least, ">": above, "<=": at_most, "<": below}


@given(numbers, numbers)
def test_each_is_the_comparison_that_it_names(end, value):
    assert at_least(end).meets(value) == (value >= end)
    assert above(end).meets(value) == (value > end)
    assert at_most(end).meets(value) == (value <= end)
    assert below(end).meets(value) == (value < end)


@given(numbers, numbers, numbers)
def test_between_is_both(one, other, value):
    low, high = sorted((one, other))
    assert between(low, high).meets(value) == (at_least(low).meets(value) and at_most(high).meets(value))


@given(st.sampled_from(sorted(SAYS)), st.integers(-999, 999), st.integers(-999, 999))
def test_the_words_of_a_criterion_make_it_again(sign, end, value):
    made = SAYS[sign](end / 100)
    found, number = re.fullmatch(r"(\S+) (\S+)", str(made)).groups()
    assert SAYS[found](float(number)).meets(value / 100) == made.meets(value / 100)
    assert str(between(-0.1, 0.1)) == "from -0.1 to 0.1"


@pytest.mark.parametrize("made", [at_least(0), above(0), at_most(0), below(0), between(-1, 1)])
def test_no_number_meets_none(made):
    assert not made.meets(math.nan)


@pytest.mark.parametrize("ends", [(), (1.0, 0.0), (math.nan, 1.0)])
def test_what_decides_nothing_is_refused(ends):
    with pytest.raises(ToylabError, match=r"criterion from .*: "):
        Criterion(*ends)
