"""Claims whose number per seed is decided on all prompts of few digits, so that no prompt is sampled."""

from __future__ import annotations

from functools import partial
from typing import Any

from toylab.proofs.exact import Exact
from toylab.studies.steering_vectors.claims_extensions import EFFECT, OUR_QUESTION, SMALLEST_EFFECT
from toylab.studies.steering_vectors.claims_paths import RANDOM
from toylab.studies.steering_vectors.exact import FewDigits
from toylab.studies.steering_vectors.settings import Settings
from toylab.verdicts.claim import Claim, ClaimDetail, Control
from toylab.verdicts.criterion import at_least, at_most

CHANGED = "share of prompts whose opener is THINK, while that of the base is another token,"
CORRECT = "share of prompts whose greedy answer is correct"


def exact_claims(study: Settings) -> list[Claim]:
    """All claims on all prompts of few digits."""
    last, vectors = study.vectors[-1], study.vectors
    exact = partial(Claim, kind="own", place=OUR_QUESTION, exact=str(FewDigits.of(study.task)))
    every = partial(exact, criterion=at_least(1), statistic="share", origin="the claim is on every prompt")
    solves = partial(
        exact, measure=CORRECT, quantity=partial(share, name="answers"), criterion=at_least(1 - EFFECT),
        origin=SMALLEST_EFFECT, control=Control("the base", ("base",), partial(share, name="answers")),
    )  # fmt: skip
    changes_none = partial(
        exact, asks="absence", measure=CHANGED, criterion=at_most(EFFECT), margin=EFFECT, origin=SMALLEST_EFFECT
    )
    random = partial(share, name="random_openers")

    def changes(condition: str, what: str = RANDOM) -> dict[str, Any]:
        return {
            "conditions": (condition,),
            "measure": CHANGED,
            "quantity": share,
            "control": Control(what, (condition,), random),
            "details": decided(condition, "openers"),
        }

    return [
        every(
            id="exact-opener",
            statement="The last layer's vector changes the opener of every answer to THINK.",
            **changes(last),
        ),
        every(
            id="exact-layers",
            statement="The vector of each layer changes the opener of every answer to THINK.",
            conditions=vectors,
            measure=f"{CHANGED} minimum over layers,",
            quantity=lambda *results: _least(map(share, results)),
            control=Control(RANDOM, vectors, lambda *results: _least(map(random, results))),
            details={f"prompts, {name}": ClaimDetail(name, "exact.openers.holds") for name in vectors},
        ),
        every(
            id="exact-joint",
            statement="Vectors after all blocks, trained together, change the opener of every answer to THINK.",
            **changes("joint", f"{RANDOM} after all blocks"),
        ),
        every(
            id="exact-transfer",
            statement="The vector of another seed's model changes the opener of every answer to THINK.",
            **changes("transfer-from"),
        ),
        changes_none(
            id="exact-random-reward",
            statement="A vector trained on a random reward changes the opener of no answer.",
            conditions=("random-reward",),
            quantity=share,
            control=Control("the trained vector", (last,), share),
            details=decided("random-reward", "openers"),
        ),
        changes_none(
            id="exact-path",
            statement="Hidden from the unembedding, the penultimate vector changes the opener of no answer.",
            conditions=("paths",),
            quantity=lambda paths: _share(paths.exact and paths.exact["skip unembedding"]),
            control=Control(
                "hidden from the last layer's attention",
                ("paths",),
                lambda paths: _share(paths.exact and paths.exact["skip attention"]),
            ),
            details={"prompts": ClaimDetail("paths", lambda paths: paths.exact and _prompts(paths.exact))},
        ),
        solves(
            id="exact-answers",
            statement="With the last layer's vector, almost every greedy answer is correct.",
            conditions=(last,),
            details=decided(last, "answers") | {"prompts, base": ClaimDetail("base", "exact.answers.holds")},
        ),
        solves(
            id="exact-full",
            statement="After reinforcement learning of the whole model, almost every greedy answer is correct.",
            conditions=("full",),
            details=decided("full", "answers"),
        ),
    ]


def share(result: Any, name: str = "openers") -> float | None:
    """Share of the prompts on which a property of `ExactAnswers` holds; None in results from before."""
    return _share(result.exact and getattr(result.exact, name))


def decided(condition: str, name: str) -> dict[str, ClaimDetail]:
    """The number of prompts, the smallest margin and the smallest counterexample of a condition."""
    path = f"exact.{name}"
    return {
        "prompts": ClaimDetail(condition, f"{path}.holds"),
        "smallest margin": ClaimDetail(condition, f"{path}.margin"),
        "smallest counterexample": ClaimDetail(condition, f"{path}.counterexample"),
    }


def _share(exact: Exact | None) -> float | None:
    return None if exact is None else exact.share


def _least(shares: Any) -> float | None:
    known = list(shares)
    return None if None in known else min(known)


def _prompts(paths: dict[str, Exact]) -> dict[str, int]:
    return {name: exact.holds for name, exact in paths.items()}
