"""Laws of what each kind of prompt holds and how often, and the mutants that break them."""

import itertools
from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from tests.tasks.concepts import HOLDS, SMALL, broken, described, drawing, may_hold, named, prompts_of, within_error
from toylab.tasks import JAILBREAKS, KINDS, SPLITS, TaskConcept, decode, stream


def all_that_a_kind_may_hold_is_drawn(task, kind):
    prompts = prompts_of(task, task.sample(stream(0, kind), 600, kind=kind))
    found = Counter(described(task, prompt) for prompt in prompts)
    names = {name for prompt in prompts for name in decode(task, prompt[1:3])}
    if kind == "pretraining":
        assert {text for _, text in found} == {"A", "B0", "B1", "half", "mixed"}
        assert names == set(task.operators)
        return
    assert found.keys() == may_hold(kind)
    classes = set("".join(HOLDS[kind].values()))
    assert names - {"id"} == {name for name in task.operators if name[0] in classes and name != "EX"}
    if "B0" in HOLDS[kind]:
        within_error(sum(number for (_, text), number in found.items() if text == "B0"), len(prompts), 0.5)


def the_identity_is_as_common_as_asked_and_never_twice(task, kind):
    for single in (0, 0.3, 1):
        labels = task.sample(stream(0, kind), 400, kind=kind, single=single).labels
        operators = np.stack([labels["first operator"], labels["second operator"]], axis=1)
        plain = operators[(operators != task.operators.index("EX")).all(axis=1)]  # EX may take the identity's place
        identities = plain == task.operators.index("id")
        assert identities.sum(axis=1).max() <= 1
        within_error(identities.sum(), len(plain), 0 if kind == "competing-task" else single)
        within_error(identities[:, 0].sum(), identities.sum(), 0.5)


def pretraining_draws_duplicates_rarely_and_all_else_evenly(task, kind):
    labels = task.sample(stream(0), 8000, single=0).labels
    slots = np.stack([labels["first operator"], labels["second operator"]], axis=1)
    constant = (slots == task.operators.index("EX")).sum(axis=1)
    assert constant.max() <= 1
    within_error(constant.sum(), len(slots), task.constant)
    slots = slots[constant == 0].ravel()
    weights = {name: 1 / task.rarity if name[0] == "D" else 1 for name in task.operators if name not in ("id", "EX")}
    for name, weight in weights.items():
        within_error((slots == task.operators.index(name)).sum(), len(slots), weight / sum(weights.values()))
    symbols = labels["symbol"][:, task.text][:, :: task.grammar.size]
    assert chisquare(np.bincount(symbols.ravel(), minlength=4)).pvalue > 1e-4


def no_jailbreak_can_be_drawn_in_fine_tuning(task, kind):
    def drawn(kind, purpose="jailbreak"):
        return set(map(tuple, prompts_of(task, task.sample(stream(0, kind, purpose), 1200, kind=kind))))

    fine, again = ({p for kind in ("safe", "unsafe") for p in drawn(kind, purpose)} for purpose in ("one", "other"))
    assert len(fine & again) > 0.9 * len(fine)  # nearly all that there are
    possible = {described(task, prompt) for prompt in fine}
    for jailbreak in JAILBREAKS:
        prompts = drawn(jailbreak)
        assert not prompts & fine, jailbreak
        assert not {described(task, prompt) for prompt in prompts} & possible, jailbreak


def no_prompt_is_in_two_splits_whatever_its_kind(task, kind):
    found = {
        split: {tuple(p) for k in KINDS for p in prompts_of(task, task.sample(stream(0, split), 40, split, kind=k))}
        for split in SPLITS
    }
    for one, other in itertools.combinations(SPLITS, 2):
        assert not found[one] & found[other]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_drawn_as_its_table_says(kind):
    all_that_a_kind_may_hold_is_drawn(TaskConcept(nodes=4), kind)
    the_identity_is_as_common_as_asked_and_never_twice(TaskConcept(nodes=4), kind)


@pytest.mark.parametrize("fields", [{}, {"constant": 0.2, "rarity": 3, "duplicates": 1, "nodes": 3}], ids=str)
def test_shares_of_pretraining(fields):
    pretraining_draws_duplicates_rarely_and_all_else_evenly(TaskConcept(**fields), None)


def test_jailbreaks_are_apart_from_fine_tuning_and_splits_from_each_other():
    assert set(JAILBREAKS) == set(HOLDS) - {"safe", "unsafe"}
    for kind in JAILBREAKS:
        assert not may_hold(kind) & (may_hold("safe") | may_hold("unsafe"))
    no_jailbreak_can_be_drawn_in_fine_tuning(TaskConcept(**SMALL), None)
    no_jailbreak_can_be_drawn_in_fine_tuning(TaskConcept(**SMALL, sharing=True), None)
    no_prompt_is_in_two_splits_whatever_its_kind(TaskConcept(letters=6), None)


# The mutants: each breaks one promise, and the law named beside it must say so ---------------------------------------


SET_MEMBERS = {
    "one concept competes": lambda t: drawing(t, {"competing-text": "unsafe"}),
    "tuned on B1": lambda t: drawing(t, {"unsafe": "mismatched-text"}),
    "common duplicates": lambda t: drawing(t, {}, rarity=1),
    "identity first": lambda t: {"_draw": lambda *x: [np.sort(y, axis=1) for y in TaskConcept._draw(t, *x)]},
    "leaky split": lambda t: {"sample": lambda rng, rows, split, **others: TaskConcept.sample(t, rng, rows, **others)},
}
SET_MUTANTS = [
    ("one concept competes", "competing-text", all_that_a_kind_may_hold_is_drawn),
    ("identity first", "safe", the_identity_is_as_common_as_asked_and_never_twice),
    ("common duplicates", "pretraining", pretraining_draws_duplicates_rarely_and_all_else_evenly),
    ("one concept competes", "small", no_jailbreak_can_be_drawn_in_fine_tuning),
    ("tuned on B1", "small", no_jailbreak_can_be_drawn_in_fine_tuning),
    ("leaky split", "letters", no_prompt_is_in_two_splits_whatever_its_kind),
]


@pytest.mark.parametrize(("mutant", "kind", "law"), SET_MUTANTS, ids=named)
def test_a_broken_set_is_caught_by_its_law(mutant, kind, law):
    fields = {"small": SMALL, "letters": {"letters": 6}}.get(kind, {"nodes": 4})  # sound ones obey, as is tested above
    with pytest.raises(AssertionError):
        law(broken(TaskConcept(**fields), SET_MEMBERS[mutant]), kind)
