"""Commands on studies: run, claims, report."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from toylab.commands.flags import Seeds, checked_device, chosen_study, print_json, settings_from_flags, usual_folder
from toylab.console import ToylabError


def run_study(options: argparse.Namespace, rest: list[str]) -> None:
    """`toylab run`."""
    if options.study == "all":
        run_all(options, rest)
        return
    study = chosen_study(options, rest)

    from toylab.runs import registry
    from toylab.runs.dask import dask_executor
    from toylab.runs.jobs import JobsFailedError, JobsRefusedError, Run, execute_all
    from toylab.runs.judge import SHAM, is_decided, judge_and_report, judge_unfinished
    from toylab.runs.study import untrained_study

    device = checked_device(options)
    out = options.out or usual_folder(options.study, options.preset)
    name = registry.study_name(type(study))
    try:
        with dask_executor(options.scheduler) as cluster:
            for seeds in looked_at(study.seeds, out) if options.until_decided else [study.seeds]:
                run = Run(replace(study, seeds=seeds), name, out, options.until_decided, device)
                execute_all([run], name, options.workers, executor=cluster)
                if options.until_decided and is_decided(out, type(study)):
                    break
            if options.sham:
                sham = Run(untrained_study(replace(study, seeds=seeds)), name, out / SHAM, device=device)
                execute_all([sham], f"{name}, untrained", options.workers, executor=cluster)
    except (JobsFailedError, JobsRefusedError):
        judge_unfinished(out, judge_and_report, out, type(study))  # report the finished jobs before the error
        raise
    print(judge_and_report(out, type(study)))


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


def run_all(options: argparse.Namespace, rest: list[str]) -> None:
    """`toylab run all`."""
    common = settings_from_flags(Seeds, None, options, rest)

    from toylab.runs import registry, scoreboard
    from toylab.runs.dask import dask_executor
    from toylab.runs.jobs import JobsFailedError, JobsRefusedError, Run, execute_all
    from toylab.runs.judge import SHAM, is_decided, judge_unfinished
    from toylab.runs.study import untrained_study

    device, folder = checked_device(options), options.out or Path("runs")
    runs = []
    for name in registry.study_names():
        study = registry.preset_settings(registry.load_study(name).STUDY, options.preset)
        study = replace(study, seeds=common.seeds) if common.seeds else study
        runs.append(Run(study, name, folder / f"{name}-{options.preset}", options.until_decided, device))
    looks = [
        looked_at(run.study.seeds, run.folder) if options.until_decided else iter([run.study.seeds]) for run in runs
    ]
    active = list(zip(runs, looks, strict=True))
    done: dict[Path, Any] = {}
    try:
        with dask_executor(options.scheduler) as cluster:
            while active := [
                (replace(run, study=replace(run.study, seeds=seeds)), looks_left)
                for run, looks_left in active
                if (seeds := next(looks_left, None))
            ]:
                done |= {run.folder: run.study for run, _ in active}
                execute_all([run for run, _ in active], "all studies", options.workers, executor=cluster)
                active = [
                    (run, looks_left)
                    for run, looks_left in active
                    if options.until_decided and not is_decided(run.folder)
                ]
            if options.sham:
                shams = [
                    Run(untrained_study(done[run.folder]), run.name, run.folder / SHAM, device=device) for run in runs
                ]
                execute_all(shams, "all studies, untrained", options.workers, executor=cluster)
    except (JobsFailedError, JobsRefusedError):
        judge_unfinished(folder, scoreboard.finish_all, folder)
        raise
    print(scoreboard.finish_all(folder))


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
