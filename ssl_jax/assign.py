"""Labels pictures with a run:

    python -m ssl_jax.assign --workdir=RUN --data.name=folder --data.dir=DIR --out=clusters.csv

Each picture goes to the method's own cluster where it has any (SwAV's prototypes, without Sinkhorn-Knopp), else, and
with --clusters=K, to one of K clusters that k-means finds on the embeddings of these pictures. Without --data flags it
labels the run's own data, the held-out images too. --data.NAME is short for --config.data.NAME; where other data are
named, all settings but name, size and cache start from their defaults, not from the run's.

The table has a row for each picture: its file below DIR (or split and row), cluster, cosine with the cluster's centre,
margin over the next best centre, rank (1 = most typical of its cluster) and, where it is known, its label. Beside it
lies a folder of the same name with contact sheets. Nothing is replaced without --overwrite, and a folder with other
files in it never is.

The table is UTF-8, and no cell becomes a formula in a spreadsheet: a file whose name begins as one does is written as
./NAME, a label with ' in front, and bytes of a name that are no UTF-8 as \\xff.
"""

from absl import flags

from ssl_jax.runtime import command
from ssl_jax.settings import command_line
from ssl_jax.settings.paths import user_path

WORKDIR = flags.DEFINE_string("workdir", None, "Run folder, as ssl_jax.main made it.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "latest, best, or a step.")
OUT = flags.DEFINE_string("out", "clusters.csv", "The table that is written; the sheets go to a folder beside it.")
CLUSTERS = flags.DEFINE_integer("clusters", 0, "K of k-means; 0: the method's own, or as many as there are classes.")
BY = flags.DEFINE_string("by", "", "own or kmeans; default: own where there are prototypes and no --clusters.")
SHEETS = flags.DEFINE_integer("sheets", 100, "Contact sheets of so many clusters, the largest; 0: none.", lower_bound=0)
OVERWRITE = flags.DEFINE_boolean("overwrite", False, "Replace the table and the sheets of an earlier call.")


def main():
    import jax
    from rich.console import Console

    from ssl_jax.clustering.label import label
    from ssl_jax.clustering.output import OutputFiles
    from ssl_jax.ops.mesh import make_mesh
    from ssl_jax.runs.console import table_width
    from ssl_jax.runs.restore import open_run
    from ssl_jax.runtime import compilation

    target = OutputFiles(user_path(OUT.value, "--out"), OVERWRITE.value)
    target.check()
    compilation.enable_cache()
    console, mesh = Console(), make_mesh()
    console.width = table_width(console) or console.width
    say = lambda line: console.print(line, highlight=False, soft_wrap=True, markup=False)
    with jax.set_mesh(mesh):
        run = open_run(WORKDIR.value, mesh, CHECKPOINT.value)
    report = label(
        run, command_line.CONFIG.value, command_line.overrides("data"), count=CLUSTERS.value, by=BY.value, report=say
    )
    written = target.write(report, SHEETS.value)
    console.print(report.table())
    for line in (*report.lines(), written):
        say(line)


if __name__ == "__main__":
    command.start(main, prepare=command_line.with_run)
