"""Laws of the hand-written circuits: exact on every task and length, seen by the detector, and broken by one cut."""

import itertools

import numpy as np
import pytest
import torch

from probes import link_mass
from tasks import ITERATED_MAPS, Batch, IteratedMap, ModularSum, Parity, Polynomial, WordProblem
from tasks import stream as random_stream
from toylab import evaluate
from toylab.batches import next_token_loss, pad
from toylab.circuits import iteration_head
from toylab.model import Transformer

STARTS = ("first-input", "zero")


def by_length(task: IteratedMap, rows: int) -> dict[int, Batch]:
    """Random inputs of every length of the task, short ones included, which are too few to hold any out."""
    rng, batches = random_stream(0, "circuit"), {}
    for length in range(task.shortest, task.longest + 1):
        inputs = rng.choice(task.inputs, size=(rows, length))
        batches[length] = task.batch(inputs, np.full(rows, length))
    return batches


def everything(task: IteratedMap) -> Batch:
    """Every input of every length in one padded batch."""
    rows = [
        (list(inputs) + [0] * (task.longest - length), length)
        for length in range(task.shortest, task.longest + 1)
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("kind", ITERATED_MAPS)
def test_the_circuit_is_right_at_every_length(kind, start, dtype):
    task = kind(lengths=(1, 7), start=start)
    check(iteration_head(task).to(dtype), task, by_length(task, 12))


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
    task = kind(lengths=(1, 7))
    model, batches = iteration_head(task).double(), by_length(task, 6)
    head = evaluate.search_iteration_head(model, batches)
    assert head.found
    assert (head.layer, head.head) == (1, 0)
    assert head.end_of_input_at == (0, 0)
    assert min(head.carry, head.stop, head.end_of_input) > 0.999
    for batch in batches.values():
        first, second = evaluate.patterns(model, batch)
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
