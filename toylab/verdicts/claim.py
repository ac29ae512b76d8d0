"""A claim, declared once as data: a sentence, where it stands, what is measured of which conditions, and the criterion.

    Claim(
        id="head",
        place="section 4, peakiness",
        sentence="An iteration head forms: when s_t is due, one head reads x_t.",
        conditions=("main",),
        measure="share of steps in which the best head has over half of its attention on x_t",
        quantity=lambda main: main.head.carry,
        criterion=at_least(0.9),
        statistic="share",
        control=Control("random weights", ("main",), lambda main: main.untrained.carry),
        details={"invariance": Detail("main", "invariance")},
    )

`judge_claims` turns claims and results into judgements; no threshold and no sentence is written a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from math import isfinite
from typing import Any, Literal

from toylab.console import ToylabError
from toylab.verdicts.criterion import Criterion
from toylab.verdicts.decision import FEWEST_SEEDS, Decision, Plan, Statistic, decide, decide_at, is_reachable
from toylab.verdicts.judgement import ClaimKind, ControlJudgement, Family, Judgement, Verdict, or_never


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
class Precondition:
    """What a claim presupposes, such as a model that learned the task.

    Attributes:
        condition: whose results are looked at.
        test: whether the result of a seed has it.
        otherwise: why the claim is undecided where no seed has it.
        every: whether a seed that lacks it is left out; else one seed that has it is enough.
    """

    condition: str
    test: Callable[[Any], bool]
    otherwise: str
    every: bool = True


@dataclass(frozen=True)
class ClaimDetail:
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


@dataclass(frozen=True)
class Control:
    """What must miss the criterion of a claim by the same statistic, or the measurement cannot tell.

    Of a claim of presence it is something uninformed: random weights, a random change of the same size, the base
    before, the best answer that ignores the input. Of a claim of absence it is the real thing, which must exceed it.

    Attributes:
        what: the control in words.
        conditions: whose results the quantity is a function of; none for a number that is computed.
        quantity: from the results of one seed, one a condition, to one number; None where the seed has none.
    """

    what: str
    conditions: tuple[str, ...]
    quantity: Callable[..., float | int | bool | None]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One checkable claim.

    Attributes:
        id: short name, stable.
        place: where the paper makes the claim, or whose question it is.
        statement: the claim in our words.
        kind: a claim of the paper, one of our own, or a check of the set-up.
        asks: whether something is there (a negative control must miss it) or absent (a positive one must exceed it).
        population: what a seed is drawn from.
        conditions: whose results the quantity is a function of, in the order of its arguments.
        optional: further conditions, whose arguments stand behind those, None for a seed that such a condition lacks;
            if there are no others, every seed is asked that one of them has.
        measure: the quantity in words, with its unit.
        quantity: from the results of one seed, one a condition, to one number; None where the seed has none.
        criterion: what the number must reach.
        statistic: whether the share of seeds that meet the criterion must be most of them, or the median must meet it.
        control: what must miss the criterion.
        uncontrolled: why there is no control.
        untried: why no sham is tried, such as where a sham meets the claim by design.
        margin: of equivalence, for a claim of absence.
        origin: where the threshold comes from: the paper, a smallest effect of interest, or our pilot.
        paper_number: the number of the paper, with its source.
        needs: what is presupposed.
        details: further numbers by name: of each seed, or a function of all results.
        figure: title of the figure that shows it.
        undecidable: why the settings of this run cannot decide it; empty where they can.
        note: how to read it.
    """

    id: str
    place: str
    statement: str
    kind: ClaimKind = "paper"
    asks: Literal["presence", "absence"] = "presence"
    population: str = "seeds: initial weights and data"
    conditions: tuple[str, ...]
    optional: tuple[str, ...] = ()
    measure: str
    quantity: Callable[..., float | int | bool | None]
    criterion: Criterion
    statistic: Statistic = "median"
    control: Control | None = None
    uncontrolled: str = ""
    untried: str = ""
    margin: float | None = None
    origin: str = "our pilot"
    paper_number: str = ""
    needs: tuple[Precondition, ...] = ()
    details: Mapping[str, ClaimDetail | Callable[[Conditions], Any]] = field(default_factory=dict)
    figure: str = ""
    undecidable: str = ""
    note: str = ""

    @property
    def criterion_text(self) -> str:
        """The criterion in words, with the quantity and the statistic."""
        judged = f"{self.measure} {self.criterion}"
        return f"in most seeds, {judged}" if self.statistic == "share" else f"median over seeds of {judged}"

    @property
    def depends_on(self) -> tuple[str, ...]:
        """All conditions without which it would be judged, or read, otherwise."""
        controls = self.control.conditions if self.control else ()
        looked_at = [one.condition for one in self.details.values() if isinstance(one, ClaimDetail)]
        return tuple(dict.fromkeys([*self._arguments, *controls, *(need.condition for need in self.needs), *looked_at]))

    @property
    def _arguments(self) -> tuple[str, ...]:
        """The conditions of the arguments of the quantity."""
        return self.conditions + self.optional

    def judged(
        self, results: Conditions, plan: Plan, family: int = 1, shams: Mapping[str, Conditions] | None = None
    ) -> Judgement:
        """The claim with what was measured and its verdict.

        Args:
            plan: the seeds of the run, and when they are looked at.
            family: how many claims of the paper are judged at this look.
            shams: by what they are, results of models without the mechanism, by condition.

        Raises:
            ToylabError: naming the claim and the seed, for a quantity that is no finite number.
        """
        lacking = [need for need in self.needs if not any(map(need.test, results[need.condition].values()))]
        seeds, asked = self._seeds(results)
        values = self.values(results)
        judged_by = self._judged_by(results)
        so_far = plan.until(results.shared(*judged_by)) if judged_by else plan
        found = decide(values, self.criterion, self.statistic, so_far)
        control = self._control(results, so_far)
        tried = self._tried(results, plan, shams or {})
        reason = self.undecidable or "".join(need.otherwise for need in lacking[:1])
        if not reason and len(plan.seeds) >= FEWEST_SEEDS and not so_far.looks:
            reason = f"{len(so_far.seeds)} of {len(plan.seeds)} seeds are done"
        left = (
            f"{len(seeds) - len(asked)} of {len(seeds)} seeds lack what is presupposed"
            if len(asked) < len(seeds)
            else ""
        )
        verdict, reason, more = _verdict(found, control, tried, reason)
        by_seed = {str(seed): round(value, 4) for seed, value in values.items()}
        return Judgement(
            id=self.id,
            kind=self.kind,
            place=self.place,
            statement=self.statement,
            criterion=self.criterion_text,
            measured=_rounded(found.measured),
            interval=_rounded_ends(found),
            seeds=found.seeds,
            level=found.level,
            verdict=verdict,
            more=more,
            control=control,
            uncontrolled=self.uncontrolled,
            shams=tried,
            family=self._family(found, values, family) if self.kind == "paper" and verdict == found.word else "",
            paper_number=self.paper_number,
            origin=self.origin,
            population=self.population,
            details={"by seed": by_seed, **{n: self._detail(one, results, asked) for n, one in self.details.items()}},
            note="; ".join(filter(None, (reason, left, self.note))),
        )

    def values(self, results: Conditions) -> dict[int, float]:
        """The quantity by seed. Raises `ToylabError` naming claim and seed, for one that is no finite number."""
        _, asked = self._seeds(results)
        return self._numbers(
            {seed: self.quantity(*(results[name].get(seed) for name in self._arguments)) for seed in asked}
        )

    def _seeds(self, results: Conditions) -> tuple[list[int], list[int]]:
        """The seeds that have results, and those of them that have all that is presupposed."""
        seeds = results.shared(*self.conditions) if self.conditions else results.in_any(*self.optional)
        return seeds, [seed for seed in seeds if all(_has(need, results, seed) for need in self.needs if need.every)]

    def _judged_by(self, results: Conditions) -> list[str]:
        """The conditions of the quantity and of its control that were run."""
        names = self._arguments + (self.control.conditions if self.control else ())
        return [name for name in names if results[name]]

    def _tried(self, results: Conditions, plan: Plan, shams: Mapping[str, Conditions]) -> tuple[ControlJudgement, ...]:
        """What each sham scores that puts other results in the place of those of the claim; nothing is presupposed.

        A claim of absence, which an ignorant model supports, and a check of the set-up are not tried.
        """
        if self.asks == "absence" or self.kind == "set-up" or self.untried:
            return ()
        free = replace(self, quantity=_or_none(self.quantity), needs=())
        tried = []
        for what, held in shams.items():
            if any(held[name] is not results[name] for name in self._arguments):
                values = {seed: value for seed, value in free.values(held).items() if isfinite(value)}
                found = decide(values, self.criterion, self.statistic, plan.until(values))
                tried.append(_as_control(what, found))
        return tuple(tried)

    def _numbers(self, held: Mapping[int, float | int | bool | None]) -> dict[int, float]:
        values = {seed: float(value) for seed, value in held.items() if value is not None}
        if wrong := [seed for seed, value in values.items() if not isfinite(value)]:
            raise ToylabError(
                f"{self.id}: seed {wrong[0]} gives {values[wrong[0]]}: must be a finite number; leave it out"
            )
        return values

    def _control(self, results: Conditions, plan: Plan) -> ControlJudgement | None:
        if self.control is None:
            return None
        what, names = self.control.what, self.control.conditions
        if not names:
            number = self.control.quantity()
            misses = None if number is None else not self.criterion.meets(number)
            return ControlJudgement(what=what, measured=_rounded(number), interval=None, misses=misses)
        seeds = results.shared(*names)
        values = self._numbers(
            {seed: self.control.quantity(*(results[name][seed] for name in names)) for seed in seeds}
        )
        return _as_control(what, decide(values, self.criterion, self.statistic, plan))

    def _family(self, found: Decision, values: Mapping[int, float], family: int) -> Family:
        """Whether the same seeds decide also at the level divided by the number of claims."""
        if found.word == "undecided":
            return ""
        level = found.level / family
        if not is_reachable(len(found.seeds), self.statistic, level):
            return "not reachable"
        again = decide_at({seed: values[seed] for seed in found.seeds}, self.criterion, self.statistic, level)
        return "yes" if again.word == found.word else "no"

    def _detail(self, one: ClaimDetail | Callable[[Conditions], Any], results: Conditions, asked: Sequence[int]) -> Any:
        if not isinstance(one, ClaimDetail):
            return one(results)
        held = results[one.condition]
        return one.of({seed: held[seed] for seed in asked} if one.condition in self.conditions else held)


def judge_claims(
    claims: Sequence[Claim], results: Conditions, plan: Plan, shams: Mapping[str, Conditions] | None = None
) -> list[Judgement]:
    """All claims judged, in their order; the family is that of the claims of the paper that were measured.

    Args:
        shams: by what they are, results of models without the mechanism, by condition.

    Raises:
        ToylabError: for an id that two claims share, or a quantity that is no finite number.
    """
    ids = [claim.id for claim in claims]
    if twice := [id for id in ids if ids.count(id) > 1]:
        raise ToylabError(f"claim {twice[0]!r}: is declared twice; give each an id of its own")
    family = max(1, sum(claim.kind == "paper" and bool(claim.values(results)) for claim in claims))
    return [claim.judged(results, plan, family, shams) for claim in claims]


def _verdict(
    found: Decision, control: ControlJudgement | None, shams: Sequence[ControlJudgement], reason: str
) -> tuple[Verdict, str, bool]:
    """The verdict, why it is none, and whether more seeds could give one."""
    if not found.seeds:
        return "not run", reason, False
    if reason:
        return "undecided", reason, False
    if len(found.seeds) < FEWEST_SEEDS:
        return "undecided", f"fewer than {FEWEST_SEEDS} seeds decide nothing", True
    if found.word == "supported" and (met := [one.what for one in shams if one.misses is False]):
        return "uninformative", f"{met[0]} meet the criterion as well, so the measurement cannot tell", False
    if control is None or control.misses:
        straddles = found.word == "undecided"
        return found.word, "the interval reaches both sides of the criterion" * straddles, straddles
    if control.misses is False:
        return "uninformative", "the control meets the criterion as well, so the measurement cannot tell", False
    if control.measured is None:
        return "undecided", "the control was not run", False
    return "undecided", "the control does not clearly miss the criterion", True


def _as_control(what: str, found: Decision) -> ControlJudgement:
    misses = {"refuted": True, "supported": False, "undecided": None}[found.word]
    return ControlJudgement(what=what, measured=_rounded(found.measured), interval=_rounded_ends(found), misses=misses)


def _or_none(quantity: Callable[..., Any]) -> Callable[..., Any]:
    """The quantity of results for which it may not be defined, such as the ratio of two zeros."""

    def read(*results: Any) -> Any:
        try:
            return quantity(*results)
        except (AttributeError, TypeError, ValueError, ArithmeticError):
            return None

    return read


def _rounded_ends(found: Decision) -> tuple[float, float] | None:
    return found.interval and (round(found.interval[0], 4), round(found.interval[1], 4))


def _at(result: Any, path: str) -> Any:
    """The attribute at a path; None where a part of the path is None."""
    return reduce(lambda found, name: None if found is None else getattr(found, name), path.split("."), result)


def _has(need: Precondition, results: Conditions, seed: int) -> bool:
    return seed in results[need.condition] and need.test(results[need.condition][seed])


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}") if value == value else None
    if isinstance(value, Mapping):
        return {str(name): _rounded(inner) for name, inner in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list | tuple) else value
