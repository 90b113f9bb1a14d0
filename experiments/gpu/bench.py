"""Training steps of several configs on this machine's device, as the loop jits them.

    python experiments/gpu/bench.py --out=DIR [--cases=FILE.json] [--only=NAME,NAME]

The state is donated and images are on the device, random ones as in bench_step.py, which takes one
step apart; this takes many as they are. Each case adds a line to DIR/bench.jsonl as soon as it is
done, so nothing but the case that runs is lost when the time is up:

    step_ms, images_per_second    median of three turns of the case's `steps`
    tflops                        operations a second, by XLA's count of them before compilation
    compile_seconds               from the config to the compiled step, its first state included
    temporary_gb                  what the compiled step needs besides its arguments
    augment_ms, augment_share     drawing the views in a program of its own, and of the step
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
from pathlib import Path

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
    """One line of the cases file."""

    name: str
    config: str
    settings: dict = dataclasses.field(default_factory=dict)
    steps: int = 20
    augment: bool = True
    trace: bool = False


def read_cases(path: Path, only: str = "") -> list[Case]:
    """The cases of a JSON file, their configs tried; `only` names some of them, with commas."""
    try:
        cases = [Case(**fields) for fields in json.loads(path.read_text())]
        for case in cases:
            completed(reproduce.load(case.config, case.settings))
    except (OSError, ValueError, TypeError, SettingError) as error:
        sys.exit(f"error: --cases={path}: {error}")
    known = [case.name for case in cases]
    wanted = only.split(",") if only else known
    if unknown := [name for name in wanted if name not in known]:
        sys.exit(f"error: --only: no {unknown[0]!r} in {path.name}, which has {', '.join(known)}")
    return [case for case in cases if case.name in wanted]


def measure(case: Case, out: Path) -> dict:
    """What the docstring above lists of one case; files about its program go to `out`."""
    began = time.perf_counter()
    mesh, key = make_mesh(), jax.random.key(0)
    with tempfile.TemporaryDirectory() as folder:
        plan = bench_step.plan_of(reproduce.load(case.config, case.settings), Path(folder))
    with jax.set_mesh(mesh):
        state, images, index, shardings = bench_step.placed(plan, mesh, key)
        step = bench_step.LoopStep(plan, state, images, index, key, shardings, mesh)
        compiling = time.perf_counter() - began
        seconds = timed(step, case.steps)
        found = {
            "batch": plan.batch_size,
            "step_ms": 1e3 * seconds,
            "images_per_second": plan.batch_size / seconds,
            "tflops": step.flops / seconds / 1e12,
            "compile_seconds": compiling,
            "temporary_gb": step.compiled.memory_analysis().temp_size_in_bytes / 1e9,
        }
        if case.augment:
            stage = plan.stages[-1]
            draw = jax.jit(
                lambda images, index: draw_views(
                    key, images[index], stage.views, stage.mean, stage.std
                )
            )
            alone = timed(lambda: draw(images, index), case.steps)
            found |= dict(augment_ms=1e3 * alone, augment_share=alone / seconds)
        if case.trace:
            found |= traced(case.name, step, out)
        loss = float(step())
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss became {loss}")
    return {
        name: float(f"{value:.5g}") if isinstance(value, float) else value
        for name, value in found.items()
    }


def timed(call, count: int) -> float:
    """Seconds of a call: the median of `TURNS` turns of `count` calls, after one that warms up."""
    jax.block_until_ready(call())
    taken = []
    for _ in range(TURNS):
        began = time.perf_counter()
        for _ in range(count):
            result = call()
        jax.block_until_ready(result)
        taken.append((time.perf_counter() - began) / count)
    return statistics.median(taken)


def traced(name: str, step: bench_step.LoopStep, out: Path) -> dict:
    """Kernel times of a step by kind, on a GPU; writes its program and its kernels to `out`."""
    with gzip.open(out / f"hlo-{name}.txt.gz", "wt") as file:
        file.write(step.compiled.as_text())
    with tempfile.TemporaryDirectory() as folder:
        bench_step.trace(folder, step)
        found = kernels.read(Path(folder), bench_step.TRACED)
    if not found:
        return {}
    (out / f"kernels-{name}.txt").write_text("\n".join(kernels.lines(found)) + "\n")
    total = sum(kernel.ms for kernel in found)
    kinds = {kind: round(ms, 3) for kind, ms in kernels.by_kind(found).items()}
    return dict(kernel_ms=total, kernels=sum(kernel.count for kernel in found), by_kind=kinds)


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


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="the folder for what is measured")
    parser.add_argument("--cases", type=Path, default=Path(__file__).with_name("cases.json"))
    parser.add_argument("--only", default="", help="names of cases, with commas; default: all")
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
        except Exception as error:  # the others are still of use
            record["failed"] = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
        records.append(record)
        with (args.out / "bench.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(table(records[-1:]).splitlines()[-1], flush=True)
        gc.collect()
    print(table(records))
    if any("failed" in record for record in records):
        sys.exit("error: not all cases could be measured; see above")


if __name__ == "__main__":
    main()
