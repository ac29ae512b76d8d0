"""The figures of the contextual-counting study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from toylab.report import canvas, figures
from toylab.report.live import LivePanel
from toylab.report.page import Picture, picture, pictures, require_measured
from toylab.runs.store import metric_curves, models_of_condition, read_metrics
from toylab.runs.study import Job
from toylab.studies.contextual_counting import results as counting
from toylab.studies.contextual_counting.results import CountingResult, RegionCircuit
from toylab.tasks import ContextualCounting, decode, held_out
from toylab.tasks.bracketed import CLOSE, ONE, OPEN
from toylab.training.attention_history import HistoryPage, RecordedSequence, read_history
from toylab.verdicts.claim import Conditions

ENCODING_TITLES = {"none": "no positions", "alibi": "ALiBi"}
"""Titles of encodings that differ from their names."""
COUNTING_FILM = "film.safetensors"
"""File of the attention history in the folder of a job without positions."""
ONE_REGION = "one region of one seed"


def draw(models: Conditions, out: Path, encodings: Sequence[str], causal: Sequence[str], longest: int) -> list[Picture]:
    """All figures that have results."""
    return pictures(
        (_draw_attention, models["none"]),
        (_draw_encodings, models, encodings),
        (_draw_mass, models),
        (_draw_slopes, [result for name in causal for result in models[name].values()]),
        (_draw_biases, models),
        (_draw_blocked, models),
        (_draw_plateaus, models, out),
        (_draw_planes, models["rotary"], longest),
    )


def recorded_string(task: ContextualCounting, seed: int) -> list[RecordedSequence]:
    """A held-out string of the shortest length with many different counts, for the attention history of the encoder and
    of the decoder."""
    batch = held_out(task, seed, 64, **dict(task.largest, length=task.min_length))
    counts = batch.labels["count"][:, : task.most]
    row = int(np.argmax([len({*row} - {0}) for row in counts.tolist()]))
    tokens = batch.tokens[row, : int(task.begin) + task.min_length]
    names, region = tuple(decode(task, tokens.tolist())), batch.labels["region"][row]
    ones = [[int(region[at]) - 1, at] for at in np.flatnonzero(tokens == ONE).tolist() if region[at]]
    brackets = [[at, key] for _, at in ones for key in range(at) if tokens[key] in (OPEN, CLOSE)]
    labels = tuple(f"region {k + 1}, n = {count}" for k, count in enumerate(counts[row].tolist()))
    text = torch.from_numpy(tokens)
    return [
        RecordedSequence(
            "encoder", text, names, {"preceding brackets": brackets}, "encoder.blocks.*.attn.pattern", names
        ),
        RecordedSequence("decoder", text, names, {"counted ones": ones}, "decoder.cross.pattern", labels),
    ]


def counting_history(results: Conditions, out: Path) -> HistoryPage | None:
    """The attention history of the best model without positions; None without one."""
    if not results["none"]:
        return None
    seed = max(results["none"], key=lambda s: results["none"][s].mean_accuracy)
    folder = Job("none", seed).folder(out)
    if not (folder / COUNTING_FILM).exists():  # from an older version
        return None
    page = read_history(
        folder / COUNTING_FILM,
        "Watch it form",
        f"Attention on a held-out string at every evaluation during training of seed {seed}. Red squares: "
        "the counted ones of each region (decoder), the preceding brackets (encoder). "
        "As the circuit forms, the attention of a region on its n ones approaches n / (n + K).",
        read_metrics(folder / "metrics.jsonl"),
        {"accuracy": "accuracy"},
    )
    decoder, weights = page.scenes[-1], page.patterns[-1][:, 0, 0].double() / 255
    mass = torch.zeros(weights.shape[:2], dtype=torch.double)
    for label, key in decoder["links"]["counted ones"]:
        mass[:, label] += weights[:, label, key]
    curves = {
        f"attention on own ones, {name}": mass[:, k].tolist()
        for k, name in enumerate(decoder["queries"])
        if any(label == k for label, _ in decoder["links"]["counted ones"])
    }
    return replace(page, curves=page.curves | curves)


def live(study: Any, results: Conditions, out: Path) -> LivePanel | None:
    """The models without positions, the best first, on strings of the reader."""
    none, task = results["none"], study.task
    models = models_of_condition(out, "none", sorted(none, key=lambda s: -none[s].mean_accuracy))
    if not models:
        return None
    lengths = (min(24, task.max_length), task.max_length)
    batches = [held_out(task, study.seeds[0], 2, purpose="page", length=n, regions=task.most) for n in lengths]
    rows = [task.strings(batch)[0][n].tolist() for batch in batches for n in range(2)]
    strings = ["".join(decode(task, row)) for row in rows]
    return LivePanel(
        task=task,
        caption="Type a string with regions [ ... ]: the model counts the ones of each. Red squares: the ones of a "
        "region. The attention of a label query on its n ones follows n / (n + K), where K is the weight of the other "
        "tokens, fitted on held-out strings of the longest length (vertical mark).",
        claim="count-in-decoder",
        examples=[(string, string) for string in strings],
        models=models,
        facts={"bias": {f"seed {s}": [circuit.k for circuit in result.circuits] for s, result in none.items()}},
        start=dict.fromkeys(models, "decoder.0"),
    )


def _draw_attention(none: dict[int, CountingResult]) -> Picture:
    seed = max(require_measured(none), key=lambda s: none[s].mean_accuracy)
    example = none[seed].example
    tokens, regions = example.tokens, list(enumerate(example.regions))
    width = max(0.26 * len(tokens) + 1.2, 5)  # room for the names of the regions
    figure, axes = canvas.new_figure(width, width + 1.2, rows=2, height_ratios=[len(tokens), len(example.decoder) + 3])
    ones = [(region, position) for position, region in regions if region and tokens[position] == "1"]
    bracket_links = [(position, key) for _, position in ones for key in range(position) if tokens[key] in "[]"]
    top, bottom = axes[:, 0]
    figures.plot_attention(
        np.array(example.encoder), tokens, links=np.array(bracket_links), title=f"encoder, seed {seed}", ax=top
    )
    figures.plot_attention(
        np.array(example.decoder),
        tokens,
        queries=[
            f"region {k}: " + (f"{count}, model {guess}" if count >= 0 else "none")
            for k, (count, guess) in enumerate(zip(example.counts, example.guessed, strict=True), start=1)
        ],
        links=np.array([(region - 1, position) for region, position in ones if region <= len(example.decoder)]),
        title="decoder: true and predicted count of each region",
        ax=bottom,
    )
    return picture(
        "The counting circuit",
        "Attention on a held-out string in the model without positions. Top: in the encoder, ones attend to the "
        "brackets before them (squares), which identifies their region. Bottom: each label query attends to the ones "
        "of its region (squares) and to a bias token. The attention mass on ones, n / (n + K), encodes their number n.",
        figure,
    )


def _draw_encodings(models: Conditions, encodings: Sequence[str]) -> Picture:
    titles = {
        f"{name}{suffix}": f"{ENCODING_TITLES.get(name, name)}, {direction}"
        for name in encodings
        for suffix, direction in (("", "causal"), ("-bidirectional", "bidirectional"))
    }
    conditions = require_measured(models.by_title(titles))
    groups = {
        title: {
            ONE_REGION: [accuracy for r in by_seed.values() for accuracy in r.accuracy],
            "mean over regions of one seed": [r.mean_accuracy for r in by_seed.values()],
        }
        for title, by_seed in conditions.items()
    }
    return picture(
        "Which encoding",
        "Accuracy by positional encoding. Circles: single regions; squares: mean over regions of each seed; vertical "
        "lines: means of points, while the claims judge shares of seeds or medians. Dotted line: best constant guess.",
        figures.plot_by_seed(groups, xlabel="accuracy of counts on held-out strings", chance=_floor(conditions)),
    )


def _draw_mass(models: Conditions) -> Picture:
    lines = {
        title: [(c.k, c.curve) for c in _solved_regions(models[name]) if c.counts]
        for name, title in (("none", "no positions"), ("rotary", "rotary"))
    }
    figure, axes = canvas.new_figure(8.4, 3.2, columns=2)
    for ax, (title, fits) in zip(axes[0], require_measured(lines).items(), strict=True):
        points = [(n / k, mass) for k, curve in fits for n, mass in curve.items()]
        figures.plot_saturation(points, title=f"{title}: {len(fits)} solved regions", ax=ax)
    canvas.share_limits([*axes[0]], "x")
    return picture(
        "Attention as a counter",
        "Mean attention on the n ones of a region, for every solved region of every seed, against n in units of the "
        "fitted K of that region. A region that counts by attention lies on the dashed curve, x / (x + 1).",
        figure,
    )


def _draw_slopes(models: Sequence[CountingResult]) -> Picture:
    groups: dict[str, list[tuple[float, float]]] = {}
    for model in models:
        for change in model.shifts:
            group = "an empty region appended" if change == counting.ADDED_REGION else "zeros appended (8, 16, 32)"
            groups.setdefault(group, []).extend((shift.by_place, shift.after) for _, shift in model.shifted(change))
    return picture(
        "Predicted and measured",
        "One point per solved region of a causal model, on strings with zeros or an empty region appended, which "
        "changes no count. If the appended tokens belong to the bias, the model undercounts as the law predicts. "
        "Points far below the line at a slope near 1 are last regions that attend to the appended region.",
        figures.plot_agreement(
            require_measured(groups),
            xlabel="slope predicted from the attention, K / K'",
            ylabel="measured slope: predicted against true count",
        ),
    )


def _draw_biases(models: Conditions) -> Picture:
    titles = {
        "none": "varied strings",
        "rotary": "varied, rotary",
        "no-auxiliary": "varied, no auxiliary loss",
        "fixed": "fixed strings",
        "plain-none": "plain set-up",
        "plain-rotary": "plain set-up, rotary",
    }
    shares = {}
    for title, by_seed in models.by_title(titles).items():
        if regions := [c.shares for c in _solved_regions(by_seed)]:
            shares[f"{title} ({len(regions)})"] = {n: fmean(s[n] for s in regions) for n in regions[0]}
    return picture(
        "What they compare with",
        "Attention of label queries outside counted ones, by token class, averaged over solved regions (their number "
        "in brackets). The numbers of begin tokens, own and earlier brackets are constant for a label; those of the "
        "other classes vary between strings.",
        figures.plot_stacked_shares(require_measured(shares), xlabel="share of attention outside counted ones"),
    )


def _draw_blocked(models: Conditions) -> Picture:
    tests = {
        counting.COUNTED: "without the ones of the region",
        counting.OWN_BRACKETS: "without its own brackets",
        counting.OUTSIDE_ONES: "without ones outside all regions",
    }
    titles = {"none": "no MLP", "encoder-mlp": "MLP in the encoder", "plain-encoder-mlp": "MLP, plain set-up"}
    conditions = require_measured(
        {title: by_seed for title, by_seed in models.by_title(titles).items() if _solved_regions(by_seed)}
    )
    groups = {}
    for title, by_seed in conditions.items():
        groups[f"{title}: unedited"] = {ONE_REGION: [c.accuracy for c in _solved_regions(by_seed)]}
        for keys, intervention in tests.items():
            groups[f"{title}: {intervention}"] = {ONE_REGION: [c.blocked[keys] for c in _solved_regions(by_seed)]}
    _, axes = canvas.new_figure(8.4, 0.32 * len(groups) + 1.2)
    return picture(
        "What each region needs",
        "Accuracy of each solved region with one class of tokens hidden from label queries; vertical lines are means. "
        "A model that counts in the decoder needs the ones; a model that copies a count needs only the own brackets.",
        figures.plot_by_seed(groups, xlabel="accuracy of counts", chance=_floor(conditions), ax=axes[0, 0]),
    )


def _draw_plateaus(models: Conditions, out: Path) -> Picture:
    titles = {
        "none": "no positions",
        "no-auxiliary": "no auxiliary loss",
        "rotary": "rotary",
        "no-auxiliary-rotary": "rotary, no auxiliary loss",
        "no-auxiliary-slow-rotary": "slow rotary, no auxiliary loss",
        "plain-none": "plain set-up",
        "plain-rotary": "plain set-up, rotary",
        "plain-none-no-begin": "plain set-up, no begin token",
        "plain-rotary-no-begin": "plain set-up, rotary, no begin token",
    }
    curves = require_measured(
        {title: metric_curves(models, out, name) for name, title in titles.items() if models[name]}
    )
    height = (len(curves) + 1) // 2
    figure, axes = canvas.new_figure(8.4, 2.5 * height, columns=2, rows=height)
    for ax, (title, lines) in zip(axes.flat, curves.items(), strict=False):
        figures.plot_curves(lines, ylabel="accuracy", threshold=counting.SOLVED, title=title, legend=False, ax=ax)
    for ax in axes.flat[len(curves) :]:
        ax.set_axis_off()
    return picture(
        "Plateaus of all seeds",
        "Mean accuracy over regions on held-out strings during training, one line per seed. Grey line: the threshold "
        "for a solved task.",
        figure,
    )


def _draw_planes(rotary: dict[int, CountingResult], longest: int) -> Picture:
    rotary_profiles = require_measured({f"seed {s}": r.rotary for s, r in rotary.items() if r.is_solved})
    profiles = {seed: profile.planes for seed, profile in rotary_profiles.items()}
    frequencies = next(iter(rotary_profiles.values())).frequencies
    return picture(
        "Rotary in disguise",
        "Contribution of each rotary plane to the attention score of a one for brackets minus bits, in models that "
        f"solve the task. Planes right of the dashed line rotate by less than one radian over {longest} tokens.",
        figures.plot_planes(profiles, frequencies, ylabel="score of brackets minus bits, for a one", span=longest),
    )


def _solved_regions(models: dict[int, CountingResult]) -> list[RegionCircuit]:
    return [region for result in models.values() for region in result.solved]


def _floor(conditions: Mapping[str, dict[int, CountingResult]]) -> float:
    """The accuracy of the best constant guess in the last of these conditions."""
    return fmean(result.floor for result in [*conditions.values()][-1].values())
