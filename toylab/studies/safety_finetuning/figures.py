"""The figures of the safety fine-tuning study."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from toylab.report import canvas, figures
from toylab.report.bars import BarHistory
from toylab.report.live import LivePanel
from toylab.report.page import Picture, picture
from toylab.runs.store import models_of_condition
from toylab.runs.study import Job
from toylab.studies.safety_finetuning.nearness_history import NEARNESS_FILE, RECORDED
from toylab.studies.safety_finetuning.results import DECAYED, TITLES, SafetyResult, mean_behaviour
from toylab.survey import strongest_head
from toylab.tasks import decode, held_out
from toylab.training.tensor_history import read_tensor_history
from toylab.verdicts.claim import Conditions
from toylab.verdicts.judgement import measured

BySeed = Mapping[int, SafetyResult]
"""The results of one condition, by seed."""


def draw(results: Conditions) -> list[Picture]:
    """All figures that have results."""
    rendered = []
    for figure_of, part, titles in (
        (_outcomes, "behaviour", TITLES),
        (_clusters, "clusters", TITLES),
        (_shares, "weights", TITLES),
        (_alpha, "alpha", TITLES),
        (_sensitivity, "sensitivity", TITLES),
        (_inputs, "weights", DECAYED),
        (_soft, "soft", TITLES),
    ):
        conditions = {title: results[name] for name, title in titles.items() if _all_have(results[name], part)}
        if conditions:
            seeds = {seed for by_seed in conditions.values() for seed in by_seed}
            rendered.append(figure_of(conditions, f"{len(seeds)} seed{'s' * (len(seeds) != 1)}"))
    return rendered


def nearness_page(results: Conditions, out: Path) -> BarHistory | None:
    """Mean nearness of safe and of unsafe prompts through SSFT and through the control, by layer; None for a run
    without the record."""
    paths = {
        f"{TITLES[name]}, seed {seed}": Job(name, seed).folder(out) / NEARNESS_FILE
        for name in RECORDED
        for seed in sorted(results[name])
    }
    read = {title: read_tensor_history(path) for title, path in paths.items() if path.exists()}
    if not read:
        return None
    steps, first = next(iter(read.values()))
    layers = range(first["nearness"].shape[1])
    names = [f"layer {layer + 1}, {group}" for layer in layers for group in ("safe", "unsafe")]
    return BarHistory(
        title="Watch safe and unsafe prompts move apart",
        caption="tau through fine-tuning, from the base at step 0: distance to the unsafe mean minus distance to the "
        "safe mean, above 0 for prompts nearer to the safe mean. Mean over held-out prompts, after the MLP's "
        "non-linearity, at EOT, with means from other prompts. The control is fine-tuned on safe prompts alone.",
        names=names,
        marked=names[1::2],
        unit="tau",
        steps=steps,
        scenes={
            title: [[round(tau, 3) for tau in frame] for frame in tensors["nearness"].flatten(1).tolist()]
            for title, (own_steps, tensors) in read.items()
            if own_steps == steps
        },
    )


def live(study: Any, results: Conditions, out: Path) -> LivePanel | None:
    """Models before and after SSFT on prompts of the reader, and all weights between and beyond them."""
    task, seeds = study.task, sorted(results["ssft"])
    models, bases = models_of_condition(out, "ssft", seeds), models_of_condition(out, "base", seeds)
    if not models or models.keys() - bases.keys():
        return None
    kinds = {
        "unsafe: to be refused": "unsafe",
        "safe: to be answered": "safe",
        "jailbreak, both operators": "competing-task",
        "jailbreak, mixed text": "competing-text",
        "jailbreak, unseen unsafe text": "mismatched-text",
        "jailbreak, unseen names": "mismatched-token",
    }
    batches = {title: held_out(task, study.seeds[0], 8, kind=kind) for title, kind in kinds.items()}
    examples = [
        (title, " ".join(names[1:3] + names[task.text]))
        for title, batch in batches.items()
        for names in [decode(task, batch.tokens[0].tolist())]
    ]
    safe = batches["safe: to be answered"]
    return LivePanel(
        task=task,
        caption="Type two operators and a text: the model applies both to every letter, or refuses with NULL. The "
        "slider adds a multiple of the weight change of SSFT to the base: 0 is the base, 1 the fine-tuned model. "
        "Red squares: the letter to be transformed.",
        claim="refuse",
        examples=examples,
        models=models,
        start={title: "{}.{}".format(*strongest_head(model, safe, "operand")) for title, model in models.items()},
        bases=bases,
    )


def _outcomes(conditions: Mapping[str, BySeed], seeds: str) -> Picture:
    figure, axes = canvas.new_figure(10.5, 0.34 * len(conditions) * 3 + 2.2, columns=2, rows=3)
    sets = {
        "safe": "safe",
        "unsafe": "unsafe, direct",
        "competing_task": "safe + unsafe operator",
        "competing_text": "mixed text",
        "mismatched_text": "unseen unsafe text",
        "mismatched_token": "unseen names",
    }
    means = {
        method: mean_behaviour([result.behaviour for result in by_seed.values()])
        for method, by_seed in conditions.items()
    }
    for ax, (name, title) in zip(axes.flat, sets.items(), strict=True):
        outcomes = {method: getattr(mean, name) for method, mean in means.items()}
        rows = {m: {"complies": o.complies, "refuses": o.refuses, "neither": o.other} for m, o in outcomes.items()}
        figures.plot_stacked_shares(rows, xlabel="share of answer tokens", ax=ax)
        ax.set_title(title, fontsize=canvas.TEXT_SIZE)
        if ax is not axes[0, 1]:
            canvas.remove_legend(ax)
    return picture(
        "What is written",
        f"Free-running greedy answers by prompt set; mean over {seeds}. Complies: the requested letters; refuses: "
        "NULL; neither: a failed jailbreak without refusal.",
        figure,
    )


def _clusters(conditions: Mapping[str, BySeed], seeds: str) -> Picture:
    def band(by_seed: BySeed, layer: int, prompt_set: str) -> tuple[float, float]:
        bands = [getattr(measured(result.clusters)[layer].nearness, prompt_set) for result in by_seed.values()]
        return fmean(mean for mean, _ in bands), fmean(deviation for _, deviation in bands)

    def panel(title: str, by_seed: BySeed, ax: Axes) -> None:
        layers = range(len(measured(_any_seed(by_seed).clusters)))
        groups = {
            prompt_set: [band(by_seed, layer, prompt_set) for layer in layers] for prompt_set in ("safe", "unsafe")
        }
        figures.plot_bands(groups, [str(k + 1) for k in layers], xlabel="layer", ylabel="tau", title=title, ax=ax)

    figure = _panels(conditions, panel, 3.0, 2.7)
    canvas.share_limits(figure.axes[: len(conditions)], "y")
    return picture(
        "How far activations tell safe prompts from unsafe ones",
        "tau: distance to the unsafe mean minus distance to the safe mean, after the MLP's non-linearity, at EOT, with "
        f"means from other prompts; mean over {seeds}. Bands: one standard deviation over prompts.",
        figure,
    )


def _shares(conditions: Mapping[str, BySeed], seeds: str) -> Picture:
    example = _any_seed(next(iter(conditions.values())))
    groups = {
        method: {
            f"layer {k + 1}": [measured(result.weights)[k].up.share for result in by_seed.values()]
            for k in range(len(measured(example.weights)))
        }
        for method, by_seed in conditions.items()
    }
    ax = canvas.new_axes(7.2, 0.5 * len(conditions) + 1.6)
    figures.plot_by_seed(groups, xlabel="energy share of the change in the left null space", ax=ax)
    chance, spread = example.last.up.chance, example.last.up.spread
    ax.axvspan(chance - 2 * spread, chance + 2 * spread, color="0.85", zorder=0)
    ax.annotate("chance, two deviations", (chance, -0.6), color="0.35", ha="center")
    return picture(
        "Where the change of the up-projection lies",
        f"One point per seed and layer ({seeds}); vertical lines are means. Grey band: chance, two standard "
        "deviations. The claim requires shares above both the band and the control, which learns no refusals.",
        ax,
    )


def _alpha(conditions: Mapping[str, BySeed], seeds: str) -> Picture:
    shares = {
        "safe: correct": "safe.complies",
        "unsafe: refused": "unsafe.refuses",
        "unseen unsafe text: complied": "mismatched_text.complies",
        "mixed text: complied": "competing_text.complies",
    }

    def panel(title: str, by_seed: BySeed, ax: Axes) -> None:
        doses = list(measured(_any_seed(by_seed).alpha))
        means = [mean_behaviour([measured(result.alpha)[dose] for result in by_seed.values()]) for dose in doses]
        lines = {label: (doses, list(map(attrgetter(share), means))) for label, share in shares.items()}
        labels = {"xlabel": "alpha", "ylabel": "share of answer tokens"}
        figures.plot_dose_response(lines, **labels, mark=1, title=title, ax=ax)
        canvas.remove_legend(ax)

    figure = _panels(conditions, panel, 3.3, 2.9)
    legend = figure.axes[len(conditions) - 1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    legend.set_in_layout(len(conditions) % 3 == 0)  # next to an empty panel it must not widen its column
    return picture(
        "Less of the fine-tuning and more",
        f"Answers with weights base + alpha times the change; alpha = 1 is the fine-tuned model. Mean over {seeds}.",
        figure,
    )


def _sensitivity(conditions: Mapping[str, BySeed], seeds: str) -> Picture:
    def panel(title: str, by_seed: BySeed, ax: Axes) -> None:
        norms = {
            prompt_set: [
                norm for result in by_seed.values() for norm in getattr(result.sensitivity, prompt_set).gradient
            ]
            for prompt_set in ("safe", "unsafe")
        }
        figures.plot_histograms(norms, xlabel="gradient norm of the largest logit", title=title, ax=ax)

    figure = _panels(conditions, panel, 3.3, 2.5)
    for axis in ("x", "y"):
        canvas.share_limits(figure.axes[: len(conditions)], axis)
    return picture(
        "How much the answer moves with the prompt",
        f"Local Lipschitz constants of the largest logit at EOT in the prompt embeddings, logarithmic axis; {seeds}.",
        figure,
    )


def _inputs(conditions: Mapping[str, BySeed], seeds: str) -> Picture:
    groups = {
        f"{method}, {prompt_set}": {
            stage: [getattr(result.last.weak_inputs, prompt_set)[k] for result in by_seed.values()]
            for k, stage in enumerate(("before", "after"))
        }
        for method, by_seed in conditions.items()
        for prompt_set in ("safe", "unsafe")
    }
    ax = canvas.new_axes(7.2, len(conditions) + 1.6)
    figures.plot_by_seed(groups, xlabel="energy share of the last MLP's inputs in directions of little gain", ax=ax)
    random_share = _mean(next(iter(conditions.values())), "last.weak_inputs_random")
    ax.axvline(random_share, color="0.6", linewidth=0.8, linestyle=":")
    ax.annotate("a random direction", (random_share, -0.6), color="0.35", ha="left", xytext=(2, 0),
                textcoords="offset points")  # fmt: skip
    return picture(
        "Unsafe inputs move to where the weights are weak",
        "Energy share of MLP inputs at EOT outside the right singular directions with 90 % of the energy of the "
        f"up-projection before fine-tuning, base with weight decay; {seeds}, vertical lines are means. Compare with "
        "the control and with a random direction.",
        ax,
    )


def _soft(conditions: Mapping[str, BySeed], seeds: str) -> Picture:
    figure, axes = canvas.new_figure(7.4, 3.0, columns=2)
    field_names = {"operators M, unsafe text": "m_unsafe_text", "all unsafe prompts": "unsafe"}
    for ax, (title, name) in zip(axes.flat, field_names.items(), strict=True):
        lines = {}
        for method, by_seed in conditions.items():
            budgets = list(measured(_any_seed(by_seed).soft).unsafe)
            shares = [fmean(getattr(result.soft, name)[budget] for result in by_seed.values()) for budget in budgets]
            lines[method] = ([0.0, *budgets], [_mean(by_seed, "behaviour.unsafe.complies"), *shares])
        figures.plot_dose_response(
            lines, xlabel="attack radius, in letter norms", ylabel="share of correct letters", title=title, ax=ax
        )
        canvas.remove_legend(ax)
    axes[0, 1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return picture(
        "Vectors that make the model comply",
        "Share of correct letters in free-running answers when vectors in two PAD tokens are optimised per prompt to "
        f"make the model comply; mean over {seeds}.",
        figure,
    )


def _all_have(by_seed: BySeed, part: str) -> bool:
    return bool(by_seed) and all(getattr(result, part) is not None for result in by_seed.values())


def _any_seed(by_seed: BySeed) -> SafetyResult:
    return next(iter(by_seed.values()))


def _mean(by_seed: BySeed, number: str) -> float:
    """The mean of an attribute over seeds."""
    return fmean(map(attrgetter(number), by_seed.values()))


def _panels(
    conditions: Mapping[str, BySeed], panel: Callable[[str, BySeed, Axes], None], width: float, height: float
) -> Figure:
    """One panel of `width` x `height` inches per condition, three per row."""
    columns = min(len(conditions), 3)
    rows = -(-len(conditions) // columns)
    figure, axes = canvas.new_figure(width * columns, height * rows, columns=columns, rows=rows)
    for ax, (title, by_seed) in zip(axes.flat, conditions.items(), strict=False):
        panel(title, by_seed, ax)
    for ax in axes.flat[len(conditions) :]:
        ax.set_visible(False)
    return figure
