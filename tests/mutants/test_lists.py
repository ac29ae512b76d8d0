"""The lists of faults belong to the code as it is: each can be planted."""

import ast
from collections import Counter

from tests.mutants.run import ROOT, read_mutants

MUTANTS = read_mutants()


def test_every_fault_can_be_planted_and_is_a_program():
    sources = {file: (ROOT / file).read_text() for file in {one.file for one in MUTANTS}}
    for mutant in MUTANTS:
        assert mutant.old != mutant.new
        planted = mutant.planted(sources[mutant.file])
        if mutant.file.endswith(".py"):  # a script of a page need not be a program of Python
            ast.parse(planted)
        assert all((ROOT / test).exists() for test in mutant.tests), mutant.name


def test_names_are_unique():
    assert not [name for name, count in Counter(one.name for one in MUTANTS).items() if count > 1]
