"""Options of the networks: one place for every command that trains."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import click

from streamtrain.cli.values import LAYERS, NAMES, WIDTHS
from streamtrain.errors import ConfigError

_OF_NETWORK = (
    "hidden", "activation", "dropout", "layer_norm", "residual", "cross_layers", "embedding_dim",
    "numeric_encoding", "bins", "pooling", "layers",
)  # fmt: skip

_REMEDIES = {
    "--activation": "choose one of relu, gelu, silu, tanh",
    "--numeric-encoding": "choose one of standard, robust, quantile, ple, plr",
    "--pooling": "choose sum or mean",
    "--layers": "see docs/networks.md",
}

_OPTIONS = (
    click.option(
        "--hidden",
        type=WIDTHS,
        metavar="N,N,...",
        show_default="by the model",
        help="Widths of the hidden layers.",
    ),
    click.option(
        "--activation",
        metavar="NAME",
        show_default="by the model",
        help="Of hidden layers: relu, gelu, silu or tanh.",
    ),
    click.option(
        "--dropout",
        type=float,
        metavar="SHARE",
        show_default="by the model",
        help="Share of a hidden layer set to 0 in training.",
    ),
    click.option("--layer-norm", is_flag=True, help="Normalise the sums of every hidden layer."),
    click.option("--residual", is_flag=True, help="Add hidden layers of equal width up."),
    click.option(
        "--cross-layers",
        type=int,
        default=3,
        show_default=True,
        metavar="N",
        help="Cross layers of dcn.",
    ),
    click.option(
        "--embedding-dim",
        type=int,
        metavar="K",
        show_default="by the categories, fm and deepfm 8",
        help="Numbers of an embedding.",
    ),
    click.option(
        "--numeric-encoding",
        metavar="NAME",
        show_default="by the model",
        help="How numbers enter: standard, robust, quantile, ple (piecewise linear) or plr "
        "(periodic).",
    ),
    click.option(
        "--bins",
        type=int,
        default=64,
        show_default=True,
        metavar="N",
        help="Pieces of ple, 2 to 64.",
    ),
    click.option(
        "--pooling",
        metavar="NAME",
        show_default="mean",
        help="How the embeddings of a text or list become one: sum or mean. Not of fm and deepfm, "
        "where it is the sum.",
    ),
    click.option(
        "--cross",
        type=NAMES,
        multiple=True,
        metavar="A,B",
        help="Cross categorical columns: a category for every combination. May be repeated.",
    ),
    click.option(
        "--cross-size",
        type=int,
        default=1 << 18,
        show_default=True,
        metavar="N",
        help="Most categories of a cross; more combinations are hashed into so many.",
    ),
    click.option(
        "--layers",
        type=LAYERS,
        metavar="JSON",
        help="Table of the custom model; [[layers]] in a configuration file. See docs/networks.md.",
    ),
)


def network_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of the networks."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def network_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Return those fields of `TrainSettings` that these options set.

    Raises
    ------
    ConfigError
        If a name is unknown, or a layer's field.
    """
    import msgspec

    from streamtrain.model.network import NetworkOptions

    given = {name: options[name] for name in _OF_NETWORK if options.get(name) is not None}
    try:
        network = msgspec.convert(given, NetworkOptions)
    except msgspec.ValidationError as error:
        # "Invalid enum value 'x' - at `$.layers[1].op`": the option is what stands first.
        found, _, path = str(error).partition(" - at `$.")
        name = re.match(r"\w*", path)
        option = f"--{name[0].replace('_', '-')}" if name and name[0] else "--model"
        inside = path.strip("`") if "[" in path else ""
        raise ConfigError(
            f"{inside}: {found}" if inside else found,
            where=option,
            remedy=_REMEDIES.get(option, ""),
        ) from error
    return {
        "network": network, "cross": tuple(options["cross"]), "cross_size": options["cross_size"],
    }  # fmt: skip
