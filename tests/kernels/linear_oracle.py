"""The linear model in float64 NumPy, as plain as it can be: dense, one row after another."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from streamtrain.kernels.bags import Bags
from streamtrain.kernels.team import Team
from streamtrain.model.architecture import Architecture
from streamtrain.model.linear import LinearModel
from streamtrain.model.losses import CLASS_LOSSES, LOG_LINKS, STANDARDISED
from streamtrain.optim.optimizers import OptimizerSettings, make_rule
from tests.kernels.updates_oracle import Oracle


@dataclass
class Rows:
    numeric: np.ndarray
    codes: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    exposure: np.ndarray
    bags: Bags | None = None


@dataclass
class Problem:
    architecture: Architecture
    rows: Rows
    start: np.ndarray
    extra: dict = field(default_factory=dict)


def make_bags(rng, n_rows, sizes, *, longest=5):
    """Make entries: rows in another order than their entries, codes more than once, none at all."""
    counts = rng.integers(0, longest, (n_rows, len(sizes)))
    ranges = np.zeros((n_rows, len(sizes), 2), np.int32)
    codes = np.zeros(counts.sum(), np.int32)
    at = 0
    for row in rng.permutation(n_rows):
        for v, size in enumerate(sizes):
            ranges[row, v] = at, at + counts[row, v]
            codes[at : at + counts[row, v]] = rng.integers(0, size, counts[row, v])
            at += counts[row, v]
    return Bags(ranges, codes, rng.normal(size=len(codes)).astype(np.float32))


def bag_matrices(bags, sizes):
    """Return for each bag the (n, size) sums of values by code, and of their squares."""
    found = []
    for v, size in enumerate(sizes):
        sums, squares = (np.zeros((len(bags.ranges), size)) for _ in range(2))
        for row, (first, last) in enumerate(bags.ranges[:, v]):
            values = bags.values[first:last].astype(np.float64)
            np.add.at(sums[row], bags.codes[first:last], values)
            np.add.at(squares[row], bags.codes[first:last], values**2)
        found.append((sums, squares))
    return found


def make_problem(
    loss,
    *,
    n_rows=93,
    n_numeric=3,
    cardinalities=(4, 9),
    weighted=False,
    missing=False,
    seed=0,
    **changes,
):
    """Make rows and an architecture; log links have exposures where `weighted`."""
    rng = np.random.default_rng([seed, len(loss), weighted, missing])
    n_classes = 4 if loss == "softmax" else 2
    numeric = rng.normal(size=(n_rows, n_numeric)).astype(np.float32) * 2 + 1
    if missing:
        numeric[rng.random(numeric.shape) < 0.3] = np.nan
    codes = np.stack([rng.integers(0, c, n_rows) for c in cardinalities], axis=1)
    target = rng.normal(size=n_rows) * 3 + 5
    if loss in CLASS_LOSSES:
        target = rng.integers(0, n_classes, n_rows)
    if loss in LOG_LINKS:
        target = rng.integers(loss == "gamma", 5, n_rows) * 0.75
    weight = rng.uniform(0.25, 3.0, n_rows) if weighted else np.empty(0)
    exposure = np.empty(0)
    if weighted and loss in LOG_LINKS:
        exposure = rng.uniform(0.25, 4.0, n_rows)
    settings = {
        "model": "linear",
        "loss": loss,
        "n_scores": n_classes if loss == "softmax" else 1,
        "mean": tuple(np.linspace(0.5, 1.5, n_numeric).tolist()),
        "scale": tuple(np.linspace(0.4, 0.6, n_numeric).tolist()),
        "cardinalities": tuple(cardinalities),
        "target_mean": 5.0 if loss in STANDARDISED else 0.0,
        "target_scale": 0.5 if loss in STANDARDISED else 1.0,
        "weight_scale": 0.75,
        "quantile": 0.3,
        "huber_delta": 1.25,
        "tweedie_power": 1.4,
    }
    architecture = Architecture(**settings | changes)
    sizes = architecture.bag_sizes
    rows = Rows(
        numeric,
        np.ascontiguousarray(codes, np.int32),
        target.astype(np.float32),
        weight.astype(np.float32),
        exposure.astype(np.float32),
        make_bags(rng, n_rows, sizes) if sizes else None,
    )
    n_parameters = (1 + 2 * n_numeric + sum(cardinalities) + sum(sizes)) * architecture.n_scores
    start = (0.3 * rng.normal(size=n_parameters)).astype(np.float32)
    return Problem(architecture, rows, start)


def design(architecture, rows):
    """Return the (n, R) matrix whose product with the (R, C) parameters is the scores."""
    z = (rows.numeric.astype(np.float64) - np.array(architecture.mean)) * np.array(
        architecture.scale
    )
    absent = np.isnan(z)
    parts = [np.ones((len(z), 1)), np.where(absent, 0.0, z), absent.astype(float)]
    for f, cardinality in enumerate(architecture.cardinalities):
        parts.append(np.eye(cardinality)[rows.codes[:, f]])
    if rows.bags is not None:
        parts += [sums for sums, _ in bag_matrices(rows.bags, architecture.bag_sizes)]
    return np.concatenate(parts, axis=1)


def losses_and_deltas(architecture, scores, y, exposure=()):
    """Return the (n,) losses and (n, C) derivatives by the scores, of targets as learnt."""
    loss, eps = architecture.loss, architecture.label_smoothing
    if loss == "softmax":
        top = scores.max(axis=1, keepdims=True)
        p = np.exp(scores - top)
        total = p.sum(axis=1, keepdims=True)
        k = y.astype(int)
        rows = np.arange(len(y))
        truth = np.full(scores.shape, eps / scores.shape[1])
        truth[rows, k] += 1 - eps
        return (np.log(total) + top)[:, 0] - (truth * scores).sum(axis=1), p / total - truth
    s = scores[:, 0]
    if loss in LOG_LINKS:
        return log_link_losses(architecture, s + (np.log(exposure) if len(exposure) else 0.0), y)
    e, bound = s - y, architecture.huber_delta * architecture.target_scale
    tau = architecture.quantile
    if loss in STANDARDISED:
        losses, delta = {
            "squared": (e**2, 2 * e),
            "absolute": (abs(e), np.sign(e)),
            "huber": (
                np.where(abs(e) <= bound, e**2 / 2, bound * (abs(e) - bound / 2)),
                np.clip(e, -bound, bound),
            ),
            "quantile": (
                np.maximum(-tau * e, (1 - tau) * e),
                np.where(e > 0, 1 - tau, np.where(e < 0, -tau, 0.0)),
            ),
        }[loss]
        return losses, delta[:, None]
    sign = 2 * y - 1
    m = sign * s
    if loss == "hinge":
        return np.maximum(1 - m, 0), np.where(m < 1, -sign, 0.0)[:, None]
    delta = -sign * (np.exp(-np.logaddexp(0, m)) - eps / 2)
    return (1 - eps / 2) * np.logaddexp(0, -m) + eps / 2 * np.logaddexp(0, m), delta[:, None]


def log_link_losses(architecture, t, y):
    """Return losses and derivatives of means exp(t)."""
    mean, p = np.exp(t), architecture.tweedie_power
    losses, delta = {
        "poisson": (mean - y * t, mean - y),
        "gamma": (y / mean + t, 1 - y / mean),
        "tweedie": (
            y * mean ** (1 - p) / (p - 1) + mean ** (2 - p) / (2 - p),
            mean ** (2 - p) - y * mean ** (1 - p),
        ),
    }[architecture.loss]
    return losses, delta[:, None]


def batch_loss(problem, parameters, select):
    """Return the loss (sum of weighted losses / rows), its gradient and (loss, weight) sums."""
    a, r = problem.architecture, problem.rows
    x = design(a, r)[select]
    w = parameters.reshape(-1, a.n_scores)
    y = (r.target.astype(np.float64)[select] - a.target_mean) * a.target_scale
    exposure = r.exposure.astype(np.float64)[select] if len(r.exposure) else ()
    losses, delta = losses_and_deltas(a, x @ w, y, exposure)
    weight = np.ones(len(y))
    if len(r.weight):
        weight = r.weight.astype(np.float64)[select] * a.weight_scale
    if a.class_weights:
        weight *= np.array(a.class_weights)[r.target[select].astype(int)]
    sums = np.array([(losses * weight).sum(), weight.sum()])
    delta *= (weight / len(y))[:, None]
    return sums[0] / len(y), (x.T @ delta).reshape(-1), sums, x


def oracle_steps(problem, settings, batch_size, rates, *, step=0, table_factor=1.0):
    """Train in float64, shrinking every weight at every step; return (parameters, sums)."""
    a, r = problem.architecture, problem.rows
    w = problem.start.astype(np.float64).reshape(-1, a.n_scores)
    n_dense = 1 + 2 * len(a.mean)
    oracle = Oracle(settings, w.shape, n_dense=n_dense, alpha=max(rates), table_factor=table_factor)
    all_sums = []
    for s, rate in enumerate(rates):
        select = slice(s * batch_size, min((s + 1) * batch_size, len(r.target)))
        _, g, sums, x = batch_loss(problem, w.reshape(-1), select)
        all_sums.append(sums)
        # Rows of categories that are not in the batch wait, and their state with them.
        touched = (x != 0).any(axis=0)
        touched[:n_dense] = True
        oracle.step(w, g.reshape(w.shape), rate, step + s + 1, touched)
    return w.reshape(-1), np.array(all_sums)


def kernel_steps(
    problem,
    settings,
    batch_size,
    rates,
    *,
    step=0,
    n_threads=1,
    calls=None,
    table_factor=1.0,
    progressive=None,
):
    """Train with the kernels; return (settled parameters, sums, steps taken, rule)."""
    r = problem.rows
    with Team(n_threads) as team:
        n_entries = 0 if r.bags is None else len(r.bags.codes)
        model = LinearModel(problem.architecture, team, batch_size=batch_size, n_entries=n_entries)
        rule = make_rule(
            settings,
            n_parameters=model.layout.n_parameters,
            n_dense=model.layout.n_dense,
            n_table_rows=model.layout.n_table_rows,
            rate=max(rates),
            table_rate_factor=table_factor,
        )
        w = problem.start.copy()
        sums = np.zeros((len(rates), 2))
        taken = 0
        # Steps in one call, or in several.
        for first, last in calls or [(0, len(rates))]:
            rows = slice(first * batch_size, min(last * batch_size, len(r.target)))
            part = np.zeros((last - first, 2))
            taken += model.take_steps(
                w,
                rule,
                numeric=r.numeric[rows],
                codes=r.codes[rows],
                bags=None if r.bags is None else r.bags.slice(rows.start, rows.stop),
                target=r.target[rows],
                weight=r.weight[rows] if len(r.weight) else r.weight,
                exposure=r.exposure[rows] if len(r.exposure) else r.exposure,
                batch_size=batch_size,
                step=step + first,
                rates=np.asarray(rates[first:last], np.float64),
                step_sums=part,
                progressive=None if progressive is None else progressive[rows],
            )
            sums[first:last] = part
        return model.settled(w, rule), sums, taken, rule


def settings_of(name, l1=0.0, l2=0.0, **others):
    # A larger epsilon keeps g / (sqrt(v) + epsilon) smooth where g is close to 0.
    return OptimizerSettings(name=name, epsilon=1e-3, l1=l1, l2=l2, **others)
