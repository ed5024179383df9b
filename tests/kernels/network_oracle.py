"""Networks in float64 NumPy, as plain as they can be: whole matrices, no panels, no tiles."""

from __future__ import annotations

import numpy as np

from streamtrain.kernels import network_table as table
from streamtrain.kernels.team import Team
from streamtrain.model.architecture import Architecture
from streamtrain.model.losses import CLASS_LOSSES, LOG_LINKS, STANDARDISED
from streamtrain.model.network import ColumnEncoding, Network
from streamtrain.model.network_model import NetworkModel, wiring_of
from streamtrain.optim.optimizers import make_rule
from streamtrain.seeds import derive_key
from tests.kernels.linear_oracle import (
    Problem,
    Rows,
    bag_matrices,
    losses_and_deltas,
    make_bags,
)

WITH_PARAMETERS = {
    table.BIAS, table.PERIODIC, table.SCALE, table.AFFINE, table.HEAD, table.NORM,
}  # fmt: skip
MASK64 = (1 << 64) - 1
MASK32 = (1 << 32) - 1


def column(kind, number=0, *, indicator=False):
    """Return an encoding of numbers around 1 with deviation 2."""
    knots = (-2.0, -0.5, 0.25, 1.0, 1.5, 4.0 + number)
    return {
        "standard": ColumnEncoding("standard", 0.5 + number / 8, 0.5, indicator=indicator),
        "robust": ColumnEncoding("robust", 0.75 + number / 8, 0.75, indicator=indicator),
        "pieces": ColumnEncoding("pieces", knots=knots, indicator=indicator),
        "quantile": ColumnEncoding(
            "quantile", knots=knots, heights=(-2.5, -1.0, -0.25, 0.5, 0.75, 2.5),
            indicator=indicator,
        ),
    }[kind]  # fmt: skip


def make_network_problem(
    layers,
    *,
    columns=("standard",) * 3,
    cardinalities=(4, 9),
    dims=(5, 3),
    loss="logistic",
    n_classes=2,
    n_rows=37,
    missing=False,
    weighted=False,
    seed=0,
    changes=None,
    **network,
):
    """Make rows, an architecture and first parameters, 0 where no parameter is."""
    rng = np.random.default_rng([seed, n_rows, len(loss)])
    numeric = rng.normal(size=(n_rows, len(columns))).astype(np.float32) * 2 + 1
    if missing:
        numeric[rng.random(numeric.shape) < 0.3] = np.nan
    codes = np.zeros((n_rows, len(cardinalities)), np.int32)
    for f, cardinality in enumerate(cardinalities):
        codes[:, f] = rng.integers(0, cardinality, n_rows)
    target = rng.normal(size=n_rows) * 3 + 5
    if loss in CLASS_LOSSES:
        target = rng.integers(0, n_classes, n_rows)
    if loss in LOG_LINKS:
        target = rng.integers(loss == "gamma", 5, n_rows) * 0.75
    weight = rng.uniform(0.25, 3.0, n_rows) if weighted else np.empty(0)
    exposure = np.empty(0)
    if weighted and loss in LOG_LINKS:
        exposure = rng.uniform(0.25, 4.0, n_rows)
    n_scores = n_classes if loss == "softmax" else 1
    sizes = (changes or {}).get("bag_sizes", ())
    architecture = Architecture(
        **{
            "model": "custom",
            "loss": loss,
            "n_scores": n_scores,
            "mean": (0.0,) * len(columns),
            "scale": (1.0,) * len(columns),
            "cardinalities": tuple(cardinalities),
            "target_mean": 5.0 if loss in STANDARDISED else 0.0,
            "target_scale": 0.5 if loss in STANDARDISED else 1.0,
            "weight_scale": 0.75,
            "network": Network(
                columns=tuple(column(k, j, indicator=missing) for j, k in enumerate(columns)),
                embedding_dims=tuple(dims),
                layers=tuple(layers),
                **network,
            ),
            **(changes or {}),
        }
    )
    rows = Rows(
        numeric,
        codes,
        target.astype(np.float32),
        weight.astype(np.float32),
        exposure.astype(np.float32),
        make_bags(rng, n_rows, sizes) if sizes else None,
    )
    oracle = NetworkOracle(architecture)
    start = np.where(oracle.real, 0.25 * rng.normal(size=len(oracle.real)), 0).astype(np.float32)
    for name, places in oracle.unpacked(np.arange(len(start))).items():
        if name.endswith("gain"):
            start[places] += 1
    return Problem(architecture, rows, start)


def padded(n):
    return -(-n // 16) * 16


class NetworkOracle:
    """Scores and losses of a network, from its description and the flat parameters.

    Of the wiring it takes where each operation's parameters begin, and nothing else.
    """

    def __init__(self, architecture, seed=0):
        self.architecture = architecture
        self.network = architecture.network
        self.wiring = wiring_of(architecture)
        self.key = derive_key("dropout", seed)
        self.masks = {}
        self.real = np.zeros(self.wiring.n_parameters, bool)
        for places in self.unpacked(np.arange(len(self.real))).values():
            self.real[places] = True

    def unpacked(self, w):
        """Return named views or copies of the flat parameters, (n_in, n_out) for matrices."""
        net, c = self.network, self.architecture.n_scores
        ops = [op for op in self.wiring.ops if op[table.O_KIND] in WITH_PARAMETERS]
        found = {}

        def take(name, kind, *, adds=False):
            op = ops.pop(0)
            assert op[table.O_KIND] == kind, (name, op)
            at, n_in, n_q = op[table.O_PARAM], op[table.O_WIDTH_IN], op[table.O_N_OUT]
            if kind == table.BIAS:
                found[name] = w[at : at + c]
            elif kind in {table.PERIODIC, table.SCALE}:
                k = op[table.O_FLAG]
                found[name] = w[at : at + k * n_in].reshape(n_in, k)
            elif kind == table.HEAD:
                found[name] = w[at : at + n_in].reshape(n_in, 1)
            elif kind == table.NORM:
                found[f"{name} gain"] = w[at : at + n_in]
                at += padded(n_in)
                found[f"{name} offset"] = w[at : at + n_in]
            else:
                n_out = op[table.O_WIDTH_OUT]
                panels = w[at : at + n_q * n_in * 16].reshape(n_q, n_in, 16)
                found[name] = panels.transpose(1, 0, 2).reshape(n_in, -1)[:, :n_out]
                if not adds:
                    at += n_q * n_in * 16
                    found[f"{name} bias"] = w[at : at + n_out]

        def take_output(name):
            take(name, table.HEAD if c == 1 else table.AFFINE, adds=True)

        take("bias", table.BIAS)
        n_numbers = sum(col.width for col in net.columns)
        if net.frequencies and n_numbers:
            take("frequencies", table.PERIODIC)
            for i in range(n_numbers):
                take(f"periodic {i}", table.AFFINE)
        if net.vector_dim and net.columns:
            take("vectors", table.SCALE)
        if net.linear and net.columns:
            take_output("linear")
        for i, layer in enumerate(net.layers):
            if layer.op in {"affine", "cross"}:
                take(f"layer {i}", table.AFFINE)
            elif layer.op == "norm":
                take(f"layer {i}", table.NORM)
            elif layer.op == "output" or (layer.op == "sum" and c > 1):
                take_output(f"layer {i}")
        assert not ops
        at = self.wiring.n_dense
        n_linear = c if net.linear else 0
        for f, (cardinality, dim) in enumerate(
            zip(
                (*self.architecture.cardinalities, *self.architecture.bag_sizes),
                net.embedding_dims,
                strict=True,
            )
        ):
            width = n_linear + dim
            found[f"field {f}"] = w[at : at + cardinality * width].reshape(cardinality, width)
            at += cardinality * width
        assert at == self.wiring.n_parameters
        return found

    def encoded(self, numeric):
        """Return the (n, lanes) encodings, then the indicators."""
        x = numeric.astype(np.float64)
        lanes, indicators = [], []
        for j, col in enumerate(self.network.columns):
            v = x[:, j]
            if col.kind in {"standard", "robust"}:
                z = (v - col.shift) * col.scale
                if col.kind == "robust":
                    z /= np.sqrt(1 + (z / 3) ** 2)
                made = [z]
            elif col.kind == "quantile":
                made = [np.interp(v, col.knots, col.heights)]
            else:
                made = []
                last = len(col.knots) - 2
                for t in range(last + 1):
                    e = (v - col.knots[t]) / (col.knots[t + 1] - col.knots[t])
                    made.append(np.clip(e, -1 if t == 0 else 0, 2 if t == last else 1))
            lanes += [np.where(np.isnan(v), 0, e) for e in made]
            if col.indicator:
                indicators.append(np.isnan(v).astype(float))
        return np.stack(lanes + indicators, axis=1)

    def scores(self, parameters, rows, position=None):
        """Return (n, C) float64 scores; dropout's, if `position` numbers the first row."""
        w = self.unpacked(np.asarray(parameters, np.float64))
        net, c = self.network, self.architecture.n_scores
        n = len(rows.codes)
        total = np.tile(w["bias"], (n, 1))
        # One array holds numeric, periodic, vectors and embeddings, each from a multiple of 16.
        parts = {"numeric": np.zeros((n, 0)), "periodic": np.zeros((n, 0))}
        if net.columns:
            z = parts["numeric"] = self.encoded(rows.numeric)
            if net.frequencies:
                outs = []
                for i in range(sum(col.width for col in net.columns)):
                    t = 2 * np.pi * z[:, i : i + 1] * w["frequencies"][i]
                    waves = np.concatenate([np.sin(t), np.cos(t)], axis=1)
                    outs.append(np.maximum(waves @ w[f"periodic {i}"] + w[f"periodic {i} bias"], 0))
                parts["periodic"] = np.concatenate(outs, axis=1)
            if net.vector_dim:
                parts["vectors"] = (z[:, :, None] * w["vectors"]).reshape(n, -1)
        n_linear = c if net.linear else 0
        n_fields = len(self.architecture.cardinalities)
        rows_of = [w[f"field {f}"][rows.codes[:, f]] for f in range(n_fields)]
        sizes = self.architecture.bag_sizes
        for v, (sums, squares) in enumerate(bag_matrices(rows.bags, sizes) if sizes else ()):
            table_rows = w[f"field {n_fields + v}"]
            rows_of.append(sums @ table_rows)
            if net.pooling == "mean" and not net.bag_pairs:
                spans = rows.bags.ranges[:, v]
                total_of = [np.abs(rows.bags.values[a:b]).sum(dtype=float) for a, b in spans]
                factor = np.array([1 / t if t else 0.0 for t in total_of])
                rows_of[-1][:, n_linear:] *= factor[:, None]
            if net.bag_pairs and c == 1:
                vectors = table_rows[:, n_linear:]
                pairs = (sums @ vectors) ** 2 - squares @ vectors**2
                total += pairs.sum(axis=1, keepdims=True) / 2
        for found in rows_of:
            total += found[:, :n_linear] if n_linear else 0
        parts["embeddings"] = np.concatenate(
            [found[:, n_linear:] for found in rows_of] or [np.zeros((n, 0))], axis=1
        )
        whole = np.zeros((n, sum(padded(p.shape[1]) for p in parts.values())))
        values, at, end = {}, 0, 0
        for name, part in parts.items():
            values[name] = whole[:, at : at + part.shape[1]]
            values[name][:] = part
            end = at + part.shape[1] if part.shape[1] else end
            if name == "vectors":
                values["from vectors"] = at
            at += padded(part.shape[1])
        values["inputs"] = whole[:, :end]
        if net.vector_dim:
            values["vectors"] = whole[:, values.get("from vectors", 0) : end]
        if net.linear and net.columns:
            total += values["numeric"] @ w["linear"]
        self._layers(w, values, total, position)
        return total

    def _layers(self, w, values, total, position):
        c = self.architecture.n_scores
        for i, layer in enumerate(self.network.layers):
            x = values[layer.source]
            name = f"layer {i}"
            if layer.op == "affine":
                values[layer.name] = activated(layer.activation, x @ w[name] + w[f"{name} bias"])
            elif layer.op == "activation":
                values[layer.name] = activated(layer.activation, x)
            elif layer.op == "norm":
                z = x - x.mean(axis=1, keepdims=True)
                z /= np.sqrt((z**2).mean(axis=1, keepdims=True) + 1e-5)
                values[layer.name] = z * w[f"{name} gain"] + w[f"{name} offset"]
            elif layer.op == "dropout":
                if position is not None:
                    x *= self.kept(i, x, position) / (1 - np.float32(layer.rate))
            elif layer.op == "residual":
                values[layer.to] += x
            elif layer.op == "cross":
                u = x @ w[name] + w[f"{name} bias"]
                values[layer.name] = values[layer.first] * u + x
            elif layer.op == "pairs":
                vectors = x.reshape(len(x), -1, self.network.vector_dim)
                square = vectors.sum(axis=1) ** 2
                values[layer.name] = (square - (vectors**2).sum(axis=1)) / 2
            elif layer.op == "sum" and c == 1:
                total += x.sum(axis=1, keepdims=True)
            else:
                total += x @ w[name]

    def kept(self, layer, x, position):
        """Return dropout's mask of a layer, in Python's whole numbers."""
        known = (layer, position, x.shape)
        if known in self.masks:
            return self.masks[known]
        drops = [i for i, la in enumerate(self.network.layers) if la.op == "dropout"]
        at = [o for o, op in enumerate(self.wiring.ops) if op[table.O_KIND] == table.DROP]
        salt = key_of(self.key, at[drops.index(layer)])
        limit = int(float(np.float32(self.network.layers[layer].rate)) * 2**32)
        mask = np.zeros(x.shape)
        for r in range(len(x)):
            low = key_of(salt, position + r) & MASK32
            for j in range(x.shape[1]):
                mask[r, j] = mixed((low + j * 0x9E3779B9) & MASK32) >= limit
        self.masks[known] = mask
        return mask

    def batch_loss(self, parameters, rows, position=None):
        """Return the loss that a step differentiates, and the sums of losses and weights."""
        a = self.architecture
        y = (rows.target.astype(np.float64) - a.target_mean) * a.target_scale
        exposure = rows.exposure.astype(np.float64) if len(rows.exposure) else ()
        losses, _ = losses_and_deltas(a, self.scores(parameters, rows, position), y, exposure)
        weight = np.ones(len(y))
        if len(rows.weight):
            weight = rows.weight.astype(np.float64) * a.weight_scale
        if a.class_weights:
            weight *= np.array(a.class_weights)[rows.target.astype(int)]
        return (losses * weight).sum() / len(y), ((losses * weight).sum(), weight.sum())

    def gradient(self, parameters, rows, position=None, h=1e-5):
        """Return the derivative by every parameter that is none of padding, by differences."""
        found = np.zeros(len(parameters))
        at = parameters.astype(np.float64)
        for k in np.flatnonzero(self.real):
            start = at[k]
            at[k] = start + h
            above = self.batch_loss(at, rows, position)[0]
            at[k] = start - h
            below = self.batch_loss(at, rows, position)[0]
            at[k] = start
            found[k] = (above - below) / (2 * h)
        return found


def activated(kind, x):
    if kind == "relu":
        return np.maximum(x, 0)
    if kind == "gelu":
        return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    if kind == "silu":
        return x / (1 + np.exp(-x))
    return np.tanh(x) if kind == "tanh" else x


def finalised(z):
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK64
    return z ^ (z >> 31)


def key_of(key, ordinal):
    return finalised(finalised((ordinal + 0x9E3779B97F4A7C15) & MASK64) ^ key)


def mixed(h):
    h ^= h >> 16
    h = (h * 0x85EBCA6B) & MASK32
    h ^= h >> 13
    h = (h * 0xC2B2AE35) & MASK32
    return h ^ (h >> 16)


def rows_between(rows, first, last):
    names = [name for name in Rows.__dataclass_fields__ if name != "bags"]
    bags = None if rows.bags is None else rows.bags.slice(first, last)
    return Rows(*(getattr(rows, name)[first:last] for name in names), bags)


def network_steps(
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
    seed=0,
):
    """Train with the kernels; return (settled parameters, sums, steps taken, rule)."""
    n_rows = len(problem.rows.target)
    with Team(n_threads) as team:
        model = NetworkModel(
            problem.architecture,
            team,
            batch_size=batch_size,
            seed=seed,
            clips_norm=settings.clip_norm > 0,
            n_entries=0 if problem.rows.bags is None else len(problem.rows.bags.codes),
        )
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
        for first, last in calls or [(0, len(rates))]:
            end = min(last * batch_size, n_rows)
            rows = rows_between(problem.rows, first * batch_size, end)
            part = np.zeros((last - first, 2))
            taken += model.take_steps(
                w,
                rule,
                numeric=rows.numeric,
                codes=rows.codes,
                bags=rows.bags,
                target=rows.target,
                weight=rows.weight,
                exposure=rows.exposure,
                batch_size=batch_size,
                step=step + first,
                rates=np.asarray(rates[first:last], np.float64),
                step_sums=part,
                progressive=None if progressive is None else progressive[first * batch_size : end],
            )
            sums[first:last] = part
        return model.settled(w, rule), sums, taken, rule


def network_scores(problem, *, n_threads=1, parameters=None):
    with Team(n_threads) as team:
        model = NetworkModel(problem.architecture, team)
        w = problem.start if parameters is None else parameters
        return model.scores(w, problem.rows.numeric, problem.rows.codes, problem.rows.bags)
