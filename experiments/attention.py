"""Draws what a run looked at over training, as in AND's "learning attention dynamics".

    python -m ssl_jax.main --config=configs/anchor_neighbourhood.py --config.attention_images=8
    python experiments/attention.py runs/anchor_neighbourhood [--out=attention.png]

Rows are fixed training images, columns the ends of rounds (of other methods evaluations, at most
six), with Grad-CAM of the cosine between an image's embedding and its row of the memory bank laid
over the picture. Any method can record them; one without a bank has the image's mean embedding over
random views in the bank's place. The paper's text has the title of that figure alone: the cosine is
our choice. Only the run folder is read. The report of a run shows the same figure.
"""

import argparse
import sys
from pathlib import Path

from ssl_jax.settings.paths import check_writable
from ssl_jax.settings.resolve import SettingError


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", help="run folder")
    parser.add_argument("--out", default="attention.png", help="PNG file to write")
    args = parser.parse_args(argv)
    try:
        draw(args.run, Path(args.out))
    except SettingError as error:
        sys.exit(f"error: {error}")


def draw(run: str, out: Path) -> None:
    """Writes the figure of a run folder to `out`.

    Raises:
        SettingError: no run folder, no heat maps in it, or a file that cannot be written.
    """
    from ssl_jax.figures import style
    from ssl_jax.reporting import attention, record

    if out.suffix.lower() != ".png" or not out.absolute().parent.is_dir():
        raise SettingError(f"--out={out}: give a .png file in an existing folder")
    check_writable(out, "--out")
    (content,) = record.read([run])
    figure, caption = attention.figure(content)
    out.write_bytes(style.encoded(figure, "png"))
    print(f"wrote {out}")
    print(caption)


if __name__ == "__main__":
    main()
