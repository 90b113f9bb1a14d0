"""Exports a run's encoder for other programs.

    python -m ssl_jax.export --workdir=RUN --out=encoder.safetensors

The file holds the backbone under torchvision's names, and a description of the images it expects;
with --head also the projection head and the prototypes, under the names of SwAV's authors. The
command prints code that loads it.
"""

from absl import flags

from ssl_jax.runtime import command
from ssl_jax.settings import command_line
from ssl_jax.settings.paths import user_path

WORKDIR = flags.DEFINE_string("workdir", None, "Run folder, written by ssl_jax.main.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "latest, best or a step.")
OUT = flags.DEFINE_string("out", "encoder.safetensors", "File to write.")
HEAD = flags.DEFINE_boolean(
    "head", False, "Also export the projection head and prototypes, unknown to torchvision."
)
OVERWRITE = flags.DEFINE_boolean("overwrite", False, "Replace an existing file.")


def main() -> None:
    import jax

    from ssl_jax.inference import snippets
    from ssl_jax.inference.pretrained import export, writable
    from ssl_jax.ops.mesh import make_mesh
    from ssl_jax.runs.restore import open_run

    out = user_path(OUT.value, "--out")
    mesh = make_mesh()
    writable(out, OVERWRITE.value)
    with jax.set_mesh(mesh):
        run = open_run(WORKDIR.value, mesh, CHECKPOINT.value)
    tensors = export(run, out, head=HEAD.value)
    parameters = sum(x.size for name, x in tensors.items() if "running_" not in name)
    print(
        f"wrote {out}: {len(tensors)} tensors, {parameters:,} parameters, "
        f"{out.stat().st_size:,} bytes; {run.folder} at epoch {run.epoch:g}"
    )
    stage = run.plan.stages[-1]
    channels = tensors["conv1.weight"].shape[1]
    limits = run.plan.dataset.range
    print(snippets.images(stage.views[0].size, channels, stage.mean, stage.std, limits))
    print("\nhere:\n")
    print(*snippets.here(out, channels, limits), sep="\n")
    print("\nin PyTorch, with torchvision:\n")
    backbone = stage.method.network.backbone
    print(*snippets.torchvision(out, backbone, channels, head=HEAD.value), sep="\n")


if __name__ == "__main__":
    command.start(main, prepare=command_line.with_run)
