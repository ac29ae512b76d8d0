"""Cases for the detectors of counting models: decodable regions and bias tokens; `circuits` has the counting circuits.

Some planted positives are the handwritten counter in a rotated basis, blended with noise. The others are constructed at
the level of the detector's input: codes of a region, and attention patterns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from toylab.calibration import Detector, DetectorInput, PlantedPositive, SampledControl
from toylab.model.encoder_decoder import EncoderDecoder
from toylab.planted.disguise import add_noise, rotate_encoder_basis
from toylab.planted.handwritten import contextual_counter
from toylab.probes import linear_probe, mass_by_class, name_bias, watch
from toylab.studies.contextual_counting.data import StringBatch, count_logits, string_batch
from toylab.studies.contextual_counting.measures import key_classes
from toylab.studies.contextual_counting.results import COUNTED
from toylab.tasks import ContextualCounting
from toylab.tasks.bracketed import ONE


def _strings(rng: np.random.Generator, rows: int = 384) -> StringBatch:
    regions = int(rng.integers(2, 5))
    task = ContextualCounting(length=int(rng.integers(24, 41)), regions=regions)
    return string_batch(task, task.sample(rng, rows))


def _counter(
    rng: np.random.Generator, strings: StringBatch, noise: float, bias: Literal["begin", "bracket"]
) -> EncoderDecoder:
    half = float(rng.uniform(4, 20))
    model = contextual_counter(strings.counts.shape[1], strings.tokens.shape[1], bias=bias, half=half)
    return add_noise(rotate_encoder_basis(model, rng), noise, rng)


def _watch_and_score(
    model: EncoderDecoder, strings: StringBatch, point: str
) -> tuple[Tensor, Bool[Tensor, "batch label"]]:
    """Activations at a hook point, and the mask of correct answers."""
    with watch(model, point) as cache, torch.no_grad():
        correct = count_logits(model, strings).argmax(dim=-1) == strings.counts
    return cache[point], correct


# Region probes -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EncodedOnes:
    """Features of the ones in a batch of strings, with the region and the string index of each one."""

    features: Float[Tensor, "token feature"]
    regions: Int[Tensor, " token"]
    groups: Int[Tensor, " token"]
    seed: int


def region_score(shown: EncodedOnes) -> float:
    """(accuracy - floor) / (1 - floor) of the linear probe, with the larger of its two floors."""
    rng = np.random.default_rng(shown.seed)
    probe = linear_probe(shown.features, shown.regions, shown.groups, rng)
    chance = max(probe.majority, probe.shuffled)
    return (probe.accuracy - chance) / (1 - chance) if chance < 1 else 0.0


def _encoded_ones(rng: np.random.Generator, strings: StringBatch, code: Tensor, noise: float = 0.0) -> DetectorInput:
    """A code of every token, projected on random directions, at the positions of ones."""
    is_one = strings.tokens == ONE
    width = int(rng.choice([8, 16, 32, 64]))
    clean = code.double() @ torch.from_numpy(rng.standard_normal((code.shape[-1], width)))
    clean = clean / clean[is_one].std().clamp(min=1e-9)
    features = (1 - noise) * clean + noise * torch.from_numpy(rng.standard_normal(tuple(clean.shape)))
    return _at_ones(rng, strings, features)


def _at_ones(
    rng: np.random.Generator, strings: StringBatch, features: Tensor, task_accuracy: float | None = None
) -> DetectorInput:
    is_one = strings.tokens == ONE
    groups = torch.arange(len(strings))[:, None].expand_as(is_one)[is_one]
    return DetectorInput(
        EncodedOnes(features[is_one].detach(), strings.regions[is_one], groups, int(rng.integers(2**31))), task_accuracy
    )


def _region_at(point: str) -> PlantedPositive:
    def plant(rng: np.random.Generator, noise: float) -> DetectorInput:
        strings = _strings(rng, 64)
        activations, correct = _watch_and_score(_counter(rng, strings, noise, "begin"), strings, point)
        return _at_ones(rng, strings, activations, correct.double().mean().item())

    return plant


def _region_code(code: Callable[[Tensor], Tensor]) -> PlantedPositive:
    def plant(rng: np.random.Generator, noise: float) -> DetectorInput:
        strings = _strings(rng, 64)
        return _encoded_ones(rng, strings, code(strings.regions), noise)

    return plant


def _no_region(code: Callable[[np.random.Generator, StringBatch], Tensor]) -> SampledControl:
    def control(rng: np.random.Generator) -> DetectorInput:
        strings = _strings(rng, 64)
        return _encoded_ones(rng, strings, code(rng, strings))

    return control


def _one_hot(x: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(x.long(), int(x.max()) + 1).double()


def _position(rng: np.random.Generator, strings: StringBatch) -> Tensor:
    positions = torch.arange(strings.tokens.shape[1], dtype=torch.double)
    return torch.stack(
        [f(positions / scale) for f in (torch.sin, torch.cos) for scale in (1, 3, 10, 30)], dim=1
    ).expand(len(strings), -1, -1)


def _shuffled_regions(rng: np.random.Generator) -> DetectorInput:
    """A region code, labelled with the regions of another string."""
    strings = _strings(rng, 64)
    code = _one_hot(strings.regions)
    order = torch.from_numpy(rng.permutation(len(strings)))
    return _encoded_ones(rng, replace(strings, regions=strings.regions[order]), code)


def _random_encoder(rng: np.random.Generator) -> DetectorInput:
    """Random attention to brackets: the region is decodable although no weight was set to encode it."""
    return _region_at("encoder.blocks.0.attn_out")(rng, 1.0)


# Bias tokens ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassMasses:
    """Attention on each class of keys, and the planted bias token; None in a control."""

    masses: Mapping[str, Float[Tensor, " sample"]]
    bias: str | None = None


def bias_score(shown: ClassMasses) -> float:
    """Attention share of the class returned by `name_bias`; 0 if it is not the planted class."""
    bias_token = name_bias(shown.masses, COUNTED, threshold=0.0)
    return bias_token.share if shown.bias in (None, bias_token.name) else 0.0


def _bias_of_counter(bias: Literal["begin", "bracket"]) -> PlantedPositive:
    def plant(rng: np.random.Generator, noise: float) -> DetectorInput:
        strings = _strings(rng)
        pattern, correct = _watch_and_score(_counter(rng, strings, noise, bias), strings, "decoder.cross.pattern")
        label = int(rng.integers(strings.counts.shape[1]))
        masses = mass_by_class(pattern[:, 0], key_classes(strings))
        name = "begin" if bias == "begin" else "own ["
        class_masses = ClassMasses({key: mass[:, label] for key, mass in masses.items()}, name)
        return DetectorInput(class_masses, correct[:, label].double().mean().item())

    return plant


def _weights(rng: np.random.Generator, strings: StringBatch, label: int) -> dict[str, Float[Tensor, "batch key"]]:
    """Indicator of each class of keys, for the query of a label."""
    return {name: mask[:, label].double() for name, mask in key_classes(strings).items()}


def _class_masses(weight: Float[Tensor, "batch key"], classes: Mapping[str, Tensor], bias: str | None) -> DetectorInput:
    pattern = weight / weight.sum(dim=1, keepdim=True)
    return DetectorInput(ClassMasses({name: (pattern * mask).sum(dim=1) for name, mask in classes.items()}, bias))


def _any_class(rng: np.random.Generator, noise: float) -> DetectorInput:
    """A query that attends to its ones and to the tokens of one class; noise is added to all scores."""
    strings = _strings(rng)
    label = int(rng.integers(1, strings.counts.shape[1]))  # the first region has no earlier brackets
    classes = _weights(rng, strings, label)
    names = [name for name, mask in classes.items() if name != COUNTED and bool(mask.any(dim=1).all())]
    bias = names[rng.integers(len(names))]
    per_key = float(rng.uniform(2, 20)) / classes[bias].sum(dim=1, keepdim=True)
    weight = classes[COUNTED] + per_key * classes[bias] + 0.003
    jitter = torch.from_numpy(rng.standard_normal(tuple(weight.shape)))
    return _class_masses(((1 - noise) * weight.log() + 3 * noise * jitter).exp(), classes, bias)


def _no_class(key_weights: Callable[[np.random.Generator, Mapping[str, Tensor]], Tensor]) -> SampledControl:
    def control(rng: np.random.Generator) -> DetectorInput:
        strings = _strings(rng)
        classes = _weights(rng, strings, int(rng.integers(strings.counts.shape[1])))
        return _class_masses(key_weights(rng, classes), classes, None)

    return control


def _two_classes(rng: np.random.Generator, classes: Mapping[str, Tensor]) -> Tensor:
    names = [name for name, mask in classes.items() if name != COUNTED and bool(mask.any(dim=1).all())]
    chosen_names = rng.choice(names, size=2, replace=False)
    share = float(rng.uniform(0.4, 0.6))
    mixture = sum(
        part * _uniform_over(classes[name]) for name, part in zip(chosen_names, (share, 1 - share), strict=True)
    )
    return classes[COUNTED] / 10 + mixture


def _uniform_over(mask: Tensor) -> Tensor:
    return mask / mask.sum(dim=1, keepdim=True).clamp(min=1)


def _every_class(rng: np.random.Generator, classes: Mapping[str, Tensor]) -> Tensor:
    return torch.as_tensor(sum(_uniform_over(mask) for mask in classes.values()))


def _evenly(rng: np.random.Generator, classes: Mapping[str, Tensor]) -> Tensor:
    return torch.ones_like(classes[COUNTED])


def _at_random(rng: np.random.Generator, classes: Mapping[str, Tensor]) -> Tensor:
    shape = tuple(classes[COUNTED].shape)
    return torch.from_numpy(rng.standard_normal(shape) * rng.uniform(0.5, 4)).exp()


def _shuffled_keys(rng: np.random.Generator, classes: Mapping[str, Tensor]) -> Tensor:
    """A true bias token (begin or bracket) with the keys of every string permuted."""
    name = "begin" if rng.random() < 0.5 else "own ["
    weight = classes[COUNTED] + float(rng.uniform(4, 20)) * classes[name] + 1e-3
    order = torch.from_numpy(rng.random(tuple(weight.shape)).argsort(axis=1))
    return weight.gather(1, order)


_ALL = (
    Detector(
        name="region-probe",
        question="is the region of a one linearly decodable?",
        score="(accuracy - floor) / (1 - floor) of a linear probe, with the larger of its floors",
        score_of=region_score,
        threshold=0.8,
        planted_positives={
            "a counter's attention output": _region_at("encoder.blocks.0.attn_out"),
            "a counter's stream": _region_at("encoder.final"),
            "a direction a region": _region_code(_one_hot),
            "regions along a line": _region_code(lambda regions: regions[..., None].double()),
            "regions along a circle": _region_code(
                lambda regions: torch.stack([(0.9 * regions).sin(), (0.9 * regions).cos()], dim=-1)
            ),
        },
        controls={
            "random features": _no_region(
                lambda rng, asked: torch.from_numpy(rng.standard_normal((*asked.tokens.shape, 16)))
            ),
            "absolute position": _no_region(_position),
            "the token before": _no_region(lambda rng, asked: _one_hot(asked.tokens.roll(1, dims=1))),
            "the string": _no_region(
                lambda rng, asked: torch.from_numpy(rng.standard_normal((len(asked), 1, 8))).expand(
                    -1, asked.tokens.shape[1], -1
                )
            ),
            "inside or not": _no_region(lambda rng, asked: _one_hot((asked.regions > 0).long())),
            "ones so far": _no_region(lambda rng, asked: (asked.tokens == ONE).cumsum(dim=1)[..., None]),
            "regions of another string": _shuffled_regions,
        },
        decoys={"an encoder that learned nothing": _random_encoder},
    ),
    Detector(
        name="bias-token",
        question="with which class of tokens does a label query compare its ones?",
        score="share of the class in the attention outside the counted ones",
        score_of=bias_score,
        threshold=0.7,
        planted_positives={
            "a counter with begin": _bias_of_counter("begin"),
            "a counter with brackets": _bias_of_counter("bracket"),
            "any class": _any_class,
        },
        controls={
            "two classes alike": _no_class(_two_classes),
            "every class alike": _no_class(_every_class),
            "even attention": _no_class(_evenly),
            "random attention": _no_class(_at_random),
            "keys shuffled": _no_class(_shuffled_keys),
        },
    ),
)

DETECTORS = {detector.name: detector for detector in _ALL}
