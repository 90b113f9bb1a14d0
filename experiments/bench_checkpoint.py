"""What checkpoint checksums cost.

    python experiments/bench_checkpoint.py [--config=configs/swav.py:cifar10]

Saves and restores the state of a config, on made-up images, in turns; prints medians. Both costs
are ratios: hashing after a save to the save itself, which runs in the background of training, and
hashing before a restore to the restore.
"""

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags
from bench_step import plan_of

from ssl_jax.build import Plan
from ssl_jax.interface import TrainState
from ssl_jax.ops.mesh import make_mesh
from ssl_jax.runs import checksums
from ssl_jax.runs.checkpoint import Checkpoints
from ssl_jax.runtime import command
from ssl_jax.runtime.sharding import state_shardings
from ssl_jax.settings import command_line

TURNS = flags.DEFINE_integer("turns", 5, "How often to save and restore.", lower_bound=1)


def seconds(function: Callable[[], Any]) -> float:
    """Seconds that a call of `function` takes."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def turn(folder: Path, plan: Plan, state: TrainState, shardings: TrainState) -> dict[str, float]:
    """Seconds of one save and one restore, and of hashing after and before them."""
    checkpoints = Checkpoints(folder, {})
    checkpoint = folder / "checkpoints" / "1"
    returned = seconds(lambda: checkpoints.save(1, state))
    saved = returned + seconds(checkpoints.wait)
    hashed = seconds(lambda: checksums.write(checkpoint))
    verified = seconds(lambda: checksums.damage(checkpoint))
    restored = seconds(
        lambda: jax.block_until_ready(checkpoints.restore(1, plan.shapes, shardings))
    )
    size = sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
    checkpoints.close()
    shutil.rmtree(folder / "checkpoints")
    return dict(
        returned=returned,
        saved=saved,
        hashed=hashed,
        verified=verified,
        restored=restored,
        bytes=size,
    )


def random_array(shape: jax.ShapeDtypeStruct) -> jax.Array:
    """Random numbers in place of parameters, zeros in place of integers."""
    if jnp.issubdtype(shape.dtype, jnp.floating):
        return jax.random.normal(jax.random.key(0), shape.shape, shape.dtype)
    return jnp.zeros(shape.shape, shape.dtype)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_of(command_line.CONFIG.value, Path(folder))
        mesh = make_mesh()
        shardings = state_shardings(mesh, plan.shapes)
        state = jax.device_put(jax.tree.map(random_array, plan.shapes), shardings)
        turns = [turn(Path(folder), plan, state, shardings) for _ in range(TURNS.value)]
    median = {name: statistics.median(times[name] for times in turns) for name in turns[0]}
    saved = median["saved"] - median["hashed"]
    hashed = median["hashed"]
    restored = median["restored"]
    verified = median["verified"]
    print(f"{median['bytes'] / 1e6:,.0f} MB")
    print(f"save      {saved:.2f} s in the background, {median['returned']:.2f} s of training")
    print(f"checksums {hashed:.2f} s, {hashed / saved:.2f} times the save")
    print(f"restore   {restored:.2f} s")
    print(f"verify    {verified:.2f} s, {verified / restored:.2f} times the restore")


if __name__ == "__main__":
    command.start(main)
