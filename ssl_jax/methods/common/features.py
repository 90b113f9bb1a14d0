"""The features that methods with one network offer."""

from ssl_jax.models.network import Network


def of_network(network: Network, params, batch_stats, images) -> dict:
    """Every named feature of clean images [B, H, W, C], with running statistics; see `Network.features`."""
    return network.apply({"params": params, "batch_stats": batch_stats}, images, method=Network.features)


def chosen(network: Network, params, batch_stats, images, names) -> dict:
    """Those of `of_network` that `names` wants; raises KeyError for one that is not there."""
    found = of_network(network, params, batch_stats, images)
    return {name: found[name] for name in names}
