"""Laws of automata: an independent library reads every word as they do, and the known languages are theirs."""

import itertools
import re

import numpy as np
import pytest
from automata.fa.dfa import DFA
from hypothesis import given
from hypothesis import strategies as st

from toylab.console import ToylabError
from toylab.planted.handwritten import iteration_head
from toylab.tasks import Automaton, stream
from toylab.tasks.strategies import batches, instances
from toylab.training.evaluate import accuracy_of, predict_tokens

automata = instances(Automaton)


def library_automaton(task: Automaton) -> DFA:
    symbols = [str(symbol) for symbol in range(task.symbols)]
    rows = np.reshape(task.table, (-1, task.symbols)).tolist()
    return DFA(
        states={str(state) for state in range(len(rows))},
        input_symbols=set(symbols),
        transitions={str(s): dict(zip(symbols, map(str, row), strict=True)) for s, row in enumerate(rows)},
        initial_state="0",
        final_states={str(state) for state in task.accepting},
    )


@given(st.data())
def test_states_and_acceptance_are_those_of_automata_lib(data):
    task = data.draw(automata)
    library = library_automaton(task)
    word = data.draw(st.lists(st.integers(0, task.symbols - 1), min_size=1, max_size=12))
    text = "".join(map(str, word))
    visited = [int(state) for state in library.read_input_stepwise(text, ignore_rejection=True)]
    assert task.trace(word, 0) == visited[1:]
    assert task.run(np.array([word]))[0].tolist() == visited[1:]
    assert task.accepts(word) == library.accepts_input(text)


@given(st.data())
def test_the_label_of_a_row_is_whether_its_word_is_accepted(data):
    task = data.draw(automata)
    batch = data.draw(batches(task, "train"))
    library = library_automaton(task)
    words = ["".join(map(str, row[1 : 1 + n])) for row, n in zip(batch.tokens, batch.labels["length"], strict=True)]
    assert batch.labels["accepted"].tolist() == [library.accepts_input(word) for word in words]


@pytest.mark.parametrize(
    ("task", "belongs"),
    [
        (Automaton(), lambda word: word.count("1") % 3 == 0),
        (Automaton.parity(), lambda word: word.count("1") % 2 == 0),
        (Automaton.counter(5), lambda word: word.count("1") % 5 == 0),
        (Automaton.a_star_b_star(), lambda word: bool(re.fullmatch("0*1*", word))),
    ],
)
def test_a_named_automaton_accepts_its_language(task, belongs):
    for length in range(9):
        for word in itertools.product((0, 1), repeat=length):
            assert task.accepts(word) == belongs("".join(map(str, word))), word


def test_the_handwritten_iteration_head_runs_any_automaton():
    for seed in range(4):
        rng = np.random.default_rng(seed)
        table = tuple(rng.integers(4, size=12).tolist())
        task = Automaton(table=table, symbols=3, accepting=(0,), lengths=(1, 6))
        batch = task.sample(stream(seed), 60)
        assert accuracy_of(predict_tokens(iteration_head(task), batch), batch).token == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"table": (0, 1, 2)}, "table=.*3 entries; give symbols=2"),
        ({"table": ()}, "table="),
        ({"table": (0, 1, 2, 0)}, "table=.*the table has 2 states"),
        ({"accepting": (3,)}, "accepting=.*the table has 3 states"),
        ({"start": "first-input"}, "start='first-input'"),
        ({"symbols": 0}, "symbols=0"),
    ],
)
def test_an_impossible_table_is_refused(fields, message):
    with pytest.raises(ToylabError, match=message):
        Automaton(**fields)


def test_rows_of_several_lengths_and_symbols_outside_the_alphabet_are_refused():
    with pytest.raises(ToylabError, match="rows="):
        Automaton.from_rows([(0, 1), (1,)], [0])
    with pytest.raises(ToylabError, match="must be symbols, below 2"):
        Automaton().trace([0, 2], 0)
