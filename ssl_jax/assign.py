"""Sorts images into clusters with a trained run:

    python -m ssl_jax.assign --workdir=RUN --data.name=folder --data.dir=DIR --out=clusters.csv

An image goes to the nearest of the method's own clusters (SwAV's prototypes, without
Sinkhorn-Knopp). If the method has none, or with --clusters=K, k-means on the embeddings of these
images makes K clusters; without --clusters as many as there are classes, and without classes ten to
twenty to look at, by the number of images. If neither the run's data nor these have classes, that
is the default also for methods with clusters of their own; --by=own chooses those.

Without --data flags the command labels the run's own data, including test images. --data.NAME is
short for --config.data.NAME. For other data (another name, or another place), name, size, bands and
cache are taken from the run; all other settings of `data`, such as limit, start from their
defaults. Values of more than 8 bits are scaled as in training. No labels are needed. A run of grey
images takes colour images, as grey, and a run of colour images takes grey ones.

The table has a row per image: file below DIR (or split and row), cluster, cosine similarity to the
cluster's centre, margin over the next best centre, rank (1 = most typical of its cluster), and the
label if known. Contact sheets go to a folder beside the table, named after it; if that name is
taken by a folder of other things, such as the run, "_sheets" is added. Existing files are replaced
only with --overwrite, and a folder that holds other files is never touched.

The table is UTF-8 and safe to open in a spreadsheet: a file name that looks like the start of a
formula becomes ./NAME, such a label gets a leading ', and bytes that are not UTF-8 become \\xff.
"""

from absl import flags

from ssl_jax.runtime import command
from ssl_jax.settings import command_line
from ssl_jax.settings.paths import user_path

WORKDIR = flags.DEFINE_string("workdir", None, "Run folder, as ssl_jax.main writes it.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "latest, best, or a step.")
OUT = flags.DEFINE_string(
    "out", "clusters.csv", "Table to write; contact sheets go to a folder beside it."
)
CLUSTERS = flags.DEFINE_integer(
    "clusters",
    0,
    "K of k-means; 0: the method's own clusters, else the number of classes, else ten to twenty.",
)
BY = flags.DEFINE_string(
    "by",
    "",
    "own or kmeans; default: own if there are prototypes, no --clusters, and classes in the run's "
    "data or in these.",
)
SHEETS = flags.DEFINE_integer(
    "sheets",
    100,
    "Maximum number of contact sheets, one per cluster, largest first; 0: none.",
    lower_bound=0,
)
OVERWRITE = flags.DEFINE_boolean(
    "overwrite", False, "Replace the table and sheets of an earlier call."
)


def main() -> None:
    import jax
    from rich.console import Console

    from ssl_jax.clustering.label import label
    from ssl_jax.clustering.output import OutputFiles
    from ssl_jax.ops.mesh import make_mesh
    from ssl_jax.runs.console import table_width
    from ssl_jax.runs.restore import open_run
    from ssl_jax.runtime import compilation

    output = OutputFiles(user_path(OUT.value, "--out"), OVERWRITE.value)
    output.check()
    compilation.enable_cache()
    console = Console()
    console.width = table_width(console) or console.width

    def show(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True, markup=False)

    mesh = make_mesh()
    with jax.set_mesh(mesh):
        run = open_run(WORKDIR.value, mesh, CHECKPOINT.value)
    report = label(
        run,
        command_line.CONFIG.value,
        command_line.overrides("data"),
        count=CLUSTERS.value,
        by=BY.value,
        report=show,
    )
    written = output.write(report, SHEETS.value)
    console.print(report.table())
    for line in (*report.lines(), written):
        show(line)


if __name__ == "__main__":
    command.start(main, prepare=command_line.with_run)
