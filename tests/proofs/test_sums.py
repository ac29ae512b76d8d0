"""What a proof says of its blocks, by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from toylab.proofs import exact
from toylab.proofs.proof import Proof, ProvedBlock
from toylab.proofs.properties import Answers
from toylab.tasks import Polynomial
from toylab.tasks.enumeration import as_int64

BLOCKS = tuple(
    ProvedBlock(
        length=2, start=16 * n, rows=16, train=9, holds=12 - n, train_holds=7, close=n, margin=margin, digest=""
    )
    for n, margin in enumerate((0.5, None, 0.25, 4.0))
)


def test_the_margin_of_a_proof_is_the_smallest_of_its_blocks(monkeypatch):
    proof = Proof(name="answers", counts={2: 64}, blocks=BLOCKS)
    assert proof.margin == 0.25
    monkeypatch.setattr(exact, "prove", lambda *_, **__: proof)
    found = exact.on_all_inputs(nn.Identity(), Polynomial(p=5, lengths=(1, 3)), Answers(), range(2, 3))
    assert (found.inputs, found.holds, found.close, found.margin) == (64, 42, 6, 0.25)


def test_only_numbers_of_rows_that_an_integer_lacks_are_cut_off():
    largest = 2**63 - 1
    assert as_int64([5, 2**62 + 1, largest, 2**63, 10**30]).tolist() == [5, 2**62 + 1, largest, largest, largest]


@pytest.mark.parametrize(("logit", "margin"), [(float("inf"), 0.0), (2.0, 0.0), (1.5, 0.5)])
def test_two_logits_that_are_equal_have_no_margin_also_where_both_are_infinite(logit, margin):
    class Constant(nn.Module):
        def forward(self, tokens):
            logits = torch.zeros(*tokens.shape, len(task.vocabulary))
            logits[..., 0], logits[..., 1] = (logit if np.isinf(logit) else 2.0), logit
            return logits

    task = Polynomial(p=5, lengths=(1, 3))
    assert set(Answers()(Constant(), task.enumerate(2, np.arange(16))).margins.tolist()) == {margin}
