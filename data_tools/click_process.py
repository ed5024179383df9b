"""The process behind the click log: a truth that a linear model can reach.

A row is 13 numbers, 26 categories and a click, drawn independently of all other
rows. The click is Bernoulli(p) with

    logit p = bias + sum_j slope_j * (x_j - mean_j) + sum_f effect_f[category_f]

where x_j is the number as the file holds it, clipped so that no value alone
decides a click; a missing number contributes 0 (the same as its mean), and a
missing category is a category with an effect of its own. A logistic regression
on numbers and categories is therefore well specified, and no model can expect a
loss below the mean entropy of p.

The process is fixed; a seed only draws rows. Two seeds are two samples of one
truth. Numbers have few decimals and bounds, so that they too are codes into
tables of text and effects: code 0 is a missing cell.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from streamtrain.seeds import derive_key

CHUNK_ROWS = 16_384
"""Rows of one generator: about 4 MB of text."""

ARROW_POOL = pa.system_memory_pool()
"""Arrow's default pool keeps up to 100 MB more for itself under this pattern of use."""

# A category is drawn from this many equally likely quantiles of its column's distribution.
_QUANTILES = 65_536
_MOMENT_POINTS = 4_096
_BIAS = -1.36

_Bools = npt.NDArray[np.bool_]
_Codes = npt.NDArray[np.int32]
_Doubles = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class _Number:
    """A numeric column: how it is drawn, written, and moves the logit.

    With z standard normal or u uniform, the raw value is location + scale * z,
    exp(location + scale * z) or scale * u; it is rounded down to `decimals` and
    clipped. One standard deviation of what is written moves the logit by `weight`.
    """

    name: str
    family: Literal["normal", "lognormal", "uniform"]
    location: float
    scale: float
    low: float
    high: float
    decimals: int
    missing: float
    weight: float


@dataclasses.dataclass(frozen=True)
class _Category:
    """A categorical column with P(rank r) proportional to (r + 2) ** -exponent, r from 0.

    Labels are `words`, then `prefix` and a number; without either, 8 hexadecimal
    digits. Effects are normal with standard deviation `spread`.
    """

    name: str
    cardinality: int
    exponent: float
    missing: float
    spread: float
    prefix: str = ""
    words: tuple[str, ...] = ()


_NUMBERS = (
    _Number("hour", "uniform", 0, 24, 0, 23, 0, 0.0, 0.16),
    _Number("age", "normal", 38, 13, 16, 90, 0, 0.12, -0.22),
    _Number("price", "lognormal", 3.2, 0.9, 0.5, 400, 2, 0.02, -0.30),
    _Number("discount", "uniform", 0, 0.6, 0, 0.6, 2, 0.08, 0.18),
    _Number("clicks_7d", "lognormal", 0.6, 1.1, 0, 40, 0, 0.04, 0.35),
    _Number("views_30d", "lognormal", 3.0, 1.3, 0, 600, 0, 0.04, -0.18),
    _Number("session_seconds", "lognormal", 4.6, 1.0, 1, 1_800, 1, 0.0, 0.20),
    _Number("days_since_signup", "lognormal", 5.0, 1.2, 0, 3_000, 0, 0.21, -0.10),
    _Number("dwell_seconds", "lognormal", 1.5, 1.0, 0.1, 90, 1, 0.27, 0.22),
    _Number("bid_floor", "lognormal", -0.7, 0.7, 0.01, 5, 3, 0.0, -0.12),
    _Number("cart_items", "lognormal", 0.3, 0.8, 0, 15, 0, 0.45, 0.15),
    _Number("latency_ms", "lognormal", 4.4, 0.5, 5, 900, 0, 0.01, 0.0),
    _Number("affinity", "normal", 0, 1, -4, 4, 3, 0.05, 0.30),
)

_DEVICES = ("mobile", "desktop", "tablet", "tv", "console", "watch", "car", "kiosk", "ereader")
_SYSTEMS = ("android", "ios", "windows", "macos", "linux", "chromeos", "tizen", "webos", "kaios")
_BROWSERS = ("chrome", "safari", "edge", "firefox", "samsung", "opera", "brave", "webview")

_CATEGORIES = (
    _Category("device", 10, 1.3, 0.0, 0.40, "device_", _DEVICES),
    _Category("connection", 10, 1.1, 0.06, 0.25, "link_", ("wifi", "5g", "4g", "cable", "3g")),
    _Category("os", 14, 1.2, 0.01, 0.30, "os_", _SYSTEMS),
    _Category("ad_format", 12, 0.9, 0.0, 0.40, "format_", ("banner", "video", "native", "text")),
    _Category("slot_position", 16, 0.8, 0.0, 0.45, "slot_"),
    _Category("ad_size", 20, 1.0, 0.0, 0.25, "size_", ("300x250", "728x90", "320x50", "160x600")),
    _Category("browser", 24, 1.3, 0.02, 0.20, "browser_", _BROWSERS),
    _Category("topic", 26, 0.9, 0.03, 0.40, "topic_"),
    _Category("exchange", 32, 1.1, 0.0, 0.20, "exchange_"),
    _Category("language", 40, 1.6, 0.04, 0.15, "lang_"),
    _Category("country", 64, 1.2, 0.01, 0.25, "country_"),
    _Category("carrier", 120, 1.2, 0.35, 0.15, "carrier_"),
    _Category("segment", 200, 1.0, 0.18, 0.30, "segment_"),
    _Category("region", 400, 1.0, 0.05, 0.15, "region_"),
    _Category("placement", 800, 1.1, 0.0, 0.20),
    _Category("advertiser", 2_000, 1.1, 0.0, 0.25, "adv_"),
    _Category("device_model", 3_500, 1.1, 0.09, 0.12),
    _Category("city", 6_000, 1.1, 0.11, 0.10, "city_"),
    _Category("app", 10_000, 1.2, 0.40, 0.15),
    _Category("campaign", 15_000, 1.1, 0.0, 0.15),
    _Category("site", 25_000, 1.2, 0.0, 0.20),
    _Category("landing_page", 40_000, 1.2, 0.02, 0.10),
    _Category("creative", 50_000, 1.2, 0.0, 0.15),
    _Category("referrer", 60_000, 1.2, 0.30, 0.10),
    _Category("keyword", 100_000, 1.2, 0.22, 0.10),
    _Category("network_block", 131_072, 1.1, 0.01, 0.08),
)

TARGET = "click"
NUMERIC_COLUMNS = tuple(spec.name for spec in _NUMBERS)
CATEGORICAL_COLUMNS = tuple(spec.name for spec in _CATEGORIES)
COLUMNS = (TARGET, *NUMERIC_COLUMNS, *CATEGORICAL_COLUMNS)


def _mix(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return SplitMix64's output function of each state: a keyed hash of counters."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def _uniforms(key: int, n: int) -> _Doubles:
    """Return n numbers inside (0, 1), the same for a key everywhere."""
    counters = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    bits = _mix(counters + np.uint64(key)) >> np.uint64(12)
    return (bits.astype(np.float64) + 0.5) * 2.0**-52


def _arrow(type_: Any, *parts: npt.NDArray[Any] | bytes, n: int, null_first: bool = False) -> Any:
    """Return buffers as an Arrow array. `pa.array` would import pandas: 40 MB."""
    present = np.packbits(np.arange(n) > 0, bitorder="little") if null_first else None
    return pa.Array.from_buffers(
        type_, n, [None if part is None else pa.py_buffer(part) for part in (present, *parts)]
    )


def _strings(text: bytes, lengths: npt.NDArray[np.int32]) -> Any:
    """Return a null and then the strings of the given lengths in `text`."""
    offsets = np.concatenate([[0, 0], np.cumsum(lengths)]).astype(np.int32)
    return _arrow(pa.string(), offsets, text, n=lengths.size + 1, null_first=True)


def _hash_labels(key: int, n: int) -> Any:
    """Return a null and n distinct labels of 8 hexadecimal digits."""
    # Every step is a bijection of 32 bits, so distinct ranks stay distinct.
    x = np.arange(n, dtype=np.uint32) ^ np.uint32(key & 0xFFFFFFFF)
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    x ^= x >> np.uint32(16)
    return _strings(x.astype(">u4").tobytes().hex().encode(), np.full(n, 8, np.int32))


class _NumberColumn:
    """A numeric column as codes: `values`, `labels` and `effects` of each."""

    def __init__(self, spec: _Number) -> None:
        self._spec = spec
        self._ticks = 10**spec.decimals
        self._first = round(spec.low * self._ticks)
        self._n_codes = round(spec.high * self._ticks) - self._first + 1
        values = (self._first + np.arange(-1, self._n_codes)) / self._ticks
        levels = (np.arange(_MOMENT_POINTS) + 0.5) / _MOMENT_POINTS
        if spec.family != "uniform":
            levels = np.array([NormalDist().inv_cdf(level) for level in levels.tolist()])
        typical = values.take(self._codes_at(levels))
        self.effects = spec.weight / typical.std() * (values - typical.mean())
        self.effects[0] = 0.0
        type_, typed = pa.float64(), values
        if not spec.decimals:
            type_, typed = pa.int32(), values.astype(np.int32)
        self.values = _arrow(type_, typed, n=values.size, null_first=True)
        self.labels = pc.cast(self.values, pa.string(), memory_pool=ARROW_POOL)

    def _codes_at(self, draws: _Doubles) -> _Codes:
        """Return the codes of draws of z (of u, if uniform)."""
        spec = self._spec
        raw = draws * spec.scale + spec.location
        if spec.family == "lognormal":
            np.exp(raw, out=raw)
        if spec.decimals:
            raw *= self._ticks
        raw -= self._first - 1
        np.clip(raw, 1.0, self._n_codes, out=raw)
        return raw.astype(np.int32)

    def draw(self, rng: np.random.Generator, n: int) -> _Codes:
        """Return the codes of n rows."""
        uniform = self._spec.family == "uniform"
        codes = self._codes_at(rng.random(n) if uniform else rng.standard_normal(n))
        if self._spec.missing:
            codes[rng.random(n, dtype=np.float32) < self._spec.missing] = 0
        return codes


class _CategoryColumn:
    """A categorical column as codes: `values`, `labels` (the same) and `effects` of each."""

    def __init__(self, spec: _Category) -> None:
        n = spec.cardinality
        if spec.prefix:
            width = len(str(n - 1))
            numbered = (f"{spec.prefix}{i:0{width}d}" for i in range(len(spec.words), n))
            labels = [*spec.words, *numbered]
            lengths = np.array([len(label) for label in labels], np.int32)
            self.labels = _strings("".join(labels).encode(), lengths)
        else:
            self.labels = _hash_labels(derive_key("clicklog", "label", spec.name), n)
        self.values = self.labels
        radius = np.sqrt(
            -2.0 * np.log(_uniforms(derive_key("clicklog", "radius", spec.name), n + 1))
        )
        angle = 2.0 * math.pi * _uniforms(derive_key("clicklog", "angle", spec.name), n + 1)
        self.effects = spec.spread * radius * np.cos(angle)
        mass = np.arange(2, n + 2) ** -spec.exponent
        mass *= (1.0 - spec.missing) / mass.sum()
        edges = np.cumsum(np.concatenate([[spec.missing], mass]))
        quantiles = np.arange(_QUANTILES + 1) / _QUANTILES
        codes = np.minimum(np.searchsorted(edges, quantiles, side="right"), n)
        # Quantile q is one frequent code, or the codes start <= code < start + span.
        self._start = codes[:-1].astype(np.int32)
        span = np.maximum(codes[1:] - codes[:-1], 1).astype(np.uint16)
        self._span = span if n > _QUANTILES // 64 else None

    def draw(self, rng: np.random.Generator, n: int) -> _Codes:
        """Return the codes of n rows."""
        quantile = rng.integers(0, _QUANTILES, n, dtype=np.uint16)
        codes = self._start.take(quantile)
        if self._span is not None:
            within = rng.integers(0, 65_536, n, dtype=np.uint16)
            span = self._span.take(quantile).astype(np.uint32)
            codes += ((span * within) >> np.uint32(16)).astype(np.int32)
        return codes


@functools.cache
def _columns() -> tuple[_NumberColumn | _CategoryColumn, ...]:
    """Return the process itself, about 25 MB of tables."""
    return (*map(_NumberColumn, _NUMBERS), *map(_CategoryColumn, _CATEGORIES))


@dataclasses.dataclass(frozen=True)
class Draw:
    """The rows of one chunk before they are text, and the truth about them.

    Parameters
    ----------
    clicks : (CHUNK_ROWS,) bool
    codes : list of (CHUNK_ROWS,) int32
        One array per column after the target.
    logits, probabilities : (CHUNK_ROWS,) float64
        Of a click.
    """

    clicks: _Bools
    codes: list[_Codes]
    logits: _Doubles
    probabilities: _Doubles

    def losses(self, n_rows: int) -> tuple[float, float]:
        """Return the summed entropy and the summed log loss of the first rows, in nats."""
        logit, p = self.logits[:n_rows], self.probabilities[:n_rows]
        # -log(1 - p) = log(1 + exp(logit)), and -log p is that less logit.
        no = np.logaddexp(0.0, logit)
        entropy = no - p * logit
        return float(entropy.sum()), float((no - logit * self.clicks[:n_rows]).sum())

    def table(self, rows: slice | npt.NDArray[np.intp], *, as_text: bool) -> Any:
        """Return some rows as an Arrow table; `as_text` spells the numbers out."""
        clicks = self.clicks[rows]
        arrays = [_arrow(pa.int8(), clicks.astype(np.int8), n=clicks.size)]
        for column, codes in zip(_columns(), self.codes, strict=True):
            cells = column.labels if as_text else column.values
            indices = _arrow(pa.int32(), codes[rows], n=clicks.size)
            arrays.append(pc.take(cells, indices, memory_pool=ARROW_POOL))
        return pa.Table.from_arrays(arrays, names=list(COLUMNS))


def draw_chunk(seed: int, k: int) -> Draw:
    """Draw the rows [k * CHUNK_ROWS, (k + 1) * CHUNK_ROWS) of a seed's log."""
    rng = np.random.Generator(np.random.PCG64(derive_key("clicklog", seed, k)))
    logits = np.full(CHUNK_ROWS, _BIAS)
    codes = []
    for column in _columns():
        codes.append(column.draw(rng, CHUNK_ROWS))
        logits += column.effects.take(codes[-1])
    probabilities = 1.0 / (1.0 + np.exp(-logits))
    clicks = rng.random(CHUNK_ROWS) < probabilities
    return Draw(clicks, codes, logits, probabilities)
