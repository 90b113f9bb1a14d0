"""A backbone that compiles in a moment, for runs that do not test the network."""

import flax.linen as nn

from ssl_jax.models.layers import BatchNorm, Conv


class Tiny(nn.Module):
    """Two convolutions with BatchNorm, pooled; has a ResNet's settings but uses only `width`."""

    depth: int = 10
    width: int = 8
    stem: str = "cifar"
    dtype: str = "float32"
    remat: bool = False
    bn_groups: int = 1

    @nn.compact
    def __call__(self, x, *, train):
        for i in (1, 2):
            x = Conv(i * self.width, 3, i, name=f"conv{i}")(x)
            x = nn.relu(BatchNorm(groups=self.bn_groups, name=f"bn{i}")(x, train=train))
        return {"stage1": x, "backbone": x.mean((1, 2))}


Backbone = Tiny
