"""Check a certificate of `toylab prove` without toylab: check_certificate.py CERTIFICATE MODEL [VECTORS] [--blocks N].

Decides all rows of all blocks, or of N blocks at random, again in float64, and compares counts, decisions and margins.
Takes answers on the tasks of three studies, whose rows it lists by itself, and refuses others by name."""

import argparse
import hashlib
import itertools
import json
import random
import re
from pathlib import Path

import torch
from forward_pass import model_of, need, taken

TOKENS = {"Copy": 0, "Parity": 1, "ModularSum": 2, "Polynomial": 3}  # after the values; EoI and EoS come last
CLOSE = 1e-4  # margins below this are counted apart


def counting_rows(s, length):
    """All strings of brackets and bits, with their counts."""
    need(0 < s["p"] < 1 and length <= 12, f"p={s['p']} at length {length}, of 12 at most")
    fewest, most = (s["regions"],) * 2 if isinstance(s["regions"], int) else s["regions"]
    legal = re.compile(rf"[01]*(2[01]*3[01]*){{{fewest},{most}}}")
    words = filter(legal.fullmatch, map("".join, itertools.product("0123", repeat=length)))
    words = [(word, [7 + region.count("1") for region in re.findall("2([01]*)3", word)]) for word in words]
    prompts = [[4] * s["begin"] + [*map(int, word), 5] for word, _ in words]
    answers = [[*counts, 6] + [-1] * (most - len(counts)) for _, counts in words]
    return torch.tensor(prompts), torch.tensor(answers), torch.tensor(prompts)[:, s["begin"] : -1]


def chain_rows(task, length, symbols, numbers):
    """The rows of an iterated map or of Reasoning with these numbers, as `rows_of` takes them."""
    name, s, last = task["class"], task["settings"], task["vocabulary"] - 1
    places = len(symbols) ** torch.arange(length).flip(0)
    inputs = symbols.start + torch.arange(*numbers.indices(len(symbols) ** length))[:, None] // places % len(symbols)
    a, b, c, d = s.get("coefficients", (0, int(name != "Copy"), 1, 0))
    base, table = s.get("p", 2), task["permutation"]
    states = [(c * inputs[:, 0] + d) % base if s.get("start") == "zero" else inputs[:, 0]]
    for x in inputs[:, 1:].T:
        states.append((a * states[-1] * x + b * states[-1] + c * x + d) % base)
        states[-1] = torch.tensor(table)[states[-1]] if table else states[-1]
    one = torch.ones_like(states[0])
    if name == "Reasoning":  # after the digits of two dialects: BOS, SEP, EOS, PAD, THINK, DIRECT, ANS
        bos, sep, eos, _, think, _, ans = (one * (2 * base + n) for n in range(7))
        prompts = torch.stack([bos, *inputs.T, sep], dim=1)
        return prompts, torch.stack([think, *states[1:], ans, states[-1], eos], dim=1), prompts
    answers = torch.stack([*(states if s["chain_of_thought"] else states[-1:]), one * last], dim=1)
    return torch.stack([one * (last - 6 + TOKENS[name]), *inputs.T, one * (last - 1)], dim=1), answers, inputs


def rows_of(task, length):
    """The number of rows of a length, and a function from a slice of their numbers, in lexicographic order, to prompts,
    answers (-1: none) and the part of the prompts that decides the split."""
    name, s = task["class"], taken(task["settings"])
    if name == "ContextualCounting":
        listed = counting_rows(s, length)
        return len(listed[0]), lambda numbers: [part[numbers] for part in listed]
    is_reasoning = name == "Reasoning" and length == s["length"]
    need(name in TOKENS or is_reasoning, f"task={name} of length {length}")
    symbols = range(int(name == "Polynomial" and not s["zero_input"]), s.get("p", 2))
    inputs = length + is_reasoning
    return len(symbols) ** inputs, lambda numbers: chain_rows(task, inputs, symbols, numbers)


def in_train(keys):
    """Whether a hash of the key (splitmix64) puts a row into the training split."""

    def right(x, bits):
        return (x >> bits) & (2 ** (64 - bits) - 1)

    hashes = torch.full((len(keys),), keys.shape[1])
    for column in keys.T + 1:
        x = (hashes ^ column) + (0x9E3779B97F4A7C15 - 2**64)
        x = (x ^ right(x, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
        x = (x ^ right(x, 27)) * (0x94D049BB133111EB - 2**64)
        hashes = x ^ right(x, 31)
    return right(hashes, 61) < 6


def decide(run, kind, free, prompts, answers):
    """Logits of the answers, after the model's own ones if free-running, and the correct answers; -1 for none."""
    if kind == "EncoderDecoder":  # classes are counts, and "=" and EoS have no label query
        return run(prompts[:, :-1]), (answers[:, :-1] - 7).clamp(min=-1)
    tokens = torch.cat([prompts, answers[:, :-1].clamp(min=0)], dim=1)
    for at in range(prompts.shape[1], tokens.shape[1]) if free else ():
        tokens[:, at] = run(tokens[:, :at])[:, -1].argmax(dim=-1)
    return run(tokens)[:, prompts.shape[1] - 1 :], answers


def check(certificate, model, vectors=None, blocks=None):
    """Check a certificate; ends the program with the first fault. Returns the number of blocks and of rows checked."""
    cert = json.loads(Path(certificate).read_text(encoding="utf-8"))
    content = json.dumps({k: v for k, v in cert.items() if k not in ("format", "checksum")}, sort_keys=True)
    need(hashlib.sha256(content.encode()).hexdigest() == cert["checksum"], "the certificate is damaged")
    run, kind, c, digest = model_of(model, vectors)
    need(digest == cert["model"]["digest"], "the model is not that of the certificate")
    need(c == cert["model"]["config"], "the model's settings are not those of the certificate")
    need(cert["property"]["name"] == "Answers", f"property={cert['property']['name']}: only Answers is taken")
    listed = {int(length): rows_of(cert["task"], int(length)) for length in cert["counts"]}
    spans = ((n, at) for n, (count, _) in sorted(listed.items()) for at in range(0, count, cert["block"]))
    given = [(block["length"], block["start"]) for block in cert["blocks"]]
    need(given == list(itertools.islice(spans, len(given))), "the blocks are not the first ones in order, without gaps")
    need(cert["counts"] == {str(n): count for n, (count, _) in listed.items()}, "the number of rows is another")
    chosen = random.sample(cert["blocks"], min(blocks or len(cert["blocks"]), len(cert["blocks"])))
    for block in chosen:
        part = slice(block["start"], block["start"] + cert["block"])
        prompts, answers, keys = listed[block["length"]][1](part)
        logits, due = decide(run, kind, cert["property"]["settings"]["free_running"], prompts, answers)
        first, second = logits.topk(2, dim=-1).values.unbind(dim=-1)
        margins = (first - second).masked_fill(due < 0, torch.inf).amin(dim=1)
        decided = logits.argmax(dim=-1)
        holds, train = ((decided == due) | (due < 0)).all(dim=1), in_train(keys)
        found = {
            "rows": len(due),
            "train": int(train.sum()),
            "holds": int(holds.sum()),
            "train_holds": int((holds & train).sum()),
            "close": int((margins < CLOSE).sum()),
            "digest": hashlib.sha256(decided[due >= 0].int().numpy().astype("<i4").tobytes()).hexdigest(),
            "counterexample": None if holds.all() else block["start"] + int(holds.int().argmin()),
        }
        for name, value in found.items():
            where = f"length {block['length']}, rows from {block['start']}"
            need(block[name] == value, f"{where}: {name} is {value}, and the certificate says {block[name]}")
        need(abs(block["margin"] - float(margins.min())) < CLOSE, f"{where}: the margin is {margins.min():.6f}")
    return len(chosen), sum(block["rows"] for block in chosen)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name, number in ("certificate", None), ("model", None), ("vectors", "?"):
        parser.add_argument(name, nargs=number)
    parser.add_argument("--blocks", type=int)
    try:
        blocks, rows = check(**vars(parser.parse_args()))
    except Exception as error:
        need(False, f"no readable certificate, or not with this model ({error!r})")
    print(f"{blocks} blocks, {rows} rows: as the certificate says")
