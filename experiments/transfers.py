"""The published transfers to other data, and their table in docs/results.md.

`python experiments/reproduce.py table` writes it. Each is a preset of `ssl_jax.evaluate`, on a run
that a row of `published.py` trains.
"""

import dataclasses

MARKS = ("<!-- transfers: python experiments/reproduce.py table -->", "<!-- end of transfers -->")
_MEMORY = "[m]"  # after numbers that are quoted from memory


@dataclasses.dataclass(frozen=True)
class Transfer:
    """A number of an encoder on other data than its own.

    Attributes:
        row: of `published.ROWS`, which trains the encoder.
        preset: of `ssl_jax.settings.presets`.
        published: the number, in percent.
        score: what `ssl_jax.evaluate` calls it.
        source: paper or code.
        flags: that the command needs besides.
    """

    row: str
    preset: str
    published: str
    score: str
    source: str
    flags: str = ""

    @property
    def command(self) -> str:
        """What measures it, on the run folder RUN and the data in DIR."""
        words = ["python -m ssl_jax.evaluate --workdir=RUN", f"--preset={self.preset}"]
        return " ".join(filter(None, [*words, "--data.dir=DIR", self.flags]))


TRANSFERS = (
    Transfer(
        "swav-imagenet-800",
        "places205",
        f"top-1 56.7 {_MEMORY}",
        "augmented/top1",
        "SwAV, transfer: linear",
    ),
    Transfer(
        "swav-imagenet-800", "voc07", "mAP 88.9", "svm/map", "SwAV, transfer: linear; VISSL's code"
    ),
    Transfer(
        "swav-imagenet-800",
        "inat18",
        f"top-1 48.6 {_MEMORY}",
        "augmented/top1",
        "SwAV, transfer: linear",
    ),
    Transfer(
        "local_aggregation-imagenet-resnet50-200",
        "places205_la",
        f"top-1 50.1 over ten crops, best stage {_MEMORY}",
        "augmented/top1_stage1 to top1_stage5",
        "LA, transfer to Places205",
    ),
    Transfer(
        "instance-imagenet-resnet50-200",
        "places205_la",
        f"top-1 45.5, best stage {_MEMORY}",
        "augmented/top1_stage1 to top1_stage5",
        "Instance Discrimination, transfer to Places205",
    ),
    Transfer(
        "instance-imagenet-resnet50-200",
        "voc07",
        "mAP 74.5",
        "svm/map",
        "OpenSelfSup's run of Instance Discrimination",
    ),
)


def table() -> str:
    """A line for each transfer: the number, the row that trains its encoder, and the command."""
    head = ("paper or code", "encoder", "command", "published", "score here")
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for x in TRANSFERS:
        cells = (x.source, f"`{x.row}`", f"`{x.command}`", x.published, f"`{x.score}`")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
