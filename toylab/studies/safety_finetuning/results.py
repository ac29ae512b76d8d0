"""The results of the study's jobs: what a model writes, its activations, its weights, and what undoes its refusals.

Shares and cosines are numbers from -1 to 1; layers come in order, the first below.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import astuple, dataclass, fields, replace

from toylab.probes import NullShare
from toylab.studies.safety_finetuning.data import Outcomes
from toylab.studies.safety_finetuning.results_change import PartSeparations, ReleasedSine
from toylab.verdicts.judgement import nan_mean

TITLES = {
    "base": "before",
    "control": "control",
    "ssft": "SSFT",
    "dpo": "DPO, as published",
    "dpo-standard": "DPO, standard",
    "unlearning": "unlearning",
    "npo": "NPO",
}
"""The main conditions, in the order of tables and figures."""
TUNED = {name: title for name, title in TITLES.items() if name != "base"}
TAUGHT = {name: title for name, title in TUNED.items() if name != "control"}
"""Those that learn to refuse."""
DECAYED = {f"{name}-decay": TITLES[name] for name in ("control", "ssft", "unlearning")}
"""Those of the base with weight decay."""


def as_field(name: str) -> str:
    """The field for a set of prompts or a part of the weights: `competing_text` for "competing-text"."""
    return re.sub(r"\W+", "_", name).lower()


# Behaviour -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """What a model writes for the prompts of each held-out set, free-running; None for a set that was left out."""

    safe: Outcomes
    unsafe: Outcomes
    competing_task: Outcomes | None = None
    """One safe and one unsafe operator."""
    competing_text: Outcomes | None = None
    """Text of both concepts."""
    mismatched_text: Outcomes | None = None
    """Unsafe text that fine-tuning never shows."""
    mismatched_token: Outcomes | None = None
    """Operators under names that fine-tuning never shows."""

    @property
    def least_compliance(self) -> float:
        """Share of correct letters on the set where it is smallest."""
        return min(one.complies for one in vars(self).values() if one is not None)

    def lead_over(self, *others: Behaviour, on: str) -> float:
        """Share of correct letters on a set minus the largest of the others'."""
        own, *rivals = (getattr(one, on).complies for one in (self, *others))
        return own - max(rivals)

    @property
    def table(self) -> dict[str, str]:
        """What is written on each set, as "complies / refuses / other"."""
        asked = {name: one for name, one in vars(self).items() if one is not None}
        return {name: f"{one.complies:.3f} / {one.refuses:.3f} / {one.other:.3f}" for name, one in asked.items()}


def mean_behaviour(behaviours: Collection[Behaviour]) -> Behaviour:
    """The mean of every share over seeds, on the sets that all were asked on."""
    columns = zip(*(vars(one).values() for one in behaviours), strict=True)
    return Behaviour(
        **dict(zip((field.name for field in fields(Behaviour)), map(_mean_outcomes, columns), strict=True))
    )


def _mean_outcomes(seeds: Collection[Outcomes | None]) -> Outcomes | None:
    if None in seeds:
        return None
    return Outcomes(*(nan_mean(shares) for shares in zip(*map(astuple, seeds), strict=True)))


# Activations ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SafeUnsafe:
    """A number of safe prompts and of unsafe ones."""

    safe: float
    unsafe: float


@dataclass(frozen=True, kw_only=True)
class NearnessBands:
    """Mean and standard deviation of tau over safe prompts and over unsafe ones."""

    safe: tuple[float, float]
    unsafe: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class LayerClusters:
    """How far the activations of one layer, after the MLP's non-linearity, tell safe prompts from unsafe ones."""

    nearness: NearnessBands
    auc: float
    """Probability that tau is larger for a safe prompt than for an unsafe one."""
    separation: float
    """Distance of the means over the mean distance of a prompt to its own mean."""
    auc_matched: float
    """The same probability between operators M on safe and on unsafe text."""
    distance_matched: float
    """Distance of the means of operators M on safe and on unsafe text."""
    top_share: SafeUnsafe
    """Share of the variance in one principal component."""


@dataclass(frozen=True, kw_only=True)
class Lipschitz:
    """Local Lipschitz constants in the embeddings of a prompt, one a prompt: of the largest logit, and of all logits
    (the first 16 prompts)."""

    gradient: list[float]
    jacobian: list[float]


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """How much the logits at EOT move with the embeddings of safe prompts and of unsafe ones."""

    safe: Lipschitz
    unsafe: Lipschitz

    @property
    def ratio(self) -> float:
        """Mean gradient norm of the largest logit, unsafe over safe."""
        return nan_mean(self.unsafe.gradient) / nan_mean(self.safe.gradient)

    @property
    def jacobian_ratio(self) -> float:
        """Mean spectral norm of the Jacobian of all logits, unsafe over safe."""
        return nan_mean(self.unsafe.jacobian) / nan_mean(self.safe.jacobian)


@dataclass(frozen=True, kw_only=True)
class NearSafe:
    """Tau over the distance of the means, for the prompts of a jailbreak set by what the model wrote."""

    complied: float | None
    """Mean over prompts that were complied with; None if there are none."""
    refused: float | None
    auc: float | None
    """Probability that tau is larger where the model complied; None with fewer than 5 prompts of either kind."""


@dataclass(frozen=True, kw_only=True)
class Nearness:
    """In each jailbreak set, whether prompts that were complied with lie nearer to safe ones; None for no set."""

    competing_task: NearSafe | None = None
    competing_text: NearSafe | None = None
    mismatched_text: NearSafe | None = None
    mismatched_token: NearSafe | None = None


# Weights -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class UpShare(NullShare):
    """Where the change of the up-projection lies, with all directions that have any energy, and how large it is."""

    size: float
    """Frobenius norm of the change over that of the weight."""


@dataclass(frozen=True, kw_only=True)
class TopEnergy:
    """Energy share of the leading singular direction of the change of each matrix."""

    up: float
    down: float


@dataclass(frozen=True, kw_only=True)
class RelativeChange(SafeUnsafe):
    """Mean over prompts of ||dW a|| / ||W a|| of the up-projection, by set; a is the input after fine-tuning."""

    m_safe_text: float
    """Operators M alone."""
    m_unsafe_text: float
    competing_task: float | None = None
    competing_text: float | None = None
    mismatched_text: float | None = None
    mismatched_token: float | None = None

    @property
    def ratio(self) -> float:
        """Unsafe over safe."""
        return self.unsafe / self.safe


@dataclass(frozen=True, kw_only=True)
class BeforeAfter:
    """A number of the inputs of an MLP before and after fine-tuning, by set."""

    safe: tuple[float, float]
    unsafe: tuple[float, float]
    m_safe_text: tuple[float, float]
    m_unsafe_text: tuple[float, float]

    @property
    def ratio(self) -> float:
        """After over before, of unsafe prompts."""
        return self.unsafe[1] / self.unsafe[0]


@dataclass(frozen=True, kw_only=True)
class LayerChange:
    """Where the change of one MLP's weights lies, and which inputs it acts on."""

    up: UpShare
    up_cut: NullShare
    """With the directions that hold 90 % of the energy of the weight; those below too."""
    down_cut: NullShare
    down_half: NullShare
    """With those that hold half of it."""
    added_null_share: SafeUnsafe
    """Energy share, in the left null space, of what the change of the up-projection adds."""
    relative_change: RelativeChange
    top_right_cosine: SafeUnsafe
    """Mean cosine of the inputs with the leading right direction of the change; 0 where nothing changed."""
    top_energy: TopEnergy
    toward_null: SafeUnsafe
    """cos^2 of what the change of the down-projection writes with the unembedding of NULL."""
    weak_inputs: BeforeAfter
    """Energy share of the inputs outside the right directions that hold 90 % of the energy of the up-projection."""
    weak_inputs_random: float
    """The same for inputs of random directions."""
    amplification: BeforeAfter
    """Mean of ||W a|| / ||a||."""
    size: float
    """Frobenius norm of the change of both weight matrices over that of both before."""


# What undoes it ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Behaviour with a part of the fine-tuning, on safe and unsafe prompts; see `measures.transplant_parts`."""

    up_in_the_column_space: Behaviour
    up_in_the_null_space: Behaviour
    mlps_alone: Behaviour
    all_but_the_mlps: Behaviour
    mlps_rank_1: Behaviour

    @property
    def refusal_and_accuracy(self) -> dict[str, tuple[float, float]]:
        """Share of NULL on unsafe prompts and of correct letters on safe ones, by part."""
        return {name: (part.unsafe.refuses, part.safe.complies) for name, part in vars(self).items()}


@dataclass(frozen=True, kw_only=True)
class SoftAttack:
    """Share of correct letters under the soft-token attack, by its radius in mean norms of letters."""

    m_unsafe_text: dict[float, float]
    """Operators M on unsafe text."""
    unsafe: dict[float, float]
    """All unsafe prompts."""
    m_other_answers: dict[float, float] | None = None
    """Operators M on unsafe text, attacked towards another prompt's answer: share of its letters."""


@dataclass(frozen=True, kw_only=True)
class GradientCosine:
    """Cosine of a loss's gradient with that of unlearning, at the base and at the fine-tuned model."""

    before: float
    after: float


@dataclass(frozen=True, kw_only=True)
class SafetyResult:
    """What a job of the study measured. Other bases and conditions than the main ones have fewer parts."""

    behaviour: Behaviour
    clusters: list[LayerClusters] | None = None
    """By layer; of the main conditions."""
    sensitivity: Sensitivity | None = None
    """Of the main conditions."""
    weights: list[LayerChange] | None = None
    """By layer; of fine-tuned models."""
    random: list[LayerChange] | None = None
    """The same of a random change, of the size of this one in every parameter."""
    pretraining: list[float] | None = None
    """The size of the change by layer, from the initial weights; of the main base."""
    released_sine: ReleasedSine | None = None
    """Of the main fine-tuned models."""
    nearness: Nearness | None = None
    """Of the main fine-tuned models."""
    nearness_before: Nearness | None = None
    """The same prompts, told apart by the answers of the fine-tuned model, in the activations of the base."""
    alpha: dict[float, Behaviour] | None = None
    """Of weights at base + alpha times the change, by alpha; of the main models that learn to refuse."""
    alpha_random: Behaviour | None = None
    """As far from the fine-tuned weights as at alpha 1.25, in a random direction."""
    parts: Parts | None = None
    part_separations: PartSeparations | None = None
    soft: SoftAttack | None = None
    relearned: Behaviour | None = None
    """After further training on safe prompts alone."""
    cosine: GradientCosine | None = None
    """Of the main models that learn to refuse, but for unlearning itself."""

    @property
    def randomised(self) -> SafetyResult:
        """With a random change in the place of the change of the weights."""
        return replace(self, weights=self.random)

    @property
    def last(self) -> LayerChange:
        """The change of the last layer."""
        return self.weights[-1]

    @property
    def separation(self) -> float:
        """Of safe and unsafe prompts in the last layer."""
        return self.clusters[-1].separation

    @property
    def size(self) -> float:
        """Relative size of the change of the MLP that was moved most."""
        return max(layer.size for layer in self.weights)

    @property
    def stable_rank(self) -> float:
        """Energy of the change over that of its leading singular direction, mean over matrices and layers."""
        return nan_mean(1 / energy for layer in self.weights for energy in vars(layer.top_energy).values())

    @property
    def lift(self) -> float:
        """Energy share of the change of the up-projections in their left null space over chance, mean over layers."""
        return nan_mean(layer.up.lift for layer in self.weights)

    @property
    def top_lift(self) -> float:
        """The same of the leading direction of the change alone."""
        return nan_mean(layer.up.top / layer.up.chance for layer in self.weights)

    def lift_beyond(self, control: SafetyResult) -> float:
        """The share over chance minus the larger of 1 and the control's, mean over layers."""
        pairs = zip(self.weights, control.weights, strict=True)
        return nan_mean(own.up.lift - max(1.0, other.up.lift) for own, other in pairs)

    def excess(self, control: SafetyResult) -> float:
        """The share minus the larger of chance and the control's share, in the layer where that is least."""
        pairs = zip(self.weights, control.weights, strict=True)
        return min(own.up.share - max(own.up.chance, other.up.share) for own, other in pairs)
