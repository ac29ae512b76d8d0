"""Counterexamples that sampling misses: `python notebooks/counterexamples.py FOLDER`.

Trains the main model of the iteration-head study on seeds that no choice was made on, measures its sampled accuracy as
the study does, and decides its answers on all inputs of lengths 1 to 5, then of length 6. FOLDER keeps models and
certificates, so that the same command resumes. Writes notebooks/counterexamples.json, its figure, and the table of
docs/prove.md.
"""

import sys
import time
from pathlib import Path

import numpy as np
from scoreboard import put_table

from toylab import prove, single_thread
from toylab.files import exists, read_json, write_json, write_text
from toylab.report.canvas import add_legend, new_axes, to_svg
from toylab.studies.iteration_head.study import IterationHeadStudy, lengths_of
from toylab.training import evaluate
from toylab.verdicts.ledger import LEDGER

HOME = Path(__file__).parent.parent
SEEDS = next(seeds for seeds, purpose in LEDGER.items() if purpose == "counterexamples on all inputs")
LENGTHS = range(1, 7)
OUT = HOME / "notebooks" / "counterexamples.json"
STUDY = IterationHeadStudy()


def model_of(seed, folder):
    """The main model of a seed."""
    condition = STUDY.conditions()["main"].of(seed)
    return STUDY.train_condition(condition, seed, folder / str(seed))[0]


def sampled(model, seed):
    """Held-out rows and wrong ones, by length, in the evaluation of the study."""
    batches = evaluate.by_length(STUDY.task, seed, lengths_of(STUDY.task), STUDY.rows)
    accuracy = evaluate.free_running_accuracy(model, STUDY.task, batches)
    return {str(n): [len(batch), round((1 - accuracy[n]) * len(batch))] for n, batch in batches.items()}


def decided(model, seed, length, folder):
    """All rows of a length and wrong ones, those held out, and the inputs of the first wrong row."""
    proof = prove(
        model, STUDY.task, lengths=(length,), budget=float("inf"), out=folder / str(seed) / f"length-{length}.json"
    )
    rows, holds, train = proof.rows, proof.total("holds"), proof.total("train")
    first = next((block.counterexample for block in proof.blocks if block.counterexample is not None), None)
    row = None if first is None else STUDY.task.enumerate(length, np.array([first])).tokens[0, 1 : length + 1].tolist()
    wrong_held_out = rows - train - (holds - proof.total("train_holds"))
    return {
        "rows": rows,
        "wrong": rows - holds,
        "held out": rows - train,
        "wrong held out": wrong_held_out,
        "margin": proof.margin,
        "first": row,
    }


def table(records):
    """The Markdown table of all seeds."""
    lines = ["| seed | wrong of the sampled | " + " | ".join(f"length {n}" for n in LENGTHS) + " | first |"]
    lines += ["| --- |" + " ---: |" * (len(LENGTHS) + 1) + " --- |"]
    for seed, record in records.items():
        cells = [f"{record['all'][str(n)]['wrong']:,}" if str(n) in record["all"] else "" for n in LENGTHS]
        rows, wrong = (sum(pair[i] for pair in record["sampled"].values()) for i in (0, 1))
        first = next((one["first"] for one in record["all"].values() if one["first"]), None)
        words = "none" if first is None else " ".join(map(str, first))
        lines.append(f"| {seed} | {wrong} of {rows} | {' | '.join(cells)} | {words} |")
    return "\n".join(lines)


def figure(records):
    """Share of wrong inputs by length: of all, and of the sampled."""
    ax = new_axes(5.2, 3.0)
    for label, marker, points in (
        ("all inputs", "o", [(int(n), x["wrong"] / x["rows"]) for r in records.values() for n, x in r["all"].items()]),
        ("sampled", "x", [(int(n) + 0.25, w / k) for r in records.values() for n, (k, w) in r["sampled"].items()]),
    ):
        ax.plot(*zip(*points, strict=True), marker, label=label, alpha=0.7, fillstyle="none", clip_on=False)
    ax.set_yscale("symlog", linthresh=1e-6)
    ax.set(xlabel="inputs in the row", ylabel="share of wrong inputs", ylim=(0, 1))
    add_legend(ax)
    return to_svg(ax.figure)


def main(folder):
    single_thread()
    records = read_json(OUT) if exists(OUT) else {}
    for lengths in (LENGTHS[:-1], LENGTHS[-1:]):
        for seed in SEEDS:
            record = records.setdefault(str(seed), {"cpu_seconds": 0.0, "all": {}})
            if all(str(n) in record["all"] for n in lengths):
                continue
            start = time.process_time()
            model = model_of(seed, folder)
            record["sampled"] = sampled(model, seed)
            record["all"] |= {str(n): decided(model, seed, n, folder) for n in lengths}
            record["cpu_seconds"] = round(record["cpu_seconds"] + time.process_time() - start, 1)
            write_json(OUT, records)
            print(seed, {n: one["wrong"] for n, one in record["all"].items()}, f"{record['cpu_seconds']:.0f} s")
    write_text(HOME / "notebooks" / "images" / "counterexamples.svg", figure(records))
    put_table(HOME / "docs" / "prove.md", "counterexamples", table(records))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
