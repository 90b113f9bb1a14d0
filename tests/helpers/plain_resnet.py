"""A ResNet of basic blocks in plain numpy, from torchvision's names: a second opinion."""

import numpy as np


def features(weights: dict[str, np.ndarray], images: np.ndarray) -> np.ndarray:
    """Pooled features [N, D] of normalised images [N, C, H, W], in float64.

    The first convolution is CIFAR's: 3x3 with stride 1, without pooling behind it.
    """
    x = _relu(_norm(weights, "bn1", _conv(images, weights["conv1.weight"], 1)))
    blocks = sorted({name.rsplit(".conv1", 1)[0] for name in weights if ".conv1" in name})
    for block in blocks:
        stride = 2 if block[5] > "1" and block.endswith(".0") else 1
        y = _conv(x, weights[f"{block}.conv1.weight"], stride)
        y = _conv(_relu(_norm(weights, f"{block}.bn1", y)), weights[f"{block}.conv2.weight"], 1)
        shortcut = x
        if f"{block}.downsample.0.weight" in weights:
            shortcut = _conv(x, weights[f"{block}.downsample.0.weight"], stride)
            shortcut = _norm(weights, f"{block}.downsample.1", shortcut)
        x = _relu(_norm(weights, f"{block}.bn2", y) + shortcut)
    return x.mean((2, 3))


def _relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def _norm(weights: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    def channel(kind: str) -> np.ndarray:
        return weights[f"{name}.{kind}"].astype(np.float64)[:, None, None]

    scale = channel("weight") / np.sqrt(channel("running_var") + 1e-5)
    return (x - channel("running_mean")) * scale + channel("bias")


def _conv(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    side = kernel.shape[-1]
    pad = side // 2
    height, width = ((length - 1) // stride + 1 for length in x.shape[2:])
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    out = 0.0
    for i in range(side):
        for j in range(side):
            rows = slice(i, i + stride * (height - 1) + 1, stride)
            columns = slice(j, j + stride * (width - 1) + 1, stride)
            out += np.einsum("nchw,oc->nohw", padded[:, :, rows, columns], kernel[:, :, i, j])
    return out
