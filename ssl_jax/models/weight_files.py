"""Files of tensors by name, `.safetensors` and PyTorch's: read without running any code in them, written whole."""

import json
import re
from pathlib import Path

import numpy as np

_NOTES = "ssl_jax"


class WeightsError(ValueError):
    """A weight file that cannot be used; the message names the file and the first tensor that is wrong."""


def read(path) -> dict[str, np.ndarray]:
    """The tensors of a `.safetensors`, `.pth`, `.pt` or `.tar` file by name; no file's code is ever run.

    Raises:
        WeightsError: there is no such file, or it cannot be read safely.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.numpy import load_file

            return {name: np.asarray(x, np.float32) for name, x in load_file(path).items()}
        return _read_pickle(path)
    except WeightsError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())
        if found := re.search(r"GLOBAL ([\w.]+)", said):
            raise WeightsError(
                f"{path} holds Python objects ({found[1]}), and reading those could run any code; where you trust the "
                'file, save its tensors alone: torch.save(torch.load(FILE, weights_only=False)["state_dict"], NEW)'
            ) from error
        said = re.sub("^Weights only load failed.*? error: | Check the documentation .*", "", said)
        why = said or type(error).__name__
        raise WeightsError(f"{path} is not a weight file that can be read safely ({why})") from error


def _read_pickle(path):
    try:
        import torch
    except ImportError as error:
        raise WeightsError(
            f"{path}: only PyTorch reads such files; pip install torch, or give a .safetensors file"
        ) from error
    found = torch.load(path, map_location="cpu", weights_only=True)
    while isinstance(found, dict) and isinstance(inner := found.get("state_dict", found.get("model")), dict):
        found = inner
    tensors = {k: v for k, v in found.items() if isinstance(v, torch.Tensor)} if isinstance(found, dict) else {}
    if not tensors:
        raise WeightsError(f"{path} holds no tensors by name; give a state_dict, alone or in a checkpoint")
    return {name: x.float().numpy() for name, x in tensors.items()}


def notes(path) -> dict:
    """What `write` noted in a file beside the tensors; {} for other files."""
    if Path(path).suffix != ".safetensors":
        return {}
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return json.loads((file.metadata() or {}).get(_NOTES, "{}"))


def write(path, tensors, notes: str = "{}") -> None:
    """A `.safetensors` file, whole or not at all, with `notes` in JSON beside the tensors."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    arrays = {name: np.ascontiguousarray(x) for name, x in tensors.items()}
    try:
        save_file(arrays, temporary, metadata={"format": "pt", _NOTES: notes})
        temporary.replace(path)
    except SafetensorError as error:  # what it makes of a full disk, say
        raise OSError(str(error)) from error
    finally:
        temporary.unlink(missing_ok=True)
