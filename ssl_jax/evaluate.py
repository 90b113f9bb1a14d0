"""Scores a trained run:  python -m ssl_jax.evaluate --workdir=RUN [--evals=knn,linear] [--checkpoint=best]

On the data it was trained on, or on others:  --config.data.name=cifar100 --config.data.dir=DIR. Any setting of an
evaluator is a flag: --config.evals.knn.k=50. The scores become a line of RUN/evaluations.jsonl.
"""

import datetime
import json
import re

from absl import flags

from ssl_jax import cli

WORKDIR = flags.DEFINE_string("workdir", None, "Run folder, as ssl_jax.main made it.")
EVALS = flags.DEFINE_string("evals", "", "Evaluators, separated by commas; default: those of the run's config.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "latest, best, or a step.")


def with_run(argv) -> list[str]:
    """`argv` with --config naming the run's own settings, for the evaluators that are wanted."""
    return cli.with_run(argv, next((a.partition("=")[2] for a in argv if re.match("--?evals=", a)), ""))


def main():
    import jax
    from rich.console import Console

    from ssl_jax import compilation, scoring, writer
    from ssl_jax.ops.mesh import make_mesh
    from ssl_jax.restored import open_run, other_data
    from ssl_jax.transfer import scorer

    compilation.enable_cache()
    console, mesh = Console(), make_mesh()
    with jax.set_mesh(mesh):
        run = open_run(WORKDIR.value, mesh, CHECKPOINT.value)
        config, given = cli.CONFIG.value, cli.overrides("data")
        if given.get("name", run.plan.config.data.name) != run.plan.config.data.name:
            other_data(config, given)
        score = scorer(run, config)
        console.print(f"{run.folder} at epoch {run.epoch:g}, on {score.data}", highlight=False, soft_wrap=True)
        found, failed = {}, {}
        with writer.Status(console) as progress:
            for name, values in score(progress.status):
                if isinstance(values, Exception):
                    failed[name] = f"{type(values).__name__}: {values}"
                    continue
                found |= values
                progress.note(writer.listed({f"eval/{k}": v for k, v in values.items()}, every=True))
    record = dict(step=run.step, data=score.data, scores=found, failed=failed, settings=score.settings)
    record["date"] = str(datetime.date.today())
    path = run.folder / "evaluations.jsonl"
    torn = path.exists() and not path.read_bytes().endswith(b"\n")  # by a kill: that line is lost, not this one
    with path.open("a") as file:
        file.write("\n" * torn + json.dumps(record) + "\n")
    rows = {scoring.FEATURES["eval"]: found}
    if writer.names(rows):
        console.print(writer.table(str(run.folder), rows), width=writer.wide(console))
    if failed:
        cli.fail("; ".join(f"{name} failed ({why})" for name, why in failed.items()), 1)


if __name__ == "__main__":
    cli.start(main, prepare=with_run)
