"""Transformers with handwritten weights: ground truth for testing probes.

Every feature has its own coordinate in the residual stream. The iteration head uses no norm, and its MLP units are AND
gates: relu(a + b - 1) is 1 if both binary features are 1, else 0. The counter uses no MLP but relies on LayerNorm.
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
from toylab.model.layers import MLP, Attention, LayerNorm
from toylab.model.positions import LearnedPositions
from toylab.model.transformer import Transformer
from toylab.settings import check_option
from toylab.tasks import AssociativeRecall, IteratedMap, MultiHopRecall
from toylab.tasks.bracketed import BEGIN, CLOSE, ONE, OPEN

SHARPNESS = 60.0
"""Attention score of the target key, against 0 for all others, which together get less than e^-55 of the attention."""


def iteration_head(task: IteratedMap) -> Transformer:
    """The circuit of Cabannes et al. 2024, section 3, for any iterated task with chain of thought.

    1. The head of layer 0 attends to EoI and copies its *position* e.
    2. The MLP of layer 0 computes t = q - e + 1 from the current position q.
    3. The head of layer 1, the iteration head, attends to position t and copies its *token* x.
    4. The MLP of layer 1 looks up F(s, x) for the current token s. If x is EoI, all states have been written, and it
       outputs EoS, so no counter is needed.

    The model is exact for every length up to the task's maximum.

    Raises:
        ToylabError: for a task without chain of thought.
    """
    if not task.chain_of_thought:
        raise ToylabError("chain_of_thought=False: the iteration head works on written states; give a task with them")
    vocab, context = len(task.vocabulary), task.context
    token, position, end_position, due, read, out = _slots(vocab, context, context, context, vocab, vocab)
    width = out.stop

    # (e, q) -> t, for every position e of EoI and every position q that predicts a state or EoS
    subtraction = [
        ((position[q], end_position[e]), due[q - e + 1]) for e in range(2, task.max_length + 2) for q in range(e, 2 * e)
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
        _write_embeddings(model, token, position, out)
        find_end, fetch = (block.attn for block in model.blocks)
        sharp = SHARPNESS * math.sqrt(width)  # cancels the scaling of scores by 1 / sqrt(head width)

        find_end.query.bias[0] = sharp
        find_end.key.weight[0, token[task.end_of_input]] = 1
        _route(find_end.value.weight, find_end.output.weight, position, end_position)
        _write_gates(model.blocks[0].mlp, subtraction)

        size = range(context)
        fetch.query.weight[size, due] = sharp
        fetch.key.weight[size, position] = 1
        _route(fetch.value.weight, fetch.output.weight, token, read)
        _write_gates(model.blocks[1].mlp, lookup)
    return model


def _lookup(task: IteratedMap, token: range, read: range, out: range) -> list[tuple[tuple[int, ...], int]]:
    """Gates (s, x) -> F(s, x), (EoI, x) -> s_1, and (s, EoI) -> EoS."""
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

    1. The head of layer 0, the previous-token head, attends to the preceding position and copies its *token*.
    2. The head of layer 1, the induction head, attends to the position preceded by the current token and copies its
       *token*: the value that followed the key.
    """
    # Position 0 has no predecessor and attends to itself.
    return _recall_circuit(task, 1, slice(1))


def hop_heads(task: MultiHopRecall) -> Transformer:
    """The induction circuit, repeated for every hop that is not written out; attention only, exact on every row.

    1. The head of layer 0, the previous-token head, attends to the preceding position and copies its *token*.
    2. The head of layer j attends to the second node of the pair whose first node is the current one (the token in
       layer 1, then the node copied by layer j - 1), and copies its *token*. Even positions hold first nodes, which
       also follow a node, and are excluded by their position.

    With a chain of thought, two layers suffice.
    """
    return _recall_circuit(task, 1 if task.chain_of_thought else task.hops, slice(None, None, 2))


def _recall_circuit(task: AssociativeRecall | MultiHopRecall, hops: int, excluded: slice) -> Transformer:
    """A previous-token head, then a layer for each hop, whose head never attends to the excluded positions."""
    vocab, context = len(task.vocabulary), task.context
    token, position, before, *reached = _slots(vocab, context, vocab, *[vocab] * hops)
    width = reached[-1].stop
    config = ModelConfig(layers=1 + hops, heads=1, width=width, hidden=0, norm="none", positions="learned")
    model = Transformer(config, vocab, context)
    with torch.no_grad():
        _write_embeddings(model, token, position, reached[-1])
        previous, *hopping = (block.attn for block in model.blocks)
        sharp, token_ids = SHARPNESS * math.sqrt(width), range(vocab)
        _attend_to_previous(previous, position, sharp)
        _route(previous.value.weight, previous.output.weight, token, before)
        for attn, current, out in zip(hopping, [token, *reached], reached, strict=False):
            attn.query.weight[token_ids, current] = sharp
            attn.key.weight[token_ids, before] = 1
            attn.key.weight[:vocab, position[excluded]] = -1
            _route(attn.value.weight, attn.output.weight, token, out)
    return model


def _attend_to_previous(attn: Attention, position: range, sharp: float) -> None:
    """A head that attends from each position to the one before."""
    positions = range(len(position))
    attn.query.weight[positions[:-1], position[1:]] = sharp
    attn.key.weight[positions, position] = 1


def contextual_counter(
    regions: int, classes: int, *, bias: Literal["begin", "bracket"] = "begin", half: float | int = 10.0
) -> EncoderDecoder:
    """An exact counter in float64: a causal one-head encoder without positions, and a decoder of cross-attention only.

    1. The encoder's head attends uniformly to BoS and all brackets so far. After a opening and b closing brackets it
       outputs (w, s (a - b), a) / (1 + a + b), which is unique to every region and every gap between regions.
    2. LayerNorm projects all states to a sphere, where each is an *extreme point*: there is a direction in which it
       exceeds all others. (On a line, middle regions could not be separated.)
    3. The query of region k is aligned with the ones of region k, scaled so that all other tokens get e^-40 of their
       attention. Only the bias token (BoS, or the opening bracket of the region) has the weight of `half` ones.
    4. The attention on ones is x = n / (n + half). The logit of count c is the value at x of the tangent to the convex
       f(x) = -ln(1 - x) at x_c; at x_n, the largest is the tangent of n itself.

    Args:
        regions: number of label queries; strings may have more regions.
        classes: number of counts, from 0; strings may be of any length.
        bias: the bias token.
        half: the count at which half of the attention is on ones.

    Source: section 2 of Golkar et al. 2024 for steps 1 and 3; steps 2 and 4 are new.
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
"""Scale of the counter's residual stream; makes the eps of LayerNorm (1e-5) negligible."""
FEATURES, CONTEXT = 5 + 3, range(5, 8)
"""Coordinates of the counter: a one-hot of five tokens, then three context features."""


def _state(token: int, opened: int, closed: int, spread: float) -> Tensor:
    """Normalised state of a token after `opened` and `closed` brackets, as read by the decoder."""
    x = torch.zeros(FEATURES, dtype=torch.double)
    x[token] = 1
    x[5:] = torch.tensor([spread, spread * (opened - closed), opened]).double() / (1 + opened + closed)
    return x / x.norm()


def _write_context(model: EncoderDecoder, spread: float) -> None:
    """Steps 1 and 2 of the counter: uniform attention to BoS and brackets, and their context features."""
    encoder, head = model.encoder, model.encoder.blocks[0].attn
    for norm in (encoder.blocks[0].ln1, encoder.ln_final):
        assert isinstance(norm, LayerNorm)
        norm.weight.fill_(1)
    # Each feature is stored with its negative, so the mean is 0 and LayerNorm only normalises the length.
    _write_mirrored(encoder.embedding.weight, SATURATING_SCORE * torch.eye(5, FEATURES, dtype=torch.double))
    unit = math.sqrt(FEATURES)  # a one-hot feature after the norm
    head.query.weight[0, :5] = 1 / unit
    head.key.weight[0, [BEGIN, OPEN, CLOSE]] = SHARPNESS * math.sqrt(2 * FEATURES) / unit
    values = torch.zeros(FEATURES, 5, dtype=torch.double)
    values[CONTEXT, BEGIN] = torch.tensor([spread, 0.0, 0.0]).double()
    values[CONTEXT, OPEN] = torch.tensor([0.0, spread, 1.0]).double()
    values[CONTEXT, CLOSE] = torch.tensor([0.0, -spread, 0.0]).double()
    head.value.weight[:FEATURES, :5] = values / unit
    _write_mirrored(head.output.weight.T[:FEATURES], SATURATING_SCORE * torch.eye(FEATURES, dtype=torch.double))


def _write_queries(model: EncoderDecoder, spread: float, bias: Literal["begin", "bracket"], half: float | int) -> None:
    """Step 3 of the counter: query k attends to the ones of region k, and to its bias token with weight `half`."""
    decoder, fetch, everything = model.decoder, model.decoder.cross, range(2 * FEATURES)
    fetch.query.weight[everything, everything] = 1
    fetch.key.weight[everything, everything] = 1
    contexts = [(0, 0), *((a, b) for a in range(1, 2 * model.queries + 5) for b in (a - 1, a))]
    other_states = torch.stack(
        [_state(token, *context, spread) for token in (0, ONE, OPEN, CLOSE) for context in contexts]
    )
    for k in range(1, model.queries + 1):
        target = _state(ONE, k, k - 1, spread)
        bias_state = _state(BEGIN, 0, 0, spread) if bias == "begin" else _state(OPEN, k, k - 1, spread)
        direction = target.clone()
        if bias == "bracket":  # equal scores for bracket and ones of the same context
            direction[OPEN] = target[ONE]
        other_scores = other_states @ direction
        is_other = (other_states - target).abs().amax(dim=1) > 1e-9
        is_other &= (other_states - bias_state).abs().amax(dim=1) > 1e-9
        direction = direction * 40 / (target @ direction - other_scores[is_other].max())
        token = BEGIN if bias == "begin" else OPEN
        # The one-hot coordinate of ones grows with their context after normalisation; `ratio` compensates.
        ratio = target[ONE] / bias_state[token]
        lift = (target @ direction - bias_state @ direction + math.log(half * ratio)) / bias_state[token]
        direction[token] += lift
        decoder.queries[k - 1, :FEATURES] = direction * math.sqrt(2)


def _write_tangents(model: EncoderDecoder, token: int, half: float | int) -> None:
    """Step 4 of the counter: the attention on ones, and the tangent of each count."""
    head, fetch = model.decoder.head, model.decoder.cross
    fetch.value.weight[0, ONE], fetch.value.weight[1, token] = 1, 1
    fetch.output.weight[[0, 1], [0, 1]] = 1
    x = torch.arange(model.classes).double() / (torch.arange(model.classes) + half)
    f, slope, steepness = -torch.log1p(-x), 1 / (1 - x), (model.classes + half) ** 2
    head.weight[:, 0] = steepness * (f + slope * (1 - x))
    head.weight[:, 1] = steepness * (f - slope * x)


def _write_mirrored(destination: Tensor, rows: Tensor) -> None:
    """Write rows concatenated with their negatives."""
    destination.copy_(torch.cat([rows, -rows], dim=1))


def _write_embeddings(model: Transformer, token: range, position: range, out: range) -> None:
    """Zero all weights, then write one-hot token and position embeddings and a one-hot unembedding."""
    for parameter in model.parameters():
        parameter.zero_()
    model.embedding.weight[:, token] = torch.eye(model.vocab)
    assert isinstance(model.positions, LearnedPositions)
    assert isinstance(model.unembedding, nn.Linear)
    model.positions.table[:, position] = torch.eye(model.context)
    model.unembedding.weight[:, out] = SHARPNESS * torch.eye(model.vocab)


def _slots(*sizes: int) -> list[range]:
    """Consecutive ranges of coordinates."""
    stops = torch.tensor(sizes).cumsum(0).tolist()
    return [range(end - size, end) for size, end in zip(sizes, stops, strict=True)]


def _route(value: Tensor, output: Tensor, source: range, destination: range) -> None:
    """Make the OV circuit of a head copy coordinates `source` to `destination`."""
    features = range(len(source))
    value[features, source] = 1
    output[destination, features] = 1


def _write_gates(mlp: MLP | None, gates: Sequence[tuple[tuple[int, ...], int]]) -> None:
    """One hidden unit per AND gate: adds 1 to its target if all its coordinates are 1; spare units are inactive."""
    assert mlp is not None
    mlp.up.bias.fill_(-1)
    for unit, (coordinates, target) in enumerate(gates):
        mlp.up.weight[unit, list(coordinates)] = 1
        mlp.up.bias[unit] = 1 - len(coordinates)
        mlp.down.weight[target, unit] = 1
