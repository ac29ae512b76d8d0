"""Certificates: resumption, and the checker, which has neither toylab's forward pass nor its tasks."""

import importlib.util
import json
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import toylab
from tests.cases.make_forward import PATH, unpacked
from tests.modules import ROOT
from toylab.console import ToylabError
from toylab.files import read_record, read_tensors, write_record, write_tensors
from toylab.model.checkpoint import save_model
from toylab.model.config import ModelConfig
from toylab.model.encoder_decoder import ENCODER, EncoderDecoder, EncoderDecoderConfig
from toylab.model.steering import save_steering, steer
from toylab.model.transformer import Transformer
from toylab.proofs import certificate as module
from toylab.proofs import prove as prover
from toylab.proofs.certificate import read_certificate
from toylab.proofs.properties import Answers, Attends, Outcome
from toylab.tasks import AssociativeRecall, ContextualCounting, Copy, ModularSum, Parity, Polynomial, Reasoning

sys.path.insert(0, str(ROOT / "tools"))
checker = importlib.import_module("check_certificate")
forward_pass = importlib.import_module("forward_pass")
CASES = json.loads(PATH.read_text())
REFUSED = {
    "norm after each sublayer": "activation=relu|norm=post",
    "no norm, tied unembedding": "norm=none|activation=gelu-tanh|unembedding=tied",
    "encoder and decoder with every sublayer": "residual=True|self_attention=True",
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_forward_pass_of_the_checker_is_that_of_the_table_or_refuses_a_setting_by_name(case):
    weights = {name: unpacked(one) for name, one in case["weights"].items()}
    vectors = {int(layer): unpacked(one) for layer, one in case["steering"].items()}
    given = case["kind"], weights, case["config"], torch.tensor(case["tokens"]), vectors
    if case["name"] in REFUSED:
        with pytest.raises(SystemExit, match=REFUSED[case["name"]]):
            forward_pass.forward(*given)
        return
    expected = torch.tensor(case["logits"], dtype=torch.float64)
    torch.testing.assert_close(forward_pass.forward(*given), expected, rtol=1e-8, atol=1e-8)


SMALL = ModelConfig(heads=2, width=8, hidden=12)
COUNTING = ContextualCounting(length=(4, 5), regions=(1, 2))
TASKS = [
    Polynomial(p=5, lengths=(1, 3)),
    Polynomial(p=5, lengths=(1, 3), coefficients=(1, 2, 3, 4), zero_input=True, start="zero", alphabet=7),
    Parity(lengths=(1, 6), chain_of_thought=False),
    ModularSum(p=4, lengths=(2, 3), start="zero"),
    Copy(p=3, lengths=3),
    Reasoning(p=3, length=3, seed=1),
    COUNTING,
]


def files(folder, model, task, **options):
    """A certificate with the file of its model."""
    save_model(folder / "model.safetensors", model)
    proof = toylab.prove(model, task, out=folder / "proof.json", **options)
    return folder / "proof.json", folder / "model.safetensors", proof


@pytest.mark.parametrize("task", TASKS, ids=str)
@pytest.mark.parametrize("free_running", [False, True])
def test_the_checker_confirms_every_task(task, free_running, tmp_path):
    model = Transformer.for_task(task, SMALL, 1)
    path, weights, proof = files(tmp_path, model, task, property=Answers(free_running=free_running))
    assert checker.check(path, weights) == (len(proof.blocks), proof.rows)


@pytest.mark.parametrize("causal", [True, False])
def test_the_checker_confirms_an_encoder_decoder(causal, tmp_path):
    model = EncoderDecoder(EncoderDecoderConfig(encoder=replace(ENCODER, causal=causal, width=8)), 5, 2, 6, 6, 1)
    path, weights, proof = files(tmp_path, model, COUNTING)
    assert checker.check(path, weights) == (2, proof.rows)


def test_the_checker_confirms_a_steered_model(tmp_path):
    task = Reasoning(p=3, length=2)
    model = Transformer.for_task(task, replace(SMALL, layers=2), 1)
    steered = steer(model, {1: torch.randn(8, generator=torch.Generator().manual_seed(0))})
    save_model(tmp_path / "model.safetensors", model)
    save_steering(tmp_path / "vectors.safetensors", steered)
    path = tmp_path / "proof.json"
    toylab.prove(steered, task, out=path)
    assert checker.check(path, tmp_path / "model.safetensors", tmp_path / "vectors.safetensors") == (1, 27)
    with pytest.raises(SystemExit, match="the model is not that of the certificate"):
        checker.check(path, tmp_path / "model.safetensors")


TASK = Polynomial(p=5, lengths=(1, 4))


@pytest.fixture(scope="module")
def proved(tmp_path_factory):
    model = Transformer.for_task(TASK, SMALL, 0)
    with torch.no_grad():
        model.unembedding.weight[TASK.end_of_sequence] *= 3  # right in part, so that counts differ
    path, weights, _ = files(tmp_path_factory.mktemp("proof"), model, TASK)
    return path, weights


def changed_block(name, change, at=-1):
    def mutate(record):
        record["blocks"][at][name] = change(record["blocks"][at][name])

    return mutate


def without_a_block(record):
    del record["blocks"][1]


def a_block_twice(record):
    record["blocks"].append(record["blocks"][-1])


def other_prime(record):
    record["task"]["settings"]["p"] = 7


MUTATIONS = {
    "rows": (changed_block("rows", lambda n: n - 1), "rows is 256"),
    "train": (changed_block("train", lambda n: n + 1), "train is"),
    "holds": (changed_block("holds", lambda n: n + 1), "holds is"),
    "train_holds": (changed_block("train_holds", lambda n: n + 1), "train_holds is"),
    "close": (changed_block("close", lambda n: n + 1, 0), "close is"),
    "margin": (changed_block("margin", lambda x: x + 1e-3), "the margin is"),
    "digest": (changed_block("digest", lambda text: text[1:] + text[:1]), "digest is"),
    "counterexample": (changed_block("counterexample", lambda n: (n or 0) + 1), "counterexample is"),
    "order of the blocks": (lambda record: record["blocks"].reverse(), "not the first ones in order"),
    "a block less": (without_a_block, "not the first ones in order"),
    "a block more": (a_block_twice, "not the first ones in order"),
    "number of rows": (lambda record: record["counts"].update({"4": 255}), "the number of rows is another"),
    "task": (other_prime, "in order|number of rows|is "),
    "settings of the model": (lambda record: record["model"]["config"].update(heads=1), "settings are not those"),
    "property": (lambda record: record["property"].update(name="Attends"), "property=Attends"),
    "name of the task": (lambda record: record["task"].update({"class": "WordProblem"}), "task=WordProblem"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutated_certificate_is_refused(name, proved, tmp_path):
    mutate, message = MUTATIONS[name]
    record = read_record(proved[0])
    mutate(record)
    write_record(tmp_path / "proof.json", record)  # with the checksum of what it now says
    with pytest.raises(SystemExit, match=f"refused: .*({message})"):
        checker.check(tmp_path / "proof.json", proved[1])
    text = proved[0].read_text().replace('"sample": null', '"sample": {}')
    (tmp_path / "proof.json").write_text(text)
    with pytest.raises(SystemExit, match="damaged"):
        checker.check(tmp_path / "proof.json", proved[1])


@pytest.mark.parametrize("seed", range(10))
def test_a_model_with_one_changed_weight_is_refused(seed, proved, tmp_path):
    tensors, about = read_tensors(proved[1])
    rng = np.random.default_rng(seed)
    names = [name for name in sorted(tensors) if not name.endswith("key.bias")]  # which no decision depends on
    name = names[rng.integers(len(names))]
    place = rng.integers(tensors[name].numel())
    tensors[name].view(-1)[place] += 1.0
    write_tensors(tmp_path / "model.safetensors", tensors, about)
    with pytest.raises(SystemExit, match="the model is not that of the certificate"):
        checker.check(proved[0], tmp_path / "model.safetensors")
    record = read_record(proved[0])  # a forger would also change the digest of the model
    record["model"]["digest"] = forward_pass.digest_of(tensors)
    write_record(tmp_path / "proof.json", record)
    with pytest.raises(SystemExit, match=r"length \d, rows from 0: .* is"):
        checker.check(tmp_path / "proof.json", tmp_path / "model.safetensors")


def test_other_tasks_are_refused_by_name(tmp_path):
    task = AssociativeRecall(pairs=2, keys=3, values=2)
    path, weights, _ = files(tmp_path, Transformer.for_task(task, SMALL, 0), task)
    with pytest.raises(SystemExit, match="task=AssociativeRecall"):
        checker.check(path, weights)


def test_a_proof_is_resumed_with_the_bits_of_one_in_one_go(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 50)
    model = Transformer.for_task(TASK, SMALL, 0)
    whole, path = toylab.prove(model, TASK, out=tmp_path / "whole.json"), tmp_path / "parts.json"
    judged = []
    original = prover.judge_block
    monkeypatch.setattr(prover, "judge_block", lambda *given: judged.append(given[3:]) or (original(*given)[0], 1.0))
    for budget in (1, 2, 100):  # blocks, since each is said to take a second
        part = toylab.prove(model, TASK, out=path, budget=budget)
    assert len(set(judged)) == len(whole.blocks) == 10
    assert len(judged) == 12  # the last block of each certificate that is resumed is decided again
    assert (part.blocks, part.sample) == (whole.blocks, None)
    assert path.read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert checker.check(path, files(tmp_path, model, TASK)[1])[0] == 10


def test_the_checker_takes_a_proof_in_part(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 50)
    original = prover.judge_block
    monkeypatch.setattr(prover, "judge_block", lambda *given: (original(*given)[0], 1.0))
    task = replace(TASK, lengths=(1, 16))
    path, weights, proof = files(tmp_path, Transformer.for_task(task, SMALL, 0), task, budget=5, sample=3)
    assert not proof.is_complete
    assert checker.check(path, weights) == (5, proof.total("rows"))
    assert checker.check(path, weights, blocks=2)[0] == 2


@pytest.mark.parametrize(
    ("other", "part"),
    [
        ({"model": Transformer.for_task(TASK, SMALL, 9)}, "model"),
        ({"task": replace(TASK, start="zero")}, "task"),
        ({"property": Answers(free_running=True)}, "property"),
        ({"property": Attends(link="carry", layer=1, head=0)}, "property"),
        ({"lengths": (2,)}, "counts"),
    ],
)
def test_the_certificate_of_another_proof_is_refused(other, part, tmp_path):
    given = {"model": Transformer.for_task(TASK, SMALL, 0), "task": TASK, "out": tmp_path / "proof.json"}
    toylab.prove(**given)
    with pytest.raises(ToylabError, match=f"another {part}"):
        toylab.prove(**(given | other))


def reordered(by: int) -> Polynomial:
    """A task of the same name and settings for every number of places by which its rows are shifted."""

    class Reordered(Polynomial):
        def enumerate(self, length, numbers):
            return super().enumerate(length, (numbers + by) % self.count(length))

    return Reordered(p=5, lengths=(1, 4))


class SameName(nn.Module):
    """A model without weights: its tensors do not tell what it decides."""

    def __init__(self, token):
        super().__init__()
        self.token, self.config = token, {"token": "is no dataclass"}

    def forward(self, tokens):
        return torch.nn.functional.one_hot(torch.full_like(tokens, self.token), len(TASK.vocabulary)).double()


class Property:
    """A property that is no dataclass, and has another address in every process."""

    def __call__(self, model, batch):
        return Answers()(model, batch)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"task": reordered(0)}, {"task": reordered(1)}),
        ({"model": SameName(1)}, {"model": SameName(2)}),
        ({"property": lambda model, batch: Answers()(model, batch)}, {"property": lambda model, batch: SAYS[0]}),
    ],
)
def test_the_certificate_of_other_code_is_refused(first, then, tmp_path):
    given = {"model": Transformer.for_task(TASK, SMALL, 0), "task": TASK, "lengths": (2,), "out": tmp_path / "a.json"}
    toylab.prove(**(given | first))
    toylab.prove(**(given | first))
    with pytest.raises(ToylabError, match="its last block is decided otherwise now"):
        toylab.prove(**(given | first | then))


SAYS = [Outcome(np.ones((16, 1), dtype=int), np.ones((16, 1), dtype=bool), np.ones(16))]


@dataclass(frozen=True)
class Settled(Property):
    """A property whose settings are a tuple, which JSON turns into a list."""

    layers: tuple[int, ...] = (0, 1)


@pytest.mark.parametrize("property", [Property(), Settled(), Property().__call__])
def test_a_property_of_any_form_is_resumed(property, tmp_path):
    given = {"model": Transformer.for_task(TASK, SMALL, 0), "task": TASK, "out": tmp_path / "a.json"}
    first = toylab.prove(**given, property=property)
    again = Property() if type(property) is Property else property
    assert toylab.prove(**given, property=again) == first


@pytest.mark.parametrize("change", [a_block_twice, without_a_block, lambda record: record["blocks"].reverse()])
def test_a_certificate_with_blocks_out_of_order_is_not_resumed(change, proved, tmp_path):
    record, path = read_record(proved[0]), tmp_path / "proof.json"
    header = {"counts": record["counts"]}
    change(record)
    write_record(path, record)
    with pytest.raises(ToylabError, match="not the first ones in order"):
        read_certificate(path, header)
    write_record(path, record | {"blocks": None})
    with pytest.raises(ToylabError, match="blocks=None"):
        read_certificate(path, header)


def test_the_checker_runs_by_itself_and_imports_nothing_of_toylab(proved):
    sources = [ROOT / "tools" / name for name in ("check_certificate.py", "forward_pass.py")]
    for source in sources:
        text = source.read_text()
        imported = set(re.findall(r"^(?:import|from) (\w+)", text, flags=re.MULTILINE))
        assert not {"toylab", "numpy", "tasks", "probes"} & imported
        assert len([line for line in text.splitlines() if line.strip()]) <= 120
    command = [sys.executable, str(sources[0]), *map(str, proved), "--blocks", "2"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=Path(proved[0]).parent, check=True)
    assert re.fullmatch(r"2 blocks, \d+ rows: as the certificate says\n", ended.stdout)
    damaged = Path(proved[0]).with_name("damaged.json")
    damaged.write_text(Path(proved[0]).read_text()[:-20])
    ended = subprocess.run([*command[:2], str(damaged), command[3]], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert re.fullmatch(r"refused: no readable certificate.*\n", ended.stderr)
