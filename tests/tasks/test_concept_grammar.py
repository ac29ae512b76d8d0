"""Laws of grammars: what they emit and read, how the two concepts differ, and the mutants that break them."""

import itertools
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from tests.tasks.concepts import SPECS, TOP, broken, named, said, seeds, within_error
from toylab.tasks import ConceptGrammar, stream


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


@pytest.mark.parametrize("law", GRAMMAR_LAWS, ids=named)
@settings(max_examples=12)
@given(st.sampled_from(SPECS), seeds)
def test_every_grammar_obeys(law, spec, seed):
    law(ConceptGrammar(**spec, seed=seed), stream(seed))


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_what_a_grammar_draws_tells_the_concepts_apart_by_order_alone(spec):
    all_trees_are_equally_likely(ConceptGrammar(**spec), stream(0))
    counts_of_letters_do_not_tell_the_concepts_apart_but_their_order_does(ConceptGrammar(**spec), stream(0))


# The mutants: each breaks one promise, and the law named beside it must say so ---------------------------------------


def reads_any(grammar, wrong):
    """Texts are of A0 where the message of the true parser begins so."""
    true = ConceptGrammar.parse
    return {"parse": lambda text: ["A0"] if said(true, grammar, text).startswith(wrong) else true(grammar, text)}


def triples(grammar, change):
    change(*np.split(grammar.triples, 2))
    return {}


GRAMMAR_MEMBERS = {
    "B uses other letters": lambda g: triples(g, lambda a, b: np.copyto(b, b // 2)),
    "B turns triples": lambda g: triples(g, lambda a, b: np.copyto(b, np.roll(b, 1, axis=2))),
    "a triple of two symbols": lambda g: triples(g, lambda a, b: np.copyto(a[1, 0], a[0, 0])),
    "palindromic twins": lambda g: triples(g, lambda a, b: np.copyto(a[1, 0], b[0, 0])),
    "a child in common": lambda g: triples(g, lambda a, b: np.copyto(a[2], a[1])),
    "any triple is read": lambda g: reads_any(g, "letters"),
    "any pair is read": lambda g: reads_any(g, "level"),
    "nine texts": lambda g: {"generate": lambda *x: np.resize(ConceptGrammar.generate(g, *x)[:9], (len(x[1]), g.size))},
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


@pytest.mark.parametrize(("mutant", "law"), GRAMMAR_MUTANTS, ids=named)
def test_a_broken_grammar_is_caught_by_its_law(mutant, law):
    law(ConceptGrammar(), stream(0))
    with pytest.raises(AssertionError):
        law(broken(ConceptGrammar(), GRAMMAR_MEMBERS[mutant]), stream(0))
