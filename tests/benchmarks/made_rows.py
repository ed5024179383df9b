"""Rows made in memory, with a known teacher: what networks are timed and compared on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

N_PAIRED = 8
Floats = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class MadeRows:
    """Rows in memory, with the probabilities that their targets were drawn from.

    Parameters
    ----------
    numeric : (n, D) float32
        Standard normal.
    codes : (n, F) int32
    target : (n,) float32
        0 or 1.
    probability : (n,) float32
        Of target 1, by the teacher.
    cardinalities : tuple of int
    """

    numeric: Floats
    codes: npt.NDArray[np.int32]
    target: Floats
    probability: Floats
    cardinalities: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.target)

    def slice(self, start: int, stop: int) -> MadeRows:
        """Return some rows, as views."""
        return dataclasses.replace(
            self,
            numeric=self.numeric[start:stop],
            codes=self.codes[start:stop],
            target=self.target[start:stop],
            probability=self.probability[start:stop],
        )

    def best_loss(self) -> float:
        """Return the mean logistic loss of the teacher itself: no model has a lower one."""
        return log_loss(self.target, self.probability)


def log_loss(target: Any, probability: Any) -> float:
    """Return the mean logistic loss of probabilities, in float64."""
    p = np.clip(np.asarray(probability, np.float64).reshape(-1), 1e-12, 1 - 1e-12)
    y = np.asarray(target, np.float64)
    return float(-(y * np.log(p) + (1 - y) * np.log1p(-p)).mean())


def make_numeric_rows(n_rows: int, *, n_numeric: int = 28, seed: int = 0) -> MadeRows:
    """Return rows of numbers whose target depends on their products and their bumps.

    A linear model gets little of it: each of 24 hidden directions enters by a sine, each of 12
    pairs of columns by its product.
    """
    rng = np.random.default_rng((seed, 28))
    teacher = np.random.default_rng((0, 29))
    x = rng.standard_normal((n_rows, n_numeric), np.float32)
    directions = teacher.standard_normal((n_numeric, 24)).astype(np.float32) / np.sqrt(n_numeric)
    heights = teacher.standard_normal(24).astype(np.float32)
    pairs = teacher.permutation(n_numeric)[:24].reshape(12, 2)
    signs = teacher.choice(np.array([-1, 1], np.float32), 12)
    score = np.sin(2 * x @ directions.astype(np.float32)) @ heights
    score += (x[:, pairs[:, 0]] * x[:, pairs[:, 1]]) @ signs
    return _with_target(x, np.zeros((n_rows, 0), np.int32), score * np.float32(0.6), (), rng)


def spaced_cardinalities(n_fields: int = 26, *, low: int = 10, high: int = 1_000_000) -> list[int]:
    """Return numbers of categories, evenly spaced in their logarithm."""
    return [round(c) for c in np.geomspace(low, high, n_fields)]


def make_click_rows(
    n_rows: int,
    cardinalities: Sequence[int],
    *,
    n_numeric: int = 13,
    n_latent: int = 0,
    seed: int = 0,
) -> MadeRows:
    """Return rows of numbers and categories; a category of rank k has about 1 / k of the rows.

    Ranks are spread over the codes by a permutation, so that frequent rows of a table do not
    lie side by side, which no contender's memory may count on. With `n_latent` numbers for every
    value of the 8 smallest categories, each pair of those adds their product: a truth for
    factorization machines.
    """
    rng = np.random.default_rng((seed, 30))
    teacher = np.random.default_rng((0, 31))
    x = rng.standard_normal((n_rows, n_numeric), np.float32)
    codes = np.empty((n_rows, len(cardinalities)), np.int32)
    score = x @ teacher.standard_normal(n_numeric).astype(np.float32) * np.float32(0.2)
    total = np.zeros((n_rows, n_latent), np.float32)
    squares = np.zeros(n_rows, np.float32)
    for f, size in enumerate(cardinalities):
        rank = np.exp(rng.random(n_rows) * np.log(size + 1)).astype(np.int64) - 1
        code = teacher.permutation(size)[np.minimum(rank, size - 1)]
        codes[:, f] = code
        score += teacher.standard_normal(size).astype(np.float32)[code] * np.float32(0.25)
        if f >= N_PAIRED:
            continue
        vectors = teacher.standard_normal((size, n_latent)).astype(np.float32)[code]
        total += vectors
        squares += (vectors**2).sum(axis=1)
    if n_latent:
        # Half of the square of the sum, less the squares: every pair once.
        pairs = 0.5 * ((total**2).sum(axis=1) - squares)
        score += pairs / np.float32(pairs.std())
    return _with_target(x, codes, score, tuple(cardinalities), rng)


def _with_target(
    numeric: Floats, codes: Any, score: Any, cardinalities: tuple[int, ...], rng: Any
) -> MadeRows:
    probability = (1 / (1 + np.exp(-score))).astype(np.float32)
    target = (rng.random(len(score), np.float32) < probability).astype(np.float32)
    return MadeRows(numeric, codes, target, probability, cardinalities)
