"""Laws of patterns made by hand, with which detectors are tried."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.lessons.notebooks import lesson_task
from toylab.calibration.patterns import attending_inputs, one_head_patterns
from toylab.probes import link_mass


@given(st.integers(0, 99), st.sampled_from([0.0, 0.3, 1.0]), st.integers(4, 10))
def test_one_head_looks_where_it_is_told_and_every_row_sums_to_one(seed, noise, size):
    rng = np.random.default_rng(seed)
    query = rng.integers(1, size, size=5)
    links = np.stack([np.arange(5), query, rng.integers(0, query)], axis=1)
    pattern = one_head_patterns(rng, links, links[:, 2], size, noise)
    torch.testing.assert_close(pattern.sum(dim=-1), torch.ones(5, 4, size, dtype=torch.double))
    assert not pattern.triu(1).any()
    assert link_mass(pattern, links).max() >= 1 - noise - 1e-9


def test_a_look_alike_is_shown_with_the_true_links():
    control = attending_inputs(lesson_task(), "the letter behind", lambda rng, key, size: key - 1)
    shown = control(np.random.default_rng(0)).shown
    links = shown["links"]
    assert link_mass(shown["pattern"], links).max() < 0.5
    assert link_mass(shown["pattern"], links - [0, 0, 1]).max() == pytest.approx(1)
