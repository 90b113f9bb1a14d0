"""Memory banks at scale: training steps on several devices, and search against other libraries.

    python experiments/bench_bank.py steps [--rows 10000 100000 1000000] [--devices 1 2 4]
    python experiments/bench_bank.py search [--rows 10000 50000 100000] [--runs=3]

`steps` trains a small encoder with a bank of N rows of 128 numbers, batch 64, on virtual CPU
devices (they share this machine's cores, so more devices are not faster). It reports the median
milliseconds of a step, the bytes moved between devices in a step, and the bytes of the bank on each
device.

`search` times neighbour discovery and clustering beside faiss and scikit-learn (`pip install -e
'.[bench]'`). The libraries take turns; it reports medians and ratios to ours.
"""

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

DIM = 128
BATCH = 64
BYTES = {"f32": 4, "s32": 4, "u32": 4, "pred": 1, "bf16": 2, "f64": 8, "s64": 8, "u8": 1}


def collective_bytes(text: str) -> int:
    """Bytes of the results of all collectives in the compiled program `text`."""
    total = 0
    for line in text.splitlines():
        name = r"(?:all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)"
        match = re.search(rf"= (.*?) {name}(?:-start)?\(", line)
        if match is None:
            continue
        for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", match.group(1)):
            total += BYTES[dtype] * math.prod(int(n) for n in shape.split(",") if n)
    return total


def small_network():
    """An encoder whose cost is negligible."""
    from ssl_jax.models.layers import Head
    from ssl_jax.models.network import Network
    from ssl_jax.models.resnet import ResNet

    return Network(ResNet(depth=10, width=8, stem="cifar"), Head(DIM))


def method_of(name: str, rows: int, network):
    """The method `name` on a bank of `rows` rows."""
    from ssl_jax.interface import RunFacts
    from ssl_jax.methods.anchor_neighbourhood import AnchorNeighbourhood
    from ssl_jax.methods.instance import InstanceDiscrimination
    from ssl_jax.methods.local_aggregation import LocalAggregation

    facts = RunFacts(examples=rows)
    if name == "instance":
        return InstanceDiscrimination(network, facts=facts)
    if name == "anchors":
        return AnchorNeighbourhood(network, facts=facts)
    settings = dict(background=min(4096, rows // 4), clusters=rows // 40, clusterings=10)
    return LocalAggregation(network, **settings, facts=facts)


def compiled_step(name: str, rows: int, mesh, network):
    """A method's compiled step and its arguments.

    Returns:
        The compiled step, the state, and the remaining arguments (images, index, key).
    """
    import jax
    import jax.numpy as jnp

    from ssl_jax import optim, train
    from ssl_jax.data.augment import View
    from ssl_jax.interface import Batch, TrainState
    from ssl_jax.runtime.sharding import batch_sharding, replicated, state_shardings
    from ssl_jax.stages import Stage

    def schedule(step):
        return jnp.full((), 0.03)

    method = method_of(name, rows, network)
    tx = optim.build("sgd", schedule)
    views = (View(size=8, count=1),)
    stage = Stage(10, method, tx, schedule, views, (0.5,), (0.5,), resident=False)

    def fresh(key):
        batch = Batch((jnp.zeros((1, 8, 8, 1)),), jnp.zeros(1, jnp.int32))
        params, stats, method_state = method.init(key, batch)
        return TrainState(jnp.int32(0), params, stats, tx.init(params), method_state, ())

    key = jax.random.key(0)
    shardings = state_shardings(mesh, jax.eval_shape(fresh, key))
    images = jnp.asarray(jax.random.randint(key, (BATCH, 8, 8, 1), 0, 255), jnp.uint8)
    index = jax.device_put(jax.random.permutation(key, rows)[:BATCH], batch_sharding(mesh))
    images = jax.device_put(images, batch_sharding(mesh))
    state = jax.jit(fresh, out_shardings=shardings)(key)
    key = jax.device_put(key, replicated(mesh))
    step = train.jit_step(mesh, shardings).lower(stage, state, images, index, key).compile()
    return step, state, (images, index, key)


def measure_steps(name: str, rows: int, devices: int, runs: int) -> dict[str, float]:
    """Measures one line of `steps` on `devices` virtual devices; needs a fresh process."""
    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    from ssl_jax.ops.mesh import make_mesh

    mesh = make_mesh()
    times = []
    with jax.set_mesh(mesh):
        step, state, inputs = compiled_step(name, rows, mesh, small_network())
        for _ in range(runs + 2):
            began = time.perf_counter()
            state, _ = jax.block_until_ready(step(state, *inputs))
            times.append(1e3 * (time.perf_counter() - began))
    bank = state.method.bank.addressable_shards[0].data.nbytes
    return dict(ms=statistics.median(times[2:]), travel=collective_bytes(step.as_text()), bank=bank)


def steps(args: argparse.Namespace) -> None:
    """Prints the table of `steps`, measuring each line in its own process."""
    header = f"{'method':>12} {'rows':>9} {'devices':>7} {'ms':>9}"
    print(f"{header} {'moved, KB':>12} {'bank/device, MB':>18}")
    for name in args.methods:
        for rows in args.rows or (10_000, 100_000, 1_000_000):
            for devices in args.devices:
                measured = measure_in_process(name, rows, devices, args.runs)
                ms = measured["ms"]
                moved = measured["travel"] / 1e3
                bank = measured["bank"] / 1e6
                numbers = f"{ms:9.1f} {moved:12.1f} {bank:18.1f}"
                print(f"{name:>12} {rows:9,} {devices:7} {numbers}", flush=True)


def measure_in_process(name: str, rows: int, devices: int, runs: int) -> dict[str, float]:
    """`measure_steps` in a process of its own, which can set the number of devices."""
    call = [sys.executable, __file__, "one", name, str(rows), str(devices), str(runs)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    process = subprocess.run(call, capture_output=True, text=True, env=environment)
    if process.returncode:
        sys.exit(process.stderr[-2000:])
    return json.loads(process.stdout.splitlines()[-1])


def contenders(rows: int, clusters: Sequence[int]) -> dict[str, dict[str, Callable[[], Any]]]:
    """Functions to time on [rows, DIM] unit points: task -> library -> function."""
    import jax

    from ssl_jax.ops.vectors import unit

    centres = jax.random.normal(jax.random.key(1), (100, DIM))
    points = unit(
        centres[jax.random.randint(jax.random.key(2), (rows,), 0, 100)]
        + jax.random.normal(jax.random.key(3), (rows, DIM))
    )
    tasks = {"entropy and 1 neighbour": searches(points)}
    for k in clusters:
        tasks[f"k-means, {k} clusters"] = clusterings(points, k)
    return tasks


def searches(points) -> dict[str, Callable[[], Any]]:
    """Neighbour discovery by each library."""
    import faiss
    import jax
    import numpy as np

    from ssl_jax.ops.neighbours import entropy_and_neighbours

    array = np.asarray(points)

    @jax.jit
    def find(points):
        return entropy_and_neighbours(points, k=1, temperature=0.1)

    def with_faiss() -> None:
        index = faiss.IndexFlatIP(DIM)
        index.add(array)
        index.search(array, 2)

    return {"ours": lambda: jax.block_until_ready(find(points)), "faiss*": with_faiss}


def clusterings(points, clusters: int) -> dict[str, Callable[[], Any]]:
    """k-means by each library."""
    import faiss
    import jax
    import numpy as np
    from sklearn.cluster import KMeans

    from ssl_jax.ops.kmeans import kmeans, random_rows

    array = np.asarray(points)
    key = jax.random.key(0)
    start = random_rows(key, points, clusters)

    def ours():
        result = kmeans(key, points, clusters, iterations=20, metric="euclidean", init=start)
        return jax.block_until_ready(result).inertia

    def with_faiss() -> None:
        result = faiss.Kmeans(DIM, clusters, niter=20, max_points_per_centroid=10**7, seed=1)
        result.train(array)
        result.index.search(array, 1)

    def with_sklearn():
        settings = dict(
            init="random", n_init=1, max_iter=20, tol=0, algorithm="lloyd", random_state=0
        )
        return KMeans(clusters, **settings).fit(array)

    return {"ours": ours, "faiss": with_faiss, "sklearn": with_sklearn}


def search(args: argparse.Namespace) -> None:
    """Prints the table of `search`."""
    print("k-means: 20 iterations from random rows, then a last assignment")
    print("faiss*: neighbours only, without entropies")
    print(f"{'rows':>8} {'task':>25} {'library':>8} {'seconds':>8} {'x ours':>7}")
    for rows in args.rows or (10_000, 50_000, 100_000):
        for task, functions in contenders(rows, args.clusters).items():
            times = {name: [] for name in functions}
            functions["ours"]()  # compiles
            for _ in range(args.runs):
                for name, function in functions.items():
                    began = time.perf_counter()
                    function()
                    times[name].append(time.perf_counter() - began)
            medians = {name: statistics.median(seconds) for name, seconds in times.items()}
            for name, seconds in medians.items():
                ratio = seconds / medians["ours"]
                print(f"{rows:8,} {task:>25} {name:>8} {seconds:8.2f} {ratio:7.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    for name in ("steps", "search"):
        part = parts.add_parser(name)
        part.add_argument("--rows", type=int, nargs="+")
        part.add_argument("--runs", type=int, default=10 if name == "steps" else 3)
    parts.choices["steps"].add_argument("--devices", type=int, nargs="+", default=(1, 2, 4))
    parts.choices["steps"].add_argument(
        "--methods", nargs="+", default=("instance", "anchors", "aggregation")
    )
    parts.choices["search"].add_argument("--clusters", type=int, nargs="+", default=(10, 1000))
    if sys.argv[1:2] == ["one"]:
        name, *numbers = sys.argv[2:]
        print(json.dumps(measure_steps(name, *map(int, numbers))))
        return
    args = parser.parse_args()
    {"steps": steps, "search": search}[args.part](args)


if __name__ == "__main__":
    main()
