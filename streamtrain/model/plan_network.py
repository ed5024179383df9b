"""The network of a named model, for a dataset's schema or for arrays as they are."""

from __future__ import annotations

from streamtrain.errors import ConfigError
from streamtrain.model.encodings import array_scales, plan_encoding
from streamtrain.model.network import (
    ColumnEncoding,
    Network,
    NetworkOptions,
    embedding_dim_of,
    named_layers,
)
from streamtrain.store.schema import Schema

_VECTOR_DIM = 8
_BAG_DIM = 16
_FREQUENCIES, _FREQUENCY_WIDTH, _FREQUENCY_SCALE = 16, 16, 0.1
_EMBEDDING_SCALE = 0.1
_FM_SCALE = 0.05


def plan_network(
    schema: Schema, model: str, options: NetworkOptions, *, cross_sizes: tuple[int, ...] = ()
) -> Network:
    """Return the network for a dataset.

    Raises
    ------
    ConfigError
        If the options do not fit.
    """
    # The values of an array are of one kind: they need no curve each.
    kind = options.numeric_encoding or ("standard" if schema.array else "quantile")
    scales = array_scales(schema.array) if schema.array else (None,) * len(schema.numeric)
    columns = tuple(
        plan_encoding(c, kind, bins=options.bins, by=by)
        for c, by in zip(schema.numeric, scales, strict=True)
    )
    cardinalities = (*(c.cardinality for c in schema.categorical), *cross_sizes)
    return _network(model, options, columns, cardinalities, schema.stored.bag_sizes)


def plain_network(
    model: str, options: NetworkOptions, *, n_numeric: int, cardinalities: tuple[int, ...]
) -> Network:
    """Return the network for arrays whose numbers enter as they are.

    Raises
    ------
    ConfigError
        If the options do not fit, or ask for an encoding that needs statistics.
    """
    if options.numeric_encoding not in {None, "standard", "plr"}:
        raise ConfigError(
            f"{options.numeric_encoding} needs the statistics of a dataset",
            where="numeric_encoding",
            remedy="encode the arrays before, or train from a dataset",
        )
    columns = (ColumnEncoding("standard"),) * n_numeric
    return _network(model, options, columns, cardinalities)


def _network(
    model: str,
    options: NetworkOptions,
    columns: tuple[ColumnEncoding, ...],
    cardinalities: tuple[int, ...],
    bag_sizes: tuple[int, ...] = (),
) -> Network:
    options.check()
    if model == "custom" and not options.layers:
        raise ConfigError(
            "a custom network needs its table of layers",
            where="--layers",
            remedy="write [[layers]] into a file for --config, see docs/networks.md",
        )
    if not columns and not cardinalities and not bag_sizes:
        raise ConfigError("a network needs a column to read", where=f"--model {model}")
    factors = model in {"fm", "deepfm"} or any(la.source == "vectors" for la in options.layers)
    vector_dim = (options.embedding_dim or _VECTOR_DIM) if factors else 0
    dims = (
        *(vector_dim or options.embedding_dim or embedding_dim_of(n) for n in cardinalities),
        *(vector_dim or options.embedding_dim or _BAG_DIM for _ in bag_sizes),
    )
    periodic = options.numeric_encoding == "plr"
    return Network(
        columns=columns,
        embedding_dims=dims,
        embedding_scale=_FM_SCALE if model == "fm" else _EMBEDDING_SCALE,
        linear=model in {"fm", "wide-deep", "deepfm"},
        vector_dim=vector_dim,
        frequencies=_FREQUENCIES if periodic else 0,
        frequency_width=_FREQUENCY_WIDTH if periodic else 0,
        frequency_scale=_FREQUENCY_SCALE,
        layers=named_layers(
            model, options, n_vectors=len(columns) + len(cardinalities) + len(bag_sizes)
        ),
        bag_pairs=model in {"fm", "deepfm"},
        pooling=options.pooling or ("sum" if factors else "mean"),
    )
