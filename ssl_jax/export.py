"""Exports a run's encoder for other programs.

    python -m ssl_jax.export --workdir=RUN --out=encoder.safetensors

or, to publish it, a folder as Hugging Face's hub has them:

    python -m ssl_jax.export --workdir=RUN --folder=DIR

The file holds the backbone under torchvision's names, and a description of the images it expects;
with --head also the projection head and the prototypes, under the names of SwAV's authors. The
command prints code that loads it.

DIR gets model.safetensors, a model card (README.md: method, data, epochs, sizes, scores with their
protocol, how to load; licence and data to be filled in), and config.json where timm has such a
network, so that timm.create_model("local-dir:DIR", pretrained=True) loads it. DIR must be new or
empty; --overwrite replaces the three files, the card included.
"""

from absl import flags

from ssl_jax.runtime import command
from ssl_jax.settings import command_line
from ssl_jax.settings.paths import user_path
from ssl_jax.settings.resolve import SettingError

WORKDIR = flags.DEFINE_string("workdir", None, "Run folder, written by ssl_jax.main.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "latest, best or a step.")
OUT = flags.DEFINE_string(
    "out", "", "File to write; default: encoder.safetensors, or none with --folder."
)
FOLDER = flags.DEFINE_string(
    "folder", "", "Folder to write instead, to publish: weights, model card, timm's config.json."
)
HEAD = flags.DEFINE_boolean(
    "head", False, "Also export the projection head and prototypes, unknown to torchvision."
)
OVERWRITE = flags.DEFINE_boolean("overwrite", False, "Replace an existing file.")


def main() -> None:
    import jax

    from ssl_jax.inference import published, snippets
    from ssl_jax.inference.pretrained import export, writable
    from ssl_jax.ops.mesh import make_mesh
    from ssl_jax.runs.restore import open_run

    if OUT.value and FOLDER.value:
        raise SettingError(f"--out={OUT.value} and --folder={FOLDER.value}: leave one out")
    folder = user_path(FOLDER.value, "--folder") if FOLDER.value else None
    out = user_path(OUT.value or "encoder.safetensors", "--out")
    command_line.check_overrides(())
    mesh = make_mesh()
    if folder:
        published.check(folder, OVERWRITE.value)
        out = folder / published.WEIGHTS
    else:
        writable(out, OVERWRITE.value)
    with jax.set_mesh(mesh):
        run = open_run(WORKDIR.value, mesh, CHECKPOINT.value)
    reason = ""
    if folder:
        tensors, reason = published.write(run, folder, head=HEAD.value)
    else:
        tensors = export(run, out, head=HEAD.value)
    parameters = sum(x.size for name, x in tensors.items() if "running_" not in name)
    print(
        f"wrote {out}: {len(tensors)} tensors, {parameters:,} parameters, "
        f"{out.stat().st_size:,} bytes; {run.folder} at epoch {run.epoch:g}"
    )
    if folder and reason:
        print(f"{folder / published.CARD} is the model card; no config.json: {reason}")
    elif folder:
        print(f"{folder / published.CARD} is the model card, {published.CONFIG} is for timm")
    stage = run.plan.stages[-1]
    channels = tensors["conv1.weight"].shape[1]
    limits = run.plan.dataset.range
    size = stage.views[0].size
    print(snippets.images(size, channels, stage.mean, stage.std, limits, stage.crop))
    ways = published.loading(run, out, for_timm=bool(folder) and not reason, head=HEAD.value)
    for title, lines in ways.items():
        print(f"\n{title}:\n")
        print(*lines, sep="\n")


if __name__ == "__main__":
    command.start(main, prepare=command_line.with_run)
