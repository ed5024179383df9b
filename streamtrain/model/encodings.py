"""How numeric columns enter a network, from the statistics of the train split."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from streamtrain.model.network import ColumnEncoding
from streamtrain.store.schema import ArrayFeatures, Column, NumericStatistics

_TINY = float(np.finfo(np.float32).tiny)
_NOTHING = ColumnEncoding("standard", 0.0, 0.0)


RANGE_OF_ARRAY = 6.0
"""Length of the range of an array's values, in what they are divided by, at most."""


def array_scales(
    features: ArrayFeatures, *, centred: bool = False
) -> tuple[tuple[float, float], ...]:
    """Return what is taken from the values of each place of an array, and what they are divided by.

    Bytes are of one kind in all places: they lose the mean of all, and are divided by the
    deviation of all. The deviations of single places would blow up the edge of an image,
    which is 0 in all but a few rows of training. Other values lose the mean of their place,
    and are divided by its deviation. None is divided by less than a sixth of its range.

    Parameters
    ----------
    features : ArrayFeatures
    centred : bool
        Bytes lose the mean of their place too: a linear model learns badly from numbers
        that share an offset.

    Returns
    -------
    tuple of (float, float), length D
    """
    found = features.statistics
    low, high = min(s.minimum for s in found), max(s.maximum for s in found)
    is_bytes = features.dtype in {"uint8", "int8"}
    if is_bytes and not centred:
        n = len(found)
        mean = math.fsum(s.mean for s in found) / n
        square = math.fsum(s.std**2 + (s.mean - mean) ** 2 for s in found) / n
        scale = max(math.sqrt(square), (high - low) / RANGE_OF_ARRAY)
        return ((mean, scale),) * features.stored.n_values
    each = []
    for s in found:
        reach = high - low if is_bytes else s.maximum - s.minimum
        each.append((s.mean, max(s.std, reach / RANGE_OF_ARRAY)))
    return tuple(each[min(j, len(each) - 1)] for j in range(features.stored.n_values))


def plan_encoding(
    column: Column, kind: str, *, bins: int, by: tuple[float, float] | None = None
) -> ColumnEncoding:
    """Return the encoding of a numeric column.

    Parameters
    ----------
    column : Column
    kind : {"standard", "robust", "quantile", "ple", "plr"}
        "plr" makes its sines of the column as "quantile" has it.
    bins : int
        Of "ple": at most so many, fewer where values repeat.
    by : (float, float) or None
        What "standard" subtracts, and divides by; None for mean and deviation.

    Returns
    -------
    ColumnEncoding
        Nothing but an indicator for a column of one value or none.
    """
    statistics = column.statistics
    indicator = column.statistics is not None and column.statistics.missing > 0
    if statistics is None or statistics.count == 0 or statistics.maximum <= statistics.minimum:
        made = _NOTHING
    elif kind == "standard":
        shift, divisor = by or (statistics.mean, statistics.std)
        made = ColumnEncoding("standard", shift, _inverse(divisor))
    elif kind == "robust":
        made = _robust(statistics)
    elif kind == "ple":
        made = _pieces(statistics, bins)
    else:
        made = _quantile(statistics)
    return ColumnEncoding(
        made.kind, made.shift, made.scale, made.knots, made.heights, indicator=indicator
    )


def _inverse(spread: float) -> float:
    return 1.0 / spread if spread >= _TINY else 0.0


def _rounded(value: float) -> float:
    return float(np.float32(value))


def _rising(values: list[float]) -> list[float]:
    """Return the values that rise as float32 too, each once.

    By enough that one over the difference is a float32: what divides by it is finite.
    """
    kept: list[float] = []
    for value in values:
        rounded = _rounded(value)
        if not kept or rounded - kept[-1] >= _TINY:
            kept.append(rounded)
    return kept


def _curve(statistics: NumericStatistics) -> tuple[list[float], list[float]]:
    """Return values that rise, and the share of rows below each with half of those equal to it.

    Knots, or quantiles in a manifest that has none; the true least and greatest
    value at the ends.
    """
    if statistics.knots:
        edges = [statistics.minimum, *statistics.knots[1:-1], statistics.maximum]
        return (edges, list(statistics.ranks)) if len(edges) == len(statistics.ranks) else (
            [statistics.minimum, statistics.maximum], [0.0, 1.0]
        )  # fmt: skip
    edges = [statistics.minimum, *statistics.quantiles[1:-1], statistics.maximum]
    last = len(edges) - 1
    values, ranks = [], []
    first = 0
    for k in range(len(edges)):
        if k < last and _rounded(edges[k + 1]) - _rounded(edges[first]) < _TINY:
            continue
        values.append(edges[first])
        ranks.append((first + k) / 2 / last)
        first = k + 1
    return values, ranks


def _robust(statistics: NumericStatistics) -> ColumnEncoding:
    """Median and interquartile range, or where that is 0 the whole (RealMLP)."""
    quantiles = statistics.quantiles
    middle = quantiles[len(quantiles) // 2] if quantiles else statistics.mean
    spread = quantiles[3 * len(quantiles) // 4] - quantiles[len(quantiles) // 4] if quantiles else 0
    if spread < _TINY:
        spread = (statistics.maximum - statistics.minimum) / 2
    return ColumnEncoding("robust", middle, _inverse(spread))


def _pieces(statistics: NumericStatistics, bins: int) -> ColumnEncoding:
    edges, _ = _curve(statistics)
    at = np.linspace(0, len(edges) - 1, bins + 1).round().astype(int)
    knots = _rising([edges[i] for i in at])
    if len(knots) < 2:
        return _NOTHING
    return ColumnEncoding("pieces", knots=tuple(knots))


def _quantile(statistics: NumericStatistics) -> ColumnEncoding:
    """Make the train split normal by a curve: each knot gets the height of its rank."""
    normal = NormalDist()
    edges, ranks = _curve(statistics)
    knots: list[float] = []
    heights: list[float] = []
    for edge, rank in zip(edges, ranks, strict=True):
        value = _rounded(edge)
        if knots and value - knots[-1] < _TINY:
            continue
        knots.append(value)
        heights.append(normal.inv_cdf(min(max(rank, 1 / 512), 511 / 512)))
    if len(knots) < 2:
        return _NOTHING
    return ColumnEncoding("quantile", knots=tuple(knots), heights=tuple(heights))
