"""What emits LLVM's instructions for vectors of 16 lanes: of this are the blocks made.

Not imported where kernels are not compiled.
"""

from __future__ import annotations

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import cgutils
from numba.np.arrayobj import make_array

from streamtrain.kernels._jit import numba_config
from streamtrain.kernels.lanes import LANES

FLOAT, INT, LONG = ir.FloatType(), ir.IntType(32), ir.IntType(64)
VECTOR = ir.VectorType(FLOAT, LANES)


def row_passes():
    """Return the rows whose sums the registers hold at once, pass after pass.

    16 of AVX-512's 32 vectors of 16; 12 of AVX2's 16 halves; else few. It
    changes speed alone.
    """
    features = llvm.get_host_cpu_features()
    if numba_config.CPU_NAME not in {None, "", "host", llvm.get_host_cpu_name()}:
        return (4, 4, 4, 4)
    if features.get("avx512f"):
        return (16,)
    return (6, 6, 4) if features.get("avx2") else (4, 4, 4, 4)


def constant(value):
    """Return a 64-bit integer."""
    return ir.Constant(LONG, value)


def pointer_to(context, builder, kind, array, at):
    """Return a pointer to element `at` of a flat float32 array."""
    return builder.gep(make_array(kind)(context, builder, array).data, [at])


def load_lanes(builder, pointer):
    """Return the 16 numbers from a pointer on."""
    return builder.load(builder.bitcast(pointer, VECTOR.as_pointer()), align=4)


def store_lanes(builder, value, pointer):
    """Write 16 numbers from a pointer on."""
    builder.store(value, builder.bitcast(pointer, VECTOR.as_pointer()), align=4)


def splat(builder, value, kind=None):
    """Return a vector of which every lane is `value`, of a kind that is FLOAT if it is None."""
    vector = ir.VectorType(kind or FLOAT, LANES)
    undefined = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(undefined, value, ir.Constant(INT, 0))
    lanes = ir.Constant(ir.VectorType(INT, LANES), [0] * LANES)
    return builder.shuffle_vector(one, undefined, lanes)


def fused_multiply_add(builder):
    """Return the function of three vectors that gives a b + c, rounded once."""
    kind = ir.FunctionType(VECTOR, [VECTOR] * 3)
    return cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32")


def sum_over(builder, start, body):
    """Emit ``for k in range(n): sums = body(k, sums)`` of nested loops; see `sum_block`."""
    before = builder.block
    head, tail = (builder.append_basic_block(name) for name in ("sum", "summed"))
    builder.branch(head)
    builder.position_at_end(head)
    phis = []
    for value in start:
        phi = builder.phi(value.type)
        phi.add_incoming(value, before)
        phis.append(phi)
    following, go_on = body(phis)
    end = builder.block
    for phi, value in zip(phis, following, strict=True):
        phi.add_incoming(value, end)
    builder.cbranch(go_on, head, tail)
    builder.position_at_end(tail)
    return following


def sum_block(builder, rows, start, a, b, n, row_step, sum_step):
    """Emit sums[r] += sum_k a[r row_step + k sum_step] b[k, :]; return (sums, b behind)."""
    fused = fused_multiply_add(builder)

    def step(state):
        k, left, right, *sums = state
        vector = load_lanes(builder, right)
        sums = [
            builder.call(
                fused,
                [
                    splat(builder, builder.load(builder.gep(left, [constant(r * row_step)]))),
                    vector,
                    total,
                ],
            )
            for r, total in zip(rows, sums, strict=True)
        ]
        k = builder.add(k, constant(1))
        left = builder.gep(left, [constant(sum_step)])
        right = builder.gep(right, [constant(LANES)])
        return [k, left, right, *sums], builder.icmp_signed("<", k, n)

    _, _, right, *sums = sum_over(builder, [constant(0), a, b, *start], step)
    return sums, right
