"""Numbers that several claims and figures read from the results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toylab.runs.study import Arms, Result
from toylab.verdicts.judgement import shared_seeds

FROM = "transfer-from-"
"""How the arm begins that puts another seed's vectors into a model; that seed follows."""


def accuracy_at(result: Result, temperature: float | int = 1) -> float:
    """The share of right answers of an arm."""
    return result["answers"][f"{temperature:g}"]["right"]


def fractions(arms: Arms, name: str, temperature: float | int = 1) -> dict[int, float]:
    """By seed, the share of full training's gain over the base that an arm reaches."""
    return {
        s: portion(
            accuracy_at(arms["base"][s], temperature),
            accuracy_at(arms[name][s], temperature),
            accuracy_at(arms["full"][s], temperature),
        )
        for s in shared_seeds(arms, ("base", "full", name))
    }


def portion(start: float, value: float, end: float) -> float:
    """How much of the way from start to end a value has gone; 0 where there is no way."""
    return (value - start) / (end - start) if abs(end - start) > 1e-6 else 0.0


def vector_arms(last: int) -> list[str]:
    """The names of the jobs that train one vector."""
    return [f"vector-{layer}" for layer in range(last + 1)]


def each_of(found: Mapping[int, Result], name: str) -> dict[str, Any]:
    """A table that each seed's result holds."""
    return {str(seed): result[name] for seed, result in found.items() if name in result}


def swept(arms: Arms, last: int) -> dict[int, list[tuple[float, float, float]]]:
    """By seed: cosine of the openers' rows, bound of the pre-flight check in nats, share of the gain that the last
    layer's vector recovers; sorted by cosine, the learned unembedding included."""
    found: dict[int, list[tuple[float, float, float]]] = {}
    for s in shared_seeds(arms, ("base", "full", f"vector-{last}")):
        end = accuracy_at(arms["full"][s])
        held = [(arms["base"][s]["pre-flight"], arms["base"][s], accuracy_at(arms[f"vector-{last}"][s]))]
        for name, results in arms.items():
            if name.startswith("cosine-") and s in results:
                held.append((results[s]["pre-flight"], results[s], results[s]["vector"]["1"]["right"]))
        if s in arms.get("vector-learned", {}) and s in arms.get("base-learned", {}):
            base = arms["base-learned"][s]
            held.append((base["pre-flight"], base, accuracy_at(arms["vector-learned"][s])))
        found[s] = sorted(
            (check["cosine"], check["bound"], portion(accuracy_at(base), a, end)) for check, base, a in held
        )
    return {s: points for s, points in found.items() if len(points) > 1}
