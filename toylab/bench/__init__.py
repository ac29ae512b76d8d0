"""Benchmarks of toylab against other libraries, in one process with one thread.

    toylab bench                      all short benchmarks (two minutes)
    toylab bench step generate        selected benchmarks
    toylab bench recipes              CPU time to reach a result, on held-out seeds (minutes)
    toylab bench gpu                  every study on a GPU, compared with the CPU, and many seeds at once (minutes)

Compared programs are interleaved in rounds, so that a slowdown of the machine affects all of them; a ratio is the
median over rounds. A missed target is reported, not raised as an error.
"""

from __future__ import annotations

import importlib.util
import math
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from toylab.console import ToylabError, unknown_name
from toylab.files import read_json, write_json
from toylab.model.device import check_device


@dataclass(frozen=True)
class Comparison:
    """Result of one benchmark: the cost of toylab, of other libraries, and the target for their ratio.

    Attributes:
        work: name of the benchmark, for example "training step, width 64, length 66".
        ours: value measured for toylab, in `unit`: a time, a memory size, or a rate.
        unit: unit of `ours` and of the values of `peers`, for example "ms".
        target: threshold for `ratio`: its maximum, or its minimum if `more` is true.
        ratio: value of toylab divided by the value of the other library in the same round, median over rounds. For a
            benchmark without another library, `ratio` equals `ours`, and `target` is in `unit`.
        peers: value measured for each other library, by its name; empty if toylab is measured alone.
        more: whether a larger `ratio` is better, as for a rate; if false, a smaller one is, as for a time.
        note: remark for the JSON record, for example how the cost was counted.
    """

    work: str
    ours: float | int
    unit: str
    target: float | int
    ratio: float | int
    peers: Mapping[str, float] = field(default_factory=dict)
    more: bool = False
    note: str = ""

    @property
    def met(self) -> bool:
        """Whether the target is met, at the digits shown."""
        ratio = float(format_number(self.ratio))
        return ratio >= self.target if self.more else ratio <= self.target

    def __str__(self) -> str:
        """The result in one sentence."""
        of = f" of {' and '.join(self.peers)}" if self.peers else f" {self.unit}"
        bound = "at least" if self.more else "at most"
        target_text = f"{bound} {self.target:g}"
        if self.met:
            return f"{self.work}: {format_number(self.ratio)}{of}, target {target_text}"
        missing = self.target / self.ratio - 1 if self.more else 1 - self.target / self.ratio
        return f"{self.work}: {format_number(self.ratio)}{of}, {100 * abs(missing):.0f} % short of {target_text}"


Rounds = Mapping[str, list[float]]
"""Seconds of each round, by name of the compared program."""


def interleaved_timings(
    works: Mapping[str, Callable[[], Any]], rounds: int = 15, device: str = "cpu"
) -> dict[str, list[float]]:
    """Seconds per benchmark and round; every round runs all once, after two uncounted warm-up rounds.

    The order within a round is random, so that cache effects do not favour one benchmark. Seconds are CPU time of this
    process on a CPU, and wall-clock time on a GPU.
    """
    clock = time.process_time if device == "cpu" else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for round_number in range(rounds + 2):
        for name in random.Random(round_number).sample(list(works), len(works)):
            start = clock()
            works[name]()
            synchronize(device)
            if round_number >= 2:
                seconds[name].append(clock() - start)
    return seconds


def synchronize(device: str) -> None:
    """Wait for the operations submitted to a GPU."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def compare_with_peer(
    work: str,
    seconds: Rounds,
    peer: str,
    target: float | int,
    *,
    ours: str = "ours",
    scale: float | int = 1e3,
    unit: str = "ms",
) -> Comparison:
    """Compare toylab with one other library, from the timings of `interleaved_timings`.

    Args:
        work: name of the benchmark.
        seconds: timings of all compared programs.
        peer: key of the other library in `seconds`.
        target: maximum of the time of toylab divided by the time of the other library.
        ours: key of toylab in `seconds`.
        scale: factor from seconds to `unit`.
        unit: unit of the result.
    """
    ratio = statistics.median(a / b for a, b in zip(seconds[ours], seconds[peer], strict=True))
    our_value, peer_value = (scale * statistics.median(seconds[name]) for name in (ours, peer))
    return Comparison(work, our_value, unit, target, ratio, {peer: peer_value})


def matmul_limit(rounds: int = 20, size: int = 1024, device: str = "cpu") -> float:
    """Floating-point operations per second of a square float32 matrix product, best of `rounds`."""
    matrix = torch.randn(size, size, device=device)
    (seconds,) = interleaved_timings({"product": lambda: matrix @ matrix}, rounds, device).values()
    return 2 * size**3 / min(seconds)


WORKS = {
    "step": "training.bench_step",
    "epoch": "training.bench_epoch",
    "share": "training.bench_matmul_share",
    "watch": "inference.bench_watch",
    "generate": "inference.bench_generate",
    "edit": "inference.bench_edit",
    "data": "startup.bench_sampling",
    "import": "startup.bench_imports",
    "seeds": "startup.bench_two_seeds",
    "population": "training.bench_population",
    "gpu": "gpu.bench_gpu",
    "recipes": "time_to_result.bench_recipes",
    "studies": "time_to_result.bench_studies",
}
"""Module and function of each benchmark, by name."""

LONG_WORKS = ("population", "gpu", "recipes", "studies")
"""Benchmarks that run only when named, since they take minutes or are uninformative on a CPU."""

GPU_WORKS = ("step", "epoch", "share", "watch", "generate", "edit", "population", "gpu")
"""Benchmarks that support other devices."""


def measure_works(names: Sequence[str] = (), device: str = "cpu") -> Iterator[Comparison]:
    """Yield the comparisons of the named benchmarks, by default of all short ones.

    Raises:
        ToylabError: for an unknown benchmark, with the nearest known name; for a device that this machine does not
            have, or that the benchmark does not support.
    """
    check_device(device)
    for name in names:
        if name not in WORKS:
            raise unknown_name("work", name, WORKS)
        if device != "cpu" and name not in GPU_WORKS:
            raise ToylabError(f"work {name!r}: does not measure a GPU; choose from {', '.join(GPU_WORKS)}")
    supported = WORKS if device == "cpu" else GPU_WORKS
    chosen = names or [name for name in supported if name not in LONG_WORKS]
    return (comparison for name in chosen for comparison in benchmark(name)(device))


def benchmark(name: str) -> Callable[[str], Iterator[Comparison]]:
    """The function of a benchmark, which takes a device."""
    module, _, function = WORKS[name].partition(".")
    return getattr(import_module(f"toylab.bench.{module}"), function)


def comparison_rows(comparisons: Sequence[Comparison]) -> list[tuple[str, ...]]:
    """The head of a table, then one row per comparison."""
    rows = [("work", "ours", "peer", "ratio", "target", "")]
    for comparison in comparisons:
        peer = ", ".join(f"{format_number(value)} {name}" for name, value in comparison.peers.items())
        ratio = format_number(comparison.ratio) if comparison.peers else ""
        own_value = f"{format_number(comparison.ours)} {comparison.unit}".strip()
        bound = f"{'>=' if comparison.more else '<='} {comparison.target:g}"
        rows.append((comparison.work, own_value, peer, ratio, bound, "" if comparison.met else "short"))
    return rows


def format_number(value: float | int) -> str:
    """Three significant digits, or two decimals."""
    if value and abs(value) < 0.095:
        return f"{value:.2g}"
    return f"{value:.2f}" if abs(value) < 9.995 else f"{value:.1f}" if abs(value) < 99.95 else f"{value:.0f}"


def has_lens() -> bool:
    """Whether TransformerLens is installed."""
    return importlib.util.find_spec("transformer_lens") is not None


def machine_description(device: str = "cpu") -> dict[str, str | float]:
    """Processor, device, versions and date of the measurements."""
    on_cuda = torch.device(device).type == "cuda"
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "device": torch.cuda.get_device_name(device) if on_cuda else device,
        "system": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def comparisons_json(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """One JSON object per comparison."""
    return [{**asdict(comparison), "met": comparison.met} for comparison in comparisons]


def keep_record(folder: Path | str, comparisons: Sequence[Comparison], about: Mapping[str, Any]) -> Path:
    """Write the comparisons to a file named by their date, and return its path.

    Args:
        about: date and machine, from `machine_description`.
    """
    name = str(about["date"]).replace(":", "").replace("+0000", "")
    path = Path(folder) / f"{name}.json"
    write_json(path, {**about, "found": comparisons_json(comparisons)})
    return path


def earlier_ratios(folder: Path | str, about: Mapping[str, Any]) -> dict[str, float]:
    """Ratios of the latest stored benchmark on the same processor and device, by benchmark and peer."""
    for path in sorted(Path(folder).glob("*.json"), reverse=True):
        record = read_json(path)
        if "found" in record and all(record.get(name) == about[name] for name in ("processor", "device")):
            return {
                comparison_key(comparison["work"], comparison["peers"]): comparison["ratio"]
                for comparison in record["found"]
            }
    return {}


def comparison_key(work: str, peers: Mapping[str, float]) -> str:
    """Unique key of a comparison: names of the benchmark and of the other libraries."""
    return " / ".join((work, *peers))


def changes_since(comparisons: Sequence[Comparison], earlier: Mapping[str, float], least: float = 0.1) -> list[str]:
    """One sentence for each comparison whose ratio changed by more than the fraction `least`.

    Args:
        earlier: ratios of an earlier benchmark, from `earlier_ratios`.
    """
    lines = []
    for comparison in comparisons:
        before = earlier.get(comparison_key(comparison.work, comparison.peers))
        if before and math.isfinite(before) and abs(comparison.ratio / before - 1) > least:
            change = "better" if (comparison.ratio > before) == comparison.more else "worse"
            lines.append(f"{comparison.work}: {format_number(comparison.ratio)}, {change} than {format_number(before)}")
    return lines
