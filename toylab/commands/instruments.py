"""Commands that test the tools themselves: calibrate, bench."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from toylab.commands.flags import print_json
from toylab.console import ToylabError, align_columns, markdown_table, progress_bar


def calibrate_probes(options: argparse.Namespace, rest: list[str]) -> None:
    """`toylab calibrate`."""
    if options.probe == ["intervals"]:
        from toylab.calibration.intervals import coverage_table, seed_distributions

        print(coverage_table(seed_distributions()))
        print("Coverage of nominal 95 % intervals, and the largest one-sided rate of wrong verdicts for")
        print("a threshold at the true value (nominal .025). Samples are drawn with replacement.")
        return
    from toylab.calibration import calibrate_all, calibration_json, calibration_table, detector_names

    calibrations = calibrate_all(options.probe or detector_names(), options.seed, options.each, options.workers)
    if options.json:
        print_json([calibration_json(calibration) for calibration in calibrations])
    elif options.probe:
        print("\n\n".join(str(calibration) for calibration in calibrations))
    else:
        print(calibration_table(calibrations))
        print("Best: optimal cutoffs on the selection half. Hits: planted positives found;")
        print("false alarms: controls found; on held-out cases, with 95 % intervals.")
        print("Noise: more than half are missed. Details: toylab calibrate PROBE")


def measure_speed(options: argparse.Namespace, rest: list[str]) -> None:
    """`toylab bench`."""
    from toylab import bench
    from toylab.files import refuse_unwritable
    from toylab.runs.processes import single_thread

    single_thread()
    device = options.device or ("cuda" if "gpu" in options.work else "cpu")
    if "growth" in options.work:
        if len(options.work) > 1 or options.markdown:
            raise ToylabError("growth: compares no libraries; give it alone, without other benchmarks or --markdown")
        _measure_growth(options)
        return
    comparisons = bench.measure_works(options.work, device)
    refuse_unwritable("out", options.out / "bench.json")
    limit = bench.matmul_limit(device=device) / 1e9
    about = {**bench.machine_description(device), "matmul_gigaflops": round(limit, 1)}
    earlier, measured = bench.earlier_ratios(options.out, about), []
    for comparison in progress_bar(
        comparisons, desc="comparisons", bar_format="{desc}: {n} {elapsed}", disable=None, leave=False
    ):
        measured.append(comparison)
        # Written after each benchmark, since the next one may be interrupted.
        path = bench.keep_record(options.out, measured, about)
    if options.json:
        print_json(bench.comparisons_json(measured))
        return
    rows = bench.comparison_rows(measured)
    if options.markdown:
        print(markdown_table(rows))
        return
    print(align_columns(rows))
    hardware = about["processor"] if device == "cpu" else about["device"]
    print(f"{hardware}, torch {about['torch']}; float32 products reach {limit:.0f} GF/s")
    lines = [f"{comparison.work}: {comparison.note}" for comparison in measured if comparison.note]
    missed = [comparison for comparison in measured if not comparison.met]
    lines.append(f"{len(measured) - len(missed)} of {len(measured)} targets met" + ("; missed by" if missed else ""))
    lines += [f"  {comparison}" for comparison in missed]
    lines += [f"since the previous benchmark: {line}" for line in bench.changes_since(measured, earlier)]
    if not bench.has_lens():
        lines.append("TransformerLens is not installed: pip install 'toylab[bench]' adds it")
    print("\n".join([*lines, f"Written to {path}"]))


def _measure_growth(options: argparse.Namespace) -> None:
    from toylab import bench
    from toylab.bench.growth import growth_curves
    from toylab.files import refuse_unwritable, write_json, write_text
    from toylab.model.device import check_device
    from toylab.report import canvas, figures

    device = options.device or "cpu"
    check_device(device)
    refuse_unwritable("out", options.out / "growth.json")
    curves = list(progress_bar(growth_curves(device), desc="curves", total=9, disable=None, leave=False))
    records = [{**asdict(curve), "exponent": curve.exponent} for curve in curves]
    write_json(options.out / "growth.json", {**bench.machine_description(), "curves": records})
    if options.json:
        print_json(records)
    for size in dict.fromkeys(curve.size for curve in curves):
        lines = [curve for curve in curves if curve.size == size]
        axes = figures.plot_growth(
            {curve.work: (curve.sizes, curve.seconds) for curve in lines},
            xlabel=size,
            exponents={curve.work: curve.exponent for curve in lines},
            title=f"Cost against {size}",
        )
        path = options.out / f"growth-{size.replace(' ', '-')}.svg"
        write_text(path, canvas.to_svg(canvas.whole_figure(axes)))
        if not options.json:
            print("\n".join([*map(str, lines), f"  {path}"]))
