"""The lists of faults belong to the code as it is: each can be planted."""

import ast
from collections import Counter

import pytest

from tests.mutants.run import ROOT, read_mutants

MUTANTS = read_mutants()


@pytest.mark.parametrize("mutant", MUTANTS, ids=[one.name for one in MUTANTS])
def test_a_fault_can_be_planted_and_changes_the_program(mutant):
    source = (ROOT / mutant.file).read_text()
    planted = mutant.planted(source)
    assert ast.dump(ast.parse(planted)) != ast.dump(ast.parse(source))
    assert mutant.tests
    assert all((ROOT / test).exists() for test in mutant.tests)


def test_names_are_unique():
    assert not [name for name, count in Counter(one.name for one in MUTANTS).items() if count > 1]
