"""Transformers whose weights are written by hand: the known truth on which probes are tested.

Every feature has a coordinate of its own in the residual stream, there is no norm, and MLP units are AND gates:
relu(a + b - 1) is 1 if both features are, else 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tasks import IteratedMap
from toylab.model import MLP, ModelConfig, Transformer

SHARPNESS = 60.0
"""Attention score of the key looked for, against 0 for the others: the rest gets less than e^-55 of the attention."""


def iteration_head(task: IteratedMap) -> Transformer:
    """The circuit of Cabannes et al. 2024, section 3, for any iterated task with chain of thought.

    1. The head of layer 0 asks "are you EoI?" and brings back *its position*.
    2. The MLP of layer 0 subtracts: from its own position q and that of EoI, e, it makes t = q - e + 1.
    3. The head of layer 1, the iteration head, asks "are you at position t?" and brings back *the token* there.
    4. The MLP of layer 1 looks up F(s, x) for its own token s and the one brought back. When that one is EoI, all
       states are written, and it says EoS: no counter is needed.

    The model is exact for every length up to the task's longest.

    Raises:
        ValueError: for a task without chain of thought, whose states have nowhere to stand.
    """
    if not task.chain_of_thought:
        raise ValueError("chain_of_thought=False: the iteration head works on written states; give a task with them")
    vocab, context = len(task.vocabulary), task.context
    token, position, ended, due, read, out = _slots(vocab, context, context, context, vocab, vocab)
    width = out.stop

    # (e, q) -> t, for every place of EoI and every position from which a state or EoS is written
    subtraction = [
        ((position[q], ended[e]), due[q - e + 1]) for e in range(2, task.longest + 2) for q in range(e, 2 * e)
    ]
    values = range(task.values)
    states, inputs = torch.tensor([(s, x) for s in values for x in values]).T
    after = task.step(states.numpy(), inputs.numpy()).tolist()
    first = task.first_states(torch.arange(task.values).numpy()).tolist()
    lookup = [
        *(((token[s], read[x]), out[f]) for s, x, f in zip(states.tolist(), inputs.tolist(), after, strict=True)),
        *(((token[task.end_of_input], read[x]), out[first[x]]) for x in values),
        *(((token[s], read[task.end_of_input]), out[task.end_of_sequence]) for s in values),
        ((token[task.end_of_sequence],), out[task.end_of_sequence]),
    ]

    config = ModelConfig(
        layers=2,
        heads=1,
        width=width,
        hidden=max(len(subtraction), len(lookup)),
        activation="relu",
        norm="none",
        positions="learned",
    )
    model = Transformer(config, vocab, context)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.embedding.weight[:, token] = torch.eye(vocab)
        model.positions.table[:, position] = torch.eye(context)
        model.unembedding.weight[:, out] = SHARPNESS * torch.eye(vocab)
        find_end, fetch = (block.attn for block in model.blocks)
        sharp = SHARPNESS * math.sqrt(width)  # undoes the division of scores by the root of the head's width

        find_end.query.bias[0] = sharp
        find_end.key.weight[0, token[task.end_of_input]] = 1
        _route(find_end.value.weight, find_end.output.weight, position, ended)
        _write_gates(model.blocks[0].mlp, subtraction)

        size = range(context)
        fetch.query.weight[size, due] = sharp
        fetch.key.weight[size, position] = 1
        _route(fetch.value.weight, fetch.output.weight, token, read)
        _write_gates(model.blocks[1].mlp, lookup)
    return model


def _slots(*sizes: int) -> list[range]:
    """Consecutive ranges of coordinates."""
    ends = torch.tensor(sizes).cumsum(0).tolist()
    return [range(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def _route(value: Tensor, output: Tensor, source: range, destination: range) -> None:
    """Let a head carry the coordinates `source` of what it reads to `destination`."""
    features = range(len(source))
    value[features, source] = 1
    output[destination, features] = 1


def _write_gates(mlp: MLP, gates: Sequence[tuple[tuple[int, ...], int]]) -> None:
    """One hidden unit a gate: when all its coordinates are 1, it adds 1 to its target; units left over stay silent."""
    mlp.up.bias.fill_(-1)
    for unit, (coordinates, target) in enumerate(gates):
        mlp.up.weight[unit, list(coordinates)] = 1
        mlp.up.bias[unit] = 1 - len(coordinates)
        mlp.down.weight[target, unit] = 1
