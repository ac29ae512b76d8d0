"""Laws of films: what is kept is what the model attended to, and an interruption leaves no trace."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.examples import fewer
from toylab.model.config import ModelConfig
from toylab.model.transformer import Transformer
from toylab.probes import watch
from toylab.tasks import Parity, decode, stream
from toylab.training.attention_history import AttentionHistory, RecordedSequence, read_history
from toylab.training.batches import next_token_loss, training_batches
from toylab.training.loop import TrainConfig, train

TASK = Parity(lengths=(1, 4))
CONFIG = TrainConfig(steps=6, warmup=1, cooldown=0, evaluate_every=2)


def model(seed: int = 0) -> Transformer:
    return Transformer.for_task(TASK, ModelConfig(width=8, heads=2), seed)


def scenes() -> list[RecordedSequence]:
    found = []
    for length in (2, 4):
        batch = TASK.sample(stream(0, "film"), 1, length=length)
        tokens = batch.tokens[0]
        links = {name: edges[:, 1:].tolist() for name, edges in batch.links.items()}
        found.append(
            RecordedSequence(f"{length} inputs", torch.from_numpy(tokens), tuple(decode(TASK, tokens.tolist())), links)
        )
    return found


@fewer(0.1)
@given(st.integers(0, 2**32))
def test_a_frame_is_what_the_model_attends_to_up_to_half_a_step(tmp_path_factory, seed):
    one = model(seed)
    film = AttentionHistory(tmp_path_factory.mktemp("film") / "film.safetensors", scenes())
    film.add(one, 3)
    shown = read_history(film.history.path, "title", "caption", [{"step": 3, "loss": 0.5}], {"loss": "nats"})
    assert (shown.steps, shown.curves) == ([3], {"nats": [0.5]})
    for scene, patterns in zip(scenes(), shown.patterns, strict=True):
        with watch(one, "blocks.*.attn.pattern") as seen:
            one(scene.tokens[None])
        for layer, pattern in enumerate(seen.values()):
            torch.testing.assert_close(patterns[0, layer] / 255, pattern[0].detach(), rtol=0, atol=0.51 / 255)


def filmed(folder: Path, stop: int | None = None) -> bytes:
    """The film of a training that is interrupted at the step at which its `stop`-th frame was due."""
    film = AttentionHistory(folder / "film.safetensors", scenes())

    def record(trained, step: int) -> None:
        film.add(trained, step)
        if step == stop:
            raise KeyboardInterrupt

    checkpoint = folder / "checkpoint.safetensors"
    train(model(), next_token_loss, training_batches(TASK, 0, 8), CONFIG, checkpoint=checkpoint, record=record)
    return film.history.path.read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    return filmed(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("stop", [0, 4])
def test_an_interrupted_film_goes_on_and_ends_with_the_same_bytes(whole, tmp_path, stop):
    with pytest.raises(KeyboardInterrupt):
        filmed(tmp_path, stop)
    assert filmed(tmp_path) == whole
    assert AttentionHistory(tmp_path / "film.safetensors", scenes()).history.frames.keys() == {0, 2, 4, 6}


def test_what_is_no_film_is_refused_by_name(tmp_path):
    from toylab.files import write_tensors

    path = tmp_path / "film.safetensors"
    write_tensors(path, {"x": torch.zeros(1)}, {})
    with pytest.raises(ValueError, match=r"film\.safetensors: is "):
        read_history(path, "", "", [], {})
