"""A network as data: encodings of numbers, widths of embeddings, and a table of layers.

A layer reads one named range of numbers and makes another. Names that are
there from the start:

    numeric     encodings of the numeric columns, then indicators of missing ones
    vectors     a trained vector times each of those, then the embeddings, all K wide
    embeddings  of the categorical columns
    inputs      all of them
"""

from __future__ import annotations

from typing import Literal

import msgspec

from streamtrain.errors import ConfigError

EncodingName = Literal["standard", "robust", "quantile", "pieces"]
LayerName = Literal[
    "affine", "norm", "dropout", "activation", "residual", "cross", "pairs", "sum", "output"
]
ActivationName = Literal["", "relu", "gelu", "silu", "tanh"]


class ColumnEncoding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one numeric column enters.

    Parameters
    ----------
    kind : {"standard", "robust", "quantile", "pieces"}
        (x - shift) scale; the same, squashed smoothly to (-3, 3); the curve
        through (knots[i], heights[i]); one number for each bin between knots
        (Gorishniy et al. 2022, section 3.2).
    shift, scale : float
    knots, heights : tuple of float
        Rising; the heights of "quantile" alone.
    indicator : bool
        Whether a missing value has a number of its own.
    """

    kind: EncodingName
    shift: float = 0.0
    scale: float = 1.0
    knots: tuple[float, ...] = ()
    heights: tuple[float, ...] = ()
    indicator: bool = False

    @property
    def width(self) -> int:
        """Numbers that it makes, the indicator aside."""
        return len(self.knots) - 1 if self.kind == "pieces" else 1


class Layer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One row of a network's table.

    Parameters
    ----------
    op : str
        affine: `width` sums of what it reads, weighted, each with a bias, then
        `activation`. norm: layer norm. dropout: sets a share `rate` to 0.
        activation. residual: adds what it reads to `to`. cross: DCNv2's
        ``x0 (W x + b) + x``, x0 the range `first`. pairs: sum of products of
        all pairs of vectors. sum: adds its numbers to the score. output: adds
        weighted sums to the scores.
    source : str
        Name of what it reads.
    name : str
        Of what it makes. dropout and residual work in place.
    width : int
    activation : {"", "relu", "gelu", "silu", "tanh"}
    rate : float
    to, first : str
    """

    op: LayerName
    source: str = "inputs"
    name: str = ""
    width: int = 0
    activation: ActivationName = ""
    rate: float = 0.0
    to: str = ""
    first: str = "inputs"


Pooling = Literal["sum", "mean"]


class Network(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything about a network but the table sizes and the scores.

    Parameters
    ----------
    columns : tuple of ColumnEncoding, length D
    embedding_dims : tuple of int, length F
        K of each field.
    embedding_scale : float
        Embeddings start uniform in +-scale.
    linear : bool
        Whether every category and number also has a weight of its own.
    vector_dim : int
        K of "vectors"; 0 for none. All embeddings then have it.
    frequencies, frequency_width : int
        Of a periodic encoding: sines and cosines of so many trained
        frequencies, then an affine layer of such width with ReLU, for each
        number (Gorishniy et al. 2022, "PLR"). 0 for none.
    frequency_scale : float
        Frequencies start normal with this deviation.
    layers : tuple of Layer
    bag_pairs : bool
        Whether the entries of a bag act in pairs with each other, as those of
        different fields do in "pairs".
    pooling : {"sum", "mean"}
        What stands for a bag: the sum of its entries' embeddings, each times its
        value, or that divided by the sum of the values' magnitudes. Linear weights
        and pairs are of the sum.
    """

    columns: tuple[ColumnEncoding, ...]
    embedding_dims: tuple[int, ...]
    embedding_scale: float = 0.1
    linear: bool = False
    vector_dim: int = 0
    frequencies: int = 0
    frequency_width: int = 0
    frequency_scale: float = 0.1
    layers: tuple[Layer, ...] = ()
    bag_pairs: bool = False
    pooling: Pooling = "sum"


class NetworkOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked of a named network.

    Parameters
    ----------
    hidden : tuple of int
        Widths of the hidden layers.
    activation : {"relu", "gelu", "silu", "tanh"}
    dropout : float
        Share of hidden numbers set to 0 in training, 0 to below 1.
    layer_norm, residual : bool
        Residual connections join hidden layers of equal width.
    cross_layers : int
        Of dcn.
    embedding_dim : int or None
        K of every field; None by the cardinality, 8 for factorization machines.
    numeric_encoding : {"standard", "robust", "quantile", "ple", "plr"}
    bins : int
        Of ple, at most 64.
    pooling : {"sum", "mean"} or None
        Of bags; None takes "sum" where vectors act in pairs, "mean" elsewhere. Pairs
        of the entries of a bag are of their sum, so fm and deepfm have no choice.
    layers : tuple of Layer
        Of the network "custom".
    """

    hidden: tuple[int, ...] | None = None
    activation: Literal["relu", "gelu", "silu", "tanh"] = "relu"
    dropout: float = 0.0
    layer_norm: bool = False
    residual: bool = False
    cross_layers: int = 3
    embedding_dim: int | None = None
    numeric_encoding: Literal["standard", "robust", "quantile", "ple", "plr"] | None = None
    bins: int = 64
    pooling: Pooling | None = None
    layers: tuple[Layer, ...] = ()

    def check_use(self, model: str) -> None:
        """Refuse an option that `model` does not look at: it would change nothing, unsaid.

        Raises
        ------
        ConfigError
            Naming the option.
        """
        untouched = NetworkOptions()
        for name in self.__struct_fields__:
            if getattr(self, name) != getattr(untouched, name) and name not in _LOOKED_AT[model]:
                users = [m for m, names in _LOOKED_AT.items() if name in names]
                raise ConfigError(
                    f"has no effect on the {model} model",
                    where=f"--{name.replace('_', '-')}",
                    remedy=f"leave it out, or use --model {' or '.join(users)}",
                )

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises
        ------
        ConfigError
            Naming the option.
        """
        for width in self.hidden or ():
            if not 1 <= width <= 16384:
                raise ConfigError(f"a width of {width} is not from 1 to 16384", where="--hidden")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"{self.dropout} is not in [0, 1)", where="--dropout")
        if not 1 <= self.cross_layers <= 64:
            raise ConfigError(f"{self.cross_layers} is not from 1 to 64", where="--cross-layers")
        if self.embedding_dim is not None and not 1 <= self.embedding_dim <= 1024:
            raise ConfigError(
                f"{self.embedding_dim} is not from 1 to 1024", where="--embedding-dim"
            )
        if not 2 <= self.bins <= 64:
            raise ConfigError(f"{self.bins} is not from 2 to 64", where="--bins")


_INPUTS = frozenset({"embedding_dim", "numeric_encoding", "bins", "pooling"})
_PAIRED = frozenset({"pooling"})
_HIDDEN = _INPUTS | {"hidden", "activation", "dropout", "layer_norm", "residual"}
_LOOKED_AT: dict[str, frozenset[str]] = {
    "linear": frozenset(),
    "fm": _INPUTS - _PAIRED,
    "mlp": _HIDDEN,
    "wide-deep": _HIDDEN,
    "deepfm": _HIDDEN - _PAIRED,
    "dcn": _HIDDEN | {"cross_layers"},
    "custom": _INPUTS | {"layers"},
}


def embedding_dim_of(cardinality: int) -> int:
    """Return the rule of thumb for an embedding's width: min(32, 1.6 n^0.56), in fours.

    Source: fastai's tabular default, 1.6 n^0.56, with a lower cap.
    """
    width = min(32.0, 1.6 * cardinality**0.56)
    return max(4, -(-int(width) // 4) * 4)


def named_layers(model: str, options: NetworkOptions, *, n_vectors: int) -> tuple[Layer, ...]:
    """Return the table of a named network.

    Parameters
    ----------
    model : {"fm", "mlp", "wide-deep", "deepfm", "dcn", "custom"}
    options : NetworkOptions
    n_vectors : int
        Numbers and fields that "vectors" holds.
    """
    if model == "custom":
        return options.layers
    layers: list[Layer] = []
    if model == "dcn":
        source = "inputs"
        for k in range(options.cross_layers):
            layers.append(Layer("cross", source=source, name=f"cross{k}"))
            source = f"cross{k}"
        layers.append(Layer("output", source=source))
    if model in {"mlp", "wide-deep", "deepfm", "dcn"}:
        layers += _hidden_layers(options)
    if model in {"fm", "deepfm"} and n_vectors > 1:
        layers.append(Layer("pairs", source="vectors", name="pairs"))
        layers.append(Layer("sum", source="pairs"))
    return tuple(layers)


def _hidden_layers(options: NetworkOptions) -> list[Layer]:
    layers: list[Layer] = []
    source, width_before = "inputs", 0
    widths = options.hidden if options.hidden is not None else DEFAULT_HIDDEN
    for k, width in enumerate(widths):
        joins = options.residual and width == width_before
        name = f"hidden{k}"
        if options.layer_norm or joins:
            layers.append(Layer("affine", source=source, name=f"sum{k}", width=width))
            before = f"sum{k}"
            if options.layer_norm:
                layers.append(Layer("norm", source=before, name=f"norm{k}"))
                before = f"norm{k}"
            layers.append(
                Layer("activation", source=before, name=name, activation=options.activation)
            )
        else:
            layers.append(
                Layer(
                    "affine", source=source, name=name, width=width, activation=options.activation
                )
            )
        if options.dropout > 0:
            layers.append(Layer("dropout", source=name, rate=options.dropout))
        if joins:
            layers.append(Layer("residual", source=source, to=name))
        source, width_before = name, width
    layers.append(Layer("output", source=source))
    return layers


DEFAULT_HIDDEN = (256, 128)
