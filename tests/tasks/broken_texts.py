"""Tasks that are scored at every position and break one promise each, and the laws that must say so."""

import dataclasses

import numpy as np

from toylab.tasks import IGNORE, Dyck, laws


class Texts(Dyck):
    """Texts whose batches or answers are changed after the fact."""

    def batch(self, texts, pairs):
        batch = super().batch(texts, pairs)
        return dataclasses.replace(batch, **self.changes(batch))

    def changes(self, batch):
        return {}


class FirstPositionUnscored(Texts):
    def changes(self, batch):
        return {"targets": np.where(np.arange(batch.targets.shape[1]), batch.targets, IGNORE)}


class AnythingMayFollow(Texts):
    def solve(self, prompt):
        return list(range(len(self.vocabulary)))


class NothingMayClose(Texts):
    def solve(self, prompt):
        return [token for token in super().solve(prompt) if token < self.kinds]


class DepthOfTheNextPosition(Texts):
    def changes(self, batch):
        return {"labels": {**batch.labels, "depth": np.roll(batch.labels["depth"], -1, axis=1)}}


TEXT_MUTANTS = [
    (FirstPositionUnscored(), laws.scored_positions_are_one_run),
    (AnythingMayFollow(), laws.the_oracle_continues_every_prompt_with_the_targets),
    (NothingMayClose(), laws.the_oracle_continues_every_prompt_with_the_targets),
    (DepthOfTheNextPosition(), laws.labels_say_what_the_prompt_says),
]
