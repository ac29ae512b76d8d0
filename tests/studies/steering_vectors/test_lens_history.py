"""Laws of the history of a vector: what is kept is the vector of each step, and training draws the same without it."""

from dataclasses import replace

import torch

from tests.studies.steering_vectors.helpers import TASK
from tests.studies.steering_vectors.trainings import LAST, SEED, STUDY, base, begun
from tests.studies.steering_vectors.worlds import WIDTH
from toylab.model.steering import Steered, Vector, folded_unembedding, load_steering
from toylab.runs.study import Job
from toylab.studies.steering_vectors import experiments
from toylab.studies.steering_vectors.lens_history import LENS_FILE, lens_history, lens_page
from toylab.training.tensor_history import read_tensor_history
from toylab.verdicts.claim import Conditions


def read_lens(folder) -> tuple[list[int], torch.Tensor]:
    steps, tensors = read_tensor_history(folder / LENS_FILE)
    return steps, tensors["lens"]


def test_a_frame_is_the_dot_product_with_each_row_and_a_history_is_continued(tmp_path):
    steered = Steered(base(), {LAST: Vector(WIDTH)})
    (addition,) = steered.additions.values()
    rows = folded_unembedding(steered.model).detach()
    for step, token in ((0, 0), (7, 4)):
        addition.vector.data = step * rows[token]
        lens_history(tmp_path).add(steered, step)
    lens_history(tmp_path).add(steered, 7)
    steps, frames = read_lens(tmp_path)
    assert steps == [0, 7]
    assert torch.equal(frames[0], torch.zeros(len(TASK.vocabulary)))
    torch.testing.assert_close(frames[1], torch.stack([7 * sum(a * b) for a, b in ((row, rows[4]) for row in rows)]))


def test_the_vector_is_recorded_at_every_step_without_another_draw(tmp_path):
    job, folder = begun(tmp_path, base=base())
    experiments.train_vector(STUDY, job, folder, LAST, refuse=False)
    steps, frames = read_lens(folder)
    assert steps == list(range(STUDY.rl.steps + 1))
    model = base()
    bare = Steered(model, {LAST: Vector(WIDTH)})
    experiments._reinforce(STUDY, bare, model, SEED, folder, name="-bare")
    trained = load_steering(folder / "vector.safetensors", model).additions[str(LAST)].vector
    assert torch.equal(bare.additions[str(LAST)].vector, trained)
    torch.testing.assert_close(frames[-1], (folded_unembedding(model) @ trained).detach())


def test_other_vectors_have_no_history_and_a_run_without_one_no_viewer(tmp_path):
    study, results = replace(STUDY, seeds=(1, 2)), Conditions({f"vector-{LAST}": {1: None, 2: None}})
    assert lens_page(study, results, tmp_path) is None
    steered = Steered(base(), {LAST: Vector(WIDTH)})
    for seed, steps in ((1, (0, 5)), (2, (0, 6))):
        folder = Job(f"vector-{LAST}", seed).folder(tmp_path)
        folder.mkdir(parents=True)
        for step in steps:
            lens_history(folder).add(steered, step)
    page = lens_page(study, results, tmp_path)
    assert (page.steps, list(page.scenes)) == ([0, 5], ["seed 1"])  # the other seed has other steps
    assert page.scenes["seed 1"] == [[0.0] * len(TASK.vocabulary)] * 2
