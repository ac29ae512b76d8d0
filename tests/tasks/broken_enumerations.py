"""Tasks whose numbering of all rows is wrong."""

import dataclasses

from toylab.tasks import Polynomial


class ListedWithZero(Polynomial):
    def count(self, length):
        return self.p**length

    def enumerate(self, length, numbers):
        return Polynomial(p=self.p, lengths=self.lengths, zero_input=True).enumerate(length, numbers)


class ListedBackwards(Polynomial):
    def enumerate(self, length, numbers):
        return super().enumerate(length, self.count(length) - 1 - numbers)


class ListedInPart(Polynomial):
    def count(self, length):
        return super().count(length) - 5**length // 2


class ListedInOneSplit(Polynomial):
    def enumerate(self, length, numbers):
        batch = super().enumerate(length, numbers)
        return dataclasses.replace(batch, labels=batch.labels | {"split": batch.labels["split"] * 0})


class ListedWithWrongAnswers(Polynomial):
    def enumerate(self, length, numbers):
        batch = super().enumerate(length, numbers)
        targets = batch.targets.copy()
        targets[-1, -1] = 0
        return dataclasses.replace(batch, targets=targets)


ENUMERATIONS = (ListedWithZero, ListedBackwards, ListedInPart, ListedInOneSplit, ListedWithWrongAnswers)
