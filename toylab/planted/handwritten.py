"""Transformers whose weights are written by hand: the known truth on which probes are tested.

Every feature has a coordinate of its own in the residual stream. The iteration head needs no norm, and its MLP units
are AND gates: relu(a + b - 1) is 1 if both features are, else 0. The counter has no MLP and lives off the norm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from toylab.console import ToylabError
from toylab.model.config import ModelConfig
from toylab.model.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from toylab.model.layers import MLP, LayerNorm
from toylab.model.positions import LearnedPositions
from toylab.model.transformer import Transformer
from toylab.settings import check_option
from toylab.tasks import AssociativeRecall, IteratedMap
from toylab.tasks.bracketed import BEGIN, CLOSE, ONE, OPEN

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
        raise ToylabError("chain_of_thought=False: the iteration head works on written states; give a task with them")
    vocab, context = len(task.vocabulary), task.context
    token, position, ended, due, read, out = _slots(vocab, context, context, context, vocab, vocab)
    width = out.stop

    # (e, q) -> t, for every place of EoI and every position from which a state or EoS is written
    subtraction = [
        ((position[q], ended[e]), due[q - e + 1]) for e in range(2, task.max_length + 2) for q in range(e, 2 * e)
    ]
    lookup = _lookup(task, token, read, out)
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
        _write_ends(model, token, position, out)
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


def _lookup(task: IteratedMap, token: range, read: range, out: range) -> list[tuple[tuple[int, ...], int]]:
    """The gates (s, x) -> F(s, x); from EoI to the first state, and from the last state to EoS."""
    values = range(task.values)
    states, inputs = torch.tensor([(s, x) for s in values for x in values]).T
    after = task.step(states.numpy(), inputs.numpy()).tolist()
    first = task.first_states(torch.arange(task.values).numpy()).tolist()
    return [
        *(((token[s], read[x]), out[f]) for s, x, f in zip(states.tolist(), inputs.tolist(), after, strict=True)),
        *(((token[task.end_of_input], read[x]), out[first[x]]) for x in values),
        *(((token[s], read[task.end_of_input]), out[task.end_of_sequence]) for s in values),
        ((token[task.end_of_sequence],), out[task.end_of_sequence]),
    ]


def induction_head(task: AssociativeRecall) -> Transformer:
    """The circuit of Olsson et al. 2022 for recall: two attention layers without MLPs, exact on every row.

    1. The head of layer 0, the previous-token head, asks "are you at my position less one?" and brings back *the token*
       there.
    2. The head of layer 1, the induction head, asks "did the token that I am stand before you?" and brings back *the
       token* that it finds: the value that followed the key.
    """
    vocab, context = len(task.vocabulary), task.context
    token, position, before, out = _slots(vocab, context, vocab, vocab)
    width = out.stop
    config = ModelConfig(layers=2, heads=1, width=width, hidden=0, norm="none", positions="learned")
    model = Transformer(config, vocab, context)
    with torch.no_grad():
        _write_ends(model, token, position, out)
        previous, induction = (block.attn for block in model.blocks)
        sharp = SHARPNESS * math.sqrt(width)
        places = range(context)
        previous.query.weight[places[:-1], position[1:]] = sharp
        previous.key.weight[places, position] = 1
        _route(previous.value.weight, previous.output.weight, token, before)
        names = range(vocab)
        induction.query.weight[names, token] = sharp
        induction.key.weight[names, before] = 1
        induction.key.weight[names, position[0]] = -1  # nothing stands before the first token, which so found itself
        _route(induction.value.weight, induction.output.weight, token, out)
    return model


def contextual_counter(
    regions: int, classes: int, *, bias: Literal["begin", "bracket"] = "begin", half: float | int = 10.0
) -> EncoderDecoder:
    """A causal one-head encoder without positions and a bare cross-attention that count exactly, in float64.

    1. The encoder's head attends evenly to BoS and all brackets so far. Of a, b brackets opened and closed it brings
       back (w, s (a - b), a) / (1 + a + b), which differs for every region and every place outside.
    2. The norm puts all states on a sphere, where each is an *extreme point*: for every state there is a direction in
       which it lies farther out than all others. (On a line, middle regions could not be singled out.)
    3. The query of region k points where the ones of region k are, so steeply that all else gets e^-40 of their
       attention; only the bias token (BoS, or the region's own opening bracket) is lifted to the weight of `half` ones.
    4. Of what the attention brings back, the ones are the share x = n / (n + half). The logits of count c are the
       height above x of the tangent of the convex f(x) = -ln(1 - x) at x_c; the highest tangent at a point is its own.

    Args:
        regions: that can be asked for; strings may have more.
        classes: counts from 0; the strings may be of any length.
        bias: the token that is compared with.
        half: the count at which half of the attention is on ones.

    Source: section 2 of Golkar et al. 2024 for steps 1 and 3; steps 2 and 4 are ours.
    """
    check_option("bias", bias, ("begin", "bracket"))
    config = EncoderDecoderConfig(
        encoder=ModelConfig(
            layers=1, heads=1, width=2 * FEATURES, hidden=0, biases=False, positions="none", unembedding="none"
        ),
        head="default",
        logit_scale=1.0,
    )
    model = EncoderDecoder(config, 5, regions, classes, 0).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        spread = math.sqrt((regions + 1) / 2)
        _write_context(model, spread)
        _write_queries(model, spread, bias, half)
        _write_tangents(model, BEGIN if bias == "begin" else OPEN, half)
    return model


SATURATING_SCORE = 1e4
"""Scale of the counter's residual stream, which makes LayerNorm's epsilon (1e-5) vanish beside the variance."""
FEATURES, CONTEXT = 5 + 3, range(5, 8)
"""Coordinates of the counter: which of five tokens stands there, then three numbers of its context."""


def _state(token: int, opened: int, closed: int, spread: float) -> Tensor:
    """The direction of a token in its context, as the counter's decoder sees it."""
    x = torch.zeros(FEATURES, dtype=torch.double)
    x[token] = 1
    x[5:] = torch.tensor([spread, spread * (opened - closed), opened]).double() / (1 + opened + closed)
    return x / x.norm()


def _write_context(model: EncoderDecoder, spread: float) -> None:
    """Steps 1 and 2 of the counter: even attention to BoS and brackets, and what each says of the context."""
    encoder, head = model.encoder, model.encoder.blocks[0].attn
    for norm in (encoder.blocks[0].ln1, encoder.ln_final):
        assert isinstance(norm, LayerNorm)
        norm.weight.fill_(1)
    # Every feature stands twice, once negated: the mean is 0, and LayerNorm only brings all rows to one length.
    _mirror(encoder.embedding.weight, SATURATING_SCORE * torch.eye(5, FEATURES, dtype=torch.double))
    unit = math.sqrt(FEATURES)  # a feature of an embedding, after the norm
    head.query.weight[0, :5] = 1 / unit
    head.key.weight[0, [BEGIN, OPEN, CLOSE]] = SHARPNESS * math.sqrt(2 * FEATURES) / unit
    carried = torch.zeros(FEATURES, 5, dtype=torch.double)
    carried[CONTEXT, BEGIN] = torch.tensor([spread, 0.0, 0.0]).double()
    carried[CONTEXT, OPEN] = torch.tensor([0.0, spread, 1.0]).double()
    carried[CONTEXT, CLOSE] = torch.tensor([0.0, -spread, 0.0]).double()
    head.value.weight[:FEATURES, :5] = carried / unit
    _mirror(head.output.weight.T[:FEATURES], SATURATING_SCORE * torch.eye(FEATURES, dtype=torch.double))


def _write_queries(model: EncoderDecoder, spread: float, bias: Literal["begin", "bracket"], half: float | int) -> None:
    """Step 3 of the counter: label query k finds the ones of region k, and its bias token weighs `half` of them."""
    decoder, fetch, everything = model.decoder, model.decoder.cross, range(2 * FEATURES)
    fetch.query.weight[everything, everything] = 1
    fetch.key.weight[everything, everything] = 1
    around = [(0, 0), *((a, b) for a in range(1, 2 * model.queries + 5) for b in (a - 1, a))]
    others = torch.stack([_state(token, *at, spread) for token in (0, ONE, OPEN, CLOSE) for at in around])
    for k in range(1, model.queries + 1):
        wanted = _state(ONE, k, k - 1, spread)
        compared = _state(BEGIN, 0, 0, spread) if bias == "begin" else _state(OPEN, k, k - 1, spread)
        direction = wanted.clone()
        if bias == "bracket":  # as far out at the bracket as at the ones: the same context, either token
            direction[OPEN] = wanted[ONE]
        heights = others @ direction
        rest = (others - wanted).abs().amax(dim=1) > 1e-9
        rest &= (others - compared).abs().amax(dim=1) > 1e-9
        direction = direction * 40 / (wanted @ direction - heights[rest].max())
        token = BEGIN if bias == "begin" else OPEN
        # Ones far from the start have longer shadows on their own coordinate; K makes up for it.
        ratio = wanted[ONE] / compared[token]
        lift = (wanted @ direction - compared @ direction + math.log(half * ratio)) / compared[token]
        direction[token] += lift
        decoder.queries[k - 1, :FEATURES] = direction * math.sqrt(2)


def _write_tangents(model: EncoderDecoder, token: int, half: float | int) -> None:
    """Step 4 of the counter: the share of the ones, and for each count the height of its tangent there."""
    head, fetch = model.decoder.head, model.decoder.cross
    fetch.value.weight[0, ONE], fetch.value.weight[1, token] = 1, 1
    fetch.output.weight[[0, 1], [0, 1]] = 1
    x = torch.arange(model.classes).double() / (torch.arange(model.classes) + half)
    f, slope, steepness = -torch.log1p(-x), 1 / (1 - x), (model.classes + half) ** 2
    head.weight[:, 0] = steepness * (f + slope * (1 - x))
    head.weight[:, 1] = steepness * (f - slope * x)


def _mirror(place: Tensor, rows: Tensor) -> None:
    """Write rows and, beside them, their negatives."""
    place.copy_(torch.cat([rows, -rows], dim=1))


def _write_ends(model: Transformer, token: range, position: range, out: range) -> None:
    """No weight but a coordinate for each token and each position that is read, and one for each token to be said."""
    for parameter in model.parameters():
        parameter.zero_()
    model.embedding.weight[:, token] = torch.eye(model.vocab)
    assert isinstance(model.positions, LearnedPositions)
    assert isinstance(model.unembedding, nn.Linear)
    model.positions.table[:, position] = torch.eye(model.context)
    model.unembedding.weight[:, out] = SHARPNESS * torch.eye(model.vocab)


def _slots(*sizes: int) -> list[range]:
    """Consecutive ranges of coordinates."""
    ends = torch.tensor(sizes).cumsum(0).tolist()
    return [range(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def _route(value: Tensor, output: Tensor, source: range, destination: range) -> None:
    """Let a head carry the coordinates `source` of what it reads to `destination`."""
    features = range(len(source))
    value[features, source] = 1
    output[destination, features] = 1


def _write_gates(mlp: MLP | None, gates: Sequence[tuple[tuple[int, ...], int]]) -> None:
    """One hidden unit a gate: when all its coordinates are 1, it adds 1 to its target; units left over stay silent."""
    assert mlp is not None
    mlp.up.bias.fill_(-1)
    for unit, (coordinates, target) in enumerate(gates):
        mlp.up.weight[unit, list(coordinates)] = 1
        mlp.up.bias[unit] = 1 - len(coordinates)
        mlp.down.weight[target, unit] = 1
