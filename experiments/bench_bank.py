"""Memory banks at scale: the step over devices, and discovery and clustering against faiss and scikit-learn.

    python experiments/bench_bank.py steps [--rows 10000 100000 1000000] [--devices 1 2 4]
    python experiments/bench_bank.py search [--rows 10000 50000 100000] [--runs=3]     # pip install -e '.[bench]'

`steps` trains a small encoder on a bank of N rows of 128 numbers, batch 64, on virtual CPU devices (they share this
machine's cores, so more of them are not faster): median milliseconds, bytes that travel between devices in a step,
bytes of the bank on each device. `search` takes turns between the libraries: medians and ratios to ours.
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

DIM, BATCH = 128, 64
SIZES = {"f32": 4, "s32": 4, "u32": 4, "pred": 1, "bf16": 2, "f64": 8, "s64": 8, "u8": 1}


def collective_bytes(text: str) -> int:
    """Bytes of all results of collectives in the compiled program `text`."""
    total = 0
    for line in text.splitlines():
        name = r"(?:all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)"
        found = re.search(rf"= (.*?) {name}(?:-start)?\(", line)
        for kind, shape in re.findall(r"(\w+)\[([\d,]*)\]", found.group(1)) if found else ():
            total += SIZES[kind] * math.prod(int(n) for n in shape.split(",") if n)
    return total


def small_network():
    """An encoder that costs next to nothing."""
    from ssl_jax.models.layers import Head
    from ssl_jax.models.network import Network
    from ssl_jax.models.resnet import ResNet

    return Network(ResNet(depth=10, width=8, stem="cifar"), Head(DIM))


def method_of(name, rows, network):
    """The method `name` on a bank of so many rows."""
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


def compiled_step(name, rows, mesh, network):
    """The step of a method, compiled, and its arguments: the state, and the others."""
    import jax
    import jax.numpy as jnp

    from ssl_jax import optim, train
    from ssl_jax.data.augment import View
    from ssl_jax.interface import Batch, TrainState
    from ssl_jax.runtime.sharding import batch_sharding, replicated, state_shardings
    from ssl_jax.stages import Stage

    schedule = lambda step: jnp.full((), 0.03)
    method, tx = method_of(name, rows, network), optim.build("sgd", schedule)
    stage = Stage(10, method, tx, schedule, (View(size=8, count=1),), (0.5,), (0.5,), resident=False)

    def fresh(key):
        batch = Batch((jnp.zeros((1, 8, 8, 1)),), jnp.zeros(1, jnp.int32))
        params, stats, own = method.init(key, batch)
        return TrainState(jnp.int32(0), params, stats, tx.init(params), own, ())

    key = jax.random.key(0)
    shardings = state_shardings(mesh, jax.eval_shape(fresh, key))
    images = jnp.asarray(jax.random.randint(key, (BATCH, 8, 8, 1), 0, 255), jnp.uint8)
    index = jax.device_put(jax.random.permutation(key, rows)[:BATCH], batch_sharding(mesh))
    images = jax.device_put(images, batch_sharding(mesh))
    state = jax.jit(fresh, out_shardings=shardings)(key)
    key = jax.device_put(key, replicated(mesh))
    step = train.jit_step(mesh, shardings).lower(stage, state, images, index, key).compile()
    return step, state, (images, index, key)


def measure_steps(name, rows, devices, runs):
    """One line of `steps`, in a process with so many devices."""
    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    from ssl_jax.ops.mesh import make_mesh

    mesh, taken = make_mesh(), []
    with jax.set_mesh(mesh):
        step, state, rest = compiled_step(name, rows, mesh, small_network())
        for _ in range(runs + 2):
            began = time.perf_counter()
            state, _ = jax.block_until_ready(step(state, *rest))
            taken.append(1e3 * (time.perf_counter() - began))
    bank = state.method.bank.addressable_shards[0].data.nbytes
    return dict(ms=statistics.median(taken[2:]), travel=collective_bytes(step.as_text()), bank=bank)


def steps(args):
    print(f"{'method':>12} {'rows':>9} {'devices':>7} {'ms':>9} {'travels, KB':>12} {'bank a device, MB':>18}")
    for name in args.methods:
        for rows in args.rows or (10_000, 100_000, 1_000_000):
            for devices in args.devices:
                call = [sys.executable, __file__, "one", name, str(rows), str(devices), str(args.runs)]
                done = subprocess.run(call, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})
                if done.returncode:
                    sys.exit(done.stderr[-2000:])
                m = json.loads(done.stdout.splitlines()[-1])
                numbers = f"{m['ms']:9.1f} {m['travel'] / 1e3:12.1f} {m['bank'] / 1e6:18.1f}"
                print(f"{name:>12} {rows:9,} {devices:7} {numbers}", flush=True)


def contenders(rows, clusters):
    """What is timed on [rows, DIM] unit points: task -> library -> function."""
    import faiss
    import jax
    import numpy as np
    from sklearn.cluster import KMeans

    from ssl_jax.ops.kmeans import kmeans, random_rows
    from ssl_jax.ops.neighbours import entropy_and_neighbours
    from ssl_jax.ops.vectors import unit

    centres = jax.random.normal(jax.random.key(1), (100, DIM))
    points = unit(
        centres[jax.random.randint(jax.random.key(2), (rows,), 0, 100)]
        + jax.random.normal(jax.random.key(3), (rows, DIM))
    )
    array, key = np.asarray(points), jax.random.key(0)
    find = jax.jit(lambda p: entropy_and_neighbours(p, k=1, temperature=0.1))

    def ours(k):
        start = random_rows(key, points, k)
        settings = dict(iterations=20, metric="euclidean", init=start)
        return lambda: jax.block_until_ready(kmeans(key, points, k, **settings)).inertia

    def with_faiss(k):
        def run():
            found = faiss.Kmeans(DIM, k, niter=20, max_points_per_centroid=10**7, seed=1)
            found.train(array)
            found.index.search(array, 1)

        return run

    def with_sklearn(k):
        settings = dict(init="random", n_init=1, max_iter=20, tol=0, algorithm="lloyd", random_state=0)
        return lambda: KMeans(k, **settings).fit(array)

    def faiss_search():
        index = faiss.IndexFlatIP(DIM)
        index.add(array)
        index.search(array, 2)

    tasks = {"entropy and 1 neighbour": {"ours": lambda: jax.block_until_ready(find(points)), "faiss*": faiss_search}}
    for k in clusters:
        tasks[f"k-means, {k} clusters"] = {"ours": ours(k), "faiss": with_faiss(k), "sklearn": with_sklearn(k)}
    return tasks


def search(args):
    print("20 iterations from random rows and a last assignment; faiss*: neighbours only, without entropies")
    print(f"{'rows':>8} {'task':>25} {'library':>8} {'seconds':>8} {'x ours':>7}")
    for rows in args.rows or (10_000, 50_000, 100_000):
        for task, functions in contenders(rows, args.clusters).items():
            taken = {name: [] for name in functions}
            functions["ours"]()  # compiles
            for _ in range(args.runs):
                for name, function in functions.items():
                    began = time.perf_counter()
                    function()
                    taken[name].append(time.perf_counter() - began)
            medians = {name: statistics.median(times) for name, times in taken.items()}
            for name, seconds in medians.items():
                ratio = seconds / medians["ours"]
                print(f"{rows:8,} {task:>25} {name:>8} {seconds:8.2f} {ratio:7.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    for name in ("steps", "search"):
        part = parts.add_parser(name)
        part.add_argument("--rows", type=int, nargs="+")
        part.add_argument("--runs", type=int, default=10 if name == "steps" else 3)
    parts.choices["steps"].add_argument("--devices", type=int, nargs="+", default=(1, 2, 4))
    parts.choices["steps"].add_argument("--methods", nargs="+", default=("instance", "anchors", "aggregation"))
    parts.choices["search"].add_argument("--clusters", type=int, nargs="+", default=(10, 1000))
    if sys.argv[1:2] == ["one"]:
        name, *numbers = sys.argv[2:]
        print(json.dumps(measure_steps(name, *map(int, numbers))))
        return
    args = parser.parse_args()
    {"steps": steps, "search": search}[args.part](args)


if __name__ == "__main__":
    main()
