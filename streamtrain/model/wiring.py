"""From a network's layers to the table that kernels take: panels, parameters, tasks."""

from __future__ import annotations

import math

import numpy as np

from streamtrain.errors import ConfigError
from streamtrain.kernels import network_table as table
from streamtrain.kernels.lanes import LANES
from streamtrain.kernels.network_table import as_row
from streamtrain.model.network import ColumnEncoding, Layer, Network
from streamtrain.model.panels import Range, Start, Wiring, panels_of
from streamtrain.model.ways_back import mark_ways_back

_ENCODINGS = {
    "standard": table.STANDARD,
    "robust": table.ROBUST,
    "quantile": table.QUANTILE,
    "pieces": table.PIECES,
}


def wire(
    network: Network,
    *,
    cardinalities: tuple[int, ...],
    n_scores: int,
    bag_sizes: tuple[int, ...] = (),
) -> Wiring:
    """Lay out a network; bags have the last of its embeddings.

    Raises
    ------
    ConfigError
        If a layer names what is not there, or its options do not fit.
    """
    return _Builder(network, cardinalities, bag_sizes, n_scores).build()


class _Builder:
    def __init__(
        self,
        network: Network,
        cardinalities: tuple[int, ...],
        bag_sizes: tuple[int, ...],
        n_scores: int,
    ) -> None:
        self._network = network
        self._cardinalities = (*cardinalities, *bag_sizes)
        self._n_fields = len(cardinalities)
        self._n_scores = n_scores
        self._wiring = Wiring()
        self._ranges: dict[str, Range] = {}
        self._trained: set[int] = set()
        # Panels whose numbers the way back needs as they were read.
        self._needed: set[int] = set()
        # Of each operation the layer it is for; "" is none of the table's.
        self._wheres: list[str] = []
        self._where = ""

    def build(self) -> Wiring:
        wiring, network = self._wiring, self._network
        wiring.score = self._panels(self._n_scores)
        self._trained |= set(range(wiring.score.panel, wiring.score.end))
        bias = self._parameters(LANES * wiring.score.n_panels)
        self._op(0.0, kind=table.BIAS, out=wiring.score.panel, n_out=wiring.score.n_panels,
                 param=bias)  # fmt: skip
        wiring.n_values += self._n_scores
        self._task(table.BIAS, 1)
        self._inputs()
        if network.linear and self._ranges["numeric"].width:
            self._output(Layer("output", source="numeric"), 0)
        for number, layer in enumerate(network.layers):
            self._where = f"layer {number} ({layer.op})"
            self._layer(layer, number)
        mark_ways_back(wiring, self._trained, self._wheres)
        wiring.n_dense = wiring.n_parameters
        self._tables()
        return wiring

    def _panels(self, width: int) -> Range:
        made = Range(self._wiring.n_panels, width)
        self._wiring.n_panels += made.n_panels
        return made

    def _parameters(self, n: int) -> int:
        first = self._wiring.n_parameters
        # Every range begins on a cache line.
        self._wiring.n_parameters += -(-n // LANES) * LANES
        return first

    def _op(self, real: float, **values: int) -> int:
        self._wiring.ops.append(as_row(**values))
        self._wiring.reals.append(real)
        self._wheres.append(self._where)
        if values["kind"] not in {table.ADD, table.TOTAL, table.DROP} and "in" in values:
            self._needed |= set(range(values["in"], values["in"] + values["n_in"]))
        return len(self._wiring.ops) - 1

    def _task(self, kind: int, cost: int, *, q: tuple[int, int] = (0, 0),
              p: tuple[int, int] = (0, 0), op: int | None = None) -> None:  # fmt: skip
        number = len(self._wiring.ops) - 1 if op is None else op
        self._wiring.tasks.append((cost, [kind, number, *q, *p]))

    def _make(self, name: str, made: Range, where: str) -> None:
        if not name or name in self._ranges:
            raise ConfigError(
                f"a layer needs a name that is not taken, found {name!r}", where=where
            )
        self._ranges[name] = made
        self._trained |= set(range(made.panel, made.end))

    def _find(self, name: str, where: str) -> Range:
        found = self._ranges.get(name)
        if found is None or found.width == 0:
            known = ", ".join(n for n, r in self._ranges.items() if r.width)
            raise ConfigError(f"there is no {name!r} to read, only {known}", where=where)
        return found

    def _inputs(self) -> None:
        network = self._network
        wiring = self._wiring
        n_numbers = sum(c.width for c in network.columns)
        n_indicators = sum(c.indicator for c in network.columns)
        n_lanes = n_numbers + n_indicators
        periods = None
        if network.frequencies % 8:
            raise ConfigError(f"{network.frequencies} frequencies are no multiple of 8")
        if network.frequencies and n_numbers:
            periods = self._panels(2 * network.frequencies * n_numbers)
            self._trained |= set(range(periods.panel, periods.end))
        numeric = self._panels(n_lanes)
        self._encodings(numeric)
        if periods is not None:
            self._periodic(numeric, periods, n_numbers)
        k = network.vector_dim
        if k and set(network.embedding_dims) - {k}:
            raise ConfigError(f"embeddings beside vectors of {k} numbers need as many")
        vectors = self._panels(k * n_lanes) if k else Range(wiring.n_panels, 0)
        if vectors.width:
            self._trained |= set(range(vectors.panel, vectors.end))
            param = self._parameters(k * n_lanes)
            self._op(0.0, kind=table.SCALE, **{"in": numeric.panel}, n_in=numeric.n_panels,
                     width_in=n_lanes, out=vectors.panel, n_out=vectors.n_panels, param=param,
                     flag=k)  # fmt: skip
            self._task(table.SCALE, k * n_lanes)
            wiring.starts.append(Start(param, k * n_lanes, "uniform", network.embedding_scale))
            wiring.n_values += k * n_lanes
        embeddings = self._panels(sum(network.embedding_dims))
        self._trained |= set(range(embeddings.panel, embeddings.end))
        lookup = self._op(0.0, kind=table.LOOKUP)
        lane = at = row = 0
        n_linear = self._n_scores if network.linear else 0
        wiring.n_fields = self._n_fields
        for f, (dim, cardinality) in enumerate(
            zip(network.embedding_dims, self._cardinalities, strict=True)
        ):
            width = dim + n_linear
            mean = int(f >= self._n_fields and network.pooling == "mean" and not network.bag_pairs)
            own = int(f >= self._n_fields and network.bag_pairs and self._n_scores == 1)
            wiring.fields.append(
                [0, row, cardinality, width, lane, at, n_linear, embeddings.panel, own, mean]
            )
            lane, at, row = lane + dim, at + width + own, row + cardinality
            if f < self._n_fields:
                self._task(table.TABLE_TASK, 40 + 4 * width, op=f, p=(f, 0))
        for q, (bag, _) in enumerate(wiring.bag_tables().parts.tolist()):
            f = self._n_fields + bag
            cost = 40 + 4 * wiring.fields[f][table.F_WIDTH]
            self._task(table.PART_TASK, cost, op=f, q=(q, 0), p=(self._n_fields + q, 0))
        if not wiring.fields:
            del wiring.ops[lookup], wiring.reals[lookup], self._wheres[lookup]
        wiring.n_row_delta, wiring.n_table_rows = at, row
        end = embeddings.panel * LANES + embeddings.width
        if not embeddings.width:
            end = vectors.panel * LANES + vectors.width if vectors.width else self._end(numeric)
        self._ranges |= {
            "numeric": numeric,
            "embeddings": embeddings,
            "inputs": Range(numeric.panel, end - numeric.panel * LANES),
        }
        if k:
            first = vectors if vectors.width else embeddings
            self._ranges["vectors"] = Range(first.panel, max(end - first.panel * LANES, 0))

    def _end(self, numeric: Range) -> int:
        if self._network.frequencies and numeric.width:
            return self._wiring.n_panels * LANES
        return numeric.panel * LANES + numeric.width

    def _encodings(self, numeric: Range) -> None:
        wiring, columns = self._wiring, self._network.columns
        if not columns:
            return
        lane = 0
        indicator = sum(c.width for c in columns)
        for column in columns:
            missing = -1
            if column.indicator:
                missing, indicator = indicator, indicator + 1
            n = len(column.knots) - (1 if column.kind == "pieces" else 0)
            kind = _ENCODINGS[column.kind]
            wiring.columns.append([kind, lane, n, len(wiring.knots), missing])
            wiring.knots += _knots(column)
            lane += column.width
        wiring.plain = all(c.kind == "standard" for c in columns)
        self._op(0.0, kind=table.ENCODE, out=numeric.panel, n_out=numeric.n_panels)

    def _periodic(self, numeric: Range, periods: Range, n_numbers: int) -> None:
        network, wiring = self._network, self._wiring
        k = network.frequencies
        param = self._parameters(k * n_numbers)
        self._op(0.0, kind=table.PERIODIC, **{"in": numeric.panel}, n_in=numeric.n_panels,
                 width_in=n_numbers, out=periods.panel, n_out=periods.n_panels, param=param,
                 flag=k)  # fmt: skip
        self._task(table.PERIODIC, 4 * k * n_numbers)
        wiring.starts.append(Start(param, k * n_numbers, "normal", network.frequency_scale))
        wiring.n_values += k * n_numbers
        per_number = panels_of(2 * k)
        for i in range(n_numbers):
            source = Range(periods.panel + i * per_number, 2 * k)
            out = self._panels(network.frequency_width)
            self._trained |= set(range(out.panel, out.end))
            self._affine(source, out, relu=True, bound=1.0 / math.sqrt(2 * k))

    def _layer(self, layer: Layer, number: int) -> None:
        where = self._where
        source = self._find(layer.source, where)
        read = {"in": source.panel, "n_in": source.n_panels, "width_in": source.width}
        if layer.op == "affine":
            if not 1 <= layer.width <= 16384:
                raise ConfigError(f"a width of {layer.width} is not from 1 to 16384", where=where)
            # Relu's way back reads what it made, so nothing may be added to that.
            added_to = any(
                la.op == "residual" and la.to == layer.name for la in self._network.layers
            )
            relu = layer.activation == "relu" and not added_to
            apart = layer.activation != "" and not relu
            made = self._panels(layer.width)
            self._make(f"{layer.name}.sum" if apart else layer.name, made, where)
            self._affine(source, made, relu=relu, bound=1.0 / math.sqrt(source.width))
            if apart:
                self._activation(made, layer, where)
        elif layer.op == "activation":
            self._activation(source, layer, where)
        elif layer.op == "norm":
            made = self._panels(source.width)
            self._make(layer.name, made, where)
            param = self._parameters(2 * LANES * source.n_panels)
            self._op(0.0, kind=table.NORM, **read, out=made.panel, n_out=made.n_panels, param=param)
            self._wiring.starts.append(Start(param, source.width, "one", 1.0))
            self._wiring.n_values += 2 * source.width
            self._task(table.NORM, 8 * source.width)
        elif layer.op == "dropout":
            if not 0 < layer.rate < 1:
                raise ConfigError(f"a rate of {layer.rate} is not in (0, 1)", where=where)
            self._change(layer.source, source, where)
            self._op(layer.rate, kind=table.DROP, **read)
        elif layer.op == "residual":
            to = self._find(layer.to, where)
            if to.width != source.width:
                raise ConfigError(f"cannot add {source.width} numbers to {to.width}", where=where)
            self._change(layer.to, to, where)
            self._trained |= set(range(to.panel, to.end))
            self._op(0.0, kind=table.ADD, **read, out=to.panel, n_out=to.n_panels)
        elif layer.op == "cross":
            self._cross(layer, source, where)
        elif layer.op == "pairs":
            self._pairs(layer, source, where)
        elif layer.op == "sum":
            if self._n_scores != 1:
                self._output(layer, number)
            else:
                self._op(0.0, kind=table.TOTAL, **read)
        else:
            self._output(layer, number)

    def _change(self, name: str, changed: Range, where: str) -> None:
        """Refuse to change in place what the way back of an earlier operation needs."""
        if self._needed & set(range(changed.panel, changed.end)):
            raise ConfigError(
                f"cannot change {name!r}, which was read before",
                where=where,
                remedy="change it before it is read, or add it to what is made later",
            )

    def _activation(self, source: Range, layer: Layer, where: str) -> None:
        if layer.activation not in table.ACTIVATIONS:
            raise ConfigError(f"no activation {layer.activation!r}", where=where)
        made = self._panels(source.width)
        self._make(layer.name, made, where)
        self._op(0.0, kind=table.ACTIVATE, **{"in": source.panel}, n_in=source.n_panels,
                 width_in=source.width, out=made.panel, n_out=made.n_panels,
                 flag=table.ACTIVATIONS.index(layer.activation))  # fmt: skip

    def _affine(self, source: Range, out: Range, *, relu: bool, bound: float,
                adds: bool = False) -> None:  # fmt: skip
        wiring = self._wiring
        n_weights = out.n_panels * source.width * LANES
        param = self._parameters(n_weights + (0 if adds else out.n_panels * LANES))
        self._op(0.0, kind=table.AFFINE, **{"in": source.panel}, n_in=source.n_panels,
                 width_in=source.width, out=out.panel, n_out=out.n_panels, width_out=out.width,
                 param=param, flag=int(relu), more=int(adds), wt=wiring.n_wt)  # fmt: skip
        wiring.n_wt += source.n_panels * out.width * LANES
        per_panel = source.width * LANES
        for q in range(out.n_panels):
            lanes = (LANES, 0, min(LANES, out.width - q * LANES))
            first = param + q * per_panel
            wiring.starts.append(Start(first, per_panel, "uniform", bound, *lanes))
            if not adds:
                first = param + n_weights + q * LANES
                wiring.starts.append(Start(first, LANES, "uniform", bound, *lanes))
        wiring.n_values += out.width * (source.width + (0 if adds else 1))
        wiring.flops += (
            2
            * out.width
            * source.width
            * (3 if self._trained & set(range(source.panel, source.end)) else 2)
        )
        # Wide layers: panels of derivatives that share a pass over the activations.
        n_q = max(1, min(4, out.n_panels // 4))
        for q0 in range(0, out.n_panels, n_q):
            for p0 in range(0, source.n_panels, 8):
                q1, p1 = min(q0 + n_q, out.n_panels), min(p0 + 8, source.n_panels)
                cost = 16 * (q1 - q0) * (p1 - p0)
                self._task(table.AFFINE, cost, q=(q0, q1), p=(p0, p1))

    def _cross(self, layer: Layer, source: Range, where: str) -> None:
        first = self._find(layer.first, where)
        if first.width != source.width:
            raise ConfigError(
                f"cannot cross {first.width} numbers with {source.width}", where=where
            )
        u, made = self._panels(source.width), self._panels(source.width)
        self._trained |= set(range(u.panel, u.end))
        self._needed |= set(range(first.panel, first.end))
        self._affine(source, u, relu=False, bound=1.0 / math.sqrt(source.width))
        self._make(layer.name, made, where)
        self._op(0.0, kind=table.CROSS, **{"in": source.panel}, n_in=source.n_panels,
                 width_in=source.width, out=made.panel, n_out=made.n_panels, more=first.panel,
                 extra=u.panel)  # fmt: skip

    def _pairs(self, layer: Layer, source: Range, where: str) -> None:
        k = self._network.vector_dim
        if not k or (LANES % k and k % LANES):
            raise ConfigError(
                f"pairs need vectors of 1, 2, 4, 8 or a multiple of 16 numbers, these have {k}",
                where=where,
                remedy="choose --embedding-dim 8 or 16",
            )
        if source.width % k:
            raise ConfigError(f"{source.width} numbers are no vectors of {k}", where=where)
        half = panels_of(k)
        made = self._panels(2 * half * LANES)
        self._make(layer.name, Range(made.panel, k), where)
        self._op(0.0, kind=table.PAIRS, **{"in": source.panel}, n_in=source.n_panels,
                 width_in=source.width, out=made.panel, n_out=2 * half, flag=k)  # fmt: skip

    def _output(self, layer: Layer, number: int) -> None:
        source = self._find(layer.source, f"layer {number} ({layer.op})")
        bound = 0.0 if layer.source == "numeric" else 1.0 / math.sqrt(source.width)
        if self._n_scores > 1:
            self._affine(source, self._wiring.score, relu=False, bound=bound, adds=True)
            return
        param = self._parameters(LANES * source.n_panels)
        self._op(0.0, kind=table.HEAD, **{"in": source.panel}, n_in=source.n_panels,
                 width_in=source.width, param=param)  # fmt: skip
        self._wiring.starts.append(Start(param, source.width, "uniform", bound))
        self._wiring.n_values += source.width
        self._wiring.flops += 6 * source.width
        self._task(table.HEAD, 2 * source.n_panels)

    def _tables(self) -> None:
        wiring = self._wiring
        for f, dim in zip(wiring.fields, self._network.embedding_dims, strict=True):
            n_linear, width = f[table.F_LINEAR], f[table.F_WIDTH]
            f[table.F_FIRST] = wiring.n_parameters
            n = f[table.F_CARDINALITY] * width
            if dim:
                scale = self._network.embedding_scale
                wiring.starts.append(
                    Start(f[table.F_FIRST], n, "uniform", scale, width, n_linear, width)
                )
            wiring.n_parameters += n
            wiring.n_values += n


def _knots(column: ColumnEncoding) -> list[float]:
    if column.kind == "pieces":
        low, high = np.array(column.knots[:-1]), np.array(column.knots[1:])
        return [*low.tolist(), *(1.0 / (high - low)).tolist()]
    return [*column.knots, *column.heights]
