"""What a network is to the kernels: a table of operations over panels and one parameter array.

Letters: B rows of a batch, M rows worked on at once (a piece of the batch), D
numeric columns, F fields, C scores, P parameters, A panels of activations, 16
lanes a panel. Activations are ``act[A, M, 16]``, their derivatives ``delta`` of the
same shape, so that lane l of a row's value j of an operation at panel p is
``act[p + j / 16, row, j % 16]``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from streamtrain.kernels.bags import Bags, BagTables, BagWork

# Kinds of operation. Their order is of no consequence outside this process.
(
    BIAS,  # scores = parameters
    ENCODE,  # numeric columns to lanes
    PERIODIC,  # a lane to sines and cosines of trained frequencies
    SCALE,  # a lane to a trained vector times it
    LOOKUP,  # codes to rows of tables, and their first numbers to the scores
    AFFINE,  # out = in W + b, or out += in W; relu if asked
    HEAD,  # score 0 += <in, w>
    ACTIVATE,  # out = f(in)
    NORM,  # layer norm
    DROP,  # dropout, in place
    ADD,  # out += in
    CROSS,  # out = x0 u + x (DCNv2)
    PAIRS,  # out = sum of products of all pairs of vectors
    TOTAL,  # score 0 += sum of lanes
    ZERO,  # nothing; on the way back the derivative of what is read starts as 0
) = range(15)

# Columns of an operation's row in `ops`.
(
    O_KIND,
    O_IN,  # first panel read
    O_N_IN,  # panels read
    O_WIDTH_IN,  # numbers read
    O_OUT,  # first panel written
    O_N_OUT,
    O_WIDTH_OUT,
    O_PARAM,  # first parameter
    O_BACK,  # what to do with the derivative of what is read: B_NONE, B_WRITE, B_ADD
    O_BACK_FROM,  # first panel, counted from O_IN, whose derivative is wanted
    O_FLAG,  # AFFINE: 1 relu; ACTIVATE: which; SCALE, PAIRS: K; PERIODIC: frequencies
    O_MORE,  # AFFINE: 1 adds to what is there; CROSS: panel of x0
    O_WT,  # AFFINE: first number of the transposed weights
    O_EXTRA,  # CROSS: panel of u
) = range(14)
N_OP = 14
B_NONE, B_WRITE, B_ADD = range(3)

ACTIVATIONS = ("relu", "gelu", "silu", "tanh")
RELU, GELU, SILU, TANH = range(4)

# Columns of `fields`.
(
    F_FIRST, F_ROW, F_CARDINALITY, F_WIDTH, F_LANE, F_DELTA, F_LINEAR, F_PANEL, F_OWN, F_MEAN,
) = range(10)  # fmt: skip
N_FIELD = 10
# Columns of `columns`, and how a numeric column is encoded.
C_KIND, C_LANE, C_N, C_KNOT, C_MISSING = range(5)
N_COLUMN = 5
STANDARD, ROBUST, QUANTILE, PIECES = range(4)
# Columns of `tasks`.
T_KIND, T_OP, T_Q0, T_Q1, T_P0, T_P1 = range(6)
N_TASK = 6
TABLE_TASK, PART_TASK = 15, 16
"""Tasks of tables: T_P0 is the slot where a gradient waits for its norm, T_Q0 a bag's part."""

Floats = npt.NDArray[np.float32]


class Net(NamedTuple):
    """A network, read only.

    ops : (O, N_OP) int64; reals : (O,) float32, dropout's rate of an operation
    fields : (F + V, N_FIELD) int64
        The bags come last. First parameter, first table row, codes, numbers of a row, lane of the
        first that is no linear weight, first number in `row_delta`, linear
        weights of a row, panel that the lane counts from; 1 where the entries of a
        bag act in pairs, 0 otherwise; 1 where its embeddings are averaged.
    bag_tables : BagTables
    columns : (D, N_COLUMN) int64
    shift, scale : (D,) float32; knots : (k,) float32
    tasks : (K, N_TASK) int64
        Parameter tasks, the longest first.
    plain : int
        1 where column j is lane j, standardised.
    score, n_scores, n_dense : int
        Panel of the scores; C; parameters before those of tables.
    loss : int; shapes : (M, N_SHAPE) float32; learnt : (2, M) float32
        M targets of a row, M = C or 1. A target y of output m is learnt as
        (y - learnt[0, m]) learnt[1, m].
    shares : (M,) float64
        What the loss of each output counts in what is reported, where M > 1.
    class_weights : (C,) float32 or (0,); weight_scale : (1,) float32
    """

    ops: npt.NDArray[np.int64]
    reals: Floats
    fields: npt.NDArray[np.int64]
    bag_tables: BagTables
    columns: npt.NDArray[np.int64]
    shift: Floats
    scale: Floats
    knots: Floats
    tasks: npt.NDArray[np.int64]
    plain: int
    score: int
    n_scores: int
    n_dense: int
    loss: int
    shapes: Floats
    learnt: Floats
    shares: npt.NDArray[np.float64]
    class_weights: Floats
    weight_scale: Floats


class Batch(NamedTuple):
    """Rows, read: numeric (N, D), codes (N, F), target (N M,), weight and exposure (N,) or (0,).

    bags : of N rows; ends : (N + 1,) int64, `Bags.ends`
    """

    numeric: Floats
    codes: npt.NDArray[np.int32]
    bags: Bags
    ends: npt.NDArray[np.int64]
    target: Floats
    weight: Floats
    exposure: Floats


class Moving(NamedTuple):
    """What training changes.

    w : (P,) float32; first, second : as kernels/updates.py says
    stamps : (R, 2) float64 or (0, 2); shrinkage : (2,) float64
    hyper : (N_HYPER,) float64
    """

    w: Floats
    first: Floats
    second: Floats
    stamps: npt.NDArray[np.float64]
    shrinkage: npt.NDArray[np.float64]
    hyper: npt.NDArray[np.float64]


class Work(NamedTuple):
    """Scratch. T threads, S slots of table tasks.

    act, delta : (A, M + 16, 16) float32, zeros at first
        Rows M and on are never used: see `make_work`.
    flat_act, flat_delta : the same memory, flat
    wt : transposed weights, (n_in panels, n_out, 16) an AFFINE that has a derivative to pass on
    gradient : (dense parameters,) float32
    row_delta : (B, widths of all fields) float32
    sums : (M / 16, 2) float64, loss and weight of 16 rows
    squares : (K,) float64, squared norm of each task's gradient
    slots, unique, places, which : (S, *) int32
    table_gradient : (S, n) float32; gathered : (S, 3, m) float32; n_unique : (S,) int64
    own : (S, U) float32
        Of each code of a bag whose entries act in pairs: how much of the gradient is its own.
    bags : BagWork
    block : (T, max(256, 2 C)) float32; zeros, ones : (16,) float32
    key : (1,) uint64, of dropout
    clock : (3,) int64, added to
        Cycles of thread 0 in rows, in parameters, and waiting for others.
    """

    act: Floats
    delta: Floats
    flat_act: Floats
    flat_delta: Floats
    wt: Floats
    gradient: Floats
    row_delta: Floats
    sums: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]
    slots: npt.NDArray[np.int32]
    unique: npt.NDArray[np.int32]
    places: npt.NDArray[np.int32]
    which: npt.NDArray[np.int32]
    table_gradient: Floats
    gathered: Floats
    n_unique: npt.NDArray[np.int64]
    own: Floats
    bags: BagWork
    block: Floats
    zeros: Floats
    ones: Floats
    key: npt.NDArray[np.uint64]
    clock: npt.NDArray[np.int64]


def as_row(**values: Any) -> list[int]:
    """Return a row of `ops` from its columns by name, the rest 0."""
    names = globals()
    row = [0] * N_OP
    for name, value in values.items():
        row[names[f"O_{name.upper()}"]] = int(value)
    return row
