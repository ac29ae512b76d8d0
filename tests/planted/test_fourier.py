"""Laws of the handwritten adder: exact on the whole table, and dependent on the frequencies that it was given."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toylab.console import ToylabError
from toylab.planted.fourier import fourier_adder, waves
from toylab.probes import keep_frequencies, link_mass, read_frequencies, watch
from toylab.tasks import SPLITS, ModularAddition, stream
from toylab.training.evaluate import accuracy_of, predict_tokens


@settings(max_examples=15)
@given(st.integers(2, 29).map(lambda half: 2 * half + 1), st.data())
def test_the_adder_is_exact_on_the_whole_table(p, data):
    coprime = [k for k in range(1, p // 2 + 1) if math.gcd(k, p) == 1]
    frequencies = data.draw(st.lists(st.sampled_from(coprime), min_size=1, max_size=4, unique=True))
    task = ModularAddition(p=p)
    model = fourier_adder(task, frequencies)
    for table in map(task.table, SPLITS):
        assert not len(table) or accuracy_of(predict_tokens(model, table), table).token == 1


def test_a_logit_is_the_wave_of_its_distance_from_the_sum():
    task, k = ModularAddition(p=31), 4
    batch = task.sample(stream(0), 50)
    logits = fourier_adder(task, [k])(torch.from_numpy(batch.tokens)).detach()[:, -1, :31]
    a, b = torch.from_numpy(batch.tokens[:, :2]).double().T
    distance = (a + b)[:, None] - torch.arange(31)
    expected = (math.pi * k * (a - b) / 31).cos().abs()[:, None] * (2 * math.pi * k * distance / 31).cos()
    scale = (logits * expected).sum() / expected.square().sum()
    assert scale > 0
    assert torch.allclose(logits, scale * expected, atol=0.01 * float(scale))


def test_the_head_attends_equally_to_both_numbers_and_not_to_the_sign():
    task = ModularAddition()
    batch = task.sample(stream(1), 20)
    model = fourier_adder(task, [3])
    with watch(model, "blocks.0.attn.pattern") as cache:
        predict_tokens(model, batch)
    pattern = cache["blocks.0.attn.pattern"]
    assert link_mass(pattern, batch.links["operands"]).item() == pytest.approx(1)
    assert torch.allclose(pattern[:, 0, 2, 0], pattern[:, 0, 2, 1])


def test_the_probe_reads_the_frequencies_and_removing_them_leaves_chance():
    task = ModularAddition()
    model = fourier_adder(task, [3, 17, 20])
    embeddings = model.embedding.weight[:53].detach()
    assert set(read_frequencies(embeddings, 3).frequencies) == {3, 17, 20}
    table = task.table("test")
    with torch.no_grad():
        model.embedding.weight[:53] = keep_frequencies(embeddings, [3, 17, 20], remove=True)
    assert accuracy_of(predict_tokens(model, table), table).token < 0.1


def test_waves_are_cosines_then_sines_and_frequencies_out_of_range_are_refused():
    assert torch.allclose(waves(4, [1]), torch.tensor([[1, 0], [0, 1], [-1, 0], [0, -1]]).double(), atol=1e-12)
    for frequencies in ([0], [27], [1, 27]):
        with pytest.raises(ToylabError, match="frequencies="):
            fourier_adder(ModularAddition(), frequencies)
