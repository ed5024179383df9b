"""Sums over rows in descending order of their scores, in chunks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamtrain.model.class_metrics import Z_95

Floats = npt.NDArray[np.float64]
Chunk = tuple[npt.NDArray[np.integer], Floats, Floats]

_LEAST_VARIANCE = 1e-13


@dataclass
class RankSums:
    """Sums over groups of equal scores, each with p of positives and q of negatives.

    Let a and b be the weights of positives and negatives above a group.

    Parameters
    ----------
    positive, negative : float
        P = sum p and N = sum q.
    pairs : float
        sum q (a + p/2): positives above negatives, ties one half.
    precision : float
        sum p (a + p) / (a + p + b + q).
    positive_squares, negative_squares : float
        sum p (b + q/2)^2 and sum q (a + p/2)^2.
    """

    positive: float = 0.0
    negative: float = 0.0
    pairs: float = 0.0
    precision: float = 0.0
    positive_squares: float = 0.0
    negative_squares: float = 0.0

    def add(self, p: Floats, q: Floats) -> None:
        """Take in groups, (n,) each, that come next in descending order."""
        a = self.positive + np.cumsum(p)  # with the group's own
        b = self.negative + np.cumsum(q)
        above = a - 0.5 * p
        beside = b - 0.5 * q
        self.pairs += float((q * above).sum())
        # A bin without rows at the top has 0 of both.
        self.precision += float((p * a / np.maximum(a + b, np.finfo(float).tiny)).sum())
        self.positive_squares += float((p * beside * beside).sum())
        self.negative_squares += float((q * above * above).sum())
        self.positive += float(p.sum())
        self.negative += float(q.sum())

    def area(self) -> float | None:
        """Return the area under the ROC curve; None unless both classes have weight."""
        if not (self.positive > 0 and self.negative > 0):
            return None
        # Rounding must not push a perfect ranking over 1.
        return min(self.pairs / (self.positive * self.negative), 1.0)

    def average_precision(self) -> float | None:
        """Return the average precision; None without positives."""
        return min(self.precision / self.positive, 1.0) if self.positive > 0 else None

    def area_deviation(self, n_positive: float, n_negative: float) -> float | None:
        """Return the standard error of the area.

        Parameters
        ----------
        n_positive, n_negative : float
            Rows of equal weight that would know as much; None is returned
            unless both are over 1.

        Notes
        -----
        The variance of the share of negatives below a positive, over positives,
        and of its mirror image; 0 where all rank alike. Source: DeLong, DeLong and
        Clarke-Pearson 1988, "Comparing the areas under two or more correlated
        receiver operating characteristic curves".
        """
        if not (n_positive > 1 and n_negative > 1):
            return None
        area = self.pairs / (self.positive * self.negative)
        of_positives = self.positive_squares / self.positive / self.negative**2 - (1 - area) ** 2
        of_negatives = self.negative_squares / self.negative / self.positive**2 - area**2
        # What is left of a difference of two equal numbers is their rounding.
        spreads = [v if v > _LEAST_VARIANCE else 0.0 for v in (of_positives, of_negatives)]
        return math.sqrt(spreads[0] / (n_positive - 1) + spreads[1] / (n_negative - 1))

    def area_interval(
        self, n_positive: float, n_negative: float, bound: float
    ) -> tuple[float | None, float | None]:
        """Return the 95 % interval of the area, wider by `bound` on either side."""
        area, deviation = self.area(), None
        if area is not None:
            deviation = self.area_deviation(n_positive, n_negative)
        if area is None or deviation is None:
            return None, None
        half = Z_95 * deviation + bound
        return max(area - half, 0.0), min(area + half, 1.0)


def rank_sums(chunks: Iterator[Chunk]) -> RankSums:
    """Return the sums over rows.

    Parameters
    ----------
    chunks : iterator of (keys, positive, negative), each (n,)
        By descending key; a key may go on in the next chunk.
    """
    sums = RankSums()
    open_key, open_positive, open_negative = np.zeros(1, np.int64), np.zeros(1), np.zeros(1)
    for some_keys, some_positive, some_negative in chunks:
        keys = np.concatenate([open_key, some_keys])
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        positive = np.add.reduceat(np.concatenate([open_positive, some_positive]), starts)
        negative = np.add.reduceat(np.concatenate([open_negative, some_negative]), starts)
        # The last key may go on: it waits for the next chunk.
        open_key = keys[-1:].astype(np.int64)
        open_positive, open_negative = positive[-1:], negative[-1:]
        sums.add(positive[:-1], negative[:-1])
    sums.add(open_positive, open_negative)
    return sums


def precision_error(bins: Iterator[tuple[npt.NDArray[np.bool_], Floats, Floats]]) -> float:
    """Return the most by which P times the average precision may be off.

    Parameters
    ----------
    bins : iterator of (mixed, positive, negative), each (n,)
        By descending score; `mixed` says that a bin holds more than one.

    Notes
    -----
    Taking a bin for one score gives its p positives the precision
    (a + p) / (a + p + b + q). At best all of them lead, and none has more than
    (a + p) / (a + p + b); at worst all its negatives lead, and the x-th part of
    them has (a + x) / (a + x + b + q) or more, whose integral over x is
    p - (b + q) log(1 + p / (a + b + q)).
    """
    low = high = 0.0
    positive = negative = 0.0
    for mixed, p, q in bins:
        a = positive + np.cumsum(p) - p
        b = negative + np.cumsum(q) - q
        positive, negative = positive + float(p.sum()), negative + float(q.sum())
        use = np.flatnonzero(mixed & (p > 0))
        a, b = np.maximum(a[use], 0.0), np.maximum(b[use], 0.0)
        with_p, with_q = a + p[use], b + q[use]
        taken = p[use] * with_p / (with_p + with_q)
        best = p[use] * with_p / (with_p + b)
        before = a + with_q
        worst = p[use] - with_q * np.log1p(p[use] / np.where(before > 0, before, 1.0))
        high += float((best - taken).sum())
        low += float((taken - worst).sum())
    return max(low, high)
