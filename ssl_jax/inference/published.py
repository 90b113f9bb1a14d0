"""A folder with an exported encoder as Hugging Face's hub has them: weights, card, config.json."""

import json
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_jax.inference import model_card, snippets, timm_config
from ssl_jax.inference.pretrained import export
from ssl_jax.runs.restore import Run
from ssl_jax.settings.paths import check_writable
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

WEIGHTS = "model.safetensors"
CARD = "README.md"
CONFIG = "config.json"
_FILES = (WEIGHTS, CARD, CONFIG)


def check(folder: Path, overwrite: bool) -> None:
    """Checks that the folder can be written.

    Raises:
        SettingError: it cannot, or there is something that may not be replaced.
    """
    shown = folder
    folder = Path(os.path.abspath(folder))
    if not folder.parent.is_dir():
        raise SettingError(f"--folder={shown}: give a folder in one that exists")
    if folder.exists() and not folder.is_dir():
        raise SettingError(f"--folder={shown} is a file; give another name")
    names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    others = [name for name in names if name not in _FILES]
    if others or (names and WEIGHTS not in names):
        name = printable((others or names)[0])
        raise SettingError(
            f"--folder={shown} holds other files ({name}); give a folder that is new or empty"
        )
    if names and not overwrite:
        raise SettingError(
            f"--folder={shown} holds an encoder; --overwrite replaces its files, card included, "
            "or give another name"
        )
    check_writable(folder, "--folder")


def write(run: Run, folder: Path, *, head: bool = False) -> tuple[dict[str, np.ndarray], str]:
    """Writes the folder, whole or not at all.

    Args:
        run: an opened run.
        folder: new, or of files that may be replaced; see `check`.
        head: see `export`.

    Returns:
        the tensors by name, and why there is no config.json; empty if there is one.

    Raises:
        SettingError: the run has no encoder to export, or the folder cannot be written.
    """
    shown = folder
    folder = Path(os.path.abspath(folder))
    prefix = f".{folder.name}-{secrets.token_hex(4)}"
    made = folder.with_name(f"{prefix}-new")
    old = folder.with_name(f"{prefix}-old")
    try:
        made.mkdir()
        tensors = export(run, made / WEIGHTS, head=head)
        stage: Any = run.plan.stages[-1]
        reason = timm_config.why_not(stage.method.network.backbone, head)
        if not reason:
            content = json.dumps(_config(run), indent=2)
            (made / CONFIG).write_text(content + "\n", "utf-8")
        card = model_card.card(
            run,
            tensors,
            snippets.images(**_images(run), channels=len(stage.mean)),
            loading(run, Path(WEIGHTS), for_timm=not reason, head=head),
            for_timm=not reason,
        )
        (made / CARD).write_text(card, "utf-8")
        if folder.exists():
            folder.rename(old)
        made.rename(folder)
    except OSError as error:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise SettingError(
            f"--folder={shown} cannot be written ({error.strerror or error})"
        ) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    return tensors, reason


def loading(run: Run, weights: Path, *, for_timm: bool, head: bool) -> Mapping[str, Sequence[str]]:
    """Lines of Python that load the weights, by what they need; see `model_card.card`."""
    stage: Any = run.plan.stages[-1]
    ways = {"With ssl_jax": snippets.here(weights, len(stage.mean), run.plan.dataset.range)}
    if for_timm:
        ways["In PyTorch, with timm"] = snippets.timm(weights.parent)
    ways["In PyTorch, with torchvision"] = snippets.torchvision(
        weights,
        stage.method.network.backbone,
        size=stage.views[0].size,
        mean=stage.mean,
        std=stage.std,
        crop=stage.crop,
        head=head,
    )
    return ways


def _images(run: Run) -> dict[str, Any]:
    """Arguments of `snippets.images` but the channels."""
    stage = run.plan.stages[-1]
    return dict(
        size=stage.views[0].size,
        mean=stage.mean,
        std=stage.std,
        limits=run.plan.dataset.range,
        crop=stage.crop,
    )


def _config(run: Run) -> dict[str, Any]:
    """The content of config.json."""
    stage: Any = run.plan.stages[-1]
    return timm_config.config(
        stage.method.network.backbone,
        size=stage.views[0].size,
        mean=stage.mean,
        std=stage.std,
        crop=stage.crop,
    )
