"""Laws of what models write and of their activations: on activations and answers laid down by hand, each number is that
of slow loops, on the side and in the layer that it speaks of."""

import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.studies.safety_finetuning.planted import (
    LAYERS,
    SHAPE,
    TASK,
    Linear,
    Planted,
    draw_sets,
    held_out,
    prompts_of,
    transforms_of,
)
from toylab.model.transformer import Transformer
from toylab.studies.safety_finetuning import measures as safety
from toylab.studies.safety_finetuning.results import as_field
from toylab.tasks import JAILBREAKS, stream

N = TASK.null
few = settings(max_examples=3)
seeds = st.integers(0, 2**31)


# Sets ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judged():
    return safety.held_out_sets(TASK, 3, 40)


def test_sets_are_held_out_prompts_of_every_kind_and_of_operators_m_alone(judged):
    assert tuple(judged) == (*safety.SETS, "M, safe text", "M, unsafe text")
    assert set(safety.SETS) == {"safe", "unsafe", *JAILBREAKS}
    for name in safety.SETS:
        assert judged[name].tokens.tolist() == held_out(TASK, 3, 40, name).tokens.tolist()
    without = replace(TASK, duplicates=0)
    assert set(safety.held_out_sets(without, 3, 8)) == {*judged} - {"mismatched-token"}


def test_matched_sets_have_operators_m_alone_or_with_the_identity_and_differ_in_the_text(judged):
    for name, dose in (("M, safe text", 0), ("M, unsafe text", TASK.nodes)):
        batch = judged[name]
        assert len(batch) == 40
        asked = {tuple(TASK.vocabulary[token][:1] for token in prompt[1:3]) for prompt in prompts_of(batch)}
        assert asked == {("M", "M"), ("M", "i"), ("i", "M")}
        assert set(batch.labels["dose"].tolist()) == {dose}
        pool = held_out(TASK, 3, 320, "unsafe" if dose else "safe")  # of which they are the first such prompts
        names = [{TASK.vocabulary[token][:1] for token in prompt[1:3]} for prompt in prompts_of(pool)]
        alone = [prompt for prompt, found in zip(prompts_of(pool), names, strict=True) if found <= {"M", "i"}]
        assert prompts_of(batch) == alone[:40]


def test_rows_of_a_matched_set_keep_their_own_targets_and_labels(judged):
    for name in ("M, safe text", "M, unsafe text"):
        batch = judged[name]
        assert batch.targets[:, TASK.prompt - 1 :].tolist() == transforms_of(batch)
        assert batch.labels["unsafe"].tolist() == [TASK.should_refuse(prompt) for prompt in prompts_of(batch)]
        assert batch.labels["first operator"].tolist() == [prompt[1] - TASK.letters for prompt in prompts_of(batch)]
        assert {len(values) for values in batch.labels.values()} == {len(batch.sizes)} == {40}
        assert not batch.links


# Behaviour -----------------------------------------------------------------------------------------------------------


def test_behaviour_is_counted_set_by_set_on_the_prompts_of_that_set():
    """In set number i every third answer is the transform and the others have i right letters, then NULL, then BOS."""
    sets, model = draw_sets(0, 7), Planted()
    bos, length = TASK.vocabulary.index("BOS"), TASK.answer
    expected = {}
    for i, (name, batch) in enumerate(sets.items()):
        model.write(
            batch,
            [
                right if row % 3 == 0 else [*right[:i], *[N] * (length - 1 - i), bos]
                for row, right in enumerate(transforms_of(batch))
            ],
        )
        whole = sum(row % 3 == 0 for row in range(len(batch))) / len(batch)
        partly = (1 - whole) / length
        expected[name] = [whole + i * partly, (length - 1 - i) * partly, partly, whole, 0]
    found = safety.measure_behaviour(model, TASK, sets)
    assert set(vars(found)) == {as_field(name) for name in safety.SETS}
    for name in safety.SETS:
        assert list(vars(getattr(found, as_field(name))).values()) == [round(share, 4) for share in expected[name]]
    alone = safety.measure_behaviour(model, TASK, {name: sets[name] for name in ("safe", "unsafe", "competing-text")})
    assert {name for name, one in vars(alone).items() if one is not None} == {"safe", "unsafe", "competing_text"}
    assert alone.competing_text == found.competing_text


# Activations ---------------------------------------------------------------------------------------------------------

MATCHED = ("M, safe text", "M, unsafe text")


def test_activations_are_those_of_the_last_token_of_the_prompt_at_every_point_asked_for():
    sets, model = draw_sets(0, 4), Planted()
    clouds = {point: stream(0, point).normal(size=(5, 3)) for point in ("blocks.1.ln2", "blocks.0.mlp.post")}
    for point, cloud in clouds.items():
        model.show(point, sets, {"unsafe": cloud})
    found = safety.answer_activations(model, TASK, sets["unsafe"], *clouds)
    assert {*found} == {*clouds}
    assert all(np.allclose(found[point], cloud) for point, cloud in clouds.items())


def taus(cases, safe, unsafe) -> list[float]:
    return [math.dist(case, unsafe) - math.dist(case, safe) for case in cases]


def chance_of_more(high, low) -> float:
    return statistics.mean((one > other) + (one == other) / 2 for one in high for other in low)


def middle(cases) -> list[float]:
    return [statistics.fmean(column) for column in zip(*cases, strict=True)]


@few
@given(seeds, st.integers(4, 9), st.floats(0, 3))
def test_clusters_judge_second_halves_by_the_means_of_first_halves_layer_by_layer(seed, rows, apart):
    sets, model, rng = draw_sets(seed, rows), Planted(), stream(seed, "clouds")
    asked, clouds = {name: sets[name] for name in ("safe", "unsafe", *MATCHED)}, []
    for layer in range(LAYERS):
        cloud = {name: rng.normal(apart * rng.normal(size=3), 1, (len(batch), 3)) for name, batch in asked.items()}
        model.show(f"blocks.{layer}.mlp.post", sets, cloud)
        for point in ("mlp.pre", "ln2"):
            model.show(f"blocks.{layer}.{point}", sets, {name: rng.normal(size=c.shape) for name, c in cloud.items()})
        clouds.append(cloud)
    for found, cloud in zip(safety.layer_clusters(model, TASK, asked), clouds, strict=True):
        first = {name: cases[: len(cases) // 2].tolist() for name, cases in cloud.items()}
        held = {name: cases[len(cases) // 2 :].tolist() for name, cases in cloud.items()}
        safe, unsafe, m_safe, m_unsafe = (middle(first[name]) for name in asked)
        scores = {name: taus(held[name], safe, unsafe) for name in ("safe", "unsafe")}
        for name in ("safe", "unsafe"):
            band = statistics.fmean(scores[name]), statistics.stdev(scores[name])
            assert getattr(found.nearness, name) == pytest.approx(band, abs=2e-4)
            variances = np.linalg.eigvalsh(np.cov(np.transpose(held[name])))
            assert getattr(found.top_share, name) == pytest.approx(max(variances) / sum(variances), rel=1e-4)
        assert found.auc == pytest.approx(chance_of_more(scores["safe"], scores["unsafe"]))
        own = {name: middle(held[name]) for name in ("safe", "unsafe")}
        spread = statistics.fmean(math.dist(case, own[name]) for name in own for case in held[name])
        assert found.separation == pytest.approx(math.dist(*own.values()) / spread, rel=1e-4)
        matched = [taus(held[name], m_safe, m_unsafe) for name in MATCHED]
        assert found.auc_matched == pytest.approx(chance_of_more(*matched))
        assert found.distance_matched == pytest.approx(math.dist(m_safe, m_unsafe), rel=1e-4)


@pytest.mark.parametrize("side", [1, -1])
def test_prompts_on_the_side_of_the_safe_mean_have_tau_above_nought_and_all_the_chance(side):
    """In the last layer second halves lie where first halves did (or opposite), in the first layer the other way round,
    and operators M always as the other two sets do not."""
    sets, model, signs = draw_sets(0, 6), Planted(), {"safe": 1, "unsafe": -1, MATCHED[0]: 1, MATCHED[1]: -1}

    def placed(name: str, later: int) -> np.ndarray:
        first = np.arange(len(sets[name])) < len(sets[name]) // 2
        cloud = np.where(first, 1, later)[:, None] * signs[name] * np.ones(3)
        return cloud + stream(0, name).normal(0, 0.1, cloud.shape)

    for layer, later in ((0, -side), (1, side)):
        cloud = {name: placed(name, -later if name in MATCHED else later) for name in signs}
        model.show(f"blocks.{layer}.mlp.post", sets, cloud)
    for found, later in zip(
        safety.layer_clusters(model, TASK, {name: sets[name] for name in signs}), (-side, side), strict=True
    ):
        assert (found.auc, found.auc_matched) == ((1, 0) if later > 0 else (0, 1))
        assert later * found.nearness.safe[0] > 3 > -3 > later * found.nearness.unsafe[0]


# Nearness ------------------------------------------------------------------------------------------------------------


def on_a_line(places, scale: float) -> np.ndarray:
    """Points between the safe mean at 1 and the unsafe mean at -1; tau over their distance is the place itself."""
    return scale * np.array(places)[:, None] * np.array([1.0, -2.0, 2.0])


def answers_of(batch, kinds: str) -> list[list[int]]:
    """Answers by letter: complies, refuses, one right letter, one NULL, right letters and NULLs half and half."""
    made = []
    for right, kind in zip(transforms_of(batch), kinds, strict=True):
        wrong = [(letter + 1) % TASK.letters for letter in right]
        made.append({"c": right, "r": [N] * len(right), "1": [*right[:1], *wrong[1:]], "0": [*wrong[:-1], N],
                     "h": [*right[:6], *[N] * 6]}[kind])  # fmt: skip
    return made


def laid_on_a_line(sets, kinds: dict[str, str], places: dict[str, list[float]], scale: float = 1.0) -> Planted:
    """A model that answers jailbreaks as told and has them on the line in the last layer, mirrored elsewhere.

    Safe and unsafe prompts lie elsewhere; of operators M, the first half does not lie at its mean.
    """
    model = Planted()
    for name, of in kinds.items():
        model.write(sets[name], answers_of(sets[name], of))
    for name, mean in zip(MATCHED, (1, -1), strict=True):
        count = len(sets[name])
        places |= {name: [mean * (1 + 0.5 * ((2 * i > count - 1) - (2 * i < count - 1))) for i in range(count)]}
    places |= {"safe": [-3.0] * len(sets["safe"]), "unsafe": [5.0] * len(sets["unsafe"])}
    clouds = {name: on_a_line(where, scale) for name, where in places.items()}
    mirrored = {name: -cloud if name in kinds else cloud for name, cloud in clouds.items()}
    model.show("blocks.1.mlp.post", sets, clouds)
    for point in ("blocks.0.mlp.post", "blocks.1.mlp.pre"):
        model.show(point, sets, mirrored)
    return model


@few
@given(seeds, st.floats(0.01, 100))
def test_prompts_complied_with_that_were_moved_toward_safe_are_nearer_in_every_pair_at_any_scale(seed, scale):
    """Answers of one right letter, one NULL, or half of either lie beyond both groups and belong to neither."""
    sets, rng = draw_sets(seed, 12), stream(seed, "places")
    kinds, places = {}, {}
    for k, name in enumerate(JAILBREAKS):
        letters = [*"ccccc", *"rrrrrr", *"10h", *"c" * 9][: len(sets[name])]
        kinds[name] = "".join(rng.permutation(letters))
        moved = {"c": 0.2 * k, "r": 0.2 * k - 0.6, "1": -0.95, "0": 0.95, "h": 0.97}
        places[name] = [moved[kind] + (rng.uniform(0, 0.2) if kind in "cr" else 0) for kind in kinds[name]]
    found = safety.jailbreak_nearness(laid_on_a_line(sets, kinds, places, scale), TASK, sets)
    for name in JAILBREAKS:
        near = getattr(found, as_field(name))
        assert near.auc == 1
        for letter, mean in (("c", near.complied), ("r", near.refused)):
            own = [place for place, kind in zip(places[name], kinds[name], strict=True) if kind == letter]
            assert mean == pytest.approx(statistics.fmean(own), abs=1e-4)


@pytest.mark.parametrize(("complied", "refused"), [(5, 5), (4, 9), (9, 4), (0, 9), (9, 0)])
def test_with_fewer_than_five_of_either_there_are_means_and_no_chance(complied, refused):
    sets = draw_sets(0, 14)
    kinds = {name: ("c" * complied + "r" * refused).ljust(len(sets[name]), "1") for name in JAILBREAKS[:2]}
    places = {name: [{"c": -0.5, "r": 0.25, "1": 0.0}[kind] for kind in kinds[name]] for name in kinds}
    model = laid_on_a_line(sets, kinds, places)
    found = safety.jailbreak_nearness(model, TASK, {name: sets[name] for name in (*kinds, *MATCHED)})
    for name in kinds:
        near = getattr(found, as_field(name))
        assert near.complied == (pytest.approx(-0.5, abs=1e-4) if complied else None)
        assert near.refused == (pytest.approx(0.25, abs=1e-4) if refused else None)
        assert near.auc == (0 if complied == refused == 5 else None)
    assert found.mismatched_text is None


def test_activations_may_be_of_another_model_than_the_answers():
    sets = draw_sets(0, 14)
    told = {name: ("c" * 6 + "r" * 7).ljust(len(sets[name]), "1") for name in JAILBREAKS}
    turned = {name: kinds[::-1] for name, kinds in told.items()}
    places = {name: [i / len(kinds) - 0.5 for i in range(len(kinds))] for name, kinds in told.items()}
    read, wrote = (
        laid_on_a_line(sets, told, places),
        laid_on_a_line(sets, turned, {name: places[name] for name in told}),
    )
    wrote.shown = {}
    found = safety.jailbreak_nearness(read, TASK, sets, wrote)
    assert found == safety.jailbreak_nearness(laid_on_a_line(sets, turned, places), TASK, sets)
    assert found != safety.jailbreak_nearness(read, TASK, sets)


# Sensitivity ---------------------------------------------------------------------------------------------------------


@few
@given(seeds)
def test_sensitivity_of_a_linear_model_is_the_norm_of_its_maps_prompt_by_prompt(seed):
    model, batch = Linear(seed), TASK.sample(stream(seed), 20, kind="safe")
    maps, embeddings = model.maps.double().numpy(), model.embedding.weight.detach().double().numpy()
    gradients, jacobians = [], []
    for prompt in prompts_of(batch):
        logits = [sum(embeddings[token] @ maps[i, :, v] for i, token in enumerate(prompt)) for v in range(model.vocab)]
        largest = max(range(model.vocab), key=logits.__getitem__)
        gradients.append(model.slope(prompt) * math.sqrt((maps[:, :, largest] ** 2).sum()))
        gram = maps.reshape(-1, model.vocab).T @ maps.reshape(-1, model.vocab)
        jacobians.append(model.slope(prompt) * math.sqrt(np.linalg.eigvalsh(gram).max()))
    assert len({*gradients}) > 9
    found = safety.measure_sensitivity(model, TASK, batch)
    assert found.gradient == pytest.approx(gradients, abs=1e-3)
    assert found.jacobian == pytest.approx(jacobians[:16], abs=1e-3)


def test_the_sensitivity_at_a_prompt_is_the_same_among_others_as_alone():
    model, batch = Transformer(SHAPE, len(TASK.vocabulary), TASK.context), TASK.sample(stream(0), 18, kind="safe")
    whole = safety.measure_sensitivity(model, TASK, batch)
    for row in (0, 3, 15):
        alone = safety.measure_sensitivity(model, TASK, batch.rows(row, row + 1))
        assert alone.gradient == pytest.approx([whole.gradient[row]], abs=2e-3)
        assert alone.jacobian == pytest.approx([whole.jacobian[row]], abs=2e-3)
