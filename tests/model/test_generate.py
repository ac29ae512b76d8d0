"""Laws of writing: the same tokens with a cache and without, those that are likeliest or drawn as asked."""

import inspect
import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.model.small_transformers import (
    CONTEXT,
    ENCODINGS,
    SEEDS,
    VOCAB,
    build,
    draw_tokens,
    some,
)
from toylab.console import ToylabError
from toylab.model.config import ModelConfig
from toylab.model.generate import generate
from toylab.model.strategies import model_configs
from toylab.model.transformer import Transformer
from toylab.probes import edit, watch


@some
@given(
    model_configs(), SEEDS, st.integers(1, 3), st.integers(1, 6), st.integers(0, 6), st.sampled_from([0.0, 0.7, 2.0])
)
def test_writing_with_a_cache_gives_the_tokens_and_logits_of_writing_without(config, seed, rows, size, steps, heat):
    model, prompt = build(config, seed), draw_tokens(seed, rows, size)
    written, logits = [], []
    for cache in (True, False):
        source = torch.Generator().manual_seed(seed)
        with watch(model, "unembedding", every_call=True) as seen:
            written.append(generate(model, prompt, steps, temperature=heat, generator=source, cache=cache))
        logits.append([call[:, -1] for call in seen.get("unembedding", [])])
    assert torch.equal(*written)
    assert written[0].shape == (rows, size + steps)
    assert torch.equal(written[0][:, :size], prompt)
    assert len(logits[0]) == steps
    for cached, plain in zip(*logits, strict=True):
        torch.testing.assert_close(cached, plain, rtol=0, atol=1e-10)


@some
@given(model_configs(), SEEDS, st.integers(1, 6))
def test_greedy_writing_takes_the_likeliest_token_each_time(config, seed, steps):
    model, prompt = build(config, seed), draw_tokens(seed, 2, 3)
    rows = prompt.tolist()
    for _ in range(steps):
        for row in rows:
            row.append(int(model(torch.tensor([row]))[0, -1].argmax()))
    assert generate(model, prompt, steps).tolist() == rows


def test_drawn_tokens_follow_the_softmax_of_logits_over_temperature():
    model, draws = build(ModelConfig(width=8, layers=1)), 10_000
    prompt = draw_tokens(0, 1, 4)
    for heat in (0.5, 3.0):
        chances = (model(prompt)[0, -1] / heat).softmax(dim=0)
        source = torch.Generator().manual_seed(1)
        written = generate(model, prompt.expand(draws, -1), 1, temperature=heat, generator=source)[:, -1]
        shares = torch.bincount(written, minlength=VOCAB) / draws
        spread = (chances * (1 - chances) / draws).sqrt()
        assert ((shares - chances).abs() < 4.5 * spread).all()


@some
@given(SEEDS, st.integers(1, 4), st.integers(1, 8), st.integers(0, VOCAB - 1))
def test_stop_fills_a_row_up_and_ends_when_all_rows_have_written_it(seed, rows, steps, stop):
    model, prompt = build(ModelConfig(width=8, positions="rotary"), seed), draw_tokens(seed, rows, 3)
    free = generate(model, prompt, steps)[:, 3:].tolist()
    ends = [row.index(stop) + 1 if stop in row else steps for row in free]
    expected = [(row[:end] + [stop] * steps)[: max(ends)] for row, end in zip(free, ends, strict=True)]
    assert generate(model, prompt, steps, stop=stop)[:, 3:].tolist() == expected


@some
@given(model_configs(), SEEDS, st.integers(1, 3), st.integers(0, 4), st.integers(1, 3), st.booleans())
def test_the_likeliest_continuation_is_the_same_in_every_sample(config, seed, rows, steps, samples, cache):
    model, prompt = build(config, seed), draw_tokens(seed, rows, 3)
    expected = [row for row in generate(model, prompt, steps).tolist() for _ in range(samples)]
    assert generate(model, prompt, steps, samples=samples, cache=cache).tolist() == expected


@some
@given(
    model_configs(),
    SEEDS,
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(2, 4),
    st.none() | st.integers(0, VOCAB - 1),
)
def test_samples_are_those_of_a_prompt_that_is_given_again_and_again(config, seed, rows, steps, samples, stop):
    model, prompt = build(config, seed), draw_tokens(seed, rows, 3)

    def drawn(given: torch.Tensor, **options) -> list[list[int]]:
        source = torch.Generator().manual_seed(seed)
        return generate(model, given, steps, temperature=1.5, generator=source, stop=stop, **options).tolist()

    again = torch.stack([row for row in prompt for _ in range(samples)])
    expected = drawn(again, cache=False)
    assert drawn(prompt, samples=samples) == drawn(prompt, samples=samples, cache=False) == drawn(again) == expected


def test_the_samples_of_a_prompt_differ_and_the_prompt_is_read_once():
    model, prompt = build(ModelConfig(width=8, positions="rotary")), draw_tokens(0, 2, 3)
    with watch(model, "embed", every_call=True) as seen:
        written = generate(model, prompt, 4, temperature=3.0, generator=torch.Generator().manual_seed(0), samples=6)
    assert [tuple(x.shape[:2]) for x in seen["embed"]] == [(2, 3), (12, 1), (12, 1), (12, 1)]
    assert written[:, :3].tolist() == [prompt[row].tolist() for row in (0, 1) for _ in range(6)]
    assert all(len({tuple(row) for row in group.tolist()}) > 1 for group in written[:, 3:].split(6))


def test_writing_leaves_no_gradient_and_works_under_an_edit():
    model, prompt = build(ModelConfig(width=8)), draw_tokens(0, 2, 3)
    assert not generate(model, prompt, 2).requires_grad
    with edit(model, {"unembedding": lambda logits: torch.zeros_like(logits).index_fill(-1, torch.tensor(5), 1)}):
        assert (generate(model, prompt, 4)[:, 3:] == 5).all()


def test_drawing_needs_a_temperature_that_makes_sense_and_a_generator():
    model, prompt = Transformer(ModelConfig(), VOCAB, CONTEXT), draw_tokens(0, 1, 2)
    with pytest.raises(ValueError, match=r"temperature=-0\.5: must be at least 0; 0 is greedy"):
        generate(model, prompt, 1, temperature=-0.5)
    with pytest.raises(ValueError, match=r"temperature=1\.0: .*generator=torch\.Generator"):
        generate(model, prompt, 1, temperature=1.0)


class Says(torch.nn.Module):
    """Always has the same logits."""

    def __init__(self, *logits: float, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.logits = torch.tensor(logits, dtype=dtype)

    def forward(self, tokens):
        return self.logits.expand(*tokens.shape, -1)


def said(model: torch.nn.Module, temperature: float, rows: int = 1) -> torch.Tensor:
    source = torch.Generator().manual_seed(0)
    prompt = torch.zeros(rows, 1, dtype=torch.long)
    return generate(model, prompt, 1, temperature=temperature, generator=source, cache=False)[:, 1]


HEATS = [0.0, 1e-300, 1e-50, 1e-39, 1e-30, 1e-10, 1e-4, 9e-4, 1e-3, 0.01]


@pytest.mark.parametrize("temperature", HEATS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_temperature_towards_0_takes_the_likeliest_token(dtype, temperature):
    largest = min(float(torch.finfo(dtype).max), 1e30)
    for logits in ((1.0, 5.0, -torch.inf, 4.0), (0.0, largest, 0.5 * largest), (-largest, -0.5 * largest)):
        assert (said(Says(*logits, dtype=dtype), temperature, rows=50) == logits.index(max(logits))).all()


@pytest.mark.parametrize("temperature", [1e-39, 1e-4, 1.0])
def test_equally_likely_tokens_stay_so_at_every_temperature(temperature):
    drawn = said(Says(3.0, 3.0, -1e4), temperature, rows=2000).bincount(minlength=3)
    assert drawn[2] == 0
    assert drawn[:2].min() > 850  # fewer than that are as rare as 7 standard deviations


@pytest.mark.parametrize("temperature", [math.nan, -math.inf, -1e-9])
def test_a_temperature_that_is_none_is_refused(temperature):
    with pytest.raises(ToylabError, match=f"temperature={temperature}"):
        said(Says(0.0, 1.0), temperature)


@some
@given(st.sampled_from([torch.int32, torch.int16, torch.int8]), SEEDS, st.booleans(), st.floats(0, 2))
def test_prompts_may_be_whole_numbers_of_any_size(dtype, seed, cache, temperature):
    model, prompt = build(ModelConfig(), seed), draw_tokens(seed, 2, 3)
    found, expected = (
        generate(model, given, 4, temperature=temperature, generator=torch.Generator().manual_seed(0), cache=cache)
        for given in (prompt.to(dtype), prompt)
    )
    assert torch.equal(found, expected)


@pytest.mark.parametrize("positions", ENCODINGS)
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompt": torch.zeros(2, 0, dtype=torch.long)}, r"prompt: .*\(2, 0\).*at least one token"),
        ({"prompt": torch.zeros(4, dtype=torch.long)}, r"prompt: .*\(4,\).*position"),
        ({"prompt": torch.zeros(2, 3)}, r"prompt: .*float32"),
        ({"prompt": torch.zeros(2, 3, dtype=torch.bool)}, r"prompt: .*bool"),
        ({"steps": -1}, r"steps=-1: must be at least 0"),
        ({"stop": VOCAB}, rf"stop={VOCAB}: .*0 to {VOCAB - 1}"),
        ({"stop": -1}, rf"stop=-1: .*0 to {VOCAB - 1}"),
    ],
)
def test_what_cannot_be_continued_is_refused(positions, given, message):
    model = Transformer(ModelConfig(positions=positions), VOCAB, CONTEXT)
    unchecked = inspect.unwrap(generate)  # the type checks of the tests would refuse some first
    with pytest.raises(ToylabError, match=message):
        unchecked(model, **{"prompt": draw_tokens(0, 2, 3), "steps": 2, **given})


def test_no_step_and_no_row_are_continued_by_nothing():
    model, prompt = Transformer(ModelConfig(), VOCAB, CONTEXT), draw_tokens(0, 2, 3)
    assert torch.equal(generate(model, prompt, 0), prompt)
    for temperature in (0, 1):
        written = generate(model, prompt[:0], 3, temperature=float(temperature), generator=torch.Generator())
        assert written.shape == (0, 6)


def test_a_token_is_not_chosen_among_logits_that_are_nan():
    model, prompt = Transformer(ModelConfig(), VOCAB, CONTEXT), draw_tokens(0, 3, 3)

    def spoil_one_row(logits: torch.Tensor) -> torch.Tensor:
        return torch.cat([logits[:1] * math.nan, logits[1:]])

    with edit(model, {"unembedding": spoil_one_row}), pytest.raises(ToylabError, match="logits: are nan"):
        generate(model, prompt, 2)


@pytest.mark.parametrize("samples", [0, -1])
def test_a_prompt_is_continued_at_least_once(samples):
    with pytest.raises(ValueError, match=rf"^samples={samples}: must be at least 1$"):
        generate(Transformer(ModelConfig(), VOCAB, CONTEXT), draw_tokens(0, 1, 2), 1, samples=samples)


@some
@given(model_configs(causal=True), SEEDS, st.integers(0, VOCAB - 1), st.integers(1, 3))
def test_rows_that_have_ended_may_leave_the_batch_and_nothing_greedy_changes(config, seed, stop, samples):
    model, prompt = build(config, seed, context=24), draw_tokens(seed, 5, 4)
    whole = generate(model, prompt, 12, stop=stop, samples=samples)
    assert torch.equal(generate(model, prompt, 12, stop=stop, samples=samples, drop=True), whole)


class Countdown(torch.nn.Module):
    """Writes 1 as often as the first token of the prompt says, then 0; remembers how many rows it read each time."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[int] = []

    def forward(self, tokens, *, cache):
        self.read.append(len(tokens))
        tokens = torch.cat([*(held[0] for held in cache.layers.values()), tokens], dim=1)
        cache.layers[0] = tokens, tokens
        written = tokens.shape[1] - 1
        return F.one_hot((written < tokens[:, 0]).long(), VOCAB).float()[:, None]


@given(st.lists(st.integers(0, 6), min_size=1, max_size=12))
@example([0, 0, 3, 3, 3, 3, 3])
@example([0, 1, 3, 3])
def test_rows_that_leave_are_those_that_have_ended_once_they_are_over_a_quarter(counts):
    steps = min(max(counts) + 1, 6)
    right = [[1] * min(n, steps) + [0] * (steps - n) for n in counts]
    sizes, going = [], counts
    for step in range(steps):
        sizes.append(len(going))
        left = [n for n in going if n > step]
        going = left if 4 * (len(going) - len(left)) > len(going) else going
    for drop, read in ((False, [len(counts)] * steps), (True, sizes)):
        model = Countdown()
        assert generate(model, torch.tensor(counts)[:, None], 6, stop=0, drop=drop)[:, 1:].tolist() == right
        assert model.read == read


@pytest.mark.parametrize("wrong", [{}, {"stop": 0, "cache": False}])
def test_rows_leave_only_where_they_can_end_and_are_kept(wrong):
    with pytest.raises(ValueError, match="drop=True"):
        generate(build(ModelConfig(width=8)), draw_tokens(0, 4, 3), 6, drop=True, **wrong)
