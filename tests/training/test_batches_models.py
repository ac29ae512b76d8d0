"""Laws of models of one's own: each is given what it takes, and refused what it would pass over in silence."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.training.drawn_batches import draws, sample
from toylab.console import ToylabError
from toylab.model.config import ModelConfig
from toylab.model.transformer import Transformer
from toylab.tasks import Copy
from toylab.tasks import stream as random_stream
from toylab.training.batches import ScoredBatch, next_token_loss, pack, pad, training_batches
from toylab.training.loop import TrainConfig, train
from toylab.training.population import Population


class Plain(nn.Module):
    """Takes tokens alone."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, tokens: Tensor) -> Tensor:
        return self.inner(tokens)


class Placed(Plain):
    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        return self.inner(tokens, positions=positions)


class Parted(Plain):
    def forward(self, tokens: Tensor, *, segments: Tensor | None = None) -> Tensor:
        return self.inner(tokens, segments=segments)


class Whole(Plain):
    def forward(self, tokens: Tensor, positions: Tensor, segments: Tensor | None) -> Tensor:
        return self.inner(tokens, positions=positions, segments=segments)


class Asked(Plain):
    def forward(self, tokens: Tensor, queries: Tensor, positions: Tensor, segments: Tensor | None) -> Tensor:
        return self.inner(tokens, queries=queries, positions=positions, segments=segments)


class Anything(Plain):
    def forward(self, *inputs: Tensor, **options: Tensor | None) -> Tensor:
        return self.inner(*inputs, **options)


WRAPPED = [Plain, Placed, Parted, Whole, Asked, Anything]


@given(
    draws(), st.sampled_from(WRAPPED), st.sampled_from([pad, pack]), st.sampled_from(["none", "sinusoidal", "rotary"])
)
def test_a_model_of_ones_own_is_given_what_it_takes_and_has_the_loss_of_the_model_inside(
    drawn, kind, layout, positions
):
    task, *_ = drawn
    model = Transformer.for_task(task, ModelConfig(layers=1, width=8, positions=positions)).double()
    scored = layout(sample(drawn))
    in_order = bool((scored.positions == torch.arange(scored.tokens.shape[1])).all())
    lacking = {Plain: ["segments"], Placed: ["segments"], Parted: [] if in_order else ["positions"]}
    for name in lacking.get(kind, []) if scored.segments is not None else []:
        with pytest.raises(ToylabError, match=rf"^{name}: forward of {kind.__name__} takes none"):
            next_token_loss(kind(model), scored)
        return
    found, expected = next_token_loss(kind(model), scored), next_token_loss(model, scored)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_positions_of_ones_own_are_not_left_out_in_silence():
    task = Copy(lengths=(2, 3))
    scored = pad(task.sample(random_stream(0, "rows"), 4))
    far = ScoredBatch(**{**vars(scored), "positions": 2 * scored.positions})
    model = Transformer.for_task(task, ModelConfig(layers=1, width=8))
    with pytest.raises(ToylabError, match=r"^positions: forward of Plain takes none"):
        next_token_loss(Plain(model), far)
    assert next_token_loss(Placed(model), far) == next_token_loss(model, far)


class Returning(nn.Module):
    """Takes tokens alone and gives something."""

    def __init__(self, out: object) -> None:
        super().__init__()
        self.out = out

    def forward(self, tokens: Tensor) -> object:
        return self.out


class Swallowing(Returning):
    """Takes what it does not know, and does not heed it."""

    def forward(self, tokens: Tensor, **options: object) -> object:
        return self.out


@pytest.mark.parametrize("kind", [Returning, Swallowing])
@pytest.mark.parametrize("out", [torch.zeros(4, 20), torch.zeros(4, 99, 20), torch.zeros(3, 9, 20), (torch.zeros(1),)])
def test_logits_of_another_shape_are_refused_with_what_is_given_and_what_must_be(kind, out):
    scored = pad(Copy(lengths=(2, 3)).sample(random_stream(0, "rows"), 4))
    given = r"in a tuple" if isinstance(out, tuple) else re.escape(str(tuple(out.shape)))
    with pytest.raises(
        ToylabError, match=rf"^model: {kind.__name__} gives logits .*{given}.*\(batch, position, vocab\)"
    ):
        next_token_loss(kind(out), scored)


def test_a_model_that_swallows_the_queries_is_refused():
    scored = pad(Copy(lengths=(2, 3)).sample(random_stream(0, "rows"), 4))
    assert scored.queries.shape != scored.tokens.shape
    every = torch.zeros(*scored.tokens.shape, 20)
    assert torch.isfinite(next_token_loss(Returning(every), scored))
    with pytest.raises(ToylabError, match=r"^model: Swallowing gives logits of shape"):
        next_token_loss(Swallowing(every), scored)


def test_a_recurrent_network_trains_alone_and_in_a_population():
    """Without a word about positions, segments or queries."""
    task, config = Copy(lengths=(1, 3), p=3), TrainConfig(steps=20, warmup=1, cooldown=0, learning_rate=0.02)

    class Recurrent(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                self.embedding, self.step = nn.Embedding(len(task.vocabulary), 16), nn.Linear(32, 16)
                self.out = nn.Linear(16, len(task.vocabulary))

        def forward(self, tokens: Tensor) -> Tensor:
            state, states = torch.zeros(len(tokens), 16), []
            for x in self.embedding(tokens).unbind(1):
                state = self.step(torch.cat([x, state], dim=1)).tanh()
                states.append(state)
            return self.out(torch.stack(states, dim=1))

    data = [training_batches(task, seed, 16, pad) for seed in (0, 1)]
    together = Population([Recurrent(seed) for seed in (0, 1)], next_token_loss, config)
    together.train(data)
    for seed, member in enumerate(together.members()):
        alone = Recurrent(seed)
        history = train(alone, next_token_loss, data[seed], config).history
        assert history[-1]["loss"] < 0.8 * history[0]["loss"]
        for one, other in zip(alone.parameters(), member.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_compiled_model_is_given_what_the_model_inside_takes():
    task = Copy(lengths=(2, 3))
    scored = pad(task.sample(random_stream(0, "rows"), 4))
    model = Plain(nn.Sequential(nn.Embedding(len(task.vocabulary), 8), nn.Linear(8, len(task.vocabulary))))
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(next_token_loss(compiled, scored), next_token_loss(model, scored))
