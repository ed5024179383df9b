"""Optimizers in float64 NumPy, dense and plain: every weight shrinks at every step."""

from __future__ import annotations

import numpy as np


class Oracle:
    """Moves a matrix of parameter rows; the rows from `n_dense` on are those of tables.

    `alpha` is the highest rate: of the others' schedule, and FTRL's own. Biases, the
    first `n_free` rows, are not penalised.
    """

    def __init__(self, settings, shape, *, n_dense, alpha, table_factor=1.0, n_free=1):
        self.settings = settings.resolved()
        self.m, self.v = np.zeros(shape), np.zeros(shape)
        self.sums = np.zeros((shape[0], 1))
        self.n_free = n_free
        table = np.arange(shape[0]) >= n_dense
        self.is_table = table[:, None]
        self.factor = np.where(self.is_table, table_factor, 1.0)
        self.alpha = alpha * self.factor

    def clipped(self, g):
        s = self.settings
        if s.clip_value:
            g = np.clip(g, -s.clip_value, s.clip_value)
        norm = np.sqrt((g**2).sum())
        return g * (s.clip_norm / norm) if s.clip_norm and norm > s.clip_norm else g

    def step(self, w, g, rate, t, touched=slice(None)):
        """Take step t, from 1, in place; rows that are not touched only shrink."""
        s, k = self.settings, touched
        g = self.clipped(g)
        rates = np.broadcast_to(rate * self.factor, w.shape)
        ftrl = s.name == "ftrl"
        penalised = np.arange(len(w))[:, None] >= self.n_free
        l1 = s.l1 * penalised
        l2 = s.l2 * penalised
        if not ftrl:
            w *= np.maximum(1 - rates * l2, 0)
        r, g = rates[k], g[k]
        if s.name == "sgd":
            w[k] -= r * g
        elif s.name in {"momentum", "nesterov"}:
            self.m[k] = s.momentum * self.m[k] + g
            w[k] -= r * (self.m[k] if s.name == "momentum" else g + s.momentum * self.m[k])
        elif s.name == "rowwise-adagrad":
            self.v[k] += g**2
            self.sums[k] += (g**2).mean(axis=1, keepdims=True)
            v = np.where(self.is_table, self.sums, self.v)
            w[k] -= r * g / (np.sqrt(v[k]) + s.epsilon)
        elif s.name == "adagrad":
            self.v[k] += g**2
            w[k] -= r * g / (np.sqrt(self.v[k]) + s.epsilon)
        elif s.name == "rmsprop":
            self.v[k] = s.rho * self.v[k] + (1 - s.rho) * g**2
            w[k] -= r * g / (np.sqrt(self.v[k]) + s.epsilon)
        elif ftrl:
            w[k] = self._ftrl(w[k], g, rate, k, np.broadcast_to(l1, w.shape)[k], l2)
        else:
            self.m[k] = s.beta1 * self.m[k] + (1 - s.beta1) * g
            self.v[k] = s.beta2 * self.v[k] + (1 - s.beta2) * g**2
            m_hat = self.m[k] / (1 - s.beta1**t)
            v_hat = self.v[k] / (1 - s.beta2**t)
            w[k] -= r * m_hat / (np.sqrt(v_hat) + s.epsilon)
        if not ftrl:
            w[:] = np.sign(w) * np.maximum(np.abs(w) - rates * l1, 0)

    def _ftrl(self, w, g, rate, k, l1, l2):
        # m is z, v is n. Before its first gradient, z is what gives the place w.
        alpha = np.broadcast_to(self.alpha, self.v.shape)[k]
        l2 = np.broadcast_to(l2, self.v.shape)[k]
        beta = self.settings.ftrl_beta
        n = self.v[k]
        z = np.where(n > 0, self.m[k], -w * (l2 + beta / alpha) - np.sign(w) * l1)
        after = n + g**2
        sigma = (np.sqrt(after) - np.sqrt(n)) / alpha
        z = z + g * rate * self.factor[k] / alpha - sigma * w
        self.m[k], self.v[k] = z, after
        moved = -(z - np.sign(z) * l1) / (l2 + (beta + np.sqrt(after)) / alpha)
        moved = np.where(np.abs(z) <= l1, 0.0, moved)
        return np.where(after > 0, moved, w)
