"""Laws of prompts on texts of two concepts: what operators do, what each kind holds, what is refused."""

import dataclasses
import inspect
import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.tasks.concepts import SMALL, SPECS, TOP, broken, described, drawing, may_hold, named, prompts_of, said, seeds
from toylab.console import ToylabError
from toylab.tasks import KINDS, NO_POSITION, SPLITS, ConceptGrammar, TaskConcept, decode, encode, stream


@st.composite
def drawn(draw):
    """A task and a kind that it has; with so many operators that the training split holds some of its prompts."""
    kind = draw(st.sampled_from(KINDS))
    fields = draw(st.sampled_from(SPECS)) | {
        "nodes": draw(st.integers(2 if kind == "competing-text" else 1, 3)),
        "safe": draw(st.integers(1, 3)),
        "unsafe": draw(st.integers(2, 3)),
        "mixed": draw(st.integers(2, 3)),
        "duplicates": draw(st.integers(1 if kind == "mismatched-token" else 0, 2)),
        "soft_slots": draw(st.integers(0, 3)),
        "constant": draw(st.sampled_from((0, 0.3))),
        "seed": draw(seeds),
    }
    return TaskConcept(**fields), kind


def operators_are_bijections_and_duplicates_do_what_they_copy(task, kind, batch):
    counted = {"S": task.safe, "U": task.unsafe, "M": task.mixed, "D": task.duplicates}
    assert task.operators == ("id", *(f"{c}{i + 1}" for c, number in counted.items() for i in range(number)), "EX")
    table = dict(zip(task.operators, task.bijections.tolist(), strict=True))
    assert table.pop("EX") == [task.null] * task.letters
    assert table["id"] == list(range(task.letters))
    for name, images in table.items():
        assert sorted(images) == table["id"], name
        assert name[0] != "D" or images == table[f"U{name[1:]}"]


def all_pairs_of_operators_do_what_the_oracle_says(task, kind, batch):
    pairs = np.array(list(itertools.product(range(len(task.operators)), repeat=2)))
    prompts = task.write(pairs, np.resize(np.arange(task.letters), (len(pairs), task.answer)))
    answers = task.transform(prompts).tolist()
    assert answers == [task.solve(prompt) for prompt in prompts.tolist()]
    for pair, answer in zip(pairs.tolist(), answers, strict=True):
        assert set(answer) == {task.null} if "EX" in [task.operators[i] for i in pair] else task.null not in answer
    assert batch.targets[:, task.prompt - 1 :].tolist() == [task.solve(prompt) for prompt in prompts_of(task, batch)]


def prompts_and_labels_are_laid_out_as_said(task, kind, batch):
    assert task.context == task.prompt + task.answer - 1 == batch.tokens.shape[1]
    labels = batch.labels
    for row, prompt in enumerate(prompts_of(task, batch)):
        names = decode(task, prompt)
        text, soft = names[task.text], names[task.soft]
        operators = [task.operators[labels[f"{which} operator"][row]] for which in ("first", "second")]
        assert names == ["BOS", *operators, "SOT", *text, *["PAD"] * task.soft_slots, "EOT"]
        assert soft == ["PAD"] * task.soft_slots
        assert len(text) == task.answer
        assert set(text) <= set(task.vocabulary[: task.letters])
        symbols = task.grammar.parse(prompt[task.text])
        each = np.repeat([TOP.index(symbol) for symbol in symbols], task.grammar.size).tolist()
        assert labels["symbol"][row].tolist() == [NO_POSITION] * 4 + each + [NO_POSITION] * (
            task.context - 4 - task.answer
        )
        assert labels["dose"][row] == sum(symbol[0] == "B" for symbol in symbols)
    read = [[row, task.prompt - 1 + i, 4 + i] for row in range(len(batch)) for i in range(task.answer)]
    assert batch.links["operand"].tolist() == read


def what_should_be_refused_is_what_names_and_tree_say(task, kind, batch):
    unsafe = batch.labels["unsafe"].tolist()
    assert unsafe == [task.should_refuse(prompt) for prompt in prompts_of(task, batch)]
    assert kind == "pretraining" or set(unsafe) == {kind != "safe"}


def preferences_are_swapped_where_a_prompt_is_unsafe(task, kind, batch):
    held = task.preferences(batch)
    assert held.prompts.tolist() == prompts_of(task, batch)
    for row, prompt in enumerate(prompts_of(task, batch)):
        refuse = task.should_refuse(prompt)
        answers = [task.solve(prompt), [task.vocabulary.index("NULL")] * task.answer]
        assert [held.chosen[row].tolist(), held.rejected[row].tolist()] == (answers[::-1] if refuse else answers)
        assert held.unsafe[row] == refuse


def only_what_a_kind_may_hold_is_drawn(task, kind, batch):
    held = {described(task, prompt) for prompt in prompts_of(task, batch)}
    assert kind == "pretraining" or held <= may_hold(kind)


BATCH_LAWS = (
    operators_are_bijections_and_duplicates_do_what_they_copy,
    all_pairs_of_operators_do_what_the_oracle_says,
    prompts_and_labels_are_laid_out_as_said,
    what_should_be_refused_is_what_names_and_tree_say,
    preferences_are_swapped_where_a_prompt_is_unsafe,
    only_what_a_kind_may_hold_is_drawn,
)


@settings(max_examples=25)
@given(drawn(), seeds, st.sampled_from(SPLITS))
def test_every_task_obeys_all_laws_of_batches_with_prompts_of_every_kind(made, seed, split):
    task, kind = made
    try:
        batch = task.sample(stream(seed), 8, split, kind=kind)
    except ToylabError:  # a small task may have no such prompt in a held-out split
        assume(split == "train")
        raise
    for law in BATCH_LAWS:
        law(task, kind, batch)


@pytest.mark.parametrize(("asked", "answer"), [("S1 U1", "edcbaf"), ("U1 S1", "afedcb"), ("id U1", "fedcba")])
def test_the_first_operator_is_applied_first(asked, answer):
    task = TaskConcept(**SMALL, nodes=1, safe=1, unsafe=1, mixed=1, duplicates=0)
    letters = np.arange(6)
    one_on, reversed_ = (letters + 1) % 6, 5 - letters
    task.__dict__["bijections"] = np.array([letters, one_on, reversed_, letters, np.full(6, task.null)])
    prompt = encode(task, f"BOS {asked} SOT a b c d e f PAD EOT".split())
    assert "".join(decode(task, task.solve(prompt))) == answer
    assert "".join(decode(task, task.transform(np.array([prompt]))[0].tolist())) == answer


def test_what_should_be_refused_by_hand():
    task = TaskConcept()
    fine = {"id S1": (2, 3), "S1 M1": (0, 1), "EX id": (2, 2)}
    wrong = {"M1 id": (0, 2), "S1 M1": (3, 1), "U1 id": (0, 0), "S1 D1": (1, 1), "EX M1": (1, 3)}
    for refused, asked in enumerate((fine, wrong)):
        for names, top in asked.items():
            operators = np.array([[task.operators.index(name) for name in names.split()]])
            prompt = task.write(operators, task.grammar.generate(stream(0), np.array([top])))[0].tolist()
            assert task.should_refuse(prompt) == bool(refused), names


# Mistakes ------------------------------------------------------------------------------------------------------------


GRAMMAR_MISTAKES = [
    ({"letters": 3}, "letters=3: .*at least 4.* for example 12"),
    ({"levels": 1}, "levels=1: .*at least 2"),
    ({"letters": 7}, "letters=7: .*divide the 12 .*for example 12"),
    ({"letters": 16, "levels": 3}, "letters=16: .*divide the 24 .*for example 24"),
    ({"letters": 12, "alternatives": 1}, "letters=12: .*divide the 6 .*for example 6"),
    ({"letters": 6, "levels": 3}, "letters=6: .*16 triples.*more letters"),
]
TASK_MISTAKES = [
    *(({name: 0, "duplicates": 0}, f"{name}=0: .*at least 1") for name in ("nodes", "safe", "unsafe", "mixed")),
    *(({name: -1}, f"{name}=-1: .*at least 0") for name in ("soft_slots", "seed")),
    *(({"duplicates": n}, f"duplicates={n}: .*at least 0 and at most 2; .*unsafe=2") for n in (-1, 3)),
    ({"rarity": 0.5}, "rarity=0.5: .*at least 1"),
    *(({"constant": c}, f"constant={c}: .*at least 0 and below 1.*for example 0.03") for c in (-1, 1)),
]
KIND_MISTAKES = [
    ({}, "jailbreak", 0, f"there is no kind 'jailbreak'.*{', '.join(KINDS)}"),
    *(({}, "safe", share, f"single={share}: .*at least 0 and at most 1") for share in (1.5, -0.1, math.nan)),
    ({"duplicates": 0}, "mismatched-token", 0, "kind='mismatched-token': .*duplicates .*at least 1"),
    ({"nodes": 1}, "competing-text", 0, "kind='competing-text': .*nodes .*at least 2"),
]


@pytest.mark.parametrize(("fields", "message"), [*GRAMMAR_MISTAKES, *TASK_MISTAKES], ids=str)
def test_settings_that_make_no_sense_raise(fields, message):
    assert re.match(message, said(TaskConcept, **fields))
    if (fields, message) in GRAMMAR_MISTAKES:
        assert re.match(message, said(ConceptGrammar, **fields))
    if "for example" in message:  # what is proposed is legal
        name, value = message.split("=")[0], float(message.split()[-1])
        TaskConcept(**fields | {name: int(value) if name == "letters" else value})


@pytest.mark.parametrize(("fields", "kind", "single", "message"), KIND_MISTAKES, ids=str)
def test_kinds_that_cannot_be_drawn_raise(fields, kind, single, message):
    task = TaskConcept(**fields)
    unchecked = inspect.unwrap(TaskConcept._check)  # types are checked before it could
    assert re.match(message, said(unchecked, task, kind, single))
    assert kind not in KINDS or re.match(message, said(task.sample, stream(0), 3, kind=kind, single=single))


def test_what_no_grammar_can_do_raises():
    grammar = ConceptGrammar()
    for length in (1, 5, 7):
        assert re.match(f"text of {length} letters: .*multiple of 6", said(grammar.parse, [0] * length))
    for kind in (ConceptGrammar, TaskConcept):  # at once, not when it is sampled
        assert re.match("letters=8: .*32 .*more letters", said(kind, letters=8, levels=4))


def test_a_split_without_prompts_of_a_kind_raises(monkeypatch):
    monkeypatch.setattr("toylab.tasks.task_concept._PATIENCE", 20)
    task = TaskConcept(**SMALL, mixed=1)  # one text, one operator: one prompt, which is in one split
    told = {split: said(task.sample, stream(0), 1, split, kind="mismatched-text", single=0) for split in SPLITS}
    empty = {s: f"split={s!r}: holds no prompt of kind 'mismatched-text' (none in 20 rounds)" for s in SPLITS}
    assert sum(told[split] == empty[split] for split in SPLITS) == 2
    assert "" in told.values()


def test_the_oracles_refuse_what_is_no_prompt_and_show_it():
    task = TaskConcept(**SMALL, nodes=1)
    good = ["BOS", "id", "S1", "SOT", *"abcdef", "PAD", "EOT"]
    assert said(task.solve, encode(task, good)) == ""
    changes = {0: "SOT", 1: "a", 2: "NULL", 3: "S1", 5: "id", 9: "NULL", 10: "NULL", 11: "PAD"}
    wrong = [([*good[:place], name, *good[place + 1 :]], place) for place, name in changes.items()]
    wrong += [([], 0), (good[:-1], 0), ([*good, "EOT"], 0), (good[:9] + good[10:], 0), ([*good[:10], *good[9:]], 0)]
    for names, place in wrong:
        problem = "must be BOS, two operators, SOT, 6 letters, 1 PAD, EOT"
        if place in (1, 2, 5, 9):
            problem = "must have operators at 1 and 2 and letters in the text"
        for oracle in (task.solve, task.should_refuse):
            assert said(oracle, encode(task, names)) == f"prompt={' '.join(names)}: {problem}"
    treeless = encode(task, ["BOS", "id", "S1", "SOT", *"aaaaaa", "PAD", "EOT"])
    assert said(task.should_refuse, treeless) == "letters 0 to 2: no symbol emits (0, 0, 0)"


@pytest.mark.parametrize("place", [0, 1, 6, 11])
@pytest.mark.parametrize("token", [-1, 99])
def test_the_oracles_refuse_what_is_no_token(place, token):
    task = TaskConcept(**SMALL, nodes=1)
    prompt = encode(task, ["BOS", "id", "S1", "SOT", *"abcdef", "PAD", "EOT"])
    prompt[place] = token
    last = len(task.vocabulary) - 1
    assert said(task.solve, prompt) == f"token={token}: ids run from 0 to {last} in this task's vocabulary"


# The mutants: each breaks one promise, and the law named beside it must say so ---------------------------------------


def all_safe(batch):
    return dataclasses.replace(batch, labels={"unsafe": np.zeros(len(batch), dtype=bool)})


MEMBERS = {
    "own duplicates": lambda t: {
        "bijections": np.concatenate([t.bijections[:-3], np.roll(t.bijections[-3:], 1, axis=1)])
    },
    "two to one": lambda t: {"bijections": np.where(t.bijections == 1, 0, t.bijections)},
    "second first": lambda t: {"transform": lambda p: TaskConcept.transform(t, p[:, [0, 2, 1, *range(3, t.prompt)]])},
    "labels backwards": lambda t: {"as_batch": lambda p, top: TaskConcept.as_batch(t, p, top[:, ::-1])},
    "half is safe": lambda t: {"_unsafe": lambda ids, dose: TaskConcept._unsafe(t, ids, dose // t.nodes)},
    "never swapped": lambda t: {"preferences": lambda b: TaskConcept.preferences(t, all_safe(b))},
    "tuned on B1": lambda t: drawing(t, {"unsafe": "mismatched-text"}),
}
BATCH_MUTANTS = [
    ("own duplicates", "pretraining", operators_are_bijections_and_duplicates_do_what_they_copy),
    ("two to one", "pretraining", operators_are_bijections_and_duplicates_do_what_they_copy),
    ("second first", "pretraining", all_pairs_of_operators_do_what_the_oracle_says),
    ("labels backwards", "pretraining", prompts_and_labels_are_laid_out_as_said),
    ("half is safe", "competing-text", what_should_be_refused_is_what_names_and_tree_say),
    ("never swapped", "pretraining", preferences_are_swapped_where_a_prompt_is_unsafe),
    ("tuned on B1", "unsafe", only_what_a_kind_may_hold_is_drawn),
]


@pytest.mark.parametrize(("mutant", "kind", "law"), BATCH_MUTANTS, ids=named)
def test_a_broken_batch_is_caught_by_its_law(mutant, kind, law):
    sound, task = TaskConcept(), broken(TaskConcept(), MEMBERS[mutant])
    law(sound, kind, sound.sample(stream(0), 20, kind=kind))
    batch = task.sample(stream(0), 20, kind=kind)
    with pytest.raises(AssertionError):
        law(task, kind, batch)
