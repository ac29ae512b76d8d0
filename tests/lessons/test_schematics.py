"""Laws of the schematics: legible in grey and on a phone, and weights between slots as the model computes with them."""

import itertools

import numpy as np
import pytest
import torch
from matplotlib import colors
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Patch

from toylab.lessons import schematics
from toylab.model.config import ModelConfig
from toylab.model.transformer import Transformer
from toylab.planted.handwritten import iteration_head
from toylab.probes import watch
from toylab.tasks import Polynomial

DRAWINGS = ["iteration_head", "induction_head", "counter", "steering_paths", "path_patching", "null_space"]


@pytest.fixture(params=DRAWINGS)
def drawing(request):
    return getattr(schematics, f"draw_{request.param}")()


def test_letters_are_large_and_neither_overlap_nor_leave_the_figure(drawing):
    renderer = FigureCanvasAgg(drawing).get_renderer()
    drawing.draw(renderer)
    (ax,) = drawing.axes
    texts = [text for text in ax.texts if text.get_text()]
    boxes = [text.get_window_extent(renderer) for text in texts]
    assert len(texts) >= 4
    assert drawing.get_figwidth() <= schematics.WIDTH
    assert min(text.get_fontsize() for text in texts) >= 10
    for text, box in zip(texts, boxes, strict=True):
        assert 0 <= box.x0 <= box.x1 <= drawing.bbox.width, text.get_text()
        assert 0 <= box.y0 <= box.y1 <= drawing.bbox.height, text.get_text()
    for (text, box), (other, near) in itertools.combinations(zip(texts, boxes, strict=True), 2):
        assert not box.overlaps(near), (text.get_text(), other.get_text())


def test_nothing_is_told_by_colour(drawing):
    (ax,) = drawing.axes
    artists = [child for child in ax.get_children() if isinstance(child, Patch)]
    shown = [colour for one in artists for colour in (one.get_facecolor(), one.get_edgecolor())]
    shown += [line.get_color() for line in ax.lines] + [text.get_color() for text in ax.texts]
    for red, green, blue in map(colors.to_rgb, shown):
        assert red == green == blue


def test_the_iteration_head_is_drawn_with_its_subtraction():
    """In the drawing, EoI is at 4 and the query at 5: the due position is that of x_2."""
    texts = [text.get_text() for text in schematics.draw_iteration_head().axes[0].texts]
    assert texts[: texts.index("MLP 1\n$5-4+1=2$")].count("$x_2$") == 1
    assert texts.index("2") - texts.index("0") == texts.index("$x_2$") - texts.index("task") == 2


@pytest.mark.parametrize("seed", [0, 1])
def test_qk_and_ov_give_the_scores_and_outputs_of_the_layer(seed):
    shape = ModelConfig(
        layers=1, heads=1, width=6, hidden=0, norm="none", positions="none", biases=False, unembedding="none"
    )
    model = Transformer(shape, 5, 4, seed=seed).double()
    tokens = torch.tensor([[3, 0, 4, 1]])
    names = ("blocks.0.resid_pre", "blocks.0.attn.scores", "blocks.0.attn.pattern", "blocks.0.attn_out")
    with torch.no_grad(), watch(model, *names) as seen:
        model(tokens)
    x, scores, pattern, out = (seen[name][0].numpy() for name in names)
    qk, ov = schematics.qk_and_ov(model.blocks[0].attn)
    lower = np.tril_indices(4)
    assert (x @ qk @ x.T / 6**0.5)[lower] == pytest.approx(scores[0][lower])
    assert pattern[0] @ x @ ov.T == pytest.approx(out)


def test_every_weight_of_a_slot_is_one_dot():
    task = Polynomial(p=3, lengths=(1, 2))
    words, places = len(task.vocabulary), task.context
    slots = {"token": words, "position": places, "end": places, "due": places, "read": words, "out": words}
    first, second = (schematics.qk_and_ov(block.attn) for block in iteration_head(task).blocks)
    figure = schematics.draw_by_slot({"copies the position": first[1], "finds it": second[0]}, slots)
    starts = dict(zip(slots, np.cumsum([0, *slots.values()]).tolist(), strict=False))
    for ax, (row, column), size in zip(
        figure.axes, [("end", "position"), ("due", "position")], [places] * 2, strict=True
    ):
        dots = {(float(y), float(x)) for x, y in ax.collections[0].get_offsets()}
        assert dots == {(starts[row] + i + 0.5, starts[column] + i + 0.5) for i in range(size)}
