"""Attention patterns for tests of probes: random, uniform, and of one key a query."""

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st

some = settings(max_examples=40)


def random_pattern(rng, batch, heads, size):
    """Causal attention of a head with random scores."""
    scores = torch.from_numpy(3 * rng.normal(size=(batch, heads, size, size)))
    future = torch.ones(size, size).triu(1).bool()
    return scores.masked_fill(future, -torch.inf).softmax(dim=-1)


def uniform(batch, heads, size):
    even = torch.ones(size, size, dtype=torch.float64).tril()
    return (even / even.sum(dim=-1, keepdim=True)).expand(batch, heads, size, size).clone()


@st.composite
def patterns_and_links(draw):
    """A random pattern, and different causal links of which several may leave one query."""
    batch, heads, size = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 7))
    edges = [(row, query, key) for row in range(batch) for query in range(size) for key in range(query + 1)]
    links = draw(st.lists(st.sampled_from(edges), min_size=1, max_size=12, unique=True))
    return random_pattern(np.random.default_rng(draw(st.integers(0, 999))), batch, heads, size), np.array(links)


def close(one, other):
    torch.testing.assert_close(torch.as_tensor(one), torch.as_tensor(other), rtol=0, atol=1e-12)


def one_hot(batch, size, edges):
    """A head that reads itself, but at linked queries reads the linked key."""
    pattern = torch.eye(size, dtype=torch.float64).repeat(batch, 1, 1)
    for row, query, key in np.asarray(edges).tolist():
        pattern[row, query] = 0
        pattern[row, query, key] = 1
    return pattern


same_layout = np.array([(row, query, query - 1) for row in range(4) for query in (2, 3, 4)])
