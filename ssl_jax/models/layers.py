"""Layers with PyTorch's conventions, which the published recipes were tuned with.

Initialisation, padding, BatchNorm momentum, epsilon and the unbiased running variance follow torch;
parameters are float32 and channels last.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax.settings import ranges

uniform_fan_in = nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")  # U(+-1 / sqrt(fan_in))
STEMS = ("imagenet", "cifar")
# How convolutions start, by the library whose models start so.
CONV_INITS = {
    "torchvision": nn.initializers.variance_scaling(2.0, "fan_out", "normal"),  # He et al. 2015: variance 2 / fan_out
    "torch": uniform_fan_in,  # torch.nn.Conv2d as it comes: variance 1 / (3 fan_in)
    "tensorflow": nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal"),  # variance 1 / fan_in
}


class Conv(nn.Module):
    """Convolution without bias, padded by `pad` (-1: kernel // 2) on each side whatever the stride, in `dtype`.

    `conv_init` is a key of `CONV_INITS`.
    """

    features: int
    kernel: int = 3
    stride: int = 1
    dtype: str = "float32"
    pad: int = -1
    conv_init: str = "torchvision"

    @nn.compact
    def __call__(self, x):
        pad = (self.kernel // 2 if self.pad < 0 else self.pad,) * 2
        size, stride = (self.kernel, self.kernel), (self.stride, self.stride)
        settings = dict(use_bias=False, kernel_init=CONV_INITS[self.conv_init], dtype=self.dtype, name="conv")
        return nn.Conv(self.features, size, stride, (pad, pad), **settings)(x)


class Linear(nn.Module):
    """Dense layer with torch's uniform start of weight and bias; with `std` weights are normal and biases zero."""

    features: int
    bias: bool = True
    std: float = 0.0

    @nn.compact
    def __call__(self, x):
        bound = x.shape[-1] ** -0.5
        uniform = lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)
        kernel, bias = uniform_fan_in, uniform
        if self.std:
            kernel, bias = nn.initializers.normal(self.std), nn.initializers.zeros
        dense = nn.Dense(self.features, self.bias, kernel_init=kernel, bias_init=bias, name="linear")
        return dense(x)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, in float32 whatever the type of `x`, which is also returned.

    Under `jit` the statistics are those of the global batch. With `groups` the batch falls into that many
    parts of neighbouring rows, each normalised by its own statistics, as on so many devices without
    synchronisation; running statistics take the mean over the groups. Mean and variance come from one
    pass (sums of x and of x * x); running statistics move by 1 - `momentum` a batch (torch's momentum) and hold torch's
    unbiased variance.
    `train` may be a number: so many batches whose rows lie interleaved (row i of each, then row i + 1), each with its
    own statistics, as if one came after the other. Without `affine` there are no scale and no bias to learn; `zero`
    starts the scale at zero instead of one.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    groups: int = 1
    affine: bool = True
    zero: bool = False

    @nn.compact
    def __call__(self, x, *, train: bool | int):
        features, batches = x.shape[-1], max(int(train), 1)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, features)
        running_var = self.variable("batch_stats", "var", jnp.ones, features)
        scale, bias = jnp.ones(features), jnp.zeros(features)
        if self.affine:
            start = nn.initializers.zeros if self.zero else nn.initializers.ones
            scale = self.param("scale", start, (features,))
            bias = self.param("bias", nn.initializers.zeros, (features,))
        groups = self.groups if train else 1
        if len(x) % (groups * batches):
            raise ValueError(f"bn_groups={groups} does not divide a batch of {len(x) // batches} rows")
        # [groups, rows, batches, pixels, C]; a lone batch keeps rows and pixels in one axis.
        shape = (len(x) // (groups * batches), batches, -1) if batches > 1 else (-1, 1, 1)
        grouped = jnp.asarray(x, jnp.float32).reshape(groups, *shape, features)
        if train:
            mean = grouped.mean((1, 3), keepdims=True)
            var = jnp.maximum((grouped * grouped).mean((1, 3), keepdims=True) - mean * mean, 0.0)
            if not self.is_initializing():
                rows, keep = grouped.shape[1] * grouped.shape[3], self.momentum
                unbiased = var * (rows / max(rows - 1, 1))
                for i in range(batches):
                    of_batch = lambda x, i=i: x[:, 0, i, 0].mean(0)
                    running_mean.value = keep * running_mean.value + (1.0 - keep) * of_batch(mean)
                    running_var.value = keep * running_var.value + (1.0 - keep) * of_batch(unbiased)
        else:
            mean, var = (x.value.reshape(1, 1, 1, 1, -1) for x in (running_mean, running_var))
        factor = scale.reshape(1, 1, 1, 1, -1) * jax.lax.rsqrt(var + self.epsilon)
        offset = bias.reshape(1, 1, 1, 1, -1) - mean * factor
        return (grouped * factor + offset).reshape(x.shape).astype(x.dtype)


class Head(nn.Module):
    """Projection or prediction head: hidden layers of Linear, BatchNorm, ReLU, then one Linear to `dim`.

    `hidden=()` is a single linear layer (Instance Discrimination); (2048,) is SwAV's. Always float32.

    Attributes:
        dim: of the output.
        hidden: widths of the hidden layers.
        batch_norm: of the hidden layers.
        bias: of the hidden linear layers.
        output_norm: BatchNorm on the output: "" (none), "affine", or "plain" (nothing to learn).
        output_bias: of the last linear layer.
        std: of normal weights at the start, biases zero; 0 for torch's uniform start.
        bn_groups: parts of the batch with BatchNorm statistics of their own.
        bn_momentum: by how much running statistics move with a batch, torch's `momentum`.
    """

    dim: int = 128
    hidden: tuple[int, ...] = ()
    batch_norm: bool = True
    bias: bool = True
    output_norm: str = ""
    output_bias: bool = True
    std: float = 0.0
    bn_groups: int = 1
    bn_momentum: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        ranges.count(1, ranges.WIDEST, dim=self.dim, hidden=self.hidden)
        ranges.at_most(100, hidden=self.hidden)
        ranges.not_negative(std=self.std)
        if self.output_norm not in ("", "affine", "plain"):
            raise ValueError(f"output_norm={self.output_norm!r}: choose affine, plain or '' (none)")

    @nn.compact
    def __call__(self, x, *, train: bool):
        norm = partial(BatchNorm, momentum=1.0 - self.bn_momentum, groups=self.bn_groups)
        for i, features in enumerate(self.hidden):
            x = Linear(features, self.bias, self.std, name=f"linear{i + 1}")(x)
            if self.batch_norm:
                x = norm(name=f"bn{i + 1}")(x, train=train)
            x = nn.relu(x)
        last = len(self.hidden) + 1
        x = Linear(self.dim, self.output_bias, self.std, name=f"linear{last}")(x)
        if self.output_norm:
            x = norm(affine=self.output_norm == "affine", name=f"bn{last}")(x, train=train)
        return x


class ConvNorm(nn.Module):
    """Convolution, BatchNorm, ReLU: a layer of the networks without shortcuts."""

    features: int
    kernel: int = 3
    stride: int = 1
    pad: int = 1
    dtype: str = "float32"
    bn_groups: int = 1
    conv_init: str = "torchvision"
    bn_momentum: float = 0.1

    @nn.compact
    def __call__(self, x, train: bool):
        x = Conv(self.features, self.kernel, self.stride, self.dtype, self.pad, self.conv_init, name="conv")(x)
        norm = BatchNorm(momentum=1.0 - self.bn_momentum, groups=self.bn_groups, name="bn")
        return nn.relu(norm(x, train=train))


class Hidden(nn.Module):
    """From the last map [B, H, W, C] to [B, D]: fully connected layers with BatchNorm and ReLU; with none, its mean."""

    widths: tuple[int, ...]
    bn_groups: int = 1
    bn_momentum: float = 0.1

    @nn.compact
    def __call__(self, x, *, train: bool):
        x = jnp.asarray(x, jnp.float32)
        if not self.widths:
            return x.mean((1, 2))
        *hidden, dim = self.widths
        norm = dict(output_norm="affine", bn_groups=self.bn_groups, bn_momentum=self.bn_momentum)
        settings = dict(bias=False, output_bias=False, std=0.01, **norm)
        return nn.relu(Head(dim, tuple(hidden), **settings, name="layers")(x.reshape(len(x), -1), train=train))


def check_plain(backbone, stems=STEMS):
    """Raises ValueError for settings that a network without shortcuts does not have."""
    ranges.at_most(100, hidden=backbone.hidden)
    ranges.count(1, ranges.WIDEST, hidden=backbone.hidden)
    check_common(backbone, stems)


def check_common(backbone, stems=STEMS):
    """Raises ValueError for values that no backbone takes."""
    ranges.count(1, 2**16, width=backbone.width)
    if backbone.stem not in stems:
        raise ValueError(f"stem={backbone.stem!r}: choose one of {', '.join(stems)}")
    if backbone.dtype not in ("float32", "bfloat16"):
        raise ValueError(f"dtype={backbone.dtype!r}: choose float32 or bfloat16")
    if backbone.bn_groups < 1:
        raise ValueError(f"bn_groups={backbone.bn_groups}: at least 1")
    if backbone.conv_init not in CONV_INITS:
        raise ValueError(f"init={backbone.conv_init!r}: choose one of {', '.join(CONV_INITS)}")
    if not 0 < backbone.bn_momentum <= 1:
        raise ValueError(f"bn_momentum={backbone.bn_momentum}: above 0 and at most 1")
