"""Laws of what is measured on changes of weights: every number of a layer is that of slow loops on its own matrices and
inputs; planted changes are found where they lie; the parts of a change add up."""

import json
import math
import statistics
from copy import deepcopy
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.studies.safety_finetuning.planted import HIDDEN, LAYERS, TASK, WIDTH, Planted, draw_sets
from toylab.model.controls import random_like
from toylab.model.transformer import Transformer
from toylab.probes import span_sine
from toylab.studies.safety_finetuning import measures as safety
from toylab.studies.safety_finetuning.data import MODEL, concept_model
from toylab.studies.safety_finetuning.results import SafeUnsafe, as_field
from toylab.tasks import stream

SMALL = replace(MODEL, width=16, heads=2)
MEASURED = ("safe", "unsafe", "M, safe text", "M, unsafe text")
seeds = st.integers(0, 2**31)


@pytest.fixture
def base() -> Transformer:
    return concept_model(TASK, SMALL, 0)


@pytest.fixture
def tuned(base) -> Transformer:
    """Another model of the same shape: a change of everything, at random."""
    other, generator = deepcopy(base), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in other.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=generator)
    return other


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def array(weight: torch.Tensor) -> np.ndarray:
    return weight.detach().double().numpy()


# Changes of one layer, by slow loops ---------------------------------------------------------------------------------


def strong(weight: np.ndarray, energy: float = 1.0) -> list[np.ndarray]:
    """Left singular directions, strongest first, until they hold this share of the energy: eigenvectors of W W^T."""
    values, vectors = np.linalg.eigh(weight @ weight.T)
    kept, held = [], 0.0
    for value, vector in sorted(zip(values, vectors.T, strict=True), key=lambda pair: -pair[0]):
        if held < energy * sum(values) - 1e-9:
            kept.append(vector)
            held += value
    return kept


def share_beyond(columns: np.ndarray, directions: list[np.ndarray]) -> float:
    """Of squared length."""
    rest = [column - sum((d @ column) * d for d in directions) for column in columns.T]
    return sum(column @ column for column in rest) / sum(column @ column for column in columns.T)


def matches(found, change: np.ndarray, weight: np.ndarray, energy: float = 1.0) -> bool:
    """Whether a share in the null space, with its baseline, is that of a change of this weight."""
    directions, (first, *_) = strong(weight, energy), strong(change)
    known = {
        "share": share_beyond(change, directions),
        "chance": 1 - len(directions) / len(weight),
        "k": len(directions),
        "top": share_beyond(first[:, None], directions),
    }
    return {name: getattr(found, name) for name in known} == pytest.approx(known, abs=1e-5) and found.spread > 0


def lengths(matrix: np.ndarray, inputs: np.ndarray) -> list[float]:
    return [math.hypot(*(row @ a for row in matrix)) for a in inputs]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return a @ b / math.sqrt((a @ a) * (b @ b))


@pytest.mark.parametrize("options", [{}, {"cut": 0.6}])
@settings(max_examples=2)
@given(seed=seeds)
def test_every_number_of_a_layer_is_that_of_slow_loops_on_its_own_weights_and_inputs(options, seed):
    sets, cut = draw_sets(seed, 4), options.get("cut", 0.9)
    base, tuned, rng = Planted(seed), Planted(seed + 1), stream(seed, "clouds")
    for model in (base, tuned):
        for layer in range(LAYERS):
            for point, size in (("ln2", WIDTH), ("ln1", WIDTH), ("mlp.post", HIDDEN), ("mlp.pre", HIDDEN)):
                means = {name: rng.normal(size=size) for name in sets}
                clouds = {name: rng.normal(means[name], 1, (len(batch), size)) for name, batch in sets.items()}
                model.show(f"blocks.{layer}.{point}", sets, clouds)

    def inputs(model: Planted, point: str, name: str) -> np.ndarray:
        return array(safety.answer_activations(model, TASK, sets[name], point)[point])

    rows = array(base.unembedding.weight)
    toward_null = array(base.ln_final.weight) * (rows[TASK.null] - sum(rows[: TASK.letters]) / TASK.letters)
    found = safety.weight_change(base, tuned, TASK, sets, **options)
    assert len(found) == LAYERS
    for layer, change in enumerate(found):
        mlps = [model.blocks[layer].mlp for model in (base, tuned)]
        (up, new_up), (down, new_down) = ([array(getattr(mlp, part).weight) for mlp in mlps] for part in ("up", "down"))
        d_up, d_down = new_up - up, new_down - down
        assert matches(change.up, d_up, up)
        assert change.up.size == pytest.approx(math.hypot(*d_up.ravel()) / math.hypot(*up.ravel()), rel=1e-5)
        assert matches(change.up_cut, d_up, up, cut)
        assert matches(change.down_cut, d_down, down, cut)
        assert matches(change.down_half, d_down, down, 0.5)
        for part, d in (("up", d_up), ("down", d_down)):
            energies = np.linalg.eigvalsh(d @ d.T)
            assert getattr(change.top_energy, part) == pytest.approx(max(energies) / sum(energies), rel=1e-5)
        moved, before = (math.hypot(*a.ravel(), *b.ravel()) for a, b in ((d_up, d_down), (up, down)))
        assert change.size == pytest.approx(moved / before, rel=1e-5)
        reads = strong(up.T, cut)
        assert change.weak_inputs_random == pytest.approx(1 - len(reads) / WIDTH)
        old, new = ({name: inputs(model, f"blocks.{layer}.ln2", name) for name in sets} for model in (base, tuned))
        for name in sets:
            pairs = zip(lengths(d_up, new[name]), lengths(up, new[name]), strict=True)
            expected = statistics.fmean(added / there for added, there in pairs)
            assert getattr(change.relative_change, as_field(name)) == pytest.approx(expected, rel=1e-4)
        for name in MEASURED:
            weak, gain = (getattr(part, as_field(name)) for part in (change.weak_inputs, change.amplification))
            expected = [statistics.fmean(share_beyond(a[:, None], reads) for a in held[name]) for held in (old, new)]
            assert weak == pytest.approx(expected, rel=1e-4)
            for k, (matrix, held) in enumerate(((up, old[name]), (new_up, new[name]))):
                ratios = [out / math.hypot(*a) for out, a in zip(lengths(matrix, held), held, strict=True)]
                assert gain[k] == pytest.approx(statistics.fmean(ratios), rel=1e-4)
        first_read = strong(d_up.T)[0]
        for name in ("safe", "unsafe"):
            added = getattr(change.added_null_share, name)
            assert added == pytest.approx(share_beyond(d_up @ new[name].T, strong(up)), abs=1e-5)
            cosines = [abs(cosine(a, first_read)) for a in new[name]]
            assert getattr(change.top_right_cosine, name) == pytest.approx(statistics.fmean(cosines), rel=1e-4)
            written = [d_down @ a for a in inputs(tuned, f"blocks.{layer}.mlp.post", name)]
            along = sum(cosine(out, toward_null) ** 2 * (out @ out) for out in written)
            expected = along / sum(out @ out for out in written)
            assert getattr(change.toward_null, name) == pytest.approx(expected, abs=1e-5)


# Planted changes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1.1, 0.7])
def test_an_up_projection_that_is_scaled_gains_as_much_in_its_layer_and_nothing_changes_in_the_other(base, factor):
    sets, tuned = draw_sets(0, 3), deepcopy(base)
    with torch.no_grad():
        tuned.blocks[1].mlp.up.weight *= factor
    first, last = safety.weight_change(base, tuned, TASK, sets)
    for name in map(as_field, MEASURED):
        for layer, expected in ((first, 1), (last, factor)):
            before, after = getattr(layer.amplification, name)
            assert after / before == pytest.approx(expected, rel=1e-5)
            assert getattr(layer.weak_inputs, name)[0] == pytest.approx(getattr(layer.weak_inputs, name)[1])
        assert getattr(last.relative_change, name) == pytest.approx(abs(factor - 1), abs=1e-5)
    assert last.up.size == pytest.approx(abs(factor - 1), abs=1e-5)
    assert last.up.share == pytest.approx(0, abs=1e-5)
    assert (first.relative_change.safe, first.up.size, first.up.share) == (0, 0, 0)
    assert first.top_right_cosine == SafeUnsafe(safe=0.0, unsafe=0.0)
    json.dumps([asdict(first), asdict(last)], allow_nan=False)  # of a change of nothing, too, everything is a number


def test_a_planted_change_is_found_where_it_was_planted(base):
    sets, planted = draw_sets(0, 12), deepcopy(base)
    up, down = planted.blocks[1].mlp.up.weight, planted.blocks[1].mlp.down.weight
    null = torch.linalg.svd(up.double())[0][:, 16:].float()
    unsafe = safety.answer_activations(base, TASK, sets["unsafe"], "blocks.1.mlp.post")["blocks.1.mlp.post"]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        up += 0.1 * null @ torch.randn(null.shape[1], 16, generator=generator)
        down += 0.1 * torch.outer(safety.null_direction(base, TASK), unsafe.mean(dim=0))
    _, last = safety.weight_change(base, planted, TASK, sets)
    assert last.up.share == pytest.approx(1, abs=1e-5)
    assert last.added_null_share.safe == pytest.approx(1, abs=1e-5)
    assert last.toward_null.unsafe == pytest.approx(1, abs=1e-4)
    assert last.top_energy.down == pytest.approx(1, abs=1e-4)


def test_the_null_direction_is_what_the_last_norm_lets_through_to_null_and_not_to_the_letters(base):
    with torch.no_grad():
        base.ln_final.weight.copy_(torch.linspace(0.5, 2, 16))
    found, rows = array(safety.null_direction(base, TASK)), array(base.unembedding.weight)
    for i, (scale, column) in enumerate(zip(np.linspace(0.5, 2, 16), rows.T, strict=True)):
        letters = statistics.fmean(column[: TASK.letters])
        assert found[i] == pytest.approx(scale * (column[TASK.null] - letters), abs=1e-6)
    logits = rows @ (np.linspace(0.5, 2, 16) * found)
    assert logits[TASK.null] > logits[: TASK.letters].mean()


# The change as a whole -----------------------------------------------------------------------------------------------


def test_the_size_of_a_change_is_relative_to_the_weights_before(base):
    """The up-projection of the second layer is doubled, its down-projection stays."""
    tuned = deepcopy(base)
    with torch.no_grad():
        tuned.blocks[1].mlp.up.weight *= 2
    up, down = (math.hypot(*array(part.weight).ravel()) for part in (base.blocks[1].mlp.up, base.blocks[1].mlp.down))
    assert safety.sizes(base, tuned) == [0, pytest.approx(up / math.hypot(up, down), rel=1e-5)]
    assert safety.sizes(tuned, base)[1] == pytest.approx(up / math.hypot(2 * up, down), rel=1e-5)


def test_the_released_measure_is_of_the_last_layer_beside_random_changes_of_its_size(base, tuned):
    before, after = (model.blocks[-1].mlp.up.weight for model in (base, tuned))
    found = safety.released_sine(base, tuned, 0, draws=40)
    for form, rows in ((found.columns, False), (found.rows, True)):
        assert form.own == span_sine(after, before, rows=rows)
        assert form.spread > 0
    again = [random_like(after - before, torch.Generator().manual_seed(k)) for k in range(40)]
    sines = [span_sine(before + one, before) for one in again]
    assert found.columns.random == pytest.approx(statistics.fmean(sines), abs=4 * found.columns.spread / 40**0.5)
    assert found.columns.spread == pytest.approx(statistics.pstdev(sines), rel=0.6)
    assert found == safety.released_sine(base, tuned, 0, draws=40) != safety.released_sine(base, tuned, 1, draws=40)
    same = safety.released_sine(base, base, 0).columns
    assert (same.own, same.random, same.spread) == pytest.approx((0, 0, 0), abs=1e-6)


# Parts of a change ---------------------------------------------------------------------------------------------------


@given(st.floats(-1, 3))
@settings(max_examples=5)
def test_interpolation_moves_on_a_line_and_leaves_both_ends_alone(alpha):
    base, tuned = Planted(0), Planted(1)
    before = deepcopy(base), deepcopy(tuned)
    mixed = safety.interpolate_weights(base, tuned, alpha)
    for weight, start, end in zip(mixed.parameters(), base.parameters(), tuned.parameters(), strict=True):
        assert torch.allclose(weight, (1 - alpha) * start + alpha * end, atol=1e-5)
    assert same(base, before[0])
    assert same(tuned, before[1])


def test_the_ends_of_the_line_are_the_two_models_and_it_goes_on_as_it_came():
    """Whole numbers, so that nothing is rounded."""
    base, tuned = Planted(0), Planted(1)
    with torch.no_grad():
        for weight in (*base.parameters(), *tuned.parameters()):
            weight.copy_((8 * weight).round())
    for alpha in (0, 0.5, 1, 2):
        mixed = safety.interpolate_weights(base, tuned, alpha).parameters()
        for weight, start, end in zip(mixed, base.parameters(), tuned.parameters(), strict=True):
            assert torch.equal(weight, {0: start, 0.5: (start + end) / 2, 1: end, 2: end + end - start}[alpha])


def test_parts_of_a_change_are_what_their_names_say(base, tuned):
    ends = deepcopy(base), deepcopy(tuned)
    parts = {name: dict(part.named_parameters()) for name, part in safety.transplant_parts(base, tuned).items()}
    assert [as_field(name) for name in parts] == [
        "up_in_the_column_space", "up_in_the_null_space", "mlps_alone", "all_but_the_mlps", "mlps_rank_1",
    ]  # fmt: skip
    own, start = dict(tuned.named_parameters()), dict(base.named_parameters())
    for name in own:
        inside, matrix = ".mlp." in name, own[name].ndim == 2
        assert torch.equal(parts["MLPs alone"][name], own[name] if inside else start[name])
        assert torch.equal(parts["all but the MLPs"][name], start[name] if inside else own[name])
        one = parts["MLPs, rank 1"][name]
        if inside and matrix:
            u, s, v = np.linalg.svd(array(own[name] - start[name]))
            assert np.allclose(array(one - start[name]), s[0] * np.outer(u[:, 0], v[0]), atol=1e-5)
        else:
            assert torch.equal(one, own[name] if inside else start[name])
        for space in ("column", "null"):
            if not name.endswith("mlp.up.weight"):
                assert torch.equal(parts[f"up in the {space} space"][name], own[name])
    for layer in range(2):
        name = f"blocks.{layer}.mlp.up.weight"
        weight, change = array(start[name]), array(own[name] - start[name])
        fitted = weight @ np.linalg.lstsq(weight, change, rcond=None)[0]
        assert np.abs(fitted).max() > 0.01 < np.abs(change - fitted).max()
        assert np.allclose(array(parts["up in the column space"][name]) - weight, fitted, atol=1e-5)
        assert np.allclose(array(parts["up in the null space"][name]) - weight, change - fitted, atol=1e-5)
    assert same(base, ends[0])
    assert same(tuned, ends[1])
