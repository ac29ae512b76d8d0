"""Laws of multi-hop recall: pairs form one cycle, links follow it, and the handwritten circuit finds every answer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toylab.console import ToylabError
from toylab.planted.handwritten import hop_heads
from toylab.probes import link_mass, watch
from toylab.tasks import MultiHopRecall, stream
from toylab.tasks.strategies import batches, instances
from toylab.training.evaluate import accuracy_of, predict_tokens

tasks = instances(MultiHopRecall)


@given(st.data())
def test_the_pairs_of_a_row_form_one_cycle(data):
    task = data.draw(tasks)
    batch = data.draw(batches(task, "train"))
    for row, number in zip(batch.tokens.tolist(), batch.labels["pairs"].tolist(), strict=True):
        following = dict(zip(row[0 : 2 * number : 2], row[1 : 2 * number : 2], strict=True))
        assert len(following) == number
        node, visited = row[2 * number], []
        for _ in range(number):
            node = following[node]
            visited.append(node)
        assert sorted(visited) == sorted(following)
        assert visited[-1] == row[2 * number]


@given(st.data())
def test_the_link_of_a_hop_reads_the_second_node_of_the_pair_that_the_hop_before_names(data):
    task = data.draw(tasks)
    batch = data.draw(batches(task, "train"))
    node = batch.tokens[np.arange(len(batch)), 2 * batch.labels["pairs"]]
    for hop in range(1, task.hops + 1):
        row, query, key = batch.links[f"hop {hop}"].T
        assert row.tolist() == list(range(len(batch)))
        assert (batch.tokens[row, key - 1] == node).all()
        assert (key % 2 == 1).all()
        assert (key < 2 * batch.labels["pairs"]).all()
        node = batch.tokens[row, key]
        if task.chain_of_thought:
            assert (batch.targets[row, query] == node).all()
            assert (query == 2 * batch.labels["pairs"] + hop - 1).all()
    assert (batch.targets[np.arange(len(batch)), batch.sizes - 1] == node).all()


@settings(max_examples=15)
@given(st.data())
def test_the_handwritten_circuit_is_exact_and_its_heads_are_those_of_the_links(data):
    task = data.draw(tasks)
    batch = data.draw(batches(task, "train"))
    model = hop_heads(task)
    with watch(model, "blocks.*.attn.pattern") as cache:
        assert accuracy_of(predict_tokens(model, batch), batch).token == 1
    previous, *hopping = cache.values()
    inner = batch.links["previous token"]
    assert link_mass(previous, inner).item() == pytest.approx(1)
    for hop in range(1, task.hops + 1):
        layer = hopping[0 if task.chain_of_thought else hop - 1]
        assert link_mass(layer, batch.links[f"hop {hop}"]).item() == pytest.approx(1)


@given(st.integers(3, 6))
def test_as_many_hops_as_pairs_but_one_lead_to_the_node_before(pairs):
    task = MultiHopRecall(hops=pairs - 1, pairs=pairs)
    batch = task.sample(stream(pairs), 20)
    for tokens, targets in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True):
        query, answer = tokens[2 * pairs], targets[2 * pairs]
        assert (answer, query) in zip(tokens[0 : 2 * pairs : 2], tokens[1 : 2 * pairs : 2], strict=True)


def test_all_contents_of_a_small_task_are_listed_once():
    task = MultiHopRecall(hops=1, pairs=3, nodes=4)
    listed = {tuple(content) for content in task.contents(3).tolist()}
    assert len(listed) == task.space(3) == 4 * 2 * 6
    drawn = task.draw_contents(np.random.default_rng(0), np.full(2000, 3), 6)
    assert {tuple(content) for content in drawn.tolist()} == listed


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"hops": 4}, "hops=4"), ({"hops": 0}, "hops=0"), ({"nodes": 3}, "nodes=3"), ({"pairs": 0}, "pairs=0")],
)
def test_impossible_settings_are_refused(fields, message):
    with pytest.raises(ToylabError, match=message):
        MultiHopRecall(**fields)


@pytest.mark.parametrize("prompt", [[0, 1, 1, 0], [0, 1, 1, 0, 2], [0, 1, 2, 3, 0], [5]])
def test_a_prompt_without_the_path_is_refused(prompt):
    with pytest.raises(ToylabError, match="must be pairs that form a cycle, then one node"):
        MultiHopRecall().solve(prompt)
