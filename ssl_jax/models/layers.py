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
    """Convolution without bias, padded by kernel // 2 on each side whatever the stride."""

    features: int
    kernel: int = 3
    stride: int = 1

    @nn.compact
    def __call__(self, x):
        pad = (self.kernel // 2, self.kernel // 2)
        size, stride = (self.kernel, self.kernel), (self.stride, self.stride)
        return nn.Conv(
            self.features, size, stride, (pad, pad), use_bias=False, kernel_init=kaiming_fan_out, name="conv"
        )(x)


class Linear(nn.Module):
    """Dense layer with torch's uniform start of weight and bias."""

    features: int

    @nn.compact
    def __call__(self, x):
        bound = x.shape[-1] ** -0.5
        uniform = lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)
        return nn.Dense(self.features, kernel_init=uniform_fan_in, bias_init=uniform, name="linear")(x)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, with global-batch statistics under `jit`.

    Mean and variance come from one pass (sums of x and of x * x, a quarter of a narrow network's step
    on a CPU); running statistics move by 0.1 a batch and hold torch's unbiased variance.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x, *, train: bool):
        features = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, features)
        running_var = self.variable("batch_stats", "var", jnp.ones, features)
        scale = self.param("scale", nn.initializers.ones, (features,))
        bias = self.param("bias", nn.initializers.zeros, (features,))
        if train:
            rows = jnp.asarray(x, jnp.float32).reshape(-1, features)
            mean = rows.mean(0)
            var = jnp.maximum((rows * rows).mean(0) - mean * mean, 0.0)
            if not self.is_initializing():
                unbiased = var * (len(rows) / max(len(rows) - 1, 1))
                keep = self.momentum
                running_mean.value = keep * running_mean.value + (1.0 - keep) * mean
                running_var.value = keep * running_var.value + (1.0 - keep) * unbiased
        else:
            mean, var = running_mean.value, running_var.value
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        offset = bias - mean * factor
        factor, offset = (jnp.broadcast_to(a.astype(x.dtype), x.shape) for a in (factor, offset))
        return x * factor + offset


class Head(nn.Module):
    """Projection head: hidden layers of Linear, BatchNorm, ReLU, then one Linear to `dim`.

    `hidden=()` is a single linear layer (Instance Discrimination); (2048,) is SwAV's.
    """

    dim: int
    hidden: tuple[int, ...] = ()
    batch_norm: bool = True

    def __post_init__(self):
        super().__post_init__()
        if min(self.dim, *self.hidden, self.dim) < 1:
            raise ValueError(f"dim={self.dim} and hidden={self.hidden}: at least 1")

    @nn.compact
    def __call__(self, x, *, train: bool):
        for i, features in enumerate(self.hidden):
            x = Linear(features, name=f"linear{i + 1}")(x)
            if self.batch_norm:
                x = BatchNorm(name=f"bn{i + 1}")(x, train=train)
            x = nn.relu(x)
        return Linear(self.dim, name=f"linear{len(self.hidden) + 1}")(x)
