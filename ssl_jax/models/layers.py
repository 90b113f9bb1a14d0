"""Layers with PyTorch's conventions, which the published recipes were tuned with.

Initialisation, padding, BatchNorm momentum, epsilon and the unbiased running variance follow torch;
parameters are float32 and channels last.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax.settings import ranges

# U(+-1 / sqrt(fan_in))
uniform_fan_in = nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")
STEMS = ("imagenet", "cifar")
# Initialisation of convolutions, by the library that uses it.
CONV_INITS = {
    # He et al. 2015: variance 2 / fan_out.
    "torchvision": nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
    # The default of torch.nn.Conv2d: variance 1 / (3 fan_in).
    "torch": uniform_fan_in,
    # Variance 1 / fan_in.
    "tensorflow": nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal"),
}


class Conv(nn.Module):
    """Convolution without bias.

    Attributes:
        features: output channels.
        kernel: its side, in pixels.
        stride: of both axes.
        dtype: of the computation.
        pad: pixels added on each side, whatever the stride; -1 for kernel // 2.
        conv_init: a key of `CONV_INITS`.
    """

    features: int
    kernel: int = 3
    stride: int = 1
    dtype: str = "float32"
    pad: int = -1
    conv_init: str = "torchvision"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        pad = self.kernel // 2 if self.pad < 0 else self.pad
        conv = nn.Conv(
            self.features,
            kernel_size=(self.kernel, self.kernel),
            strides=(self.stride, self.stride),
            padding=((pad, pad), (pad, pad)),
            use_bias=False,
            kernel_init=CONV_INITS[self.conv_init],
            dtype=self.dtype,
            name="conv",
        )
        return conv(x)


class Linear(nn.Module):
    """Dense layer with torch's uniform initialisation.

    With `std` above 0, weights are normal with that standard deviation and biases zero.
    """

    features: int
    bias: bool = True
    std: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        bound = x.shape[-1] ** -0.5

        def uniform(key, shape, dtype):
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        kernel = nn.initializers.normal(self.std) if self.std else uniform_fan_in
        bias = nn.initializers.zeros if self.std else uniform
        dense = nn.Dense(
            self.features, self.bias, kernel_init=kernel, bias_init=bias, name="linear"
        )
        return dense(x)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last.

    Computed in float32 and returned in the type of `x`. Under `jit` the statistics are those of the
    global batch. Mean and variance come from one pass (sums of x and of x * x); running statistics
    hold torch's unbiased variance.

    Attributes:
        momentum: share of the old running statistics that stays after a batch; 1 - torch's
            `momentum`.
        epsilon: added to the variance.
        groups: parts of adjacent rows with separate statistics, as on that many devices without
            synchronisation; running statistics take the mean over the groups.
        affine: learn a scale and a bias.
        zero: start the scale at zero instead of one.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    groups: int = 1
    affine: bool = True
    zero: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool | int) -> jax.Array:
        """`x` normalised.

        Args:
            x: [..., C].
            train: use the statistics of the batch, and update the running ones. A number above 1 is
                that many interleaved batches (row i of each, then row i + 1), normalised as if they
                came one after the other.

        Raises:
            ValueError: the groups do not divide the batch.
        """
        features = x.shape[-1]
        batches = max(int(train), 1)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, features)
        running_var = self.variable("batch_stats", "var", jnp.ones, features)
        scale = jnp.ones(features)
        bias = jnp.zeros(features)
        if self.affine:
            start = nn.initializers.zeros if self.zero else nn.initializers.ones
            scale = self.param("scale", start, (features,))
            bias = self.param("bias", nn.initializers.zeros, (features,))
        groups = self.groups if train else 1
        if len(x) % (groups * batches):
            raise ValueError(
                f"bn_groups={groups} does not divide a batch of {len(x) // batches} rows"
            )
        # [groups, rows, batches, pixels, C]; a single batch keeps rows and pixels in one axis.
        shape = (len(x) // (groups * batches), batches, -1) if batches > 1 else (-1, 1, 1)
        grouped = jnp.asarray(x, jnp.float32).reshape(groups, *shape, features)
        if train:
            mean = grouped.mean((1, 3), keepdims=True)
            var = jnp.maximum((grouped * grouped).mean((1, 3), keepdims=True) - mean * mean, 0.0)
            if not self.is_initializing():
                rows = grouped.shape[1] * grouped.shape[3]
                unbiased = var * (rows / max(rows - 1, 1))
                keep = self.momentum
                for i in range(batches):
                    for running, value in ((running_mean, mean), (running_var, unbiased)):
                        new = value[:, 0, i, 0].mean(0)
                        running.value = keep * running.value + (1.0 - keep) * new
        else:
            mean = running_mean.value.reshape(1, 1, 1, 1, -1)
            var = running_var.value.reshape(1, 1, 1, 1, -1)
        factor = scale.reshape(1, 1, 1, 1, -1) * jax.lax.rsqrt(var + self.epsilon)
        offset = bias.reshape(1, 1, 1, 1, -1) - mean * factor
        return (grouped * factor + offset).reshape(x.shape).astype(x.dtype)


class Head(nn.Module):
    """Projection or prediction head: hidden layers of Linear, BatchNorm, ReLU, then a Linear.

    `hidden=()` is a single linear layer (Instance Discrimination); (2048,) is SwAV's. Computed in
    float32.

    Attributes:
        dim: width of the output.
        hidden: widths of the hidden layers.
        batch_norm: give each hidden layer a BatchNorm.
        bias: give the hidden linear layers a bias.
        output_norm: BatchNorm on the output: "" (none), "affine", or "plain" (without parameters).
        output_bias: give the last linear layer a bias.
        std: standard deviation of normal initial weights, with zero biases; 0 for torch's uniform
            initialisation.
        bn_groups: parts of the batch with separate BatchNorm statistics.
        bn_momentum: share of each batch in the running statistics, torch's `momentum`.
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
    def __call__(self, x: jax.Array, *, train: bool | int) -> jax.Array:
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
    """Convolution, BatchNorm and ReLU: a layer of networks without shortcuts."""

    features: int
    kernel: int = 3
    stride: int = 1
    pad: int = 1
    dtype: str = "float32"
    bn_groups: int = 1
    conv_init: str = "torchvision"
    bn_momentum: float = 0.1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool | int) -> jax.Array:
        conv = Conv(
            features=self.features,
            kernel=self.kernel,
            stride=self.stride,
            dtype=self.dtype,
            pad=self.pad,
            conv_init=self.conv_init,
            name="conv",
        )
        norm = BatchNorm(momentum=1.0 - self.bn_momentum, groups=self.bn_groups, name="bn")
        return nn.relu(norm(conv(x), train=train))


class Hidden(nn.Module):
    """From the last map [B, H, W, C] to [B, D]: fully connected layers with BatchNorm and ReLU.

    Without any `widths`, the mean of the map.
    """

    widths: tuple[int, ...]
    bn_groups: int = 1
    bn_momentum: float = 0.1

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool | int) -> jax.Array:
        x = jnp.asarray(x, jnp.float32)
        if not self.widths:
            return x.mean((1, 2))
        layers = Head(
            dim=self.widths[-1],
            hidden=tuple(self.widths[:-1]),
            bias=False,
            output_norm="affine",
            output_bias=False,
            std=0.01,
            bn_groups=self.bn_groups,
            bn_momentum=self.bn_momentum,
            name="layers",
        )
        return nn.relu(layers(x.reshape(len(x), -1), train=train))


def check_plain(backbone: nn.Module, stems: tuple[str, ...] = STEMS) -> None:
    """Checks the settings of a network without shortcuts.

    Raises:
        ValueError: a setting is out of range.
    """
    ranges.at_most(100, hidden=backbone.hidden)
    ranges.count(1, ranges.WIDEST, hidden=backbone.hidden)
    check_common(backbone, stems)


def check_common(backbone: nn.Module, stems: tuple[str, ...] = STEMS) -> None:
    """Checks the settings that all backbones share.

    Raises:
        ValueError: a setting is out of range.
    """
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
