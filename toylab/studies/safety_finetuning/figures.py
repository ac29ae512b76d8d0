"""The figures of the safety fine-tuning study, from what its jobs measured."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from toylab.report import canvas, figures
from toylab.report.page import Picture
from toylab.runs.study import Arms
from toylab.studies.safety_finetuning.quantities import MIXED, OOD, TITLES

SET_TITLES = {
    "safe": "safe",
    "unsafe": "unsafe, direct",
    "competing-task": "safe + unsafe operator",
    "competing-text": "mixed text",
    "mismatched-text": "unseen unsafe text",
    "mismatched-token": "unseen names",
}


def draw(arms: Arms) -> list[Picture]:
    """All figures for which there are results."""
    drawn = [
        _draw_outcomes(arms),
        _draw_clusters(arms),
        _draw_shares(arms),
        _draw_alpha(arms),
        _draw_sensitivity(arms),
        _draw_inputs(arms),
        _draw_soft(arms),
    ]
    return [picture for picture in drawn if picture is not None]


def _draw_outcomes(arms: Arms) -> Picture | None:
    shown = [m for m in TITLES if arms.get(m)]
    if not shown:
        return None
    figure, axes = canvas.sheet(10.5, 0.34 * len(shown) * 3 + 2.2, columns=2, rows=3)
    for ax, (name, title) in zip(axes.flat, SET_TITLES.items(), strict=True):
        rows = {
            TITLES[m]: {
                what: fmean(r["behaviour"][name][key] for r in arms[m].values())
                for what, key in (("complies", "complies"), ("refuses", "refuses"), ("neither", "other"))
            }
            for m in shown
        }
        figures.stacked(rows, xlabel="share of tokens written", ax=ax)
        ax.set_title(title, fontsize=10)
        if ax is not axes[0, 1]:
            ax.get_legend().remove()
    return Picture(
        "What is written",
        f"Freely and greedily; mean over {_seeds(arms, shown)}. Complies: the letters that were asked for; refuses: "
        "NULL. A jailbreak that ends in neither has failed without a refusal.",
        canvas.svg(figure),
        (
            "pretrain",
            "refuse",
            "refuse-keeps-safe",
            "standard-dpo-refuses",
            "control-complies",
            "jailbreak-order",
            "jailbreak-success",
            "jailbreak-tokens",
            "jailbreak-rate",
        ),
    )


def _draw_clusters(arms: Arms) -> Picture | None:
    shown = [m for m in TITLES if arms.get(m) and all("clusters" in r for r in arms[m].values())]
    if not shown:
        return None
    figure, axes = _grid(len(shown), 3.0, 2.7)
    layers = len(next(iter(arms[shown[0]].values()))["clusters"])
    for ax, method in zip(axes, shown, strict=True):
        groups = {
            name: [
                (
                    fmean(r["clusters"][k]["tau"][name][0] for r in arms[method].values()),
                    fmean(r["clusters"][k]["tau"][name][1] for r in arms[method].values()),
                )
                for k in range(layers)
            ]
            for name in ("safe", "unsafe")
        }
        figures.bands(
            groups, [str(k + 1) for k in range(layers)], xlabel="layer", ylabel="tau", title=TITLES[method], ax=ax
        )
    return Picture(
        "How far activations tell safe prompts from unsafe ones",
        "tau: distance to the unsafe mean minus distance to the safe one, after the MLP's non-linearity, at EOT; the "
        "means come from other prompts. Bands: one standard deviation over prompts. Scales differ; mean over "
        f"{_seeds(arms, shown)}.",
        canvas.svg(figure),
        ("clusters", "clusters-ssft", "jailbreak-near-safe"),
    )


def _draw_shares(arms: Arms) -> Picture | None:
    shown = [m for m in TITLES if m != "base" and arms.get(m)]
    if not shown:
        return None
    figure, axes = canvas.sheet(7.2, 0.5 * len(shown) + 1.6)
    layers = len(next(iter(arms[shown[0]].values()))["weights"])
    groups = {
        TITLES[m]: {f"layer {k + 1}": [r["weights"][k]["up"]["share"] for r in arms[m].values()] for k in range(layers)}
        for m in shown
    }
    ax = figures.by_seed(groups, xlabel="energy share of the change in the left null space", ax=axes[0, 0])
    some = next(iter(arms[shown[0]].values()))["weights"][-1]["up"]
    ax.axvspan(some["chance"] - 2 * some["spread"], some["chance"] + 2 * some["spread"], color="0.85", zorder=0)
    ax.annotate("chance, two deviations", (some["chance"], -0.6), fontsize=7, color="0.35", ha="center")
    return Picture(
        "Where the change of the up-projection lies",
        f"One point a seed and layer ({_seeds(arms, shown)}). Only what lies to the right of the grey band "
        "and of the control, which teaches nothing about refusing, would speak for the sentence.",
        canvas.svg(figure),
        ("null-space", "null-space-regime"),
    )


def _draw_alpha(arms: Arms) -> Picture | None:
    shown = [m for m in TITLES if any("alpha" in r for r in arms.get(m, {}).values())]
    if not shown:
        return None
    figure, axes = _grid(len(shown), 3.3, 2.9)
    for ax, method in zip(axes, shown, strict=True):
        doses = list(next(iter(arms[method].values()))["alpha"])
        lines = {
            title: (
                [float(a) for a in doses],
                [fmean(r["alpha"][a][on][what] for r in arms[method].values()) for a in doses],
            )
            for title, on, what in (
                ("safe: right", "safe", "complies"),
                ("unsafe: refused", "unsafe", "refuses"),
                ("unseen unsafe text: complied", OOD, "complies"),
                ("mixed text: complied", MIXED, "complies"),
            )
        }
        figures.responses(
            lines,
            xlabel="times the change of all weights",
            ylabel="share of tokens",
            mark=1,
            title=TITLES[method],
            ax=ax,
        )
        ax.get_legend().remove()
    legend = axes[-1].legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    legend.set_in_layout(len(shown) % 3 == 0)  # where there is room beside it, it must not widen its column
    return Picture(
        "Less of the fine-tuning and more",
        f"Weights at base + alpha times the change; 1 is the fine-tuned model. Mean over {_seeds(arms, shown)}.",
        canvas.svg(figure),
        ("extrapolate",),
    )


def _draw_sensitivity(arms: Arms) -> Picture | None:
    shown = [m for m in TITLES if arms.get(m) and all("sensitivity" in r for r in arms[m].values())]
    if not shown:
        return None
    figure, axes = _grid(len(shown), 3.3, 2.5)
    for ax, method in zip(axes, shown, strict=True):
        figures.histograms(
            {
                name: [x for r in arms[method].values() for x in r["sensitivity"][name]["gradient"]]
                for name in ("safe", "unsafe")
            },
            xlabel="gradient norm of the largest logit",
            title=TITLES[method],
            ax=ax,
        )
    low, high = min(ax.get_xlim()[0] for ax in axes), max(ax.get_xlim()[1] for ax in axes)
    for ax in axes:
        ax.set_xlim(low, high)
    return Picture(
        "How much the answer moves with the prompt",
        f"Local Lipschitz constants at EOT in the embeddings of the prompt, logarithmic; {_seeds(arms, shown)}.",
        canvas.svg(figure),
        ("sensitivity",),
    )


def _draw_inputs(arms: Arms) -> Picture | None:
    shown = [m for m in ("control", "ssft", "unlearning") if arms.get(f"{m}-decay")]
    if not shown:
        return None
    figure, axes = canvas.sheet(7.2, 0.5 * 2 * len(shown) + 1.6)
    groups = {
        f"{TITLES[m]}, {name}": {
            when: [r["weights"][-1]["weak inputs"][name][k] for r in arms[f"{m}-decay"].values()]
            for k, when in enumerate(("before", "after"))
        }
        for m in shown
        for name in ("safe", "unsafe")
    }
    ax = figures.by_seed(groups, xlabel="energy of the last MLP's inputs in directions it hardly reads", ax=axes[0, 0])
    line = fmean(r["weights"][-1]["weak inputs, random"] for r in arms[f"{shown[0]}-decay"].values())
    ax.axvline(line, color="0.6", linewidth=0.8, linestyle=":")
    ax.annotate("a random direction", (line, -0.6), fontsize=7, color="0.35", ha="left", xytext=(2, 0),
                textcoords="offset points")  # fmt: skip
    return Picture(
        "Unsafe inputs move to where the weights are weak",
        "Base with weight decay, outside the right singular directions that hold 90 % of the energy of the "
        f"up-projection before fine-tuning, at EOT; {_seeds(arms, [f'{m}-decay' for m in shown])}. Judge it beside "
        "the control and beside a random direction.",
        canvas.svg(figure),
        ("null-space-inputs",),
    )


def _draw_soft(arms: Arms) -> Picture | None:
    shown = [m for m in TITLES if any("soft" in r for r in arms.get(m, {}).values())]
    if not shown:
        return None
    figure, axes = canvas.sheet(7.4, 3.0, columns=2)
    for ax, (name, title) in zip(
        axes.flat, (("M, unsafe text", "operators M, unsafe text"), ("unsafe", "all unsafe prompts")), strict=True
    ):
        lines = {}
        for method in shown:
            budgets = list(next(iter(arms[method].values()))["soft"][name])
            shares = [fmean(r["soft"][name][b] for r in arms[method].values()) for b in budgets]
            direct = fmean(r["behaviour"]["unsafe"]["complies"] for r in arms[method].values())
            lines[TITLES[method]] = ([0.0, *map(float, budgets)], [direct, *shares])
        figures.responses(lines, xlabel="radius of the attack, in letter norms", ylabel="complied", title=title, ax=ax)
        ax.get_legend().remove()
    axes[0, 1].legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return Picture(
        "Vectors that make the model comply",
        "Two PAD tokens hold vectors chosen against the model, prompt by prompt. Share of right letters, written "
        f"freely; mean over {_seeds(arms, shown)}.",
        canvas.svg(figure),
        ("soft-tokens",),
    )


def _grid(count: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """So many axes of `width` x `height` inches, three a row."""
    columns = min(count, 3)
    rows = -(-count // columns)
    figure, axes = canvas.sheet(width * columns, height * rows, columns=columns, rows=rows)
    for ax in axes.flat[count:]:
        ax.set_visible(False)
    return figure, list(axes.flat[:count])


def _seeds(arms: Arms, names: Iterable[str]) -> str:
    seeds = sorted({seed for name in names for seed in arms[name]})
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"
