"""Laws of scales token by token, and of features: kinds of positions, signs and ends, on answers written by hand."""

import math
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.model.small_steerings import numbers
from tests.studies.steering_vectors.helpers import ANS, DIRECT, EOS, TASK, THINK, chained, direct, few, seeds
from tests.studies.steering_vectors.worlds import CONTEXT, LAYERS, SEP, WIDTH, biased, drawn, questions, still, streams
from tests.studies.steering_vectors.worlds import writing as written
from toylab.model.steering import Scaled, Steered, steer
from toylab.model.transformer import Transformer
from toylab.probes import SparseAutoencoder, compare_features, explained_variance
from toylab.studies.steering_vectors import measures
from toylab.studies.steering_vectors.measures import fit_features, token_scales

VOCAB = len(TASK.vocabulary)


def up_to_the_end(said: list[int]) -> list[int]:
    """What is written, its end among it, but for the last place of the longest answer, which nobody reads."""
    return said[: TASK.answer - 1]


# Scales --------------------------------------------------------------------------------------------------------------


def placed(by_place: Tensor, by_token: Tensor, length: float, layer: int = 1) -> Steered:
    """What is added at a token is a number of its place and one of its token, times a vector of a given length."""
    model = still(0)
    with torch.no_grad():
        for parameter, start in ((model.positions.table, 0), (model.embedding.weight, CONTEXT)):
            parameter.zero_()
            parameter[:, start : start + len(parameter)] = torch.eye(len(parameter))
    held = Scaled(WIDTH).double()
    with torch.no_grad():
        held.vector.copy_(length * torch.eye(WIDTH)[-1])
        held.weight.zero_()
        held.weight[: CONTEXT + VOCAB] = torch.cat([by_place, by_token]) / math.sqrt(WIDTH / 2)
    return Steered(model, {layer: held})


@few
@given(seeds, st.floats(0.5, 4))
def test_scales_are_means_by_kind_of_position_up_to_the_end_and_positive_at_sep(seed, length):
    by_place, by_token = numbers(seed, CONTEXT), numbers(seed + 1, VOCAB)
    prompts, given = questions(seed, 8), lambda x: direct(x) if x[1] == 0 else chained(x)
    with written(given) as asked:
        found = token_scales(placed(by_place, by_token, length), TASK, prompts, 5)
    assert [seed for _, seed in asked] == [5]
    kinds: dict[str, list[float]] = {name: [] for name in ("BOS", "digits", "SEP", "opener", "chain")}
    columns: list[list[float]] = [[] for _ in range(CONTEXT)]
    for prompt in prompts.tolist():
        for place, token in enumerate(prompt + up_to_the_end(given(prompt))):
            size = length * (by_place[place] + by_token[token]).item()
            columns[place].append(size)
            kind = (
                ("BOS" if place == 0 else "digits")
                if place < SEP
                else {SEP: "SEP", SEP + 1: "opener"}.get(place, "chain")
            )
            kinds[kind].append(size)
    sign = math.copysign(1, sum(kinds["SEP"]))
    for kind, sizes in kinds.items():
        assert getattr(found, kind) == pytest.approx(np.abs(sizes).mean(), abs=1e-3)
        if kind in ("SEP", "opener", "chain"):
            assert getattr(found, f"{kind.lower()}_signed") == pytest.approx(sign * np.mean(sizes), abs=1e-3)
    assert found.by_position == pytest.approx([sign * np.mean(sizes) for sizes in columns], abs=1e-3)
    assert found.sep_signed > 0
    assert found.sep_lead == found.SEP - max(found.BOS, found.digits, found.opener, found.chain)


@pytest.mark.parametrize("sign", [1, -1])
def test_signs_are_those_of_sep_by_hand_on_two_rows(sign):
    by_token = torch.zeros(VOCAB)
    by_token[TASK.token("SEP")], by_token[THINK], by_token[DIRECT] = 2 * sign, 3 * sign, -1 * sign
    by_token[EOS] = -4 * sign
    prompts = questions(0, 20)
    prompts = torch.stack([next(row for row in prompts if (row[1] == 0) == zero) for zero in (True, False)])
    with written(lambda x: [DIRECT, EOS] if x[1] == 0 else [THINK, ANS, EOS]):
        found = token_scales(placed(torch.zeros(CONTEXT), by_token, 1.0), TASK, prompts)
    assert (found.BOS, found.digits, found.SEP, found.opener) == (0, 0, 2, 2)
    assert found.chain == pytest.approx(8 / 3, abs=1e-3)  # EOS, and ANS and EOS
    assert (found.sep_signed, found.opener_signed) == (2, 1)
    assert found.chain_signed == pytest.approx(-8 / 3, abs=1e-3)
    assert found.by_position == [0] * SEP + [2, 1, -2, -4] + [0] * (CONTEXT - SEP - 4)


def test_answers_without_a_chain_have_no_scale_there():
    with written(lambda x: [EOS]):
        found = token_scales(placed(torch.ones(CONTEXT), torch.zeros(VOCAB), 1.0), TASK, questions(0, 3))
    assert (found.opener, found.chain, found.chain_signed) == (1, 0, 0)


# Features ------------------------------------------------------------------------------------------------------------


BAR = 0.5


class Coordinates(SparseAutoencoder):
    """A feature for each coordinate of the stream, active where it is far above 0."""

    def __init__(self) -> None:
        super().__init__(WIDTH, WIDTH, WIDTH)
        with torch.no_grad():
            self.encoder.copy_(torch.eye(WIDTH))
            self.decoder.copy_(torch.eye(WIDTH))
            self.threshold.fill_(-BAR)
        self.double()


def early(x: list[int]) -> list[int]:
    """A chain that lacks its last step, as a rule with a wrong answer."""
    *chain, _, _, _, _ = chained(x)
    return [*chain, ANS, chain[-1], EOS]


def posing(x: list[int]) -> list[int]:
    """No chain, whose last step but one stands where that of a chain does."""
    return [DIRECT, *chained(x)[1:]]


def mixed(x: list[int]) -> list[int]:
    """Of six kinds, right, wrong, and right by luck."""
    kinds: list[Callable] = [chained, early, direct, lambda x: direct(x, more=1), posing, early]
    return kinds[(x[1] + 3 * x[2] + x[3] + x[4]) % 6](x)


def judged_by(kind: str, steered: Steered, moved: Transformer, rows: Tensor) -> Tensor:
    """The last layer's stream of the steered model, or its difference to the base, from SEP on."""
    found = streams(moved, rows, LAYERS - 1)
    return (found if kind == "plain" else found - streams(steered.model, rows, LAYERS - 1))[0, SEP:]


@pytest.mark.parametrize("seed", [0])
def test_features_are_of_what_is_written_up_to_its_end_and_tell_right_answers_from_wrong_ones(seed):
    """All numbers of both autoencoders, by slow loops over the second half of the answers."""
    model, prompts, vector = drawn(seed), questions(seed, 160), numbers(seed, WIDTH)
    steered, moved, fitted = steer(model, {1: vector}), biased(model, {1: vector}), []

    def fit(x: Tensor, *told: int, seed: int) -> Coordinates:
        fitted.append((x, (*told, seed)))
        return Coordinates()

    with pytest.MonkeyPatch.context() as patch, written(mixed) as asked:
        patch.setattr(measures, "fit_autoencoder", fit)
        found = fit_features(steered, TASK, prompts, seed + 3, dictionary=7, k=2, steps=9)
    assert [(rows.tolist(), told) for rows, told in asked] == [
        (prompts[:80].tolist(), seed + 3), (prompts[80:].tolist(), seed + 4),
    ]  # fmt: skip
    good, thinks, whole = [], [], []
    for prompt in prompts[80:].tolist():
        said = mixed(prompt)
        good.append(bool(TASK.verify(np.array([prompt]), np.array([said]))[0]))
        thinks.append(said[0] == THINK)
        whole.append(said[:-2] == chained(prompt)[:-2])

    def apart(held: list[bool], good: list[bool]) -> tuple[float, float]:
        """The share of right answers in which something holds, and of wrong ones."""
        sides = [[one for one, right in zip(held, good, strict=True) if right == side] for side in (True, False)]
        return sum(sides[0]) / len(sides[0]), sum(sides[1]) / len(sides[1])

    good, thinks, whole, chosen = good[1::2], thinks[1::2], whole[1::2], good[::2]
    for kind, (x, told) in zip(("plain", "difference"), fitted, strict=True):
        each = [judged_by(kind, steered, moved, torch.tensor([row + mixed(row)[:-1]])) for row in prompts.tolist()]
        torch.testing.assert_close(x, torch.cat(each[:80]), rtol=0, atol=1e-10)
        assert told == (7, 2, 9, seed + 3)
        fires = [[bool((stream[:, f] > BAR).any()) for f in range(WIDTH)] for stream in each[80:]]
        gaps = [apart([row[f] for row in fires[::2]], chosen) for f in range(WIDTH)]
        best = max(range(WIDTH), key=lambda f: abs(gaps[f][0] - gaps[f][1]))
        fires = [row[best] for row in fires[1::2]]
        agree = sum(row == one for row, one in zip(fires, thinks, strict=True)) / 40
        one, judged = getattr(found, kind), torch.cat(each[80:])
        (inside, outside), trivial, form = apart(fires, good), apart(thinks, good), apart(whole, good)
        luck = compare_features(torch.tensor(fires)[:, None], torch.tensor(good), seed=seed + 3)
        expected = {
            "feature": best, "inside": inside, "outside": outside, "difference": inside - outside,
            "chance": luck.chance, "agreement": max(agree, 1 - agree),
            "explained_variance": explained_variance(Coordinates(), judged),
            "dead": 1 - sum(map(any, zip(*(judged > BAR).tolist(), strict=True))) / WIDTH,
            "trivial_difference": abs(trivial[0] - trivial[1]), "format_difference": abs(form[0] - form[1]),
            "auc": 0.5 + abs(inside - outside) / 2,
        }  # fmt: skip
        assert asdict(one) == pytest.approx(expected, abs=1e-6)
        assert 0 < one.chance < 1
        assert trivial[0] < trivial[1]  # or a difference with its sign would be the same
        assert form[0] != form[1]
    assert found.plain != found.difference


def test_a_feature_does_not_fire_after_the_end():
    """Where each place has a coordinate, those behind the end tell long answers, which are wrong, from short ones."""
    steered = placed(numbers(0, CONTEXT), torch.zeros(VOCAB), 1.0)
    with pytest.MonkeyPatch.context() as patch, written(lambda x: direct(x) if x[1] == 0 else [ANS] * TASK.answer):
        patch.setattr(measures, "fit_autoencoder", lambda *told, **named: Coordinates())
        found = fit_features(steered, TASK, questions(0, 40)).plain
    assert (found.feature, found.inside, found.outside, found.difference, found.auc) == (SEP + 3, 0, 1, -1, 1)
