"""Laws of the iteration-head study that need no training."""

import itertools
from collections import Counter, defaultdict
from dataclasses import replace
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toylab.studies.iteration_head.exact import guess_accuracy
from toylab.studies.iteration_head.study import IterationHeadStudy
from toylab.tasks import IGNORE, Polynomial, stream


@pytest.mark.parametrize("preset", ["quick", "default"])
def test_no_training_ends_because_guessing_is_often_right(preset):
    """The best constant answer, the whole of what is written, must stay clear of the value at which training stops."""
    for name, condition in getattr(IterationHeadStudy, preset)().conditions().items():
        batch = condition.task.sample(stream(0, "guess"), 2000, length=condition.task.max_length)
        answers = Counter(tuple(row[row != IGNORE].tolist()) for row in batch.targets)
        (_, count), *_ = answers.most_common(1)
        assert condition.train.stop_at > count / 2000 + 0.2, name


def test_what_is_given_as_no_stop_rule_is_none_in_every_condition():

    study = IterationHeadStudy()
    conditions = replace(study, train=replace(study.train, stop_at=None)).conditions()
    assert {condition.train.stop_at for condition in conditions.values()} == {None}


# Guessing ------------------------------------------------------------------------------------------------------------


@given(
    st.sampled_from([2, 3, 5]),
    st.tuples(*[st.integers(0, 4)] * 4),
    st.sampled_from(["first-input", "zero"]),
    st.sets(st.integers(1, 4), min_size=1),
)
def test_guessing_is_as_good_as_the_best_guess_over_all_inputs(p, coefficients, start, lengths):
    task = Polynomial(p=p, coefficients=coefficients, start=start, lengths=(1, 4))
    last, right = Counter(), []
    for length in sorted(lengths):
        rows = list(itertools.product(task.inputs, repeat=length))
        seen = defaultdict(Counter)
        for inputs in rows:
            states = task.trace(list(inputs), None if start == "first-input" else 0)
            last[states[-1]] += 1 / len(rows)
            for t, state in enumerate(states):
                seen[t, states[t - 1] if t else None][state] += 1 / len(rows)
        right.append(sum(max(after.values()) for after in seen.values()) / length)
    found = guess_accuracy(task, sorted(lengths))
    assert found.constant == pytest.approx(max(last.values()) / len(lengths))
    assert found.blind == pytest.approx(fmean(right))
