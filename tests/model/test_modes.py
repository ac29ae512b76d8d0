"""Laws of modes: what toylab measures of a model it measures in evaluation mode, and leaves each module as it was."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from toylab import ModelConfig, Transformer
from toylab.model.encoder_decoder import EncoderDecoderConfig
from toylab.model.generate import generate
from toylab.model.modes import evaluation_mode, training_mode
from toylab.studies.contextual_counting import data as counting
from toylab.studies.safety_finetuning import data as concept
from toylab.studies.steering_vectors import data as reasoning
from toylab.survey import copy_accuracy, survey
from toylab.tasks import AssociativeRecall, ContextualCounting, Parity, Reasoning, TaskConcept, held_out, stream
from toylab.training import evaluate
from toylab.training.attention_history import AttentionHistory, RecordedSequence
from toylab.training.batches import prompt_tokens
from toylab.training.loop import TrainConfig, train


class Told(nn.Sequential):
    """A module that notes how it is put in a mode."""

    def train(self, mode: bool = True) -> nn.Module:
        self.noted = mode
        return super().train(mode)


def tree(modes: list[bool]) -> nn.Module:
    model = Told(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Linear(1, 1)))
    for module, mode in zip(model.modules(), modes, strict=True):
        module.training = mode
    return model


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


MODES = st.lists(st.booleans(), min_size=5, max_size=5)


@given(MODES, MODES, st.booleans())
def test_every_module_has_its_own_mode_again(before, within, raising):
    model = tree(before)
    with pytest.raises(ArithmeticError) if raising else evaluation_mode(nn.Identity()), evaluation_mode(model):
        assert not any(modes(model))
        for module, mode in zip(model.modules(), within, strict=True):
            module.training = mode
        if raising:
            raise ArithmeticError
    assert modes(model) == before


@given(MODES)
def test_in_training_parts_of_a_model_in_training_mode_keep_theirs(before):
    model = tree(before)
    with training_mode(model):
        assert modes(model) == (before if before[0] else [True] * 5)
    assert modes(model) == before


def test_a_module_that_does_more_than_set_a_flag_is_told():
    model = tree([True] * 5)
    with evaluation_mode(model):
        assert model.noted is False
    assert model.noted is True


# Measures ------------------------------------------------------------------------------------------------------------

PARITY, RECALL = Parity(lengths=(2, 4)), AssociativeRecall(pairs=3)
COUNTING, REASONING, CONCEPT = ContextualCounting(length=12, regions=2), Reasoning(), TaskConcept()


def noisy(task, **shape) -> Transformer:
    """A model whose embeddings are dropped in training mode."""
    model = Transformer.for_task(task, ModelConfig(width=16, **shape))
    model.embed = nn.Dropout(0.5)
    return model


def counter() -> nn.Module:
    config = EncoderDecoderConfig(encoder=ModelConfig(layers=1, width=8, positions="none", unembedding="none"))
    model = counting.counting_model(COUNTING, config)
    model.encoder.final = nn.Dropout(0.5)
    return model


def filmed(model: nn.Module, path) -> list[torch.Tensor]:
    film = AttentionHistory(
        path / f"{model.training}.safetensors", [RecordedSequence("one", torch.tensor([1, 2, 3]), ("a", "b", "c"), {})]
    )
    film.add(model, 0)
    return [*film.history.frames[0].values()]


EVEN = evaluate.by_length(PARITY, 0, [2, 3, 4], 8)
RECALLED = RECALL.sample(stream(0), 20)
STRINGS = COUNTING.sample(stream(0), 20)
PROMPTS = prompt_tokens(REASONING, held_out(REASONING, 0, 8, purpose="prompts"))

MEASURES = {
    "predict": lambda path: (noisy(PARITY), lambda m: evaluate.predict_tokens(m, EVEN[3])),
    "accuracy": lambda path: (noisy(PARITY), lambda m: evaluate.accuracy(m, EVEN)),
    "free-running": lambda path: (noisy(PARITY), lambda m: evaluate.free_running_accuracy(m, PARITY, EVEN)),
    "patterns": lambda path: (noisy(PARITY), lambda m: evaluate.attention_patterns(m, EVEN[3])),
    "progress": lambda path: (noisy(PARITY), lambda m: evaluate.evaluation_metrics(m, EVEN)),
    "iteration head": lambda path: (noisy(PARITY), lambda m: evaluate.search_iteration_head(m, EVEN)),
    "survey": lambda path: (noisy(RECALL), lambda m: survey(m, RECALLED)),
    "copies": lambda path: (noisy(RECALL), lambda m: copy_accuracy(m, RECALLED, RECALLED.links["induction"])),
    "film": lambda path: (noisy(PARITY), lambda m: filmed(m, path)),
    "encode": lambda path: (counter(), lambda m: counting.encode_strings(m, counting.for_model(COUNTING, m, STRINGS))),
    "counts": lambda path: (counter(), lambda m: counting.count_accuracy(m, counting.for_model(COUNTING, m, STRINGS))),
    "edited counts": lambda path: (
        counter(),
        lambda m: counting.count_logits(m, counting.for_model(COUNTING, m, STRINGS)),
    ),
    "answers": lambda path: (noisy(REASONING), lambda m: reasoning.measure_answers(m, REASONING, PROMPTS, 1)),
    "generate": lambda path: (noisy(PARITY), lambda m: generate(m, torch.ones(3, 2).long(), 4)),
    "sample": lambda path: (
        noisy(PARITY),
        lambda m: generate(
            m, torch.ones(3, 2).long(), 4, temperature=1.0, generator=torch.Generator().manual_seed(0), cache=False
        ),
    ),
    "outcomes": lambda path: (
        noisy(CONCEPT),
        lambda m: concept.written_outcomes(m, CONCEPT, held_out(CONCEPT, 0, 8, kind="safe")),
    ),
}


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_runs_the_model_in_evaluation_mode_and_leaves_it_in_training_mode(name, tmp_path):
    model, measure = MEASURES[name](tmp_path)
    ran: list[bool] = []
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda module, *_: ran.append(module.training))
    expected, before = measure(model.eval()), torch.get_rng_state()
    found = measure(model.train())
    assert repr(found) == repr(expected)
    assert torch.equal(torch.get_rng_state(), before)
    assert ran
    assert not any(ran)
    assert all(modes(model))


def test_reinforcement_learning_samples_without_dropout_and_its_loss_has_dropout():
    model, modes = Transformer.for_task(PARITY, ModelConfig(width=16, dropout=0.5)), []
    model.register_forward_hook(lambda module, *_: modes.append((module.training, torch.is_grad_enabled())))

    def samples(step: int) -> torch.Tensor:
        source = torch.Generator().manual_seed(step)
        return generate(model, torch.ones(3, 2).long(), 4, temperature=1.0, generator=source)

    def loss(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
        return model(tokens).log_softmax(dim=-1)[:, :, 0].mean()

    train(model, loss, samples, TrainConfig(steps=2))
    assert modes[-10:] == 2 * [*4 * [(False, False)], (True, True)]
