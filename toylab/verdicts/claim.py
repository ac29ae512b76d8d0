"""A claim, declared once as data: a sentence, where it stands, what is measured of which conditions, and the criterion.

    Claim(
        id="head",
        place="section 4, peakiness",
        sentence="An iteration head forms: when s_t is due, one head reads x_t.",
        conditions=("main",),
        measure="share of steps in which the best head has over half of its attention on x_t",
        quantity=lambda main: main.head.carry,
        criterion=at_least(0.9, share=0.8),
        details={"invariance": Detail("main", "invariance")},
    )

`judge_claims` turns claims and results into judgements; no threshold and no sentence is written a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Any, Literal

from toylab.console import ToylabError
from toylab.verdicts.criterion import Criterion
from toylab.verdicts.judgement import Judgement, or_never, over_seeds


class Conditions(dict[str, dict[int, Any]]):
    """Results by the name of a condition and the seed; a condition that was not run has none."""

    def __missing__(self, name: str) -> dict[int, Any]:
        return {}

    def shared(self, *names: str) -> list[int]:
        """The seeds that all of these conditions have."""
        return sorted(set.intersection(*(set(self[name]) for name in names)))

    def in_any(self, *names: str) -> list[int]:
        """The seeds that at least one of these conditions has."""
        return sorted(set().union(*(self[name] for name in names)))

    def by_title(self, titles: Mapping[str, str]) -> dict[str, dict[int, Any]]:
        """Results by the title of a condition and the seed; of the conditions that were run."""
        return {title: self[name] for name, title in titles.items() if self[name]}

    def by_condition(self, names: Iterable[str], number: Callable[[list[Any]], Any]) -> dict[str, Any]:
        """A number of all results of a condition, by its name; of the conditions that were run."""
        return {name: _rounded(number([*self[name].values()])) for name in names if self[name]}


@dataclass(frozen=True, kw_only=True)
class Need:
    """What a claim presupposes, such as a model that learned the task.

    Attributes:
        condition: whose results are looked at.
        test: whether the result of a seed has it.
        otherwise: why the claim is open where no seed has it.
        every: whether a seed that lacks it is left out; else one seed that has it is enough.
    """

    condition: str
    test: Callable[[Any], bool]
    otherwise: str
    every: bool = True


@dataclass(frozen=True)
class Detail:
    """A further number of each seed of a condition, shown beside what was measured.

    Of the claim's own conditions, only the seeds that it asks are shown.

    Attributes:
        condition: whose results are looked at.
        number: the path of an attribute of the result, such as `head.carry`, or a function of the result; None where
            the seed has none, such as at the end of a path through None.
        never: whether None means that it did not happen.
    """

    condition: str
    number: str | Callable[[Any], Any]
    never: bool = False

    def of(self, results: Mapping[int, Any]) -> dict[str, Any]:
        """By seed, rounded for people; seeds without it are left out."""
        read = partial(_at, path=self.number) if isinstance(self.number, str) else self.number
        found = {str(seed): read(result) for seed, result in results.items()}
        if self.never:
            return {seed: or_never(step) for seed, step in found.items()}
        return {seed: _rounded(value) for seed, value in found.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One checkable sentence.

    Attributes:
        id: short name, stable.
        place: where the sentence stands, or whose question it is.
        sentence: in our words.
        kind: a claim of the paper, one of our own, or a check of the set-up.
        asks: whether something is there (a negative control must miss it) or absent (a positive one must exceed it).
        population: what a seed is drawn from.
        conditions: whose results the quantity is a function of, in the order of its arguments.
        optional: further conditions, whose arguments stand behind those, None for a seed that such a condition lacks;
            if there are no others, every seed is asked that one of them has.
        measure: the quantity in words, with its unit.
        quantity: from the results of one seed, one a condition, to one number; None where the seed has none.
        criterion: what the number must reach, on average over seeds or in a share of them.
        control: the condition that must come out on the other side, if there is one.
        margin: of equivalence, for a claim of absence.
        origin: where the threshold comes from: the paper, a smallest effect of interest, or our pilot.
        needs: what is presupposed.
        details: further numbers by name: of each seed, or a function of all results.
        figure: title of the figure that shows it.
        undecidable: why the settings of this run cannot decide it; empty where they can.
        withdrawn: why the criterion decides nothing; empty where it does.
        note: how to read it.
    """

    id: str
    place: str
    sentence: str
    kind: Literal["paper", "own", "set-up"] = "paper"
    asks: Literal["presence", "absence"] = "presence"
    population: str = "seeds: initial weights and data"
    conditions: tuple[str, ...]
    optional: tuple[str, ...] = ()
    measure: str
    quantity: Callable[..., float | int | bool | None]
    criterion: Criterion
    control: str = ""
    margin: float | None = None
    origin: str = "our pilot"
    needs: tuple[Need, ...] = ()
    details: Mapping[str, Detail | Callable[[Conditions], Any]] = field(default_factory=dict)
    figure: str = ""
    undecidable: str = ""
    withdrawn: str = ""
    note: str = ""

    @property
    def bar(self) -> str:
        """The criterion in words."""
        judged = f"{self.measure} {self.criterion}"
        if self.criterion.share is not None:
            return f"share of seeds with {judged} is >= {self.criterion.share:g}"
        return f"mean over seeds of {judged}" + (", its 95 % interval included" if self.criterion.surely else "")

    @property
    def depends_on(self) -> tuple[str, ...]:
        """All conditions without which it would be judged, or read, otherwise."""
        looked_at = [one.condition for one in self.details.values() if isinstance(one, Detail)]
        return tuple(dict.fromkeys([*self._arguments, *(need.condition for need in self.needs), *looked_at]))

    @property
    def _arguments(self) -> tuple[str, ...]:
        """The conditions of the arguments of the quantity."""
        return self.conditions + self.optional

    def judged(self, results: Conditions) -> Judgement:
        """The claim with what was measured and its verdict.

        Raises:
            ToylabError: naming the claim and the seed, for a quantity that is no finite number.
        """
        lacking = [need for need in self.needs if not any(map(need.test, results[need.condition].values()))]
        seeds = results.shared(*self.conditions) if self.conditions else results.in_any(*self.optional)
        asked = [seed for seed in seeds if all(_has(need, results, seed) for need in self.needs if need.every)]
        found = {seed: self.quantity(*(results[name].get(seed) for name in self._arguments)) for seed in asked}
        return over_seeds(
            self.id,
            {seed: float(value) for seed, value in found.items() if value is not None},
            self.criterion.meets,
            share=self.criterion.share,
            surely=self.criterion.surely,
            open_because=self.undecidable or "".join(need.otherwise for need in lacking[:1]),
            withdrawn=self.withdrawn,
            paper=self.place,
            statement=self.sentence,
            bar=self.bar,
            details={name: self._detail(one, results, asked) for name, one in self.details.items()},
            note=self.note,
        )

    def _detail(self, one: Detail | Callable[[Conditions], Any], results: Conditions, asked: Sequence[int]) -> Any:
        if not isinstance(one, Detail):
            return one(results)
        held = results[one.condition]
        return one.of({seed: held[seed] for seed in asked} if one.condition in self.conditions else held)


def judge_claims(claims: Sequence[Claim], results: Conditions) -> list[Judgement]:
    """All claims judged, in their order.

    Raises:
        ToylabError: for an id that two claims share, or a quantity that is no finite number.
    """
    ids = [claim.id for claim in claims]
    if twice := [id for id in ids if ids.count(id) > 1]:
        raise ToylabError(f"claim {twice[0]!r}: is declared twice; give each an id of its own")
    return [claim.judged(results) for claim in claims]


def _at(result: Any, path: str) -> Any:
    """The attribute at a path; None where a part of the path is None."""
    return reduce(lambda found, name: None if found is None else getattr(found, name), path.split("."), result)


def _has(need: Need, results: Conditions, seed: int) -> bool:
    return seed in results[need.condition] and need.test(results[need.condition][seed])


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {str(name): _rounded(inner) for name, inner in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list | tuple) else value
