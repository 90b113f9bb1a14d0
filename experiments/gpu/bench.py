"""Training steps of several configs on this machine's device, as the loop jits them.

    python experiments/gpu/bench.py --out=DIR [--cases=FILE.json] [--only=NAME,NAME]

The state is donated, and the random images are on the device, as in bench_step.py, which splits one
step into parts; this script times whole steps. Each case adds a line to DIR/bench.jsonl as soon as
it is done, so running out of time loses only the current case:

    step_ms, images_per_second    median of three turns of the case's `steps`
    tflops                        operations per second, by XLA's count before compilation
    compile_seconds               from the config to the compiled step, including the initial state
    temporary_gb                  what the compiled step needs besides its arguments
    augment_ms, augment_share     drawing the views on their own, and as a share of the step
    kernel_ms, kernels, by_kind   on a GPU, with `trace`: from a trace of five steps, means

DIR/kernels-NAME.txt lists each kernel, DIR/hlo-NAME.txt.gz is the compiled program. A case is a
name, a config with its variant, settings, and optionally steps, augment and trace.
"""

import argparse
import dataclasses
import datetime
import gc
import gzip
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine

machine.make_ready()

import jax

import bench_step
import kernels
import reproduce
from ssl_jax.build import completed
from ssl_jax.data.augment import draw_views
from ssl_jax.ops.mesh import make_mesh
from ssl_jax.settings.resolve import SettingError

TURNS = 3
COLUMNS = ("step, ms", "images/s", "TFLOP/s", "compile, s", "augmentation alone")


@dataclasses.dataclass(frozen=True)
class Case:
    """One entry of the cases file."""

    name: str
    config: str
    settings: dict = dataclasses.field(default_factory=dict)
    steps: int = 20
    augment: bool = True
    trace: bool = False


def read_cases(path: Path, only: str = "") -> list[Case]:
    """The cases of a JSON file, with their configs checked; `only` selects some by name."""
    try:
        cases = [Case(**fields) for fields in json.loads(path.read_text())]
        for case in cases:
            completed(reproduce.load(case.config, case.settings))
    except (OSError, ValueError, TypeError, SettingError) as error:
        sys.exit(f"error: --cases={path}: {error}")
    names = [case.name for case in cases]
    selected = only.split(",") if only else names
    if unknown := [name for name in selected if name not in names]:
        sys.exit(f"error: --only: no {unknown[0]!r} in {path.name}, which has {', '.join(names)}")
    return [case for case in cases if case.name in selected]


def measure(case: Case, out: Path) -> dict:
    """Measures one case, as listed in the module docstring; writes its program's files to `out`."""
    began = time.perf_counter()
    mesh = make_mesh()
    key = jax.random.key(0)
    with tempfile.TemporaryDirectory() as folder:
        plan = bench_step.plan_of(reproduce.load(case.config, case.settings), Path(folder))
    with jax.set_mesh(mesh):
        state, images, index, shardings = bench_step.placed(plan, mesh, key)
        step = bench_step.LoopStep(plan, state, images, index, key, shardings, mesh)
        compiling = time.perf_counter() - began
        seconds = timed(step, case.steps)
        results = {
            "batch": plan.batch_size,
            "step_ms": 1e3 * seconds,
            "images_per_second": plan.batch_size / seconds,
            "tflops": step.flops / seconds / 1e12,
            "compile_seconds": compiling,
            "temporary_gb": step.compiled.memory_analysis().temp_size_in_bytes / 1e9,
        }
        if case.augment:
            stage = plan.stages[-1]

            @jax.jit
            def draw(images: jax.Array, index: jax.Array) -> tuple[jax.Array, ...]:
                return draw_views(key, images[index], stage.views, stage.mean, stage.std)

            alone = timed(lambda: draw(images, index), case.steps)
            results |= dict(augment_ms=1e3 * alone, augment_share=alone / seconds)
        if case.trace:
            results |= traced(case.name, step, out)
        loss = float(step())
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss became {loss}")
    return {
        name: float(f"{value:.5g}") if isinstance(value, float) else value
        for name, value in results.items()
    }


def timed(call: Callable[[], Any], count: int) -> float:
    """Seconds per call: median of `TURNS` turns of `count` calls each, after a warm-up call."""
    jax.block_until_ready(call())
    times = []
    for _ in range(TURNS):
        began = time.perf_counter()
        for _ in range(count):
            result = call()
        jax.block_until_ready(result)
        times.append((time.perf_counter() - began) / count)
    return statistics.median(times)


def traced(name: str, step: bench_step.LoopStep, out: Path) -> dict:
    """Kernel times of a step by kind, on a GPU; writes its program and kernels to `out`."""
    with gzip.open(out / f"hlo-{name}.txt.gz", "wt") as file:
        file.write(step.compiled.as_text())
    with tempfile.TemporaryDirectory() as folder:
        bench_step.trace(folder, step)
        step_kernels = kernels.read(Path(folder), bench_step.TRACED)
    if not step_kernels:
        return {}
    (out / f"kernels-{name}.txt").write_text("\n".join(kernels.lines(step_kernels)) + "\n")
    total = sum(kernel.ms for kernel in step_kernels)
    count = sum(kernel.count for kernel in step_kernels)
    kinds = {kind: round(ms, 3) for kind, ms in kernels.by_kind(step_kernels).items()}
    return dict(kernel_ms=total, kernels=count, by_kind=kinds)


def table(records: list[dict]) -> str:
    """A Markdown table of the results."""
    lines = [f"| case | {' | '.join(COLUMNS)} |", "| --- " * (len(COLUMNS) + 1) + "|"]
    for record in records:
        if "failed" in record:
            cells = [f"failed: {record['failed']}", *[""] * (len(COLUMNS) - 1)]
        else:
            cells = [f"{record['step_ms']:.2f}", f"{record['images_per_second']:,.0f}"]
            cells += [f"{record['tflops']:.2f}", f"{record['compile_seconds']:.0f}"]
            share = "{augment_ms:.2f} ms, {augment_share:.1%}"
            cells.append(share.format(**record) if "augment_ms" in record else "")
        lines.append(
            f"| {record['name']}, batch {record.get('batch', '-')} | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--cases", type=Path, default=Path(__file__).with_name("cases.json"))
    parser.add_argument("--only", default="", help="names of cases, comma-separated; default: all")
    args = parser.parse_args()
    cases = read_cases(args.cases, args.only)
    args.out.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_enable_compilation_cache", False)  # compilation is measured
    devices = jax.devices()
    about = dict(device=f"{len(devices)} x {devices[0].device_kind}", jax=jax.__version__)
    about |= dict(commit=machine.commit(), date=str(datetime.date.today()))
    print(", ".join(about.values()), flush=True)
    records = []
    for case in cases:
        record = about | dataclasses.asdict(case)
        try:
            record |= measure(case, args.out)
        except Exception as error:  # go on with the other cases
            record["failed"] = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
        records.append(record)
        with (args.out / "bench.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(table(records[-1:]).splitlines()[-1], flush=True)
        gc.collect()
    print(table(records))
    if any("failed" in record for record in records):
        sys.exit("error: some cases failed; see above")


if __name__ == "__main__":
    main()
