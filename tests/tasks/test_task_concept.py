"""Laws of texts of two concepts: what grammars emit and read, what operators do, what kinds of prompts hold."""

import dataclasses
import inspect
import itertools
import math
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from toylab.tasks import JAILBREAKS, KINDS, NOWHERE, SPLITS, ConceptGrammar, TaskConcept, decode, encode, stream

seeds = st.integers(0, 2**20)
TOP = ("A0", "A1", "B0", "B1")
SPECS = [(6, 2, 1, False), (6, 2, 1, True), (6, 2, 2, False), (12, 2, 2, False), (12, 2, 2, True), (6, 3, 1, False)]
SPECS = [*SPECS, (12, 3, 1, True), (12, 3, 2, False), (8, 3, 2, True), (24, 3, 2, False)]
SPECS = [dict(zip(("letters", "levels", "alternatives", "sharing"), spec, strict=True)) for spec in SPECS]
SMALL = {"letters": 6, "alternatives": 1, "soft_slots": 1}
"""A task of few prompts."""


def within_error(count, rows, share):
    assert abs(count - rows * share) <= 4 * math.sqrt(rows * share * (1 - share)), f"{count} of {rows}, not {share}"


def said(call, *arguments, **others):
    """What a ValueError says, or nothing where none is raised."""
    try:
        call(*arguments, **others)
    except ValueError as error:
        return str(error)
    return ""


# Grammars ----------------------------------------------------------------------------------------------------------


def below(grammar, symbol, level):
    """The pairs that a symbol expands into: of two children of its own, or with one in common."""
    first = symbol + symbol // 2 if level == 1 and grammar.sharing else 2 * symbol  # A0 0 1, A1 1 2, B0 3 4, B1 4 5
    return [(first, first + 1), (first + 1, first)][: grammar.alternatives]


def trees(grammar, symbol, level=1):
    """What a symbol emits, a text for each of its trees."""
    if level == grammar.levels:
        return list(map(tuple, grammar.triples[symbol].tolist()))
    pairs = ([trees(grammar, child, level + 1) for child in pair] for pair in below(grammar, symbol, level))
    return [one + other for pair in pairs for one, other in itertools.product(*pair)]


def mean_counts(grammar, symbol, level=1):
    """How often each letter is expected in the text of a symbol; exact, as there are one or two alternatives."""
    if level == grammar.levels:
        return np.bincount(grammar.triples[symbol].ravel(), minlength=grammar.letters) / grammar.alternatives
    pairs = below(grammar, symbol, level)
    return sum(mean_counts(grammar, child, level + 1) for pair in pairs for child in pair) / len(pairs)


def cut(text):
    return [text[start : start + 3] for start in range(0, len(text), 3)]


def what_is_generated_is_read(grammar, rng):
    top = rng.integers(4, size=(8, 3))
    for letters, symbols in zip(grammar.generate(rng, top).tolist(), top.tolist(), strict=True):
        assert grammar.parse(letters) == [TOP[symbol] for symbol in symbols]


def every_text_has_one_tree(grammar, rng):
    texts = [text for top in range(4) for text in trees(grammar, top)]
    assert len(set(texts)) == len(texts)
    assert {len(text) for text in texts} == {3 * 2 ** (grammar.levels - 1)} == {grammar.size}
    triples = grammar.triples.reshape(-1, 3)
    symbols = (6 if grammar.sharing else 8) * 2 ** (grammar.levels - 2)
    assert len(set(map(tuple, triples.tolist()))) == len(triples) == symbols * grammar.alternatives
    assert all(len(set(triple)) == 3 for triple in triples.tolist())


def all_top_symbols_use_every_letter_equally_often(grammar, rng):
    for top in range(4):
        assert np.array_equal(mean_counts(grammar, top), np.full(grammar.letters, grammar.size / grammar.letters))


def the_other_concept_emits_triples_backwards(grammar, rng):
    for top in range(2):
        mirrored = [sum((triple[::-1] for triple in cut(text)), ()) for text in trees(grammar, top)]
        assert sorted(mirrored) == sorted(trees(grammar, top + 2))


def the_symbols_of_a_concept_share_half_their_triples_or_none(grammar, rng):
    used = [{triple for text in trees(grammar, top) for triple in cut(text)} for top in range(4)]
    for one, other in itertools.combinations(range(4), 2):
        shared = grammar.sharing and one // 2 == other // 2
        assert len(used[one] & used[other]) == (len(used[one]) // 2 if shared else 0)


def a_changed_letter_is_refused_with_its_place(grammar, rng):
    text = grammar.generate(rng, rng.integers(4, size=(1, 2)))[0].tolist()
    emitted = set(map(tuple, grammar.triples.reshape(-1, 3).tolist()))
    refused = 0
    for place, other in itertools.product(range(len(text)), range(grammar.letters)):
        wrong = [*text[:place], other, *text[place + 1 :]]
        start = place // 3 * 3
        triple = tuple(wrong[start : start + 3])
        if triple not in emitted:
            assert said(grammar.parse, wrong) == f"letters {start} to {start + 2}: no symbol emits {triple}"
            refused += 1
    assert refused > len(text)


def exchanged_parts_are_read_exactly_if_a_tree_emits_them(grammar, rng):
    emitted = {text: name for top, name in enumerate(TOP) for text in trees(grammar, top)}
    half = grammar.size // 2
    halves = rng.permutation(sorted({part for text in emitted for part in (text[:half], text[half:])})).tolist()[:16]
    whole = rng.permutation(sorted(emitted))[:4].tolist()
    texts = [one + other for one, other in itertools.product(halves, repeat=2)]
    texts += [list(itertools.chain(*order)) for text in whole for order in itertools.permutations(cut(text))]
    refused = 0
    for text in texts:
        if tuple(text) in emitted:
            assert grammar.parse(text) == [emitted[tuple(text)]]
        else:
            say = r"level \d: no symbol expands into symbols \d+ and \d+ below it"
            assert re.fullmatch(say, said(grammar.parse, text)), text
            refused += 1
    assert 0 < refused < len(texts)


def all_trees_are_equally_likely(grammar, rng):
    for top in range(4):
        texts = trees(grammar, top)
        counts = Counter(map(tuple, grammar.generate(rng, np.full((25 * len(texts), 1), top)).tolist()))
        assert counts.keys() == set(texts)
        assert len(texts) == 1 or chisquare(list(counts.values())).pvalue > 1e-4


def told_apart(grammar, texts, concepts, width):
    """The share that a naive-Bayes classifier gets right, from counts of runs of letters (of 3: of whole triples).

    It is fitted on one half of the texts, with add-one smoothing, and scored on the other.
    """
    codes = sum(grammar.letters**i * texts[:, i : texts.shape[1] - width + 1 + i] for i in range(width))
    codes = codes[:, ::3] if width == 3 else codes
    counts = (codes[:, :, None] == np.unique(codes)).sum(axis=1)
    half = len(texts) // 2
    seen = [counts[:half][concepts[:half] == concept].sum(axis=0) + 1 for concept in (0, 1)]
    score = counts[half:] @ (np.log(seen[1] / seen[1].sum()) - np.log(seen[0] / seen[0].sum()))
    return np.mean((score > 0) == concepts[half:])


def counts_of_letters_do_not_tell_the_concepts_apart_but_their_order_does(grammar, rng):
    concepts = np.arange(4000) % 2
    texts = grammar.generate(rng, 2 * concepts[:, None] + rng.integers(2, size=(4000, 2)))
    within_error(2000 * told_apart(grammar, texts, concepts, 1), 2000, 0.5)
    assert told_apart(grammar, texts, concepts, 2) > 0.9
    assert told_apart(grammar, texts, concepts, 3) > 0.99


GRAMMAR_LAWS = (
    what_is_generated_is_read,
    every_text_has_one_tree,
    all_top_symbols_use_every_letter_equally_often,
    the_other_concept_emits_triples_backwards,
    the_symbols_of_a_concept_share_half_their_triples_or_none,
    a_changed_letter_is_refused_with_its_place,
    exchanged_parts_are_read_exactly_if_a_tree_emits_them,
)


def named(x):
    return x.__name__.replace("_", " ") if callable(x) else str(x)


@pytest.mark.parametrize("law", GRAMMAR_LAWS, ids=named)
@settings(max_examples=12)
@given(st.sampled_from(SPECS), seeds)
def test_every_grammar_obeys(law, spec, seed):
    law(ConceptGrammar(**spec, seed=seed), stream(seed))


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_what_a_grammar_draws_tells_the_concepts_apart_by_order_alone(spec):
    all_trees_are_equally_likely(ConceptGrammar(**spec), stream(0))
    counts_of_letters_do_not_tell_the_concepts_apart_but_their_order_does(ConceptGrammar(**spec), stream(0))


# Operators, and batches of each kind -------------------------------------------------------------------------------


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


def prompts_of(task, batch):
    return batch.tokens[:, : task.prompt].tolist()


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
        assert labels["symbol"][row].tolist() == [NOWHERE] * 4 + each + [NOWHERE] * (task.context - 4 - task.answer)
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


HOLDS = {
    "safe": {"A": "MS", "B0": "S"},
    "unsafe": {"A": "U", "B0": "MU"},
    "competing-task": {"A": "SU", "B0": "SU"},
    "competing-text": {"half": "M"},
    "mismatched-text": {"B1": "M"},
    "mismatched-token": {"A": "D", "B0": "D"},
}
"""Of each kind, its texts, and the classes of operators that may be asked of them."""


def may_hold(kind):
    """What a kind may hold: classes of operators, the identity left out, with what the text is of."""
    some = itertools.combinations_with_replacement
    asked = {text: {"".join(c) for n in (1, 2) for c in some(letters, n)} for text, letters in HOLDS[kind].items()}
    return {(c, text) for text in asked for c in ({"SU"} if kind == "competing-task" else asked[text])}


def described(task, prompt):
    """The classes of the operators, the identity left out, with what the text is of, read from names and tree."""
    symbols = task.grammar.parse(prompt[task.text])
    found = set(symbols)
    text = "A" if found <= {"A0", "A1"} else symbols[0] if len(found) == 1 else "mixed"
    if text == "mixed" and "B1" not in found and symbols.count("B0") == len(symbols) // 2:
        text = "half"
    return "".join(sorted(name[0] for name in decode(task, prompt[1:3]) if name != "id")), text


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
@given(drawn(), seeds)
def test_every_task_obeys_all_laws_of_batches_with_prompts_of_every_kind(made, seed):
    task, kind = made
    batch = task.sample(stream(seed), 8, kind=kind)
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


# Shares and sets ---------------------------------------------------------------------------------------------------


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


# Mistakes ----------------------------------------------------------------------------------------------------------

EVEN = "letters in the triples of a top symbol, or some are commoner and give the concept away; for example"
GRAMMAR_MISTAKES = [
    ({"letters": 3}, "letters=3: must be at least 4, or triples run out; for example 12"),
    ({"levels": 1}, "levels=1: must be at least 2: top symbols, and their children"),
    ({"letters": 7}, f"letters=7: must divide the 12 {EVEN} 12"),
    ({"letters": 16, "levels": 3}, f"letters=16: must divide the 24 {EVEN} 24"),
    ({"letters": 12, "alternatives": 1}, f"letters=12: must divide the 6 {EVEN} 6"),
    ({"letters": 6, "levels": 3}, "letters=6: too few for 16 triples; give more letters"),
]
TASK_MISTAKES = [
    *(({name: 0, "duplicates": 0}, f"{name}=0: must be at least 1") for name in ("nodes", "safe", "unsafe", "mixed")),
    *(({name: -1}, f"{name}=-1: must be at least 0") for name in ("soft_slots", "seed")),
    *(({"duplicates": n}, f"duplicates={n}: must be from 0 to unsafe=2, whose operators they copy") for n in (-1, 3)),
    ({"rarity": 0.5}, "rarity=0.5: must be at least 1 (as common as the others)"),
    *(({"constant": c}, f"constant={c}: is a share of prompts, from 0 to below 1, for example 0.03") for c in (-1, 1)),
]
KIND_MISTAKES = [
    ({}, "jailbreak", 0, f"there is no kind 'jailbreak'; there are {', '.join(KINDS)}"),
    *(({}, "safe", share, f"single={share}: is a share of prompts, from 0 to 1") for share in (1.5, -0.1, math.nan)),
    ({"duplicates": 0}, "mismatched-token", 0, "kind='mismatched-token': needs duplicates of at least 1"),
    ({"nodes": 1}, "competing-text", 0, "kind='competing-text': a text of both concepts needs nodes of at least 2"),
]


@pytest.mark.parametrize(("fields", "message"), [*GRAMMAR_MISTAKES, *TASK_MISTAKES], ids=str)
def test_settings_that_make_no_sense_raise(fields, message):
    assert said(TaskConcept, **fields) == message
    if (fields, message) in GRAMMAR_MISTAKES:
        assert said(ConceptGrammar, **fields) == message
    if "for example" in message:  # what is proposed is legal
        name, value = message.split("=")[0], float(message.split()[-1])
        TaskConcept(**fields | {name: int(value) if name == "letters" else value})


@pytest.mark.parametrize(("fields", "kind", "single", "message"), KIND_MISTAKES, ids=str)
def test_kinds_that_cannot_be_drawn_raise(fields, kind, single, message):
    task = TaskConcept(**fields)
    assert said(inspect.unwrap(TaskConcept._check), task, kind, single) == message  # types are checked before it could
    assert kind not in KINDS or said(task.sample, stream(0), 3, kind=kind, single=single) == message


def test_what_no_grammar_can_do_raises():
    grammar = ConceptGrammar()
    for length in (1, 5, 7):
        message = f"text of {length} letters: must be a multiple of 6, one top symbol each"
        assert said(grammar.parse, [0] * length) == message
    for kind in (ConceptGrammar, TaskConcept):  # at once, not when it is sampled
        assert said(kind, letters=8, levels=4) == "letters=8: no 32 different triples found; give more letters"


def test_a_split_without_prompts_of_a_kind_raises(monkeypatch):
    monkeypatch.setattr("toylab.tasks.task_concept._PATIENCE", 20)
    task = TaskConcept(**SMALL, mixed=1)  # one text, one operator: one prompt, which is in one split
    told = {split: said(task.sample, stream(0), 1, split, kind="mismatched-text", single=0) for split in SPLITS}
    empty = {s: f"split={s!r}: holds no prompt of kind 'mismatched-text' (none in 20 draws)" for s in SPLITS}
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
            problem = "has something else where operators and letters should stand"
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


def drawing(task, kinds, **others):
    """A draw of one kind as if it were another, or of all as if the task had other settings."""
    other = dataclasses.replace(task, **others)
    return {"_draw": lambda rng, rows, kind, single: TaskConcept._draw(other, rng, rows, kinds.get(kind, kind), single)}


def reads_any(grammar, wrong):
    """Texts are of A0 where the message of the true parser begins so."""
    true = ConceptGrammar.parse
    return {"parse": lambda text: ["A0"] if said(true, grammar, text).startswith(wrong) else true(grammar, text)}


def all_safe(batch):
    return dataclasses.replace(batch, labels={"unsafe": np.zeros(len(batch), dtype=bool)})


def triples(grammar, change):
    change(*np.split(grammar.triples, 2))
    return {}


# What a mutant has instead of its own members.
MUTANTS = {
    "B uses other letters": lambda g: triples(g, lambda a, b: np.copyto(b, b // 2)),
    "B turns triples": lambda g: triples(g, lambda a, b: np.copyto(b, np.roll(b, 1, axis=2))),
    "a triple of two symbols": lambda g: triples(g, lambda a, b: np.copyto(a[1, 0], a[0, 0])),
    "palindromic twins": lambda g: triples(g, lambda a, b: np.copyto(a[1, 0], b[0, 0])),
    "a child in common": lambda g: triples(g, lambda a, b: np.copyto(a[2], a[1])),
    "any triple is read": lambda g: reads_any(g, "letters"),
    "any pair is read": lambda g: reads_any(g, "level"),
    "nine texts": lambda g: {"generate": lambda *x: np.resize(ConceptGrammar.generate(g, *x)[:9], (len(x[1]), g.size))},
    "own duplicates": lambda t: {
        "bijections": np.concatenate([t.bijections[:-3], np.roll(t.bijections[-3:], 1, axis=1)])
    },
    "two to one": lambda t: {"bijections": np.where(t.bijections == 1, 0, t.bijections)},
    "second first": lambda t: {"transform": lambda p: TaskConcept.transform(t, p[:, [0, 2, 1, *range(3, t.prompt)]])},
    "labels backwards": lambda t: {"_batch": lambda p, top: TaskConcept._batch(t, p, top[:, ::-1])},
    "half is safe": lambda t: {"_unsafe": lambda ids, dose: TaskConcept._unsafe(t, ids, dose // t.nodes)},
    "never swapped": lambda t: {"preferences": lambda b: TaskConcept.preferences(t, all_safe(b))},
    "one concept competes": lambda t: drawing(t, {"competing-text": "unsafe"}),
    "tuned on B1": lambda t: drawing(t, {"unsafe": "mismatched-text"}),
    "common duplicates": lambda t: drawing(t, {}, rarity=1),
    "identity first": lambda t: {"_draw": lambda *x: [np.sort(y, axis=1) for y in TaskConcept._draw(t, *x)]},
    "leaky split": lambda t: {"sample": lambda rng, rows, split, **others: TaskConcept.sample(t, rng, rows, **others)},
}
GRAMMAR_MUTANTS = [
    ("B uses other letters", all_top_symbols_use_every_letter_equally_often),
    ("B uses other letters", counts_of_letters_do_not_tell_the_concepts_apart_but_their_order_does),
    ("B turns triples", the_other_concept_emits_triples_backwards),
    ("a triple of two symbols", every_text_has_one_tree),
    ("palindromic twins", every_text_has_one_tree),
    ("a child in common", the_symbols_of_a_concept_share_half_their_triples_or_none),
    ("any triple is read", a_changed_letter_is_refused_with_its_place),
    ("any pair is read", exchanged_parts_are_read_exactly_if_a_tree_emits_them),
    ("nine texts", all_trees_are_equally_likely),
]
BATCH_MUTANTS = [
    ("own duplicates", "pretraining", operators_are_bijections_and_duplicates_do_what_they_copy),
    ("two to one", "pretraining", operators_are_bijections_and_duplicates_do_what_they_copy),
    ("second first", "pretraining", all_pairs_of_operators_do_what_the_oracle_says),
    ("labels backwards", "pretraining", prompts_and_labels_are_laid_out_as_said),
    ("half is safe", "competing-text", what_should_be_refused_is_what_names_and_tree_say),
    ("never swapped", "pretraining", preferences_are_swapped_where_a_prompt_is_unsafe),
    ("tuned on B1", "unsafe", only_what_a_kind_may_hold_is_drawn),
]
SET_MUTANTS = [
    ("one concept competes", "competing-text", all_that_a_kind_may_hold_is_drawn),
    ("identity first", "safe", the_identity_is_as_common_as_asked_and_never_twice),
    ("common duplicates", "pretraining", pretraining_draws_duplicates_rarely_and_all_else_evenly),
    ("one concept competes", "small", no_jailbreak_can_be_drawn_in_fine_tuning),
    ("tuned on B1", "small", no_jailbreak_can_be_drawn_in_fine_tuning),
    ("leaky split", "letters", no_prompt_is_in_two_splits_whatever_its_kind),
]


def broken(sound, mutant):
    """A copy that has other members in place of its own."""
    copy = dataclasses.replace(sound)
    copy.__dict__.update(MUTANTS[mutant](copy))
    return copy


@pytest.mark.parametrize(("mutant", "law"), GRAMMAR_MUTANTS, ids=named)
def test_a_broken_grammar_is_caught_by_its_law(mutant, law):
    law(ConceptGrammar(), stream(0))
    with pytest.raises(AssertionError):
        law(broken(ConceptGrammar(), mutant), stream(0))


@pytest.mark.parametrize(("mutant", "kind", "law"), BATCH_MUTANTS, ids=named)
def test_a_broken_batch_is_caught_by_its_law(mutant, kind, law):
    sound, task = TaskConcept(), broken(TaskConcept(), mutant)
    law(sound, kind, sound.sample(stream(0), 20, kind=kind))
    batch = task.sample(stream(0), 20, kind=kind)
    with pytest.raises(AssertionError):
        law(task, kind, batch)


@pytest.mark.parametrize(("mutant", "kind", "law"), SET_MUTANTS, ids=named)
def test_a_broken_set_is_caught_by_its_law(mutant, kind, law):
    fields = {"small": SMALL, "letters": {"letters": 6}}.get(kind, {"nodes": 4})  # sound ones obey, as is tested above
    with pytest.raises(AssertionError):
        law(broken(TaskConcept(**fields), mutant), kind)
