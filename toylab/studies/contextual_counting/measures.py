"""Circuit identification for counting models: attention, ablations, and predictions for changed strings.

Applies the probes to `toylab.tasks.ContextualCounting` and an `EncoderDecoder`. All results are per label, since
regions are learned, and fail, separately.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from toylab.console import ToylabError
from toylab.model.controls import with_shuffled_weights
from toylab.model.encoder_decoder import EncoderDecoder
from toylab.model.modes import evaluation_mode
from toylab.probes import (
    ClassReadout,
    Edit,
    block_keys,
    class_readout,
    edit,
    fit_saturation,
    linear_probe,
    mass_by_class,
    name_bias,
    name_circuit,
    name_encoding,
    rotary_planes,
    score_table,
    slope_through_origin,
    top_energy,
    watch,
)
from toylab.studies.contextual_counting.data import (
    StringBatch,
    count_accuracy,
    count_logits,
    encode_strings,
    label_accuracy,
)
from toylab.studies.contextual_counting.results import (
    ALL_ONES,
    BIAS_TOKEN,
    COUNTED,
    OUTSIDE_ONES,
    OWN_BRACKETS,
    SLACK,
    CountShift,
    RegionCircuit,
    RegionProbe,
    RegionProbes,
    RegionReadout,
    RotaryProfile,
    StoppedPlanes,
    UntrainedCounter,
)
from toylab.tasks import IGNORE, stream
from toylab.tasks.bracketed import BEGIN, CLOSE, ONE, OPEN, ZERO
from toylab.training.batches import likeliest


def key_classes(strings: StringBatch) -> dict[str, Bool[Tensor, "batch label key"]]:
    """Disjoint masks of the token classes, for every label query.

    A token class is a kind of token as seen from one region, for example the ones of this region, or the zeros. A label
    query is the decoder's query for the count of one region.
    """
    tokens, regions = strings.tokens[:, None], strings.regions[:, None]
    label = torch.arange(1, strings.counts.shape[1] + 1, device=tokens.device)[None, :, None]
    is_one, is_bracket, in_region = tokens == ONE, (tokens == OPEN) | (tokens == CLOSE), regions == label
    masks = {
        COUNTED: is_one & in_region,
        "other regions' ones": is_one & (regions > 0) & ~in_region,
        "outside ones": is_one & (regions == 0),
        "zeros": tokens == ZERO,
        "own [": (tokens == OPEN) & in_region,
        "own ]": (tokens == CLOSE) & in_region,
        "earlier brackets": is_bracket & (regions < label),
        "later brackets": is_bracket & (regions > label),
        "begin": tokens == BEGIN,
    }
    shape = (*strings.counts.shape, strings.tokens.shape[1])
    return {name: mask.expand(shape) for name, mask in masks.items()}


def constant_accuracy(strings: StringBatch) -> float:
    """The accuracy of the best constant answer on these strings."""
    counts = strings.counts[strings.counts != IGNORE]
    return counts.bincount().max().item() / len(counts)


def block_classes(mask: Bool[Tensor, "batch label key"]) -> dict[str, Edit]:
    """The edits that mask these keys in the decoder's cross-attention; each label query has its own mask."""
    return {"decoder.cross.scores": block_keys(mask)}


@torch.no_grad()
def find_circuits(model: EncoderDecoder, strings: StringBatch) -> list[RegionCircuit]:
    """The circuit of every label query, on strings with as many regions as the model has labels."""
    classes = key_classes(strings)
    blocked_classes = classes | {
        OWN_BRACKETS: classes["own ["] | classes["own ]"],
        ALL_ONES: (strings.tokens == ONE)[:, None].expand_as(classes[COUNTED]),
    }
    stream = encode_strings(model, strings)  # encoded once, since all edits are in the decoder

    def accuracies_under(edits: Mapping[str, Edit]) -> list[float]:
        with edit(model, edits):
            return label_accuracy(likeliest(model.decoder(stream)), strings)

    with watch(model, "decoder.cross.pattern") as cache:
        unedited = accuracies_under({})
    pattern = cache["decoder.cross.pattern"].mean(dim=1)  # over heads
    masses = mass_by_class(pattern, classes)
    blocked = {
        name: accuracies_under(block_classes(mask)) for name, mask in blocked_classes.items() if bool(mask.any())
    }
    chance = constant_accuracy(strings)
    circuits = []
    for label, accuracy_of_label in enumerate(unedited):
        counts = strings.counts[:, label]
        label_masses = {name: mass[:, label] for name, mass in masses.items()}
        accuracy_without = {name: shares[label] for name, shares in blocked.items()}
        fit, bias = fit_saturation(label_masses[COUNTED], counts), name_bias(label_masses, COUNTED)
        if bias.name in accuracy_without:
            accuracy_without[BIAS_TOKEN] = accuracy_without[bias.name]
        tests = {
            "counted": accuracy_without[COUNTED],
            "own brackets": accuracy_without[OWN_BRACKETS],
            "outside ones": accuracy_without[OUTSIDE_ONES],
        }
        circuits.append(
            RegionCircuit(
                accuracy=accuracy_of_label,
                circuit=name_circuit(accuracy_of_label, tests, chance, slack=SLACK),
                bias=bias.name,
                share=bias.share,
                shares=bias.shares,
                k=fit.k,
                r2=max(fit.r2, 0.0),
                blocked=accuracy_without,
                curve={
                    int(n): label_masses[COUNTED][counts == n].mean().item()
                    for n, occurrences in zip(*counts.unique(return_counts=True), strict=True)
                    if occurrences >= 5
                },
            )
        )
    return circuits


@torch.no_grad()
def measure_shifts(model: EncoderDecoder, before: StringBatch, after: StringBatch) -> list[CountShift]:
    """The effect of an edit of the strings on the answers for each label, and its prediction.

    The prediction uses only the attention pattern on the strings before the edit (`predict_slopes`).
    """
    with watch(model, "decoder.cross.pattern") as cache:
        answers_before = likeliest(model.decoder(encode_strings(model, before)))
    pattern = cache["decoder.cross.pattern"].mean(dim=1)
    answers_after = likeliest(model.decoder(encode_strings(model, after)))
    accuracies = label_accuracy(answers_after, after)
    by_class, by_place = (predict_slopes(pattern, before, after, use_places) for use_places in (False, True))
    slopes = [
        [slope_through_origin(answers[:, k], before.counts[:, k]) for k in range(len(accuracies))]
        for answers in (answers_before, answers_after)
    ]
    return [
        CountShift(
            accuracy=accuracies[k],
            before=slopes[0][k],
            after=slopes[1][k],
            predicted=slopes[0][k] * by_class[k],
            by_place=slopes[0][k] * by_place[k],
        )
        for k in range(len(accuracies))
    ]


def predict_slopes(
    pattern: Float[Tensor, "batch label key"], before: StringBatch, after: StringBatch, places: bool = False
) -> list[float]:
    """The predicted factor K / K' by which an edit of the strings changes the slope of the answers, per label.

    K is the attention on all bias tokens (all tokens but the counted ones) before the edit, and K' is the attention
    that they would have after the edit if each token kept its weight. Both are averages over strings.

    Args:
        pattern: attention before the edit, averaged over heads; attention after the edit is not used.
        before: strings before the edit.
        after: strings after the edit.
        places: how the weight of a token after the edit is estimated. False: the average attention on one token of its
            class in the whole string. True: the average over the tokens of its class between the same two brackets, or
            over the whole string if the class had no tokens there.
    """
    segments_of_before, segments_of_after = (_brackets_so_far(strings) * int(places) for strings in (before, after))
    segment_count = int(max(segments_of_before.max(), segments_of_after.max())) + 1
    segment_before, segment_after = (
        F.one_hot(segment_indices, segment_count).to(pattern.dtype)
        for segment_indices in (segments_of_before, segments_of_after)
    )
    bias_before, bias_after = pattern.new_zeros(pattern.shape[1]), pattern.new_zeros(pattern.shape[1])
    classes_after = key_classes(after)
    for name, mask in key_classes(before).items():
        if name == COUNTED:
            continue
        mass, count = (
            ((pattern * mask) @ segment_before).mean(dim=0),
            (mask.to(pattern.dtype) @ segment_before).mean(dim=0),
        )
        average = mass.sum(dim=1, keepdim=True) / count.sum(dim=1, keepdim=True).clamp(min=1e-9)
        weight = torch.where(count > 0, mass / count.clamp(min=1e-9), average)
        count_after = (classes_after[name].to(pattern.dtype) @ segment_after).mean(dim=0)
        bias_before = bias_before + mass.sum(dim=1)
        bias_after = bias_after + (weight * count_after).sum(dim=1)
    return (bias_before / bias_after).tolist()


def _brackets_so_far(strings: StringBatch) -> Int[Tensor, "batch position"]:
    """Number of brackets up to each position; equal numbers mean the same segment between two brackets."""
    return ((strings.tokens == OPEN) | (strings.tokens == CLOSE)).cumsum(dim=1)


@torch.no_grad()
def value_readout(model: EncoderDecoder, strings: StringBatch, circuits: list[RegionCircuit]) -> list[RegionReadout]:
    """Logits of each label rebuilt from one value per token class, weighted by attention (Golkar et al. 2024, eq. 3).

    The decoder must consist of cross-attention alone.

    Raises:
        ToylabError: for a decoder with residual stream, MLP or several heads, whose logits are not such a sum.
    """
    config = model.config
    if config.residual or config.hidden or config.heads > 1 or config.self_attention:
        raise ToylabError(
            "decoder: equation 3 requires a single cross-attention; use a model with heads=1 and no residual, "
            "self_attention or hidden"
        )
    decoder, stream = model.decoder, encode_strings(model, strings)
    with watch(model, "decoder.cross.pattern") as cache:
        out = decoder(stream)
    head_values = decoder.cross.value(stream)
    head_outputs = decoder.cross.output(head_values)
    values = config.logit_scale * head_outputs @ decoder.head.weight.T  # batch key count
    classes = key_classes(strings)
    masses = mass_by_class(cache["decoder.cross.pattern"][:, 0], classes)
    readouts = []
    for label, circuit in enumerate(circuits):
        label_classes = {name: mask[:, label] for name, mask in classes.items() if bool(mask[:, label].any())}
        means = {name: values[mask].mean(dim=0) for name, mask in label_classes.items()}
        label_masses = {name: masses[name][:, label] for name in means}

        def rebuilt(*used_classes: str, label_masses=label_masses, means=means, label=label) -> ClassReadout:
            return class_readout(
                label_masses, {name: means[name] for name in used_classes}, decoder.head.bias, out[:, label]
            )

        readouts.append(RegionReadout(two_values=rebuilt(COUNTED, circuit.largest), all_classes=rebuilt(*means)))
    return readouts


def region_probes(model: EncoderDecoder, strings: StringBatch, seed: int) -> RegionProbes:
    """Linear probes for the region of a one, at the attention output and at the decoder input."""
    sites = {"attention_output": "encoder.blocks.0.attn_out", "decoder_input": "encoder.final"}
    with watch(model, *sites.values()) as cache:
        count_logits(model, strings)
    is_one = strings.tokens == ONE
    groups = torch.arange(len(strings), device=is_one.device)[:, None].expand_as(is_one)[is_one]

    def probe(features: Float[Tensor, "token feature"]) -> RegionProbe:
        score = linear_probe(features, strings.regions[is_one], groups, stream(seed, "region probe"))
        return RegionProbe.of(score, two_components(features))

    return RegionProbes(**{site: probe(cache[point][is_one]) for site, point in sites.items()})


def measure_untrained(
    model: EncoderDecoder, strings: StringBatch, few: StringBatch, seed: int, slow: float
) -> UntrainedCounter:
    """Control: measurements of `CountingResult` on random weights, and of uniform attention.

    Args:
        few: strings for the linear probes.
        slow: as in `rotary_profile`.
    """
    shuffled, positions = with_shuffled_weights(model, seed), model.config.encoder.positions
    counts = strings.counts.flatten()
    return UntrainedCounter(
        probe=region_probes(shuffled, few, seed),
        uniform=fit_saturation(counts / strings.tokens.shape[1], counts),
        scores=encoder_scores(shuffled) if positions == "none" else None,
        rotary=rotary_profile(shuffled, strings, slow) if positions == "rotary" else None,
    )


def two_components(features: Float[Tensor, "token feature"]) -> float:
    """The share of variance in the first two principal components; 1 for states of rank two."""
    return top_energy(features.double() - features.double().mean(dim=0), 2)


@torch.no_grad()
def encoder_scores(model: EncoderDecoder) -> list[list[float]]:
    """The exact attention score between all token types, in the first head of an encoder without positions."""
    block = model.encoder.blocks[0]
    normed = block.ln1(model.encoder.embedding.weight)
    q, k = (linear(normed).unflatten(-1, (block.attn.heads, -1)) for linear in (block.attn.query, block.attn.key))
    return score_table(q, k)[0].tolist()


@torch.no_grad()
def rotary_profile(model: EncoderDecoder, strings: StringBatch, slow: float) -> RotaryProfile:
    """Contribution of each rotary plane to the score of a one for brackets minus bits, and accuracy without rotation.

    Args:
        slow: frequency in radians per token that separates fast planes (at least this) from slow ones.
    """
    block = model.encoder.blocks[0]
    normed = block.ln1(model.encoder.embedding.weight)
    q, k = block.attn.query(normed), block.attn.key(normed)
    brackets, bits = k[[OPEN, CLOSE]].mean(dim=0), k[[ZERO, ONE]].mean(dim=0)
    frequencies = model.encoder.positions.get_buffer("frequencies")
    return RotaryProfile(
        planes=rotary_planes(q[ONE], brackets - bits).tolist(),
        frequencies=frequencies.tolist(),
        stopped=StoppedPlanes(
            fast=_accuracy_with_stopped_planes(model, strings, frequencies >= slow),
            slow=_accuracy_with_stopped_planes(model, strings, frequencies < slow),
            all=_accuracy_with_stopped_planes(model, strings, frequencies >= 0),
        ),
    )


def _accuracy_with_stopped_planes(
    model: EncoderDecoder, strings: StringBatch, stopped: Bool[Tensor, " plane"]
) -> list[float]:
    """Accuracy by region with the rotation of some planes stopped; unchanged if the model does not use positions."""
    stopped_model = deepcopy(model)
    stopped_model.encoder.positions.get_buffer("frequencies")[stopped] = 0
    return count_accuracy(stopped_model, strings)


def named_encoding(model: EncoderDecoder, strings: StringBatch, seed: int) -> str:
    """The positional encoding that the encoder behaves like, of those of `toylab.probes.positions`."""
    with evaluation_mode(model):
        return name_encoding(model.encoder, strings.tokens, stream(seed, "named encoding")).encoding
