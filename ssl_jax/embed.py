"""Writes the features of pictures, with their names, to a file:

    python -m ssl_jax.embed --workdir=RUN --data.name=folder --data.dir=DIR --out=features.npz
    python -m ssl_jax.embed --weights=FILE --data.dir=DIR --out=features.parquet

Without --data flags the run's own images are embedded, test images included; --data.NAME is short
for --config.data.NAME. For other data (another name, or another place), name, size, bands and cache
are taken from the run; all other settings of `data` start from their defaults. A weight file in
place of a run, of any library that makes ResNets, has no data: --data.name is a folder unless
given, and all settings of `data` start from their defaults. No labels are needed.

An .npz file has the arrays features [N, D], names [N] (files below DIR, or "train[17]" for arrays),
splits [N] and, for labelled data, labels [N] (-1: unknown) and classes; np.load reads it without
pickle. A .parquet file has a row per image: file and split (or split and row), label, features.
Training images come first. The features are not normalised.

Memory is bounded, whatever the number of images, and the file appears when it is complete. Bytes of
names that are not UTF-8 become \\xff.
"""

from absl import flags

from ssl_jax.runtime import command
from ssl_jax.settings import command_line, weight_flags  # noqa: F401 - defines --weights
from ssl_jax.settings.paths import user_path

WORKDIR = flags.DEFINE_string("workdir", None, "Run folder, as ssl_jax.main writes it.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "latest, best, or a step.")
OUT = flags.DEFINE_string("out", "features.npz", "File to write, .npz or .parquet.")
FEATURE = flags.DEFINE_string(
    "feature", "backbone", "backbone, embedding, query, scores or logits, if the encoder has it."
)
DTYPE = flags.DEFINE_enum(
    "dtype", "float32", ["float32", "float16"], "float32 or float16, of half the size."
)
OVERWRITE = flags.DEFINE_boolean("overwrite", False, "Replace an existing file.")


def main() -> None:
    import dataclasses
    from functools import partial

    from rich.console import Console

    from ssl_jax.inference.command_encoder import open_given
    from ssl_jax.inference.feature_files import FeatureFile
    from ssl_jax.inference.images import pictures
    from ssl_jax.inference.pretrained import of_run
    from ssl_jax.runs.console import Status, print_plain
    from ssl_jax.runs.restore import other_data, with_range
    from ssl_jax.runtime import compilation
    from ssl_jax.settings import eval_settings
    from ssl_jax.settings.text import printable

    file = FeatureFile(user_path(OUT.value, "--out"), OVERWRITE.value)
    file.check()
    compilation.enable_cache()
    console = Console()
    show = partial(print_plain, console)
    run, settings = open_given(
        WORKDIR.value, CHECKPOINT.value, takes=("data.", "evals.crop"), show=show
    )
    crop = eval_settings.shared(settings["evals"]).crop
    encoder = dataclasses.replace(of_run(run), crop=crop)
    file.check_feature(encoder, FEATURE.value)
    settings = other_data(settings, command_line.overrides("data"), run.plan.source)
    settings, reader = with_range(settings, run)
    dataset, notes = pictures(settings, run.plan.dataset, **reader)
    data = settings["data"]["name"]
    for line in (*notes, printable(f"{run.title}, on {data}: {FEATURE.value}")):
        show(line)
    with Status(console) as progress:
        count, dim = file.write(
            encoder,
            dataset,
            FEATURE.value,
            dtype=DTYPE.value,
            source=run.title,
            report=progress.status,
        )
    size = file.path.stat().st_size / 1e6
    show(printable(f"wrote {file.path}: {count:,} images, {dim} numbers each, {size:,.1f} MB"))


if __name__ == "__main__":
    command.start(main, prepare=command_line.with_run)
