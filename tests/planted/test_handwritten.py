"""Laws of the hand-written circuits: exact on every task and length, seen by the detector, and broken by one cut."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from toylab.model.encoder_decoder import EncoderDecoder
from toylab.model.token_counts import count_tokens
from toylab.model.transformer import Transformer
from toylab.planted.handwritten import contextual_counter, iteration_head
from toylab.probes import fit_saturation, link_mass, mass_by_class, name_bias, watch
from toylab.studies.contextual_counting.data import StringBatch, string_batch
from toylab.tasks import (
    IGNORE,
    ITERATED_MAPS,
    Batch,
    ContextualCounting,
    IteratedMap,
    ModularSum,
    Parity,
    Polynomial,
    WordProblem,
)
from toylab.tasks import stream as random_stream
from toylab.tasks.bracketed import BEGIN, CLOSE, ONE, OPEN
from toylab.training import evaluate
from toylab.training.batches import next_token_loss, pad

STARTS = ("first-input", "zero")


def by_length(task: IteratedMap, rows: int) -> dict[int, Batch]:
    """Random inputs of every length of the task, short ones included, which are too few to hold any out."""
    rng, batches = random_stream(0, "circuit"), {}
    for length in range(task.min_length, task.max_length + 1):
        inputs = rng.choice(task.inputs, size=(rows, length))
        batches[length] = task.batch(inputs, np.full(rows, length))
    return batches


def everything(task: IteratedMap) -> Batch:
    """Every input of every length in one padded batch."""
    rows = [
        (list(inputs) + [0] * (task.max_length - length), length)
        for length in range(task.min_length, task.max_length + 1)
        for inputs in itertools.product(task.inputs, repeat=length)
    ]
    return task.batch(np.array([row for row, _ in rows]), np.array([length for _, length in rows]))


def right(model: Transformer, *batches: Batch) -> bool:
    """Whether every kind of accuracy is 1 on every batch."""
    found = [vars(evaluate.accuracy(model, {number: batch})) for number, batch in enumerate(batches)]
    return all(share == 1 for one in found for share in one.values())


def check(model: Transformer, task: IteratedMap, batches: dict[int, Batch]) -> None:
    assert right(model, *batches.values())
    assert set(evaluate.free_running_accuracy(model, task, batches).values()) == {1.0}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("kind", ITERATED_MAPS)
def test_the_circuit_is_right_at_every_length(kind, start):
    task = kind(lengths=(1, 6), start=start)
    check(iteration_head(task), task, by_length(task, 8))


@pytest.mark.slow
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("kind", ITERATED_MAPS)
def test_the_circuit_is_right_up_to_length_sixteen(kind, start):
    task = kind(lengths=(1, 16), start=start)
    for dtype in (torch.float32, torch.float64):
        check(iteration_head(task).to(dtype), task, by_length(task, 200))


def test_the_circuit_is_right_in_a_group_that_is_not_solvable():
    task = WordProblem(group="A5", lengths=(1, 4))
    check(iteration_head(task), task, by_length(task, 8))


@pytest.mark.parametrize("start", STARTS)
def test_the_circuit_knows_any_polynomial(start):
    task = Polynomial(p=5, coefficients=(2, 3, 4, 1), zero_input=True, lengths=(1, 4), start=start, alphabet=7)
    assert right(iteration_head(task).double(), everything(task))


def test_the_circuit_goes_on_with_the_end_where_padding_is_scored():
    task = Parity(lengths=(1, 4), score_padding=True)
    assert right(iteration_head(task).double(), everything(task))


def test_the_circuit_of_one_length_is_right_too():
    task = ModularSum(lengths=5)
    check(iteration_head(task), task, by_length(task, 20))


@pytest.mark.parametrize("kind", ITERATED_MAPS)
def test_its_heads_read_where_the_algorithm_does(kind):
    task = kind(lengths=(1, 5))
    model, batches = iteration_head(task).double(), by_length(task, 6)
    head = evaluate.search_iteration_head(model, batches)
    assert head.found
    assert (head.layer, head.head) == (1, 0)
    assert head.end_of_input_at == (0, 0)
    assert min(head.carry, head.stop, head.end_of_input) > 0.999
    for batch in batches.values():
        first, second = evaluate.attention_patterns(model, batch)
        assert link_mass(first, batch.links["end of input"]).item() > 0.999
        for name in ("carry", "stop"):
            assert link_mass(second, batch.links[name]).item() > 0.999


def test_the_circuit_is_sure_of_itself():
    task = Parity(lengths=(1, 4))
    assert next_token_loss(iteration_head(task).double(), pad(everything(task))).item() < 1e-20


def gates(model: Transformer) -> list[tuple[int, int]]:
    """The (layer, unit) of every hidden unit that is wired to anything."""
    return [
        (layer, unit)
        for layer, block in enumerate(model.blocks)
        for unit in block.mlp.down.weight.any(dim=0).nonzero()[:, 0].tolist()
    ]


def test_no_gate_of_the_circuit_can_be_left_out():
    task = Parity(lengths=(1, 4), score_padding=True)
    batch = everything(task)
    scored, whole = pad(batch), iteration_head(task).double()
    subtractions = sum(e for e in range(2, 6))  # t = 1 .. L and the stop, for every place e = L + 1 of EoI
    lookups = task.values**2 + 2 * task.values + 1  # F(s, x), the first state, the stop, and EoS after EoS
    assert len(gates(whole)) == subtractions + lookups
    survivors = []
    for layer, unit in gates(whole):
        model = iteration_head(task).double()
        with torch.no_grad():
            model.blocks[layer].mlp.down.weight[:, unit] = 0
        assert next_token_loss(model, scored).item() > 1e-12, (layer, unit)  # whole, it is below 1e-20
        if evaluate.accuracy(model, {4: batch}).sequence == 1:
            survivors.append((layer, unit))
    # Without its query the head attends evenly, which is enough where x_1 is all there is to read; and a silent answer
    # falls to token 0, which may be right.
    zero = [(1, unit) for unit in whole.blocks[1].mlp.down.weight[_out(whole, 0)].nonzero()[:, 0].tolist()]
    assert set(survivors) <= {(0, 0), *zero}


def _out(model: Transformer, token: int) -> int:
    """The coordinate from which a token's logit is read."""
    return int(model.unembedding.weight[token].argmax())


@pytest.mark.parametrize(
    "cut",
    [
        "blocks.0.attn.query.bias",
        "blocks.0.attn.key.weight",
        "blocks.0.attn.value.weight",
        "blocks.0.attn.output.weight",
    ]
    + [f"blocks.1.attn.{name}.weight" for name in ("query", "key", "value", "output")]
    + ["positions.table", "embedding.weight", "unembedding.weight"],
)
def test_no_connection_of_the_circuit_can_be_cut(cut):
    task = Parity(lengths=(1, 4))
    model = iteration_head(task).double()
    with torch.no_grad():
        model.get_parameter(cut).zero_()
    assert evaluate.accuracy(model, {4: everything(task)}).sequence < 0.5


def test_a_wrong_entry_of_the_table_is_caught():
    task = ModularSum(p=3, lengths=(1, 4))
    model = iteration_head(task).double()
    down = model.blocks[1].mlp.down.weight
    zero, one = _out(model, 0), _out(model, 1)
    with torch.no_grad():
        unit = int(down[zero].nonzero()[0, 0])
        down[zero, unit], down[one, unit] = 0, 1
    assert evaluate.accuracy(model, {4: everything(task)}).sequence < 1


@pytest.mark.parametrize("kind", ITERATED_MAPS)
def test_without_written_states_there_is_no_such_circuit(kind):
    with pytest.raises(ValueError, match=r"chain_of_thought=False: .*give a task with them"):
        iteration_head(kind(chain_of_thought=False))


def test_building_a_circuit_draws_nothing_from_torchs_own_generator_and_is_always_the_same():
    before = torch.get_rng_state()
    one, other = iteration_head(Parity(lengths=(1, 3))), iteration_head(Parity(lengths=(1, 3)))
    assert torch.equal(torch.get_rng_state(), before)
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name])


# The counter ---------------------------------------------------------------------------------------------------------

BIASES = ("begin", "bracket")
SHARES = (0.0, 0.1, 0.5, 1.0)
"""Of ones among the bits."""


def bracketed(length: int, regions: int, p: float, rows: int, labels: int | None = None) -> StringBatch:
    """Random strings of one length, from no split: where brackets leave no room there is but one, and it is asked for
    too. Half of the rows have all brackets side by side, which leaves regions empty or one of them with nearly all."""
    rng = random_stream(0, "counter", length, regions)
    drawn = (rng.random((rows, length)) < p).astype(np.int64)
    for number, row in enumerate(drawn):
        places = np.sort(rng.choice(length, 2 * regions, replace=False))
        if number % 2:
            places = np.arange(2 * regions)
            places[rng.integers(2 * regions + 1) :] += length - 2 * regions
        row[places[::2]], row[places[1::2]] = OPEN, CLOSE
    task = ContextualCounting(length=length, regions=regions)
    return string_batch(task, task.batch(drawn, np.full(rows, length)), labels)


def errors(model: EncoderDecoder, asked: StringBatch, **how) -> int:
    """How many counts of existing regions the model gets wrong."""
    with torch.no_grad():
        said = model(asked.tokens, **how).argmax(dim=-1)
    exists = asked.counts >= 0
    assert exists.any()
    return int((said != asked.counts)[exists].sum())


def broken(model: EncoderDecoder, asked: StringBatch) -> bool:
    """Whether most counts above 0, which is what silence says, are wrong."""
    least = asked.counts.masked_fill(asked.counts == 0, IGNORE)
    return errors(model, replace(asked, counts=least)) > int((least > 0).sum()) / 2


def counts_exactly(length: int, regions: int, bias: str, rows: int) -> bool:
    model = contextual_counter(regions, length + 1, bias=bias)
    return not any(errors(model, bracketed(length, regions, p, rows)) for p in SHARES)


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize(("length", "regions"), [(16, 1), (16, 8), (64, 4), (64, 20), (128, 7), (512, 4), (512, 20)])
def test_the_counter_makes_no_error(length, regions, bias):
    assert counts_exactly(length, regions, bias, rows=4)


@pytest.mark.slow
@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("length", [16, 64, 128, 512])
def test_the_counter_makes_no_error_at_any_number_of_regions(length, bias):
    for regions in range(1, min(20, length // 2) + 1):
        assert counts_exactly(length, regions, bias, rows=10), regions


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("labels", [1, 4])
def test_the_weights_of_one_counter_count_strings_of_any_length_and_number_of_regions(labels, bias):
    # Also of more regions than it has labels for: the rest must not disturb the first.
    model = contextual_counter(labels, 513, bias=bias)
    for length, regions in [(16, 1), (16, 3), (16, 8), (64, 4), (64, 12), (128, 40), (300, 5), (512, 4)]:
        for p in SHARES:
            assert errors(model, bracketed(length, regions, p, 4, labels)) == 0, (length, regions, p)


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("half", [3, 10.0, 40])
def test_the_counter_looks_at_the_ones_of_its_region_and_at_its_bias_token_alone(bias, half):
    asked = bracketed(64, 4, 0.5, 12)
    model = contextual_counter(4, 65, bias=bias, half=half)
    with watch(model, "decoder.cross.pattern", "decoder.cross.z") as seen:
        assert errors(model, asked) == 0
    pattern, fetched = seen["decoder.cross.pattern"][:, 0], seen["decoder.cross.z"][:, :, 0]
    here = asked.regions[:, None] == torch.arange(1, 5)[None, :, None]
    ones = here & (asked.tokens == ONE)[:, None]
    opening = here & (asked.tokens == OPEN)[:, None]
    begin = (asked.tokens == BEGIN)[:, None].expand_as(ones)
    masses = mass_by_class(
        pattern, {"ones": ones, "begin": begin, "bracket": opening, "rest": ~(ones | begin | opening)}
    )
    n = asked.counts.double()
    # What is fetched compares the ones with the bias token, in every region alike, but for the epsilon of the norms.
    torch.testing.assert_close(fetched[..., 0] / fetched[..., :2].sum(dim=-1), n / (n + half), rtol=0, atol=1e-8)
    for region in range(4):
        found = name_bias({name: mass[:, region] for name, mass in masses.items()}, "ones")
        assert found.name == bias
        assert found.share > 1 - 1e-9
        # A token weighs what its own coordinate holds, and on the sphere of a, b brackets seen before it that is
        # 1 / sqrt(1 + (w^2 + w^2 (a - b)^2 + a^2) / (1 + a + b)^2): more for a one than for BoS.
        k, spread = region + 1, 5 / 2
        ratio = math.sqrt((1 + spread) / (1 + (2 * spread + k**2) / (2 * k) ** 2)) if bias == "begin" else 1
        curve = fit_saturation(masses["ones"][:, region], asked.counts[:, region])
        assert curve.k == pytest.approx(half * ratio, rel=1e-5)
        assert curve.r2 == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("bias", BIASES)
def test_the_counter_needs_to_see_no_pairs(bias):
    asked, model = bracketed(128, 5, 0.5, 6), contextual_counter(5, 129, bias=bias)
    assert errors(model, asked, token_counts=count_tokens(asked.tokens, 5, True, torch.float64)) == 0


def counter_weights() -> list[str]:
    """All but the bias of the output head, which is zero."""
    weights = dict(contextual_counter(4, 65).named_parameters())
    assert not weights.pop("decoder.head.bias").any()
    return list(weights)


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("cut", counter_weights())
def test_no_connection_of_the_counter_can_be_cut(cut, bias):
    asked, model = bracketed(64, 4, 0.5, 16), contextual_counter(4, 65, bias=bias)
    assert errors(model, asked) == 0
    with torch.no_grad():
        model.get_parameter(cut).zero_()
    assert broken(model, asked)


@pytest.mark.parametrize("bias", BIASES)
def test_a_counter_that_sees_the_future_cannot_tell_regions_apart(bias):
    asked, model = bracketed(64, 4, 0.5, 16), contextual_counter(4, 65, bias=bias)
    config = replace(model.config, encoder=replace(model.config.encoder, causal=False))
    blind = EncoderDecoder(config, 5, 4, 65, 0).double()
    blind.load_state_dict(model.state_dict())
    assert errors(model, asked) == 0
    assert broken(blind, asked)


def test_a_counter_without_its_begin_token_miscounts():
    asked, model = bracketed(64, 4, 0.5, 16), contextual_counter(4, 65)
    assert broken(model, replace(asked, tokens=asked.tokens[:, 1:], regions=asked.regions[:, 1:]))


def test_a_count_that_has_no_class_is_an_error_and_no_accident():
    asked = bracketed(64, 2, 1.0, 8)
    most = int(asked.counts.max())
    assert errors(contextual_counter(2, most + 1), asked) == 0
    assert errors(contextual_counter(2, most), asked) == int((asked.counts == most).sum())


@pytest.mark.parametrize("bias", BIASES)
def test_building_a_counter_draws_nothing_from_torchs_own_generator_and_is_always_the_same(bias):
    before = torch.get_rng_state()
    one, other = contextual_counter(3, 17, bias=bias), contextual_counter(3, 17, bias=bias)
    assert torch.equal(torch.get_rng_state(), before)
    for name, weight in one.state_dict().items():
        assert weight.dtype == torch.float64
        assert torch.equal(weight, other.state_dict()[name])
