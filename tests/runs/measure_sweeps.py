"""How much a second worker brings, and what a sweep costs beside its jobs.

python tests/runs/measure_sweeps.py [JOBS [STEPS]]
"""

import sys
import tempfile
import time
from pathlib import Path

from tests.runs.test_hardening import SHORT, sweep_command
from toylab.runs.table import load_runs


def main(jobs: int = 200, steps: int = 600) -> None:
    """Sweep the same jobs with one worker and with two; print wall time, and the share of it not spent in jobs."""
    import subprocess

    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for workers in (1, 2):
            out = Path(folder) / str(workers)
            command = sweep_command(out, [f"seed=0..{jobs - 1}"], ["one-layer"], "--workers", str(workers))
            command += ["--train.steps", str(steps)]
            began = time.monotonic()
            subprocess.run(command, check=True, capture_output=True)
            seconds[workers] = time.monotonic() - began
            inside = sum(row["result.cost.wall_seconds"] for row in load_runs(out))
            over = 1 - inside / workers / seconds[workers]
            print(f"{jobs} jobs, {workers} workers: {seconds[workers]:.1f} s, {over:.1%} outside the jobs", flush=True)
    print(f"two workers take {seconds[2] / seconds[1]:.3f} of one ({' '.join(SHORT)})")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
