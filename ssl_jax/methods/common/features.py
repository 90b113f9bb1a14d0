"""The named features of methods with one network."""

from collections.abc import Sequence
from typing import Any, cast

from jaxtyping import Array, Float

from ssl_jax.models.network import Network
from ssl_jax.ops.types import Numbers


def of_network(
    network: Network, params: Any, batch_stats: Any, images: Float[Numbers, "B H W C"]
) -> dict[str, Float[Array, "B ..."]]:
    """All features of clean images, with running statistics; see `Network.features`."""
    features = network.apply(
        {"params": params, "batch_stats": batch_stats}, images, method=Network.features
    )
    return cast(dict[str, Array], features)


def chosen(
    network: Network,
    params: Any,
    batch_stats: Any,
    images: Float[Numbers, "B H W C"],
    names: Sequence[str],
) -> dict[str, Float[Array, "B ..."]]:
    """The features `names` of `of_network`.

    Raises:
        KeyError: the network has no feature of that name.
    """
    features = of_network(network, params, batch_stats, images)
    return {name: features[name] for name in names}
