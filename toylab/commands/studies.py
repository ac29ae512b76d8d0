"""Commands on studies: run, claims, report."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from toylab.commands.flags import Seeds, checked_device, chosen_study, print_json, settings_from_flags, usual_folder
from toylab.console import ToylabError


def run_study(options: argparse.Namespace, rest: list[str]) -> None:
    """`toylab run`, of one study or of all."""
    every = options.study == "all"
    chosen = settings_from_flags(Seeds, None, options, rest) if every else chosen_study(options, rest)

    from toylab.runs import registry, scoreboard
    from toylab.runs.dask import dask_executor
    from toylab.runs.jobs import JobsFailedError, JobsRefusedError, Run, execute_all
    from toylab.runs.judge import SHAM, FirstPage, is_decided, judge_and_report, judge_unfinished
    from toylab.runs.study import untrained_study
    from toylab.verdicts.decision import FEWEST_SEEDS

    device, preset = checked_device(options), options.preset
    if every:
        presets = {n: registry.preset_settings(registry.load_study(n).STUDY, preset) for n in registry.study_names()}
        studies = {name: replace(study, seeds=chosen.seeds or study.seeds) for name, study in presets.items()}
        title, folder = "all studies", options.out or Path("runs")
        own, judge, on_done = None, partial(scoreboard.finish_all, folder), None
    else:
        title, folder = registry.study_name(type(chosen)), options.out or usual_folder(options.study, preset)
        studies = {title: chosen}
        own = type(chosen)
        judge = partial(judge_and_report, folder, own)
        # Only where a page of unfinished conditions has verdicts: a fixed number of seeds, and enough of them.
        fixed = not options.until_decided and len(chosen.seeds) >= FEWEST_SEEDS
        on_done = FirstPage(chosen, folder, own) if fixed else None
    looks = []
    for name, study in studies.items():
        run = Run(study, name, folder / f"{name}-{preset}" if every else folder, options.until_decided, device)
        looks.append((run, looked_at(study.seeds, run.folder) if options.until_decided else iter([study.seeds])))
    done: dict[Path, Run] = {}
    try:
        with dask_executor(options.scheduler) as cluster:
            while looks := [
                (replace(run, study=replace(run.study, seeds=seeds)), later)
                for run, later in looks
                if (seeds := next(later, None)) is not None
            ]:
                done |= {run.folder: run for run, _ in looks}
                execute_all([run for run, _ in looks], title, options.workers, executor=cluster, on_done=on_done)
                looks = [
                    (run, later) for run, later in looks if options.until_decided and not is_decided(run.folder, own)
                ]
            if options.sham:
                shams = [
                    Run(untrained_study(run.study), run.name, run.folder / SHAM, device=device) for run in done.values()
                ]
                execute_all(shams, f"{title}, untrained", options.workers, executor=cluster)
    except (JobsFailedError, JobsRefusedError):
        judge_unfinished(folder, judge)  # report the finished jobs before the error
        raise
    print(judge())


def looked_at(first: Sequence[int], out: Path | str) -> Iterator[tuple[int, ...]]:
    """The seeds at each look of a run until decided: 10, 20 and 30 consecutive seeds from the first one.

    An existing run is judged first on its own seeds, to which further seeds are appended.
    """
    from toylab.files import exists
    from toylab.runs.store import read_settings
    from toylab.verdicts.decision import LOOKS

    path = Path(out) / "settings.json"
    seeds = tuple(read_settings(path)["settings"]["seeds"]) if exists(path) else ()
    following = itertools.count((*seeds, *first)[0])
    if seeds:
        yield seeds
    for size in LOOKS:
        if size > len(seeds):
            seeds += tuple(itertools.islice((seed for seed in following if seed not in seeds), size - len(seeds)))
            yield seeds


def print_claims(options: argparse.Namespace, rest: list[str]) -> None:
    """`toylab claims`."""
    if options.check:
        check_claims(options)
        return
    from toylab.verdicts.judgement import claims_markdown, claims_table, read_claims

    path = options.folder / "claims.json"
    claims = read_claims(path)
    if options.json:
        print_json([asdict(claim) for claim in claims])
    else:
        print(claims_markdown(claims) if options.markdown else claims_table(claims))


def check_claims(options: argparse.Namespace) -> None:
    """`toylab claims --check`."""
    from toylab.runs import registry
    from toylab.runs.lock import check_run, read_lock

    differences = check_run(options.folder, registry.load_study(options.study).STUDY if options.study else None)
    if differences:
        raise ToylabError(f"{options.folder}: differs from its claims lock:\n  " + "\n  ".join(differences))
    lock = read_lock(options.folder)
    commit = f", committed {lock['commit']}" if lock["commit"] else ""
    print(f"Run, lock and code agree: {len(lock['claims'])} claims, locked by {lock['locked by']}{commit}.")


def report_run(options: argparse.Namespace, rest: list[str]) -> None:
    """`toylab report`."""
    from toylab.files import exists
    from toylab.runs import registry

    study_class = registry.load_study(options.study).STUDY if options.study else None
    if exists(options.folder / "settings.json"):
        if options.json or options.markdown:
            form = "json" if options.json else "markdown"
            raise ToylabError(
                f"{form}: {options.folder} is a single run, not a folder of runs; use `toylab claims FOLDER --{form}`"
            )
        from toylab.runs.judge import judge_and_report

        print(judge_and_report(options.folder, study_class))
        return
    from toylab.runs import scoreboard

    if not options.json and not options.markdown:
        print(scoreboard.finish_all(options.folder, study_class))
        return
    studies = scoreboard.build_scoreboard(options.folder, study_class)
    if options.json:
        print_json([asdict(study) for study in studies])
    else:
        print(scoreboard.board_markdown(studies))
