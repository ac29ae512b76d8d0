"""Laws of the iteration-head study that need no training."""

from collections import Counter
from dataclasses import replace

import pytest

from tasks import IGNORE, stream
from toylab.studies.iteration_head import IterationHeadStudy


@pytest.mark.parametrize("preset", ["quick", "default"])
def test_no_training_ends_because_guessing_is_often_right(preset):
    """The best constant answer, the whole of what is written, must stay clear of the value at which training stops."""
    for name, arm in getattr(IterationHeadStudy, preset)().arms().items():
        batch = arm.task.sample(stream(0, "guess"), 2000, length=arm.task.longest)
        answers = Counter(tuple(row[row != IGNORE].tolist()) for row in batch.targets)
        (_, count), *_ = answers.most_common(1)
        assert arm.train.stop_at > count / 2000 + 0.2, name


def test_what_is_given_as_no_stop_rule_is_none_in_every_arm():

    study = IterationHeadStudy()
    arms = replace(study, train=replace(study.train, stop_at=None)).arms()
    assert {arm.train.stop_at for arm in arms.values()} == {None}
