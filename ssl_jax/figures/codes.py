"""Whether SwAV's prototypes are all in use."""

import numpy as np
from matplotlib.ticker import MaxNLocator

from ssl_jax.figures import style
from ssl_jax.figures.curves import series


def prototypes(codes, *, records=()):
    """How many images prefer each prototype, and how codes and usage went over training.

    Args:
        codes: [N, K] codes or scores of the images; only the largest of a row counts.
        records: of metrics.jsonl: `train/code_entropy` (mean entropy of a code over ln K: 0 one-hot, 1 says nothing)
            and `train/prototypes_used` (share of those that a batch could use).

    Raises:
        ValueError: no table.
    """
    sizes = usage(codes)
    x, entropy = series(records, "train/code_entropy")
    epochs, used = series(records, "train/prototypes_used")
    two = bool(len(x) or len(epochs))
    with style.styled():
        figure, axes = style.panels(1, 1 + two, height=2.9, width=style.WIDTH if two else 5.6)
        ax, even = axes[0], sizes.sum() / len(sizes)
        ax.stairs(np.sort(sizes)[::-1], np.arange(len(sizes) + 1) + 0.5, fill=True, color=style.PALETTE[0])
        ax.axhline(even, color=style.PALETTE[1], linestyle="--", linewidth=1.2, label=f"all alike: {even:.1f}")
        ax.set(xlabel="prototype, most used first", ylabel="images that prefer it", xlim=(0.5, len(sizes) + 0.5))
        ax.set_title(f"{int((sizes > 0).sum())} of {len(sizes)} in use, perplexity {perplexity(sizes):.0f}")
        ax.legend()
        if two:
            axes[1].plot(x, entropy, color=style.PALETTE[0], label="entropy of a code / ln K")
            axes[1].plot(epochs, used, color=style.PALETTE[1], label="prototypes used by a batch")
            axes[1].set(title="over training", xlabel="epoch", ylabel="share", ylim=(0, 1.05))
            axes[1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axes[1].legend()
    return figure


def usage(codes):
    """[K]: how many rows of `codes` [N, K] have their largest entry there."""
    codes = np.asarray(codes)
    if codes.ndim != 2 or not codes.size:
        raise ValueError(f"codes of shape {codes.shape}: give [N, K]")
    return np.bincount(codes.argmax(1), minlength=codes.shape[1])


def perplexity(sizes) -> float:
    """exp(entropy of the shares): as many equally used prototypes would be as evenly used."""
    share = sizes[sizes > 0] / sizes.sum()
    return float(np.exp(-np.sum(share * np.log(share))))
