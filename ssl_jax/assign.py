"""Sorts images into clusters with a trained run:

    python -m ssl_jax.assign --workdir=RUN --data.name=folder --data.dir=DIR --out=clusters.csv
    python -m ssl_jax.assign --weights=FILE --data.dir=DIR --out=clusters.csv

An image goes to the nearest of the method's own clusters (SwAV's prototypes, without
Sinkhorn-Knopp). If the method has none, or with --clusters=K, k-means on the embeddings of these
images makes K clusters; without --clusters as many as there are classes, and without classes ten to
twenty to look at, by the number of images. If neither the run's data nor these have classes, that
is the default also for methods with clusters of their own; --by=own chooses those.
--clusters=auto tries a range of K, and says which it chose and how sure that is. --by=hdbscan makes
as many clusters as there are dense regions, and leaves the other images out as outliers, cluster -1
in the table.

    python -m ssl_jax.assign --workdir=RUN --data.dir=OTHERS --use=clusters.npz --out=others.csv

puts other images, or a single one, into the clusters of an earlier call, which stand in NAME.npz
beside its table. Names that these clusters were given (see below) stand in its column name. Only
the encoder that made them fits: same weights, size, mean, std, range and crop.

    python -m ssl_jax.assign --workdir=RUN --labelled=labels.csv

spreads the labels of a few images, a table with the columns file and label (for arrays split, row
and label), to all by their nearest labelled neighbours, and scores them on labels held out.

Without --data flags the command labels the run's own data, including test images. --data.NAME is
short for --config.data.NAME. For other data (another name, or another place), name, size, bands and
cache are taken from the run; all other settings of `data`, such as limit, start from their
defaults. Values of more than 8 bits are scaled as in training. No labels are needed. A run of grey
images takes colour images, as grey, and a run of colour images takes grey ones.

A weight file in place of a run, of any library that makes ResNets, has no data: --data.name is a
folder unless given, and all settings of `data` start from their defaults.

The table has a row per image: file below DIR (or split and row), cluster, cosine similarity to the
cluster's centre, margin over the next best centre, rank (1 = most typical of its cluster), and the
label if known; with --labelled this is the column class, and label and confidence are those that
were spread. Contact sheets go to a folder beside the table, named after it; if that name is
taken by a folder of other things, such as the run, "_sheets" is added. Existing files are replaced
only with --overwrite, and a folder that holds other files is never touched.

index.html in that folder is a page to name clusters on, which works without a network: open it in a
browser, name and merge clusters, mark outliers, and download labels.csv. Then rerun the same
command with

    --names=labels.csv --overwrite      writes the names into table, clusters and sheets
    --folders=DIR                       sorts copies of the pictures into DIR/NAME/

or both. These two read the table that is there and never assign anew: no network is loaded, and
flags of clusters and labels play no part. --folders_by=link makes links in place of copies. DIR
must be new or empty; --overwrite also replaces what an earlier call put there, unless other files
are among it.

--parquet=FILE also writes the table as Parquet with a thumbnail of each image (as Hugging Face's
data sets have images) and a place in the plane by t-SNE, and prints the command that opens it in
embedding-atlas.

The table is UTF-8 and safe to open in a spreadsheet: a file name that looks like the start of a
formula becomes ./NAME, such a label gets a leading ', and bytes that are not UTF-8 become \\xff.
"""

from absl import flags

from ssl_jax.runtime import command
from ssl_jax.settings import command_line, weight_flags  # noqa: F401 - defines --weights
from ssl_jax.settings.paths import user_path
from ssl_jax.settings.resolve import SettingError

WORKDIR = flags.DEFINE_string("workdir", None, "Run folder, as ssl_jax.main writes it.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "latest, best, or a step.")
OUT = flags.DEFINE_string(
    "out", "clusters.csv", "Table to write; contact sheets go to a folder beside it."
)
CLUSTERS = flags.DEFINE_string(
    "clusters",
    "",
    "K of k-means, or auto, which chooses it; default: the method's own clusters, else the number "
    "of classes, else ten to twenty.",
)
BY = flags.DEFINE_string(
    "by",
    "",
    "own, kmeans or hdbscan; default: own if there are prototypes, no --clusters, and classes in "
    "the run's data or in these.",
)
USE = flags.DEFINE_string(
    "use", "", "Clusters of an earlier call, NAME.npz beside its table; none are made then."
)
LABELLED = flags.DEFINE_string(
    "labelled", "", "Table with the labels of a few images (file,label), which are spread to all."
)
SHEETS = flags.DEFINE_integer(
    "sheets",
    100,
    "Maximum number of contact sheets, one per cluster, largest first; 0: none, and no page.",
    lower_bound=0,
)
OVERWRITE = flags.DEFINE_boolean(
    "overwrite", False, "Replace the table and sheets of an earlier call."
)
NAMES = flags.DEFINE_string(
    "names", "", "labels.csv of the page beside the table: writes its names into the table."
)
FOLDERS = flags.DEFINE_string(
    "folders", "", "Folder to sort the pictures of the table into, by their clusters' names."
)
FOLDERS_BY = flags.DEFINE_enum("folders_by", "copy", ["copy", "link"], "How --folders sorts.")
PARQUET = flags.DEFINE_string(
    "parquet", "", "Also write the table with thumbnails and places to this .parquet file."
)


def main() -> None:
    if NAMES.value or FOLDERS.value:
        name_and_sort()
    else:
        assign_images()


def assign_images() -> None:
    """Assigns images to clusters, and writes the table and its folder."""
    from rich.console import Console

    from ssl_jax.clustering import atlas
    from ssl_jax.clustering.label import given_count, label
    from ssl_jax.clustering.output_files import OutputFiles
    from ssl_jax.inference.command_encoder import open_given
    from ssl_jax.runs.console import table_width
    from ssl_jax.runtime import compilation

    count = given_count(CLUSTERS.value)
    use = user_path(USE.value, "--use") if USE.value else None
    labelled = user_path(LABELLED.value, "--labelled") if LABELLED.value else None
    output = OutputFiles(user_path(OUT.value, "--out"), OVERWRITE.value)
    output.check()
    parquet = user_path(PARQUET.value, "--parquet") if PARQUET.value else None
    if parquet:
        atlas.check(parquet, OVERWRITE.value)
    compilation.enable_cache()
    console = Console()
    console.width = table_width(console) or console.width

    def show(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True, markup=False)

    run, settings = open_given(
        WORKDIR.value, CHECKPOINT.value, takes=("data.", "evals.crop"), show=show
    )
    report = label(
        run,
        settings,
        command_line.overrides("data"),
        count=count,
        by=BY.value,
        use=use,
        labelled=labelled,
        report=show,
    )
    written = output.write(report, SHEETS.value)
    console.print(report.table())
    for line in (*report.lines(), written):
        show(line)
    if parquet:
        for line in atlas.write(report, parquet):
            show(line)


def name_and_sort() -> None:
    """Carries out --names and --folders on the table that is there; checks both before writing."""
    from functools import partial

    from rich.console import Console

    from ssl_jax.clustering import named_files
    from ssl_jax.clustering.folders import SortedFolders
    from ssl_jax.clustering.names import ClusterTable
    from ssl_jax.clustering.output_files import OutputFiles

    output = OutputFiles(user_path(OUT.value, "--out"), OVERWRITE.value)
    table = ClusterTable(output.out)
    steps = []
    if NAMES.value:
        output.check()
        table.name_from(user_path(NAMES.value, "--names"))
        steps.append(partial(named_files.write, table, output))
    if FOLDERS.value:
        data = command_line.CONFIG.value.data
        if data.name != "folder" or table.files is None:
            raise SettingError(
                f"--folders={FOLDERS.value}: the rows of {OUT.value} are not files of a folder; "
                "only the pictures of data.name=folder can be sorted"
            )
        folders = SortedFolders(
            user_path(FOLDERS.value, "--folders"),
            user_path(data.dir, "data.dir"),
            output.folder,
            overwrite=OVERWRITE.value,
            linked=FOLDERS_BY.value == "link",
        )
        folders.check()
        steps.append(partial(folders.write, folders.plan(table)))
    console = Console()
    written = [step() for step in steps]
    console.print(table.table())
    for line in (*table.lines(), *written):
        console.print(line, highlight=False, soft_wrap=True, markup=False)


if __name__ == "__main__":
    command.start(main, prepare=command_line.with_run)
