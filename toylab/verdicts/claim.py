"""A claim declared once as data: statement, place in the paper, conditions, measured quantity, criterion and control.

    Claim(
        id="head",
        place="section 4, peakiness",
        statement="An iteration head forms: to predict s_t, one head attends to x_t.",
        conditions=("main",),
        measure="share of steps in which the best head has over half of its attention on x_t",
        quantity=lambda main: main.head.carry,
        criterion=at_least(0.9),
        statistic="share",
        control=Control("random weights", ("main",), lambda main: main.untrained.head.carry),
        details={"invariance": ClaimDetail("main", "invariance")},
    )

`judge_claims` turns claims and results into judgements; reports take every statement and threshold from here.
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
    """Results by condition name and seed; a condition that was not run is an empty dictionary."""

    def __missing__(self, name: str) -> dict[int, Any]:
        return {}

    def shared(self, *names: str) -> list[int]:
        """The seeds with results in all of these conditions."""
        return sorted(set.intersection(*(set(self[name]) for name in names)))

    def in_any(self, *names: str) -> list[int]:
        """The seeds with results in at least one of these conditions."""
        return sorted(set().union(*(self[name] for name in names)))

    def by_title(self, titles: Mapping[str, str]) -> dict[str, dict[int, Any]]:
        """Results by condition title and seed, for the conditions that were run."""
        return {title: self[name] for name, title in titles.items() if self[name]}

    def by_condition(self, names: Iterable[str], number: Callable[[list[Any]], Any]) -> dict[str, Any]:
        """One number per condition that was run, computed from all its results."""
        return {name: _rounded(number([*self[name].values()])) for name in names if self[name]}


@dataclass(frozen=True, kw_only=True)
class Precondition:
    """A precondition of a claim, such as that the model learned its task.

    Attributes:
        condition: the condition whose results are tested.
        test: whether the result of a seed meets the precondition.
        otherwise: the reason given for "undecided" if no seed meets it.
        every: True excludes each seed that does not meet it; False requires only one seed that does.
    """

    condition: str
    test: Callable[[Any], bool]
    otherwise: str
    every: bool = True


@dataclass(frozen=True)
class ClaimDetail:
    """An additional number per seed, reported beside the measured quantity but not judged.

    For the claim's own conditions, only the judged seeds are shown.

    Attributes:
        condition: the condition whose results are read.
        number: an attribute path of the result, such as `head.carry`, or a function of the result; None where it is
            undefined for the seed, also where an attribute on the path is None.
        never: whether None means that the event did not occur.
    """

    condition: str
    number: str | Callable[[Any], Any]
    never: bool = False

    def of(self, results: Mapping[int, Any]) -> dict[str, Any]:
        """The number by seed, rounded for display; seeds without it are omitted."""
        read = partial(_attribute_at, path=self.number) if isinstance(self.number, str) else self.number
        numbers = {str(seed): read(result) for seed, result in results.items()}
        if self.never:
            return {seed: or_never(step) for seed, step in numbers.items()}
        return {seed: _rounded(value) for seed, value in numbers.items() if value is not None}


@dataclass(frozen=True)
class Control:
    """A measurement that must miss the claim's criterion under the same statistic; otherwise it is uninformative.

    A claim of presence has a negative control: random weights, a random change of the same norm, the base model, or
    the best answer that ignores the input. A claim of absence has a positive control, which must show the effect.

    Attributes:
        what: name of the control.
        conditions: the conditions whose results are the arguments of `quantity`; empty for a computed constant.
        quantity: maps the results of one seed (one per condition) to a number; None where it is undefined.
    """

    what: str
    conditions: tuple[str, ...]
    quantity: Callable[..., float | int | bool | None]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One falsifiable claim.

    Attributes:
        id: short stable name.
        place: section of the paper that makes the claim, or "our question".
        statement: the claim in our words.
        kind: a claim of the paper, our own question, or a check of the set-up.
        asks: "presence" (its negative control must miss the criterion) or "absence" (its positive control must).
        population: the population that seeds sample.
        conditions: the conditions whose results are the arguments of `quantity`, in order.
        optional: conditions whose results are further arguments, None for seeds without them; if `conditions` is
            empty, every seed with a result in one of these is judged.
        measure: the quantity in words, with its unit.
        exact: the inputs over which each seed's number is exact, such as "all 16,104 inputs of length 1 to 4"; empty if
            inputs are sampled.
        quantity: maps the results of one seed (one per condition) to a number; None where it is undefined.
        criterion: the numbers that support the claim.
        statistic: "share" asks whether most seeds meet the criterion, "median" whether the median seed does.
        control: the measurement that must miss the criterion.
        uncontrolled: the reason for having no control.
        untried: why no sham is tried, such as where a sham meets the claim by design.
        margin: equivalence margin of a claim of absence.
        origin: source of the threshold: the paper, a smallest effect of interest, or our pilot.
        paper_number: the number that the paper reports, with its source.
        needs: preconditions.
        details: additional numbers by name, per seed or as a function of all results.
        figure: title of the figure that shows it.
        undecidable: the reason why these settings cannot decide the claim; empty if they can.
        note: remark on interpretation.
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
    exact: str = ""
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
        """All conditions that the verdict or its details depend on."""
        controls = self.control.conditions if self.control else ()
        needs = (need.condition for need in self.needs)
        details = (detail.condition for detail in self.details.values() if isinstance(detail, ClaimDetail))
        return tuple(dict.fromkeys([*self._arguments, *controls, *needs, *details]))

    @property
    def _arguments(self) -> tuple[str, ...]:
        """The conditions of the arguments of the quantity."""
        return self.conditions + self.optional

    def judged(
        self, results: Conditions, plan: Plan, family: int = 1, shams: Mapping[str, Conditions] | None = None
    ) -> Judgement:
        """The judgement of this claim.

        Args:
            plan: the seeds of the run and the looks at which they are judged.
            family: number of claims of the paper judged at this look.
            shams: results of models without the mechanism, by name of the sham and condition.

        Raises:
            ToylabError: naming the claim and the seed, if the quantity is not a finite number.
        """
        unmet = [need for need in self.needs if not any(map(need.test, results[need.condition].values()))]
        seeds, eligible = self._seeds(results)
        values = self.values(results)
        judged_conditions = self._judged_conditions(results)
        finished = plan.until(results.shared(*judged_conditions)) if judged_conditions else plan
        decision = decide(values, self.criterion, self.statistic, finished)
        control = self._control(results, finished)
        sham_judgements = self._shams(results, plan, shams or {})
        reason = self.undecidable or "".join(need.otherwise for need in unmet[:1])
        if not reason and len(plan.seeds) >= FEWEST_SEEDS and not finished.looks:
            reason = f"{len(finished.seeds)} of {len(plan.seeds)} seeds are done"
        missing = len(seeds) - len(eligible)
        excluded = f"{missing} of {len(seeds)} seeds miss a precondition" if missing else ""
        verdict, reason, more = _verdict(decision, control, sham_judgements, reason)
        by_seed = {str(seed): round(value, 4) for seed, value in values.items()}
        return Judgement(
            id=self.id,
            kind=self.kind,
            place=self.place,
            statement=self.statement,
            criterion=self.criterion_text,
            exact=self.exact,
            measured=_rounded(decision.measured),
            interval=_rounded_interval(decision),
            seeds=decision.seeds,
            level=decision.level,
            verdict=verdict,
            more=more,
            control=control,
            uncontrolled=self.uncontrolled,
            shams=sham_judgements,
            family=self._family(decision, values, family) if self.kind == "paper" and verdict == decision.word else "",
            paper_number=self.paper_number,
            origin=self.origin,
            population=self.population,
            details={"by seed": by_seed, **{n: self._detail(d, results, eligible) for n, d in self.details.items()}},
            note="; ".join(filter(None, (reason, excluded, self.note))),
        )

    def values(self, results: Conditions) -> dict[int, float]:
        """The quantity by seed. Raises `ToylabError`, naming claim and seed, if it is not a finite number."""
        _, eligible = self._seeds(results)
        return self._numbers(
            {seed: self.quantity(*(results[name].get(seed) for name in self._arguments)) for seed in eligible}
        )

    def _seeds(self, results: Conditions) -> tuple[list[int], list[int]]:
        """The seeds that have results, and the subset that meets every precondition."""
        seeds = results.shared(*self.conditions) if self.conditions else results.in_any(*self.optional)
        return seeds, [seed for seed in seeds if all(_is_met(need, results, seed) for need in self.needs if need.every)]

    def _judged_conditions(self, results: Conditions) -> list[str]:
        """The conditions that were run, of the quantity and of its control."""
        names = self._arguments + (self.control.conditions if self.control else ())
        return [name for name in names if results[name]]

    def _shams(self, results: Conditions, plan: Plan, shams: Mapping[str, Conditions]) -> tuple[ControlJudgement, ...]:
        """The score of each sham that replaces results of this claim, without preconditions.

        Claims of absence, which an uninformed model meets, and checks of the set-up have no shams.
        """
        if self.asks == "absence" or self.kind == "set-up" or self.untried:
            return ()
        unconditional = replace(self, quantity=_none_if_undefined(self.quantity), needs=())
        judgements = []
        for name, sham_results in shams.items():
            if any(sham_results[n] is not results[n] for n in self._arguments if sham_results[n] or results[n]):
                values = unconditional.values(sham_results)
                decision = decide(values, self.criterion, self.statistic, plan.until(values))
                judgements.append(_control_judgement(name, decision))
        return tuple(judgements)

    def _numbers(self, numbers: Mapping[int, float | int | bool | None]) -> dict[int, float]:
        values = {seed: float(value) for seed, value in numbers.items() if value is not None}
        if not_finite := [seed for seed, value in values.items() if not isfinite(value)]:
            raise ToylabError(
                f"{self.id}: seed {not_finite[0]} gives {values[not_finite[0]]}: must be a finite number; leave it out"
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
        return _control_judgement(what, decide(values, self.criterion, self.statistic, plan))

    def _family(self, decision: Decision, values: Mapping[int, float], family: int) -> Family:
        """Whether the seeds also decide at the Bonferroni level, i.e. the level divided by the number of claims."""
        if decision.word == "undecided":
            return ""
        level = decision.level / family
        if not is_reachable(len(decision.seeds), self.statistic, level):
            return "not reachable"
        corrected = decide_at({seed: values[seed] for seed in decision.seeds}, self.criterion, self.statistic, level)
        return "yes" if corrected.word == decision.word else "no"

    def _detail(self, detail: ClaimDetail | Callable[[Conditions], Any], results: Conditions, seeds: list[int]) -> Any:
        if not isinstance(detail, ClaimDetail):
            return detail(results)
        by_seed = results[detail.condition]
        return detail.of({seed: by_seed[seed] for seed in seeds} if detail.condition in self.conditions else by_seed)


def judge_claims(
    claims: Sequence[Claim], results: Conditions, plan: Plan, shams: Mapping[str, Conditions] | None = None
) -> list[Judgement]:
    """The judgement of every claim, in order; the family consists of the measured claims of the paper.

    Args:
        shams: results of models without the mechanism, by name of the sham and condition.

    Raises:
        ToylabError: if two claims share an id, or a quantity is not a finite number.
    """
    ids = [claim.id for claim in claims]
    if duplicates := [id for id in ids if ids.count(id) > 1]:
        raise ToylabError(f"claim {duplicates[0]!r}: is declared twice; give each claim its own id")
    family = max(1, sum(claim.kind == "paper" and bool(claim.values(results)) for claim in claims))
    return [claim.judged(results, plan, family, shams) for claim in claims]


def _verdict(
    decision: Decision, control: ControlJudgement | None, shams: Sequence[ControlJudgement], reason: str
) -> tuple[Verdict, str, bool]:
    """The verdict, the reason if it is not a decision, and whether more seeds could decide."""
    if not decision.seeds:
        return "not run", reason, False
    if reason:
        return "undecided", reason, False
    if len(decision.seeds) < FEWEST_SEEDS:
        return "undecided", f"a verdict needs at least {FEWEST_SEEDS} seeds", True
    if decision.word == "supported" and (met := [sham.what for sham in shams if sham.misses is False]):
        return "uninformative", f"a sham also meets the criterion: {met[0]}", False
    if control is None or control.misses:
        straddles = decision.word == "undecided"
        return decision.word, "the interval includes the threshold" * straddles, straddles
    if control.misses is False:
        return "uninformative", "the control also meets the criterion", False
    if control.measured is None:
        return "undecided", "the control was not run", False
    return "undecided", "the interval of the control includes the threshold", True


def _control_judgement(name: str, decision: Decision) -> ControlJudgement:
    misses = {"refuted": True, "supported": False, "undecided": None}[decision.word]
    measured, interval = _rounded(decision.measured), _rounded_interval(decision)
    return ControlJudgement(what=name, measured=measured, interval=interval, misses=misses)


def _none_if_undefined(quantity: Callable[..., Any]) -> Callable[..., Any]:
    """The quantity, with None where it is undefined, such as a ratio of two zeros, or depends on a missing part."""

    def read(*results: Any) -> Any:
        try:
            value = quantity(*results)
        except (ValueError, ArithmeticError):
            return None
        except (AttributeError, TypeError) as error:
            if "None" not in str(error):  # a missing part is None; any other error is a fault of the claim
                raise
            return None
        return value if value is not None and isfinite(value) else None

    return read


def _rounded_interval(decision: Decision) -> tuple[float, float] | None:
    return decision.interval and (round(decision.interval[0], 4), round(decision.interval[1], 4))


def _attribute_at(result: Any, path: str) -> Any:
    """The attribute at a dotted path; None if an attribute on the path is None."""
    return reduce(lambda value, name: None if value is None else getattr(value, name), path.split("."), result)


def _is_met(need: Precondition, results: Conditions, seed: int) -> bool:
    return seed in results[need.condition] and need.test(results[need.condition][seed])


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}") if value == value else None
    if isinstance(value, Mapping):
        return {str(name): _rounded(inner) for name, inner in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value
