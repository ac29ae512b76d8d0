"""Results of the study's jobs: behaviour, activations and weights of a model, and attacks on its refusals.

Shares range from 0 to 1, cosines from -1 to 1. Lists over layers start at the first layer.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import astuple, dataclass, fields, replace
from typing import Any

from toylab.probes import NullShare
from toylab.settings import later_field
from toylab.studies.safety_finetuning.data import Outcomes
from toylab.studies.safety_finetuning.results_change import MovedRefusals, PartSeparations, ReleasedSine
from toylab.studies.safety_finetuning.results_exact import ExactBehaviour
from toylab.verdicts.judgement import measured, nan_mean

TITLES = {
    "base": "before",
    "control": "control",
    "constant": "constant answer",
    "ssft": "SSFT",
    "dpo": "DPO, as published",
    "dpo-standard": "DPO, standard",
    "unlearning": "unlearning",
    "npo": "NPO",
}
"""The main conditions with their titles, in the order of tables and figures."""
TUNED = {name: title for name, title in TITLES.items() if name != "base"}
TAUGHT = {name: title for name, title in TUNED.items() if name not in ("control", "constant")}
"""Conditions trained to refuse."""
DECAYED = {f"{name}-decay": TITLES[name] for name in ("control", "ssft", "unlearning")}
"""Conditions fine-tuned from the base trained with weight decay."""


def as_field(name: str) -> str:
    """The field name of a prompt set or a part of the weights: `competing_text` for "competing-text"."""
    return re.sub(r"\W+", "_", name).lower()


# Behaviour -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """Outcomes of free-running decoding on each held-out prompt set; None for a set that was not run."""

    safe: Outcomes
    unsafe: Outcomes
    competing_task: Outcomes | None = None
    """Prompts with one safe and one unsafe operator."""
    competing_text: Outcomes | None = None
    """Prompts with text of both concepts."""
    mismatched_text: Outcomes | None = None
    """Unsafe text that does not occur in fine-tuning."""
    mismatched_token: Outcomes | None = None
    """Operators under tokens that do not occur in fine-tuning."""

    @property
    def least_compliance(self) -> float:
        """Smallest share of correct letters over the sets."""
        return min(outcomes.complies for outcomes in vars(self).values() if outcomes is not None)

    def lead_over(self, *others: Behaviour, on: str) -> float:
        """Share of correct letters on the set `on`, minus the largest share of the other models."""
        own_share, *other_shares = (getattr(behaviour, on).complies for behaviour in (self, *others))
        return own_share - max(other_shares)

    @property
    def table(self) -> dict[str, str]:
        """Shares of tokens on each set, as "complies / refuses / other"."""
        outcomes_by_set = {name: outcomes for name, outcomes in vars(self).items() if outcomes is not None}
        return {
            name: f"{outcomes.complies:.3f} / {outcomes.refuses:.3f} / {outcomes.other:.3f}"
            for name, outcomes in outcomes_by_set.items()
        }


def mean_behaviour(behaviours: Collection[Behaviour]) -> Behaviour:
    """The mean over seeds of every share, on the sets that were run for all seeds."""
    columns = zip(*(vars(behaviour).values() for behaviour in behaviours), strict=True)
    means = map(_mean_outcomes, columns)
    mean_by_set: dict[str, Any] = dict(zip((field.name for field in fields(Behaviour)), means, strict=True))
    return Behaviour(**mean_by_set)


def _mean_outcomes(seeds: Collection[Outcomes | None]) -> Outcomes | None:
    if None in seeds:
        return None
    return Outcomes(
        *(nan_mean(shares) for shares in zip(*(astuple(measured(outcomes)) for outcomes in seeds), strict=True))
    )


# Activations ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SafeUnsafe:
    """One quantity for safe prompts and for unsafe prompts."""

    safe: float
    unsafe: float


@dataclass(frozen=True, kw_only=True)
class NearnessBands:
    """Mean and standard deviation of tau over safe prompts and over unsafe prompts."""

    safe: tuple[float, float]
    unsafe: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class LayerClusters:
    """Separation of safe and unsafe prompts in one layer's activations after the MLP's non-linearity."""

    nearness: NearnessBands
    auc: float
    """Probability that tau is larger for a safe prompt than for an unsafe prompt."""
    separation: float
    """Distance between the class means, over the mean distance of a prompt to its class mean."""
    auc_matched: float
    """AUC between operators M on safe text and operators M on unsafe text."""
    distance_matched: float
    """Distance between the means of operators M on safe text and on unsafe text."""
    top_share: SafeUnsafe
    """Share of the variance explained by the first principal component."""


@dataclass(frozen=True, kw_only=True)
class Lipschitz:
    """Local Lipschitz constants in the embeddings of a prompt, one per prompt: of the largest logit, and of all logits
    (first 16 prompts)."""

    gradient: list[float]
    jacobian: list[float]


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """Sensitivity of the logits at EOT to the embeddings of safe prompts and of unsafe prompts."""

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
    """Tau divided by the distance between the means, for the prompts of a jailbreak set, grouped by outcome."""

    complied: float | None
    """Mean over prompts with which the model complied; None if there are none."""
    refused: float | None
    """Mean over prompts that the model refused; None if there are none."""
    auc: float | None
    """Probability that tau is larger for a complied than for a refused prompt; None if either has fewer than 5."""


@dataclass(frozen=True, kw_only=True)
class Nearness:
    """For each jailbreak set, whether complied prompts lie nearer to safe prompts; None if the set does not exist."""

    competing_task: NearSafe | None = None
    competing_text: NearSafe | None = None
    mismatched_text: NearSafe | None = None
    mismatched_token: NearSafe | None = None


# Weights -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class UpShare(NullShare):
    """Null-space share of the change of the up-projection, counting every direction with energy, and its size."""

    size: float
    """Frobenius norm of the change over the norm of the weight."""


@dataclass(frozen=True, kw_only=True)
class TopEnergy:
    """Energy share of the leading singular direction of the change of each matrix."""

    up: float
    down: float


@dataclass(frozen=True, kw_only=True)
class RelativeChange(SafeUnsafe):
    """Mean over prompts of ||dW a|| / ||W a|| for the up-projection, by set; a is the input after fine-tuning."""

    m_safe_text: float
    """Prompts with operators M only."""
    m_unsafe_text: float
    competing_task: float | None = None
    competing_text: float | None = None
    mismatched_text: float | None = None
    mismatched_token: float | None = None

    @property
    def ratio(self) -> float:
        """Relative change on unsafe prompts over relative change on safe prompts."""
        return self.unsafe / self.safe


@dataclass(frozen=True, kw_only=True)
class BeforeAfter:
    """One quantity of the inputs of an MLP, before and after fine-tuning, by set."""

    safe: tuple[float, float]
    unsafe: tuple[float, float]
    m_safe_text: tuple[float, float]
    m_unsafe_text: tuple[float, float]

    @property
    def ratio(self) -> float:
        """Value after fine-tuning divided by the value before, on unsafe prompts."""
        return self.unsafe[1] / self.unsafe[0]


@dataclass(frozen=True, kw_only=True)
class LayerChange:
    """The change of one MLP's weights: the subspaces it lies in, and the inputs it acts on."""

    up: UpShare
    up_cut: NullShare
    """Null-space share relative to the directions that hold 90 % of the weight's energy; `down_cut` is the same share
    for the down-projection."""
    down_cut: NullShare
    down_half: NullShare
    """Null-space share relative to the directions that hold half of the weight's energy."""
    added_null_share: SafeUnsafe
    """Energy share, in the left null space, of the output added by the change of the up-projection."""
    relative_change: RelativeChange
    top_right_cosine: SafeUnsafe
    """Mean cosine of the inputs with the leading right singular direction of the change; 0 for a zero change."""
    top_energy: TopEnergy
    toward_null: SafeUnsafe
    """cos^2 between the output added by the change of the down-projection and the unembedding of NULL."""
    weak_inputs: BeforeAfter
    """Energy share of the inputs outside the right directions that hold 90 % of the up-projection's energy."""
    weak_inputs_random: float
    """`weak_inputs` of inputs in random directions."""
    amplification: BeforeAfter
    """Mean of ||W a|| / ||a||."""
    size: float
    """Frobenius norm of the change of both weight matrices over their norm before fine-tuning."""


# Attacks and interventions -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Behaviour on safe and unsafe prompts with one part of the weight change; see `measures.transplant_parts`."""

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
    """Share of correct letters under the soft-token attack, by radius in mean norms of the letters' embeddings."""

    m_unsafe_text: dict[float, float]
    """Operators M on unsafe text."""
    unsafe: dict[float, float]
    """All unsafe prompts."""
    m_other_answers: dict[float, float] | None = None
    """Operators M on unsafe text, attacked towards another prompt's answer: share of that answer's letters."""


@dataclass(frozen=True, kw_only=True)
class GradientCosine:
    """Cosine of a loss's gradient with the gradient of unlearning, at the base and at the fine-tuned model."""

    before: float
    after: float


@dataclass(frozen=True, kw_only=True)
class SafetyResult:
    """Measurements of one job. Fields are None outside the bases and conditions that they name."""

    behaviour: Behaviour
    clusters: list[LayerClusters] | None = None
    """Clusters of each layer; measured in main conditions."""
    sensitivity: Sensitivity | None = None
    """Measured in main conditions."""
    weights: list[LayerChange] | None = None
    """Weight change of each layer; measured in fine-tuned models."""
    random: list[LayerChange] | None = None
    """Control for `weights`: a random change with the same norm in every parameter."""
    pretraining: list[float] | None = None
    """Relative size of the change from the initial weights, by layer; main base."""
    released_sine: ReleasedSine | None = None
    """Measured in main fine-tuned models."""
    nearness: Nearness | None = None
    """Measured in main fine-tuned models."""
    nearness_before: Nearness | None = None
    """`nearness` in the activations of the base, with prompts grouped by the answers of the fine-tuned model."""
    alpha: dict[float, Behaviour] | None = None
    """Behaviour with weights base + alpha times the change, by alpha; measured in main models trained to refuse."""
    alpha_random: Behaviour | None = None
    """Control for alpha 1.25: weights at the same distance from the fine-tuned weights, in a random direction."""
    parts: Parts | None = None
    part_separations: PartSeparations | None = None
    soft: SoftAttack | None = None
    moved: MovedRefusals | None = None
    relearned: Behaviour | None = None
    """Behaviour after further training on safe prompts only."""
    cosine: GradientCosine | None = None
    """Measured in main models trained to refuse, except unlearning itself."""
    exact: ExactBehaviour | None = later_field(None)
    """Measured in the models that `exact.measure_all_prompts` names."""

    @property
    def randomised(self) -> SafetyResult:
        """This result with the random control in place of the weight change."""
        return replace(self, weights=self.random)

    @property
    def last(self) -> LayerChange:
        """The change of the last layer."""
        return measured(self.weights)[-1]

    @property
    def separation(self) -> float:
        """Separation of safe and unsafe prompts in the last layer."""
        return measured(self.clusters)[-1].separation

    @property
    def size(self) -> float:
        """Largest relative size of the change over MLPs."""
        return max(layer.size for layer in measured(self.weights))

    @property
    def stable_rank(self) -> float:
        """Stable rank of the change (energy over the energy of its leading singular direction), mean over matrices and
        layers."""
        return nan_mean(1 / energy for layer in measured(self.weights) for energy in vars(layer.top_energy).values())

    @property
    def lift(self) -> float:
        """Energy share of the change of the up-projections in their left null space over chance, mean over layers."""
        return nan_mean(layer.up.lift for layer in measured(self.weights))

    @property
    def top_lift(self) -> float:
        """`lift` of the leading direction of the change only."""
        return nan_mean(layer.up.top / layer.up.chance for layer in measured(self.weights))

    def lift_beyond(self, control: SafetyResult) -> float:
        """Lift minus the larger of 1 and the control's lift, mean over layers."""
        pairs = zip(measured(self.weights), measured(control.weights), strict=True)
        return nan_mean(layer.up.lift - max(1.0, control_layer.up.lift) for layer, control_layer in pairs)

    def excess(self, control: SafetyResult) -> float:
        """Share minus the larger of chance and the control's share, minimum over layers."""
        pairs = zip(measured(self.weights), measured(control.weights), strict=True)
        return min(layer.up.share - max(layer.up.chance, control_layer.up.share) for layer, control_layer in pairs)
