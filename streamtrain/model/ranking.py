"""Areas under the ROC and the precision-recall curve of a stream, exact while memory allows.

Rows are kept (9 bytes each) until there are more than a bound, then folded
into a histogram of 2**20 bins with a bound on the error that this costs.
The key of a row is the order-preserving integer image of its float32 score:

    score     -1.0        -0.0 = 0.0   0.5         1.0
    image     0x407fffff  0x80000000   0xbf000000  0xbf800000

and a bin is the top of the image: relative width 2**-13 for probabilities,
2**-11 for scores of any sign and size. So bins need no range known in advance,
two histograms always fit each other, and nothing depends on the order of rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from streamtrain.model.rank_sums import Chunk, precision_error, rank_sums

Floats = npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint32]
_Item = TypeVar("_Item", bound=np.generic)

N_BINS = 1 << 20
ROW_BYTES = 9
BIN_BYTES = 21
_CHUNK_ROWS = 1 << 16
_CHUNK_TEMPORARY_BYTES = 120 * _CHUNK_ROWS
_FIRST_ROWS = 1 << 12
_IMAGE_OF_ZERO = 0x80000000


def ordered_image(score: npt.NDArray[np.float32]) -> Keys:
    """Return integers that compare as the scores do; -0.0 and 0.0 are one.

    Parameters
    ----------
    score : (n,) float32
        Finite scores.

    Returns
    -------
    (n,) uint32
        Never 0: that would be the image of a NaN.
    """
    # Adding zero turns -0.0 into 0.0.
    bits = (score + np.float32(0.0)).view(np.uint32)
    # All bits flip below zero, the sign alone above it.
    negative = (bits.view(np.int32) >> 31).view(np.uint32)
    return bits ^ (negative | np.uint32(_IMAGE_OF_ZERO))


def plan_ranking_bytes(max_rows: int) -> int:
    """Return the most bytes that one `RankingArea` takes, in work and at rest.

    Parameters
    ----------
    max_rows : int
        Rows kept before they are folded.
    """
    sorting = (ROW_BYTES + 8) * max_rows
    folding = ROW_BYTES * max_rows + BIN_BYTES * N_BINS
    return max(sorting, folding) + _CHUNK_TEMPORARY_BYTES


class RankingArea:
    """Weighted areas under the ROC curve and, as average precision, under precision-recall.

    The former is P(score of a positive > score of a negative), ties one half; the
    latter is the mean over positives of the share of positives among the rows
    that score as high as it or higher. Rows of weight zero do not count.

    Parameters
    ----------
    max_rows : int
        Rows kept exactly, 0 <= max_rows < 2**32. A larger value keeps longer
        streams exact and costs 17 bytes per row while it is sorted. Streams
        of more rows cost 21 MiB for the histogram, whatever their length.
    probabilities : bool
        Scores are within [0, 1]: bins are then four times narrower.
    n_bins : int
        Of the histogram, a power of two up to 2**20; half as many are twice as wide.

    Raises
    ------
    ValueError
        If `max_rows` is out of range.

    Notes
    -----
    The same rows in the same order give the same bits however they are cut
    into updates. Merged parts agree with the whole to the rounding of weight
    sums, and exactly where weights are whole numbers with sums below 2**53.

    Source: Fawcett 2006, "An introduction to ROC analysis", section 7 and
    algorithm 2; Hanley and McNeil 1982, "The meaning and use of the area under
    a ROC curve", for the area as a probability with ties counted one half; Boyd,
    Eng and Page 2013, "Area under the precision-recall curve: point estimates and
    confidence intervals", for average precision; Kish 1965, "Survey sampling",
    for (sum w)^2 / sum w^2 rows of equal weight that know as much as the weighted.
    """

    def __init__(
        self, *, max_rows: int = 2_000_000, probabilities: bool = True, n_bins: int = N_BINS
    ) -> None:
        if not 0 <= max_rows < 1 << 32:
            raise ValueError(f"max_rows: {max_rows}, expected 0 <= max_rows < 2**32")
        self.max_rows = max_rows
        self.probabilities = probabilities
        self._base, self._shift = (_IMAGE_OF_ZERO, 10) if probabilities else (0, 12)
        self._n_bins = n_bins
        self._shift += (N_BINS // n_bins).bit_length() - 1
        self._n_kept = 0
        self._keys: Keys = np.empty(0, np.uint32)
        self._labels: npt.NDArray[np.bool_] = np.empty(0, np.bool_)
        self._weights: npt.NDArray[np.float32] = np.empty(0, np.float32)
        # (2, n_bins): weight of the negatives and of the positives in each bin.
        self._mass: Floats | None = None
        # One image seen in each bin (0 = none), and whether another one was seen too.
        self._witness: Keys = np.empty(0, np.uint32)
        self._mixed: npt.NDArray[np.bool_] = np.empty(0, np.bool_)
        # Sum of squared weights of negatives and of positives.
        self._squares: Floats = np.zeros(2)

    def update(
        self,
        score: npt.NDArray[np.float32],
        positive: npt.NDArray[np.bool_],
        weight: npt.NDArray[np.float32],
    ) -> None:
        """Take in some rows.

        Parameters
        ----------
        score : (n,) float32
            Finite, and within [0, 1] if `probabilities` (the caller checks).
        positive : (n,) bool
        weight : (n,) float32
            Finite, not negative (the caller checks).
        """
        for start in range(0, score.shape[0], _CHUNK_ROWS):
            part = slice(start, start + _CHUNK_ROWS)
            keys, labels, weights = ordered_image(score[part]), positive[part], weight[part]
            if not weights.all():
                counts = weights > 0
                keys, labels, weights = keys[counts], labels[counts], weights[counts]
            self._take(keys, labels, weights)

    def merge(self, other: RankingArea) -> None:
        """Take in all rows of another area, which stays as it is.

        Raises
        ------
        ValueError
            If the two were made with different settings.
        """
        if (self.max_rows, self.probabilities, self._n_bins) != (
            other.max_rows,
            other.probabilities,
            other._n_bins,
        ):
            raise ValueError("areas of different settings cannot be merged")
        if other._mass is None:
            for part in other._parts():
                self._take(other._keys[part], other._labels[part], other._weights[part])
            return
        mass = self._fold()
        mass += other._mass
        self._squares = self._squares + other._squares
        for start in range(0, self._n_bins, _CHUNK_ROWS):
            part = slice(start, start + _CHUNK_ROWS)
            mine, theirs = self._witness[part], other._witness[part]
            self._mixed[part] |= other._mixed[part] | (
                (mine != theirs) & (mine != 0) & (theirs != 0)
            )
            np.maximum(mine, theirs, out=mine)

    def result(self) -> tuple[float | None, float | None]:
        """Return the area under the ROC curve and the most by which it may be wrong.

        Returns
        -------
        area : float or None
            None unless both classes have weight.
        error_bound : float or None
            0.0 while exact. After the fold, half the share of pairs whose
            order the histogram forgot: 0.5 * sum_b pos_b neg_b / (P N) over
            the bins b that hold more than one score, where pos_b and neg_b
            are the weights in a bin and P and N in all of them. None where
            the area is. Rounding of float64 sums comes on top.
        """
        measures = self.measures()
        return measures["auc"], measures["auc_error_bound"]

    def measures(self) -> dict[str, float | None]:
        """Return both areas, their error bounds, and the interval of the first.

        Returns
        -------
        dict of str to float or None
            `auc`, `auc_error_bound` as of `result`; `auc_low`, `auc_high`, a 95 %
            interval that the bound widens; `average_precision` (None without
            positives), `average_precision_error_bound` (`precision_error` / P).
        """
        forgotten = unsure = 0.0
        if self._mass is None:
            sums = rank_sums(self._sorted_rows())
        else:
            sums = rank_sums(_bins(self._mass))
            for bins, positive, negative in _bins(self._mass):
                forgotten += 0.5 * float((positive * negative * self._mixed[bins]).sum())
            unsure = precision_error((self._mixed[b], p, n) for b, p, n in _bins(self._mass))
        area, precision = sums.area(), sums.average_precision()
        bound = 0.0
        low = high = None
        if area is not None:
            bound = min(forgotten / (sums.positive * sums.negative), 0.5)
            low, high = sums.area_interval(
                sums.positive / self._squares[1] * sums.positive,
                sums.negative / self._squares[0] * sums.negative,
                bound,
            )
        return {
            "auc": area,
            "auc_low": low,
            "auc_high": high,
            "auc_error_bound": None if area is None else bound,
            "average_precision": precision,
            "average_precision_error_bound": (
                None if precision is None else min(unsure / sums.positive, 1.0)
            ),
        }

    def _take(
        self, keys: Keys, labels: npt.NDArray[np.bool_], weights: npt.NDArray[np.float32]
    ) -> None:
        """Keep at most a chunk of rows, or count them in the histogram."""
        # Row after row, so that cuts cannot change the rounding.
        np.add.at(self._squares, labels.astype(np.intp), np.square(weights.astype(np.float64)))
        n_rows = self._n_kept + keys.shape[0]
        if self._mass is not None or n_rows > self.max_rows:
            self._count(self._fold(), keys, labels, weights)
            return
        if n_rows > self._keys.shape[0]:
            self._grow(min(self.max_rows, max(n_rows, 2 * self._keys.shape[0], _FIRST_ROWS)))
        part = slice(self._n_kept, n_rows)
        self._keys[part] = keys
        self._labels[part] = labels
        self._weights[part] = weights
        self._n_kept = n_rows

    def _grow(self, n_rows: int) -> None:
        # One after another: only one array at a time exists twice.
        kept = self._n_kept
        self._keys = _resized(self._keys, kept, n_rows)
        self._labels = _resized(self._labels, kept, n_rows)
        self._weights = _resized(self._weights, kept, n_rows)

    def _parts(self) -> Iterator[slice]:
        n_rows = self._n_kept
        for start in range(0, n_rows, _CHUNK_ROWS):
            yield slice(start, min(start + _CHUNK_ROWS, n_rows))

    def _fold(self) -> Floats:
        """Move the rows kept into the histogram, in their order, and return its masses."""
        if self._mass is None:
            self._mass = np.zeros((2, self._n_bins))
            self._witness = np.zeros(self._n_bins, np.uint32)
            self._mixed = np.zeros(self._n_bins, np.bool_)
            for part in self._parts():
                self._count(self._mass, self._keys[part], self._labels[part], self._weights[part])
            self._n_kept = 0
            self._grow(0)
        return self._mass

    def _count(
        self,
        mass: Floats,
        keys: Keys,
        labels: npt.NDArray[np.bool_],
        weights: npt.NDArray[np.float32],
    ) -> None:
        bins = ((keys - np.uint32(self._base)) >> np.uint32(self._shift)).astype(np.intp)
        # Row after row, so that cuts cannot change the rounding.
        np.add.at(mass.reshape(-1), bins + labels * self._n_bins, weights.astype(np.float64))
        new = self._witness[bins] == 0
        if new.any():
            self._witness[bins[new]] = keys[new]
        self._mixed[bins[self._witness[bins] != keys]] = True

    def _sorted_rows(self) -> Iterator[Chunk]:
        """Yield (keys, weight if positive, weight if negative) by descending key."""
        n_rows = self._n_kept
        # The row number breaks ties, so the order is total and sums always round alike.
        order = self._keys[:n_rows].astype(np.uint64)
        order <<= np.uint64(32)
        for part in self._parts():
            order[part] |= np.arange(part.start, part.stop, dtype=np.uint64)
        order.sort()
        for part in reversed(list(self._parts())):
            row = (order[part][::-1] & np.uint64(0xFFFFFFFF)).astype(np.intp)
            weight = self._weights[row].astype(np.float64)
            positive = np.where(self._labels[row], weight, 0.0)
            yield self._keys[row], positive, weight - positive


def _resized(array: npt.NDArray[_Item], n_kept: int, n_rows: int) -> npt.NDArray[_Item]:
    """Return an array of `n_rows` that begins with the first `n_kept` of another."""
    resized = np.empty(n_rows, array.dtype)
    resized[:n_kept] = array[:n_kept]
    return resized


def _bins(mass: Floats) -> Iterator[Chunk]:
    """Yield (bin, weight of positives, weight of negatives) by descending bin."""
    for stop in range(mass.shape[1], 0, -_CHUNK_ROWS):
        bins = np.arange(max(stop - _CHUNK_ROWS, 0), stop)[::-1]
        yield bins, mass[1, bins], mass[0, bins]
