"""What the checksums of a checkpoint cost:  python experiments/bench_checkpoint.py [--config=configs/swav.py:cifar10]

The state of a config, its images made up, is saved and restored in turns; medians. Both costs are ratios: hashing
after a save beside the save, which happens while training goes on, and hashing before a restore beside the restore.
"""

import shutil
import statistics
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import flags
from bench_step import plan_of

from ssl_jax.ops.mesh import make_mesh
from ssl_jax.runs import checksums
from ssl_jax.runs.checkpoint import Checkpoints
from ssl_jax.runtime import command
from ssl_jax.runtime.sharding import state_shardings
from ssl_jax.settings import command_line

TURNS = flags.DEFINE_integer("turns", 5, "Saves and restores.", lower_bound=1)


def seconds(function) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def turn(folder: Path, plan, state, shardings) -> dict[str, float]:
    """Seconds of one save and one restore, and of hashing after and before them."""
    checkpoints = Checkpoints(folder, {})
    place = folder / "checkpoints" / "1"
    found = {}
    found["returned"] = seconds(lambda: checkpoints.save(1, state))
    found["saved"] = found["returned"] + seconds(checkpoints.wait)
    found["hashed"] = seconds(lambda: checksums.write(place))
    found["verified"] = seconds(lambda: checksums.damage(place))
    restore = lambda: jax.block_until_ready(checkpoints.restore(1, plan.shapes, shardings))
    found["restored"] = seconds(restore)
    found["bytes"] = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    checkpoints.close()
    shutil.rmtree(folder / "checkpoints")
    return found


def main():
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_of(command_line.CONFIG.value, Path(folder))
        mesh = make_mesh()
        shardings = state_shardings(mesh, plan.shapes)
        key = jax.random.key(0)
        numbers = lambda x: (
            jax.random.normal(key, x.shape, x.dtype)
            if jnp.issubdtype(x.dtype, jnp.floating)
            else jnp.zeros(x.shape, x.dtype)
        )
        state = jax.device_put(jax.tree.map(numbers, plan.shapes), shardings)
        turns = [turn(Path(folder), plan, state, shardings) for _ in range(TURNS.value)]
    median = {name: statistics.median(one[name] for one in turns) for name in turns[0]}
    alone = median["saved"] - median["hashed"]
    print(
        f"{median['bytes'] / 1e6:,.0f} MB: a save takes {alone:.2f} s in the background ({median['returned']:.2f} s of "
        f"training), its checksums {median['hashed']:.2f} s more: {median['hashed'] / alone:.2f} times as long; a "
        f"restore {median['restored']:.2f} s, and to verify it first {median['verified']:.2f} s: "
        f"{median['verified'] / median['restored']:.2f} times as long"
    )


if __name__ == "__main__":
    command.start(main)
