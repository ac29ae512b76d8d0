"""Laws of the linear probe: it finds what is planted, its controls find nothing, and no sequence is on both sides."""

import inspect

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toylab.probes import linear_probe
from toylab.probes.linear import _fit

SEEDS = st.integers(0, 2**31)
few = settings(max_examples=5)
SEQUENCES, TOKENS, FEATURES = 20, 10, 6


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def groups(sequences: int = SEQUENCES, tokens: int = TOKENS) -> torch.Tensor:
    return torch.arange(sequences).repeat_interleave(tokens)


def planted(seed: int, classes: int, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens in clouds around one random point a class, and their classes."""
    labels = torch.randint(classes, (SEQUENCES * TOKENS,), generator=torch.Generator().manual_seed(seed))
    labels[:classes] = torch.arange(classes)
    return 6 * normal(3, classes, FEATURES)[labels] + noise * normal(seed + 1, len(labels), FEATURES), labels


# What it finds -------------------------------------------------------------------------------------------------------


@few
@given(SEEDS, st.sampled_from([2, 3, 4]))
def test_a_label_that_is_planted_far_apart_is_always_found(seed, classes):
    features, labels = planted(seed, classes, noise=0.3)
    assert linear_probe(features, labels, groups(), np.random.default_rng(seed)).accuracy == 1


def test_a_label_that_only_a_curve_parts_is_not_found():
    # A ring around a disk: the probe is linear, so it must fail where a bigger one would not.
    angle, label = torch.arange(400).double(), torch.arange(400) % 2
    ring = torch.stack([angle.cos(), angle.sin()], dim=1) * (1 + label[:, None])
    found = linear_probe(ring, label, torch.arange(400) // 10, np.random.default_rng(0))
    assert found.accuracy < 0.65
    squared = torch.cat([ring, ring.square()], dim=1)
    assert linear_probe(squared, label, torch.arange(400) // 10, np.random.default_rng(0)).accuracy == 1


def test_a_probe_of_shuffled_labels_is_about_as_good_as_the_commonest_answer():
    found = []
    for seed in range(12):
        features, labels = planted(seed, 2, noise=0.3)
        features = torch.cat([features, normal(seed + 50, len(labels), 20)], dim=1)
        found.append(linear_probe(features, labels, groups(), np.random.default_rng(seed)))
    assert all(one.accuracy == 1 for one in found)
    assert np.mean([one.shuffled for one in found]) == pytest.approx(np.mean([one.majority for one in found]), abs=0.08)


def test_features_that_know_nothing_of_the_label_do_not_beat_the_controls():
    scores = []
    for seed in range(12):
        labels = (torch.rand(400, generator=torch.Generator().manual_seed(seed)) < 0.75).long()
        found = linear_probe(normal(seed, 400, 3), labels, groups(40), np.random.default_rng(seed))
        scores.append((found.accuracy - found.majority, found.shuffled - found.majority))
    assert np.abs(np.mean(scores, axis=0)).max() < 0.02


# Both sides ----------------------------------------------------------------------------------------------------------


@few
@given(SEEDS)
def test_no_sequence_stands_on_both_sides(seed):
    # A feature names the sequence, and each sequence has one label: whoever met it knows the answer. On sequences
    # never met, all such features are alike, so the probe can give but one answer.
    of_sequence = torch.randint(2, (SEQUENCES,), generator=torch.Generator().manual_seed(seed))
    of_sequence[:2] = torch.tensor([0, 1])
    labels, names = of_sequence[groups()], torch.eye(SEQUENCES)[groups()]
    found = linear_probe(names, labels, groups(), np.random.default_rng(seed))
    held = np.random.default_rng(seed).permutation(SEQUENCES)[SEQUENCES // 2 :]
    ones = of_sequence[held].double().mean().item()
    assert found.accuracy in (pytest.approx(ones), pytest.approx(1 - ones))
    # The same where tokens of a sequence stand on both sides: then it does know.
    leaking = linear_probe(names, labels, torch.arange(len(labels)) % TOKENS, np.random.default_rng(seed))
    assert leaking.accuracy == 1


@few
@given(SEEDS, st.sampled_from([1e3, -1e6]))
def test_a_token_that_is_scored_changes_no_answer_but_its_own(seed, far):
    features, labels = planted(seed, 3, noise=0.3)
    scored = np.random.default_rng(seed).permutation(SEQUENCES)[-1]
    features[scored * TOKENS] = far
    found = linear_probe(features, labels, groups(), np.random.default_rng(seed))
    assert found.accuracy >= 1 - 1.01 / (SEQUENCES // 2 * TOKENS)


@few
@given(SEEDS)
def test_only_which_tokens_are_of_one_sequence_matters_not_their_order(seed):
    features, labels = planted(seed, 3, noise=4.0)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    one = linear_probe(features, labels, groups(), np.random.default_rng(seed))
    other = linear_probe(features[order], labels[order], groups()[order], np.random.default_rng(seed))
    assert one.accuracy == pytest.approx(other.accuracy, abs=0.011)
    assert one.majority == other.majority


def test_the_commonest_answer_is_that_of_the_fitted_half_scored_on_the_other():
    rng = np.random.default_rng(0)
    first, second = np.random.default_rng(0).permutation(2)
    labels = torch.zeros(8, dtype=torch.long)
    one, other = torch.arange(8) // 4 == first, torch.arange(8) // 4 == second
    labels[one] = torch.tensor([1, 1, 1, 0])
    labels[other] = torch.tensor([0, 0, 1, 0])
    assert linear_probe(normal(0, 8, 2), labels, torch.arange(8) // 4, rng).majority == 0.25


def test_a_label_never_met_in_fitting_is_merely_wrong():
    first, _ = np.random.default_rng(0).permutation(2)
    which = torch.arange(8) // 4
    labels = torch.where(which == first, torch.arange(8) % 2, 2)
    assert linear_probe(normal(0, 8, 2), labels, which, np.random.default_rng(0)).accuracy == 0


# What does not matter ------------------------------------------------------------------------------------------------


@few
@given(SEEDS, st.sampled_from([1e-6, 0.1, 1e5]), st.sampled_from([0.0, -3.0, 100.0]))
def test_scale_and_origin_of_the_features_do_not_matter(seed, scale, shift):
    features, labels = planted(seed, 3, noise=5.0)
    scales = scale * torch.arange(1, FEATURES + 1)
    one = linear_probe(features, labels, groups(), np.random.default_rng(seed))
    other = linear_probe((features + shift) * scales, labels, groups(), np.random.default_rng(seed))
    assert other.accuracy == pytest.approx(one.accuracy, abs=0.011)
    assert other.shuffled == pytest.approx(one.shuffled, abs=0.011)
    assert other.majority == one.majority
    assert 0.4 < one.accuracy < 1


def test_a_feature_that_never_changes_adds_nothing_and_breaks_nothing():
    features, labels = planted(0, 3, noise=5.0)
    dull = torch.cat([features, torch.full((len(labels), 1), 7.0)], dim=1)
    assert linear_probe(dull, labels, groups(), np.random.default_rng(0)) == linear_probe(
        features, labels, groups(), np.random.default_rng(0)
    )


def test_the_generator_decides_everything_and_no_gradient_is_left():
    features, labels = planted(0, 3, noise=6.0)
    features.requires_grad_(True)
    kept = torch.get_rng_state()
    with torch.no_grad():
        one, same, other = (
            linear_probe(features.float(), labels, groups(), np.random.default_rng(seed)) for seed in (1, 1, 2)
        )
    assert one == same != other
    assert torch.equal(torch.get_rng_state(), kept)
    assert features.grad is None


# An oracle -----------------------------------------------------------------------------------------------------------


def minimum(x: np.ndarray, y: np.ndarray, classes: int, ridge: float) -> tuple[np.ndarray, float]:
    """Weights and offset with the least loss, and that loss, by scipy."""

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights, offset = flat[:-classes].reshape(x.shape[1], classes), flat[-classes:]
        logits = x @ weights + offset
        logs = logits - scipy.special.logsumexp(logits, axis=1, keepdims=True)
        missed = (np.exp(logs) - np.eye(classes)[y]) / len(x)
        slope = np.concatenate([(x.T @ missed + 2 * ridge * weights).ravel(), missed.sum(axis=0)])
        return -logs[np.arange(len(x)), y].mean() + ridge * (weights**2).sum(), slope

    start = np.zeros((x.shape[1] + 1) * classes)
    found = scipy.optimize.minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 3000})
    return found.x.reshape(-1, classes), found.fun


@few
@given(SEEDS, st.sampled_from([2, 3]), st.sampled_from([1e-4, 0.01, 1.0]))
def test_the_fit_is_scipys_minimum_of_the_same_loss(seed, classes, ridge):
    features, labels = planted(seed, classes, noise=6.0)
    features = (features - features.mean(dim=0)) / features.std(dim=0, correction=0)
    weights, least = minimum(features.numpy(), labels.numpy(), classes, ridge)
    found = _fit(features, labels, classes, ridge, steps=400)
    np.testing.assert_allclose(found[:-1].numpy(), weights[:-1], atol=2e-3)
    # A number added to all offsets changes nothing, and both start from 0.
    np.testing.assert_allclose(found[-1].numpy(), weights[-1], atol=2e-3)
    quick = _fit(features, labels, classes, ridge, steps=60).numpy()
    logits = features.numpy() @ quick[:-1] + quick[-1]
    logs = logits - scipy.special.logsumexp(logits, axis=1, keepdims=True)
    loss = -logs[np.arange(len(labels)), labels.numpy()].mean() + ridge * (quick[:-1] ** 2).sum()
    assert least - 1e-9 <= loss <= least + 1e-5


@few
@given(SEEDS, st.sampled_from([2, 3]))
def test_all_scores_are_those_of_the_whole_procedure_with_scipy(seed, classes):
    features, labels = planted(seed, classes, noise=8.0)
    found = linear_probe(features, labels, groups(), np.random.default_rng(seed))
    rng, x, y = np.random.default_rng(seed), features.numpy(), labels.numpy()
    ours = set(rng.permutation(SEQUENCES)[: SEQUENCES // 2].tolist())
    fit = np.array([group in ours for group in groups().tolist()])
    x = (x - x[fit].mean(axis=0)) / x[fit].std(axis=0)
    shuffled = y[fit][rng.permutation(fit.sum())]
    one_token = 1 / (~fit).sum()
    for target, score in ((y[fit], found.accuracy), (shuffled, found.shuffled)):
        weights, _ = minimum(x[fit], target, classes, 1e-4)
        right = ((x[~fit] @ weights[:-1] + weights[-1]).argmax(axis=1) == y[~fit]).mean()
        assert score == pytest.approx(right, abs=1.01 * one_token)  # one may lie on the border
    common = np.bincount(y[fit]).argmax()
    assert found.majority == pytest.approx((y[~fit] == common).mean())


# Mistakes ------------------------------------------------------------------------------------------------------------


def test_fewer_than_two_sequences_cannot_be_halved():
    alone = torch.zeros(4, dtype=torch.long)
    with pytest.raises(ValueError, match=r"groups=1: at least two sequences are needed, to fit on one and score on"):
        linear_probe(normal(0, 4, 2), torch.tensor([0, 1, 0, 1]), alone, np.random.default_rng(0))


@pytest.mark.parametrize("sizes", [(5, 4, 4), (4, 5, 4), (4, 4, 5)])
def test_arrays_of_different_lengths_are_refused_with_all_three_numbers(sizes):
    unchecked = inspect.unwrap(linear_probe)  # in tests, shapes are checked before it could
    labels, which = torch.arange(sizes[1]) % 2, torch.arange(sizes[2]) % 2
    message = "features={}, labels={}, groups={}: must".format(*sizes)
    with pytest.raises(ValueError, match=message):
        unchecked(normal(0, sizes[0], 2), labels, which, np.random.default_rng(0))


@few
@given(SEEDS, st.sampled_from([torch.bool, torch.uint8, torch.int32, torch.int64]))
def test_labels_and_groups_of_any_whole_type_give_the_same_scores(seed, kind):
    features, labels = planted(seed, 2, noise=5.0)
    expected = linear_probe(features, labels, groups(), np.random.default_rng(seed))
    for one in (labels.to(kind), labels.to(kind).numpy()):
        assert linear_probe(features, one, groups().int().numpy(), np.random.default_rng(seed)) == expected


def test_features_however_small_are_features():
    features, labels = planted(0, 3, noise=0.3)
    assert linear_probe(1e-20 * features, labels, groups(), np.random.default_rng(0)).accuracy == 1


@pytest.mark.parametrize(("label", "rule"), [(-1, "at least 0"), (0.5, "a whole number"), (np.nan, "a finite number")])
def test_labels_that_are_no_classes_are_refused(label, rule):
    unchecked, labels = inspect.unwrap(linear_probe), torch.zeros(8)
    labels[3] = label
    with pytest.raises(ValueError, match=rf"^labels: holds .* at \[3\]; every entry must be {rule}"):
        unchecked(normal(0, 8, 2), labels, torch.arange(8), np.random.default_rng(0))


def test_no_tokens_at_all_are_refused():
    none = torch.zeros(0, dtype=torch.long)
    with pytest.raises(ValueError, match="groups=0: at least two sequences"):
        linear_probe(normal(0, 0, 2), none, none, np.random.default_rng(0))
