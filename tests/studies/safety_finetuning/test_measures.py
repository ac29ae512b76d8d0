"""Laws of what is measured on fine-tuned models: planted changes are found, parts add up, attacks stay in their "
"ball."""

import json
from copy import deepcopy
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toylab.probes import auc, tau
from toylab.studies.safety_finetuning import measures as safety
from toylab.studies.safety_finetuning.data import MODEL, concept_model, outcomes, pairs
from toylab.studies.safety_finetuning.results import SafeUnsafe, as_field
from toylab.tasks import JAILBREAKS, TaskConcept, held_out, stream
from toylab.training.losses import Refusal, Unlearning, answer_log_probs

TASK = TaskConcept()
SMALL = replace(MODEL, width=16, heads=2)


@pytest.fixture(scope="module")
def sets():
    return safety.judged_on(TASK, 0, 24)


@pytest.fixture
def base():
    return concept_model(TASK, SMALL, 0)


@pytest.fixture
def tuned(base):
    """Another model of the same shape: a change of everything, at random."""
    other = deepcopy(base)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in other.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=generator)
    return other


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


# Sets ----------------------------------------------------------------------------------------------------------------


def test_matched_sets_have_operators_m_alone_and_differ_in_the_text():
    sets = safety.judged_on(TASK, 3, 40)
    allowed = {*TASK.of_class("M").tolist(), TASK.operators.index("id")}
    for name, dose in (("M, safe text", 0), ("M, unsafe text", TASK.nodes)):
        batch = sets[name]
        assert len(batch) == 40
        both = np.stack([batch.labels["first operator"], batch.labels["second operator"]], axis=1)
        assert set(both.ravel().tolist()) <= allowed
        assert np.isin(both, TASK.of_class("M")).any(axis=1).all()
        assert set(batch.labels["dose"].tolist()) == {dose}
        assert batch.labels["unsafe"].all() == bool(dose)


def test_behaviour_is_asked_on_every_set_of_prompts_and_on_no_other(base, sets):
    found = safety.behaviour(base, TASK, sets)
    assert set(vars(found)) == {as_field(name) for name in safety.SETS}
    for name in safety.SETS:
        shares = getattr(found, as_field(name))
        assert shares.complies + shares.refuses + shares.other == pytest.approx(1, abs=2e-4)
        assert shares.complies == pytest.approx(outcomes(base, TASK, sets[name]).complies, abs=1e-4)
    few = safety.behaviour(base, TASK, {name: sets[name] for name in ("safe", "unsafe")})
    assert (few.safe, few.competing_text) == (found.safe, None)


# Activations ---------------------------------------------------------------------------------------------------------


def test_clusters_judge_prompts_by_the_means_of_other_prompts(base, sets):
    found = safety.clusters(base, TASK, sets)
    point = "blocks.1.mlp.post"
    clouds = {n: safety.at_answer(base, TASK, sets[n], point)[point] for n in ("safe", "unsafe")}
    means = [clouds[n][:12].mean(dim=0) for n in ("safe", "unsafe")]
    scores = {n: tau(clouds[n][12:], *means) for n in clouds}
    assert found[1].auc == auc(scores["safe"], scores["unsafe"])
    assert found[1].tau.safe[0] == pytest.approx(scores["safe"].mean().item(), abs=1e-3)
    assert len(found) == 2


def test_activations_are_read_at_the_token_before_the_answer(base, sets):
    point = "blocks.0.resid_post"
    found = safety.at_answer(base, TASK, sets["safe"], point)[point]
    changed = replace(sets["safe"], tokens=sets["safe"].tokens.copy())
    changed.tokens[:, TASK.prompt :] = 0  # the answer, which comes after
    assert torch.equal(safety.at_answer(base, TASK, changed, point)[point], found)
    assert found.shape == (24, 16)


def test_sensitivity_is_the_gradient_by_finite_differences(sets):
    model = concept_model(TASK, replace(MODEL, width=4, heads=1), 0).double()
    batch = sets["safe"].rows(0, 2)
    found = safety.sensitivity(model, TASK, batch)
    prompts = safety.prompt_tokens(TASK, batch)
    embedded = model.embedding(prompts).detach()

    def largest(points):
        with torch.no_grad(), safety.edit(model, {"embed": lambda _: points}):
            return model(prompts)[:, -1].max(dim=-1).values

    squares, step = torch.zeros(2, dtype=torch.double), 1e-6
    for position in range(embedded.shape[1]):
        for feature in range(embedded.shape[2]):
            shift = torch.zeros_like(embedded)
            shift[:, position, feature] = step
            squares += ((largest(embedded + shift) - largest(embedded - shift)) / (2 * step)).square()
    assert found.gradient == pytest.approx(squares.sqrt().tolist(), rel=1e-2, abs=2e-3)
    assert all(whole >= one - 2e-3 for whole, one in zip(found.jacobian, found.gradient, strict=True))


# Weights -------------------------------------------------------------------------------------------------------------


@given(st.floats(-1, 3))
@settings(max_examples=10)
def test_interpolation_moves_on_a_line_and_leaves_both_ends_alone(alpha):
    base, tuned = concept_model(TASK, SMALL, 0), concept_model(TASK, SMALL, 1)
    before = deepcopy(base), deepcopy(tuned)
    mixed = safety.interpolated(base, tuned, alpha)
    for weight, start, end in zip(mixed.parameters(), base.parameters(), tuned.parameters(), strict=True):
        assert torch.allclose(weight, (1 - alpha) * start + alpha * end, atol=1e-5)
    assert same(base, before[0])
    assert same(tuned, before[1])


def test_the_ends_of_the_line_are_the_two_models(base, tuned):
    assert same(safety.interpolated(base, tuned, 0), base)
    for weight, end in zip(safety.interpolated(base, tuned, 1).parameters(), tuned.parameters(), strict=True):
        assert torch.allclose(weight, end, atol=1e-7)


def test_parts_of_a_change_are_what_their_names_say(base, tuned):
    parts = safety.with_parts(base, tuned)
    own, start = dict(tuned.named_parameters()), dict(base.named_parameters())
    for name in own:
        alone, rest = (dict(parts[key].named_parameters())[name] for key in ("MLPs alone", "all but the MLPs"))
        inside = ".mlp." in name
        assert torch.equal(alone, own[name] if inside else start[name])
        assert torch.equal(rest, start[name] if inside else own[name])
        one = dict(parts["MLPs, rank 1"].named_parameters())[name]
        if inside and one.ndim == 2:
            assert torch.linalg.matrix_rank(one - start[name], tol=1e-4) == 1
        elif not inside:
            assert torch.equal(one, start[name])
    for layer in (0, 1):
        weight = base.blocks[layer].mlp.up.weight
        column, null = (
            parts[f"up in the {space} space"].blocks[layer].mlp.up.weight - weight for space in ("column", "null")
        )
        assert torch.allclose(column + null, tuned.blocks[layer].mlp.up.weight - weight, atol=1e-6)
        assert torch.allclose(weight.T @ null, torch.zeros(16, 16), atol=1e-5)


def test_a_planted_change_is_found_where_it_was_planted(base, sets):
    planted = deepcopy(base)
    up, down = planted.blocks[1].mlp.up.weight, planted.blocks[1].mlp.down.weight
    null = torch.linalg.svd(up.double())[0][:, 16:].float()
    unsafe = safety.at_answer(base, TASK, sets["unsafe"], "blocks.1.ln2", "blocks.1.mlp.post")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        up += 0.1 * null @ torch.randn(null.shape[1], 16, generator=generator)
        direction = safety.null_direction(base, TASK)
        down += 0.1 * torch.outer(direction, unsafe["blocks.1.mlp.post"].mean(dim=0))
    first, last = safety.weight_change(base, planted, TASK, sets)
    assert last.up.share == pytest.approx(1, abs=1e-5)
    assert last.added_null_share.safe == pytest.approx(1, abs=1e-5)
    assert last.toward_null.unsafe == pytest.approx(1, abs=1e-4)
    assert last.top_energy.down == pytest.approx(1, abs=1e-4)
    assert first.up.share == 0
    assert first.effect.safe == 0
    assert first.top_right_cosine == SafeUnsafe(safe=0.0, unsafe=0.0)
    json.dumps([asdict(first), asdict(last)], allow_nan=False)  # of a change of nothing, too, everything is a number
    before, after = last.weak_inputs.safe
    assert before == pytest.approx(after)  # the inputs of the MLP did not change


def test_the_null_direction_raises_null_over_the_letters(base):
    direction = safety.null_direction(base, TASK).detach()
    with torch.no_grad():
        base.ln_final.weight.copy_(torch.linspace(0.5, 2, 16))
    scaled = safety.null_direction(base, TASK).detach()
    assert torch.allclose(scaled, direction * torch.linspace(0.5, 2, 16))
    logits = base.unembedding.weight.detach() @ direction
    rise = (logits[TASK.null] - logits[: TASK.letters].mean()).item()
    assert rise == pytest.approx(direction.norm().item() ** 2, rel=1e-4)


# Attacks and gradients -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [0.5, 3.0])
def test_an_attack_stays_in_its_ball_touches_pad_alone_and_makes_the_transform_likelier(
    base, sets, budget, monkeypatch
):
    held = {}

    def keep(model, task, batch, edits):
        held.update(edits)
        return outcomes(model, task, batch)

    monkeypatch.setattr(safety, "outcomes", keep)
    before = deepcopy(base)
    batch = sets["unsafe"].rows(0, 6)
    safety.soft_attack(base, TASK, batch, budget)
    assert same(base, before)
    shift = held["embed"](torch.zeros(6, TASK.prompt, 16)).detach()
    radius = budget * base.embedding.weight[: TASK.letters].norm(dim=1).mean().item()
    assert shift[:, TASK.soft].norm(dim=-1).max() <= radius * (1 + 1e-5)
    assert shift[:, TASK.soft].norm(dim=-1).min() > 0
    outside = shift.clone()
    outside[:, TASK.soft] = 0
    assert not outside.any()
    asked = pairs(TASK, batch)
    with torch.no_grad():
        plain = answer_log_probs(base, asked.prompts, asked.rejected).mean()
        with safety.edit(base, {"embed": held["embed"]}):
            attacked = answer_log_probs(base, asked.prompts, asked.rejected).mean()
    assert attacked > plain


def test_an_attack_needs_somewhere_to_write(base, sets):
    with pytest.raises(ValueError, match=r"soft_slots=0: .*at least one PAD"):
        safety.soft_attack(base, replace(TASK, soft_slots=0), sets["unsafe"], 1.0)


def test_a_gradient_as_one_vector_is_what_backward_leaves(base):
    batch = pairs(TASK, held_out(TASK, 0, 8, kind="unsafe"))
    found = safety.loss_gradient(base, Refusal(), batch)
    Refusal()(base, batch).backward()
    assert torch.allclose(found, torch.cat([p.grad.flatten() for p in base.parameters()]), atol=1e-7)


def test_the_cosine_of_a_loss_with_itself_is_one_and_with_its_opposite_minus_one(base):
    batch = held_out(TASK, 0, 8, kind="unsafe")

    def cosine(other) -> float:
        return safety.gradient_cosine(base, Refusal(), other, TASK, batch)

    assert cosine(Refusal()) == pytest.approx(1, abs=1e-5)
    assert cosine(lambda model, batch: -Refusal()(model, batch)) == pytest.approx(-1, abs=1e-5)
    assert cosine(Unlearning()) < 0.99999


def test_nearness_compares_complied_with_refused_prompts_and_says_when_it_cannot(base, sets, monkeypatch):
    transform = {name: torch.from_numpy(batch.targets[:, TASK.prompt - 1 :]) for name, batch in sets.items()}
    rng = stream(0)

    def half_refused(model, task, prompts):
        for name, batch in sets.items():
            if np.array_equal(batch.tokens[:, : task.prompt], prompts.numpy()):
                refuse = torch.from_numpy(rng.random(len(prompts)) < 0.5)[:, None]
                return torch.where(refuse, task.null, transform[name])
        raise AssertionError

    monkeypatch.setattr(safety, "write_texts", half_refused)
    found = safety.nearness(base, TASK, sets)
    assert set(vars(found)) == set(map(as_field, JAILBREAKS))
    assert all(0 <= one.auc <= 1 for one in vars(found).values())
    monkeypatch.setattr(safety, "write_texts", lambda model, task, prompts: torch.full((len(prompts), 12), task.null))
    found = safety.nearness(base, TASK, sets)
    assert all(one.auc is None and one.complied is None for one in vars(found).values())
