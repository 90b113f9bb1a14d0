"""Layers with PyTorch's conventions, which the published recipes were tuned with.

Initialisation, padding, BatchNorm momentum, epsilon and the unbiased running variance follow torch;
parameters are float32 and channels last.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

kaiming_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
uniform_fan_in = nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")  # U(+-1 / sqrt(fan_in))


class Conv(nn.Module):
    """Convolution without bias, padded by kernel // 2 on each side whatever the stride, computed in `dtype`."""

    features: int
    kernel: int = 3
    stride: int = 1
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x):
        pad = (self.kernel // 2, self.kernel // 2)
        size, stride = (self.kernel, self.kernel), (self.stride, self.stride)
        settings = dict(use_bias=False, kernel_init=kaiming_fan_out, dtype=self.dtype, name="conv")
        return nn.Conv(self.features, size, stride, (pad, pad), **settings)(x)


class Linear(nn.Module):
    """Dense layer with torch's uniform start of weight and bias."""

    features: int

    @nn.compact
    def __call__(self, x):
        bound = x.shape[-1] ** -0.5
        uniform = lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)
        return nn.Dense(self.features, kernel_init=uniform_fan_in, bias_init=uniform, name="linear")(x)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, in float32 whatever the type of `x`, which is also returned.

    Under `jit` the statistics are those of the global batch. With `groups` the batch falls into that many
    parts of neighbouring rows, each normalised by its own statistics, as on so many devices without
    synchronisation; running statistics take the mean over the groups. Mean and variance come from one
    pass (sums of x and of x * x); running statistics move by 0.1 a batch and hold torch's unbiased variance.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    groups: int = 1

    @nn.compact
    def __call__(self, x, *, train: bool):
        features = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, features)
        running_var = self.variable("batch_stats", "var", jnp.ones, features)
        scale = self.param("scale", nn.initializers.ones, (features,))
        bias = self.param("bias", nn.initializers.zeros, (features,))
        groups = self.groups if train else 1
        if len(x) % groups:
            raise ValueError(f"bn_groups={groups} does not divide a batch of {len(x)} rows")
        grouped = jnp.asarray(x, jnp.float32).reshape(groups, -1, features)
        if train:
            mean = grouped.mean(1)
            var = jnp.maximum((grouped * grouped).mean(1) - mean * mean, 0.0)
            if not self.is_initializing():
                rows = grouped.shape[1]
                unbiased = var.mean(0) * (rows / max(rows - 1, 1))
                keep = self.momentum
                running_mean.value = keep * running_mean.value + (1.0 - keep) * mean.mean(0)
                running_var.value = keep * running_var.value + (1.0 - keep) * unbiased
        else:
            mean, var = running_mean.value[None], running_var.value[None]
        factor = scale[None] * jax.lax.rsqrt(var + self.epsilon)
        offset = bias[None] - mean * factor
        return (grouped * factor[:, None] + offset[:, None]).reshape(x.shape).astype(x.dtype)


class Head(nn.Module):
    """Projection head: hidden layers of Linear, BatchNorm, ReLU, then one Linear to `dim`.

    `hidden=()` is a single linear layer (Instance Discrimination); (2048,) is SwAV's. Always float32.
    """

    dim: int
    hidden: tuple[int, ...] = ()
    batch_norm: bool = True
    bn_groups: int = 1

    def __post_init__(self):
        super().__post_init__()
        if min(self.dim, *self.hidden, self.dim) < 1:
            raise ValueError(f"dim={self.dim} and hidden={self.hidden}: at least 1")

    @nn.compact
    def __call__(self, x, *, train: bool):
        for i, features in enumerate(self.hidden):
            x = Linear(features, name=f"linear{i + 1}")(x)
            if self.batch_norm:
                x = BatchNorm(groups=self.bn_groups, name=f"bn{i + 1}")(x, train=train)
            x = nn.relu(x)
        return Linear(self.dim, name=f"linear{len(self.hidden) + 1}")(x)
