"""Laws of the answers to a string, and of the oracle, and what is refused."""

import re

import numpy as np
import pytest

from tests.tasks.counting_text import ANSWERS, ask, laid_out
from toylab.tasks import IGNORE, ContextualCounting, decode, encode, stream


@pytest.mark.parametrize(
    ("prompt", "answer", "written"),
    [
        ("BoS 1 [ 0 1 1 ] 1 [ ] 0 =", "counts", "n2 n0 EoS"),
        ("BoS 1 [ 0 1 1 ] 1 [ ] 0 =", "regions", "[ 0 1 1 ] n2 [ ] n0 EoS"),
        ("BoS 1 [ 0 1 1 ] 1 [ ] 0 =", "running", "[ 0 n0 1 n1 1 n2 ] n2 [ ] n0 EoS"),
        ("[ ] =", "counts", "n0 EoS"),
        ("[ ] =", "regions", "[ ] n0 EoS"),
        ("[ ] =", "running", "[ ] n0 EoS"),
        ("[ 1 ] [ 1 0 1 ] =", "counts", "n1 n2 EoS"),
        ("[ 1 ] [ 1 0 1 ] =", "regions", "[ 1 ] n1 [ 1 0 1 ] n2 EoS"),
        ("[ 1 ] [ 1 0 1 ] =", "running", "[ 1 n1 ] n1 [ 1 n1 0 n1 1 n2 ] n2 EoS"),
    ],
)
def test_answers_worked_out_by_hand(prompt, answer, written):
    task = ContextualCounting(begin="BoS" in prompt, answer=answer)
    assert decode(task, task.solve(encode(task, prompt.split()))) == written.split()
    batch = laid_out(task, re.sub("BoS|[ =]", "", prompt))
    assert decode(task, batch.tokens[0].tolist()) == [*prompt.split(), *written.split()[:-1]]
    assert decode(task, batch.targets[0, len(prompt.split()) - 1 :].tolist()) == written.split()
    assert set(batch.targets[0, : len(prompt.split()) - 1].tolist()) == {IGNORE}


# What is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["length", "regions"])
@pytest.mark.parametrize("given", [0, -3, (0, 4), (9, 8), (-2, -1)])
def test_lengths_and_regions_that_are_no_range_raise(name, given):
    say = re.escape(f"{name}={given}: give at least 1, or a range from low to high, such as ")
    with pytest.raises(ValueError, match=f"^{say}"):
        ContextualCounting(**{name: given})


@pytest.mark.parametrize(
    ("length", "regions", "most"), [(7, 4, 4), ((3, 60), 2, 2), (5, (1, 3), 3), ((1, 9), (1, 1), 1)]
)
def test_a_length_without_room_for_the_brackets_raises(length, regions, most):
    say = re.escape(f"length={length}: {most} regions have {2 * most} brackets; give at least that length")
    with pytest.raises(ValueError, match=f"^{say}$"):
        ContextualCounting(length=length, regions=regions)


@pytest.mark.parametrize("p", [-0.1, 1.01, 2, -1])
def test_a_p_that_is_no_probability_raises(p):
    with pytest.raises(ValueError, match=f"^p={p}: must be at least 0 and at most 1; it is a probability$"):
        ContextualCounting(p=p)


@pytest.mark.parametrize(
    ("given", "regions", "length"),
    [
        ({"regions": 0}, 0, 20),
        ({"regions": -1}, -1, 20),
        ({"regions": 11}, 11, 20),
        ({"length": 3}, 2, 3),
        ({"length": 0}, 2, 0),
        ({"length": -1}, 2, -1),
        ({"length": np.array([9, 9, 5]), "regions": np.array([1, 4, 3])}, 3, 5),
    ],
)
def test_sizes_that_cannot_be_drawn_raise(given, regions, length):
    say = f"^regions={regions}: must be at least 1, and their brackets must fit into length={length}$"
    with pytest.raises(ValueError, match=say):
        ContextualCounting(length=20, regions=2).sample(stream(0), 3, **given)


@pytest.mark.parametrize("wrong", ["[", "]", "0]1[", "[1[0]1]", "[1]]", "[[1]", "[0][1", "[1]0]["])
@pytest.mark.parametrize("beside", [[], ["0[1]"], ["0[1]", "[][]0"]])
def test_strings_that_are_not_closed_one_after_another_raise(wrong, beside):
    say = f"^row {len(beside)}: regions must be opened and closed one after the other$"
    with pytest.raises(ValueError, match=say):
        laid_out(ContextualCounting(), *beside, wrong, "[1]", wrong)


@pytest.mark.parametrize("token", [-1, 4, 5, 6, 9])
@pytest.mark.parametrize("place", [0, 2, 4])
def test_tokens_that_are_no_bits_and_no_brackets_raise(token, place):
    row = np.array([[0, 2, 1, 3, 0]])
    row[0, place] = token
    with pytest.raises(ValueError, match=r"^row 0: "):
        ContextualCounting().batch(row, np.array([5]))


@pytest.mark.parametrize(
    "names",
    [
        "BoS [ 1 =",
        "BoS 1 ] =",
        "BoS [ [ 1 ] ] =",
        "BoS ] [ =",
        "BoS [ 1 ] ] =",
        "BoS [ 1 ] [ =",
        "BoS 0 1 =",
        "BoS =",
        "[ 1 ] =",
        "BoS [ 1 ]",
        "BoS [ 1 ] = =",
        "BoS [ = ] =",
        "BoS BoS [ 1 ] =",
        "BoS [ BoS ] =",
        "BoS [ n1 ] =",
        "BoS [ 1 ] = n1",
        "BoS [ 1 ] = EoS",
        "",
    ],
)
def test_the_oracle_refuses_what_is_no_prompt_and_shows_it(names):
    task = ContextualCounting()
    prompt = encode(task, names.split())
    say = re.escape(f"prompt={prompt}: must be BoS, bits with regions [ ... ] one after another, '='")
    with pytest.raises(ValueError, match=f"^{say}$"):
        task.solve(prompt)


def test_the_oracle_without_a_begin_token_refuses_it_and_what_is_no_token():
    task = ContextualCounting(begin=False)
    for prompt in (encode(task, ["BoS", "[", "]", "="]), [2, -1, 3, 5], [2, 99, 3, 5]):
        with pytest.raises(ValueError, match=re.escape(f"prompt={prompt}: must be bits with regions")):
            task.solve(prompt)


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_count_without_a_name_raises_in_the_oracle_and_in_the_batch(answer):
    task = ContextualCounting(length=6, regions=1, p=1, answer=answer)
    say = "^count=7: this task names counts up to 6; raise length$"
    assert ask(task, "[111111]") == [6]
    with pytest.raises(ValueError, match=say):
        laid_out(task, "[1111111]")
    # The oracle meets the running count first, which is the same number here.
    with pytest.raises(ValueError, match=say):
        task.solve(encode(task, ["BoS", "[", *"1111111", "]", "="]))
