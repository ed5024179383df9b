"""Products of 16 x 16 blocks: the inner loops of every dense layer.

Activations lie in panels of 16 lanes, ``panels[p, row, lane]``, and weights in
panels of 16 outputs, ``weights[q, k, lane]``, so that every vector is contiguous
and no operand is packed:

    forward     out[q, r, :]  = init + sum_k  in[k / 16, r, k % 16]  weights[q, k, :]
    gradient    grad[k, :]    = init + sum_r  in[p, r, k]            delta[q, r, :]

An element of the result is one chain of fused multiply-adds in the order of its
sum. How rows are cut into tiles, sums into pieces and vectors into registers
never shows: the same bits on every machine that has fused multiply-adds.

Measured on one core of an EPYC with AVX-512 (peak 117 Gflop/s): 102 to 116
Gflop/s from 64 x 64 x 64 to 256 x 512 x 512, forward and gradient alike
(docs/decisions/0005-blocks.md).
"""

from __future__ import annotations

from streamtrain.kernels._jit import JIT_DISABLED
from streamtrain.kernels.lanes import FARTHEST, LANES

__all__ = [
    "FARTHEST",
    "LANES",
    "bits_of_float",
    "copy_lanes",
    "dot_panels",
    "float_of_bits",
    "multiply_columns",
    "multiply_rows",
    "standardise_lanes",
    "transpose_block",
    "weighted_sum",
]

if JIT_DISABLED:
    from streamtrain.kernels.blocks_plain import (
        bits_of_float,
        copy_lanes,
        dot_panels,
        float_of_bits,
        multiply_columns,
        multiply_rows,
        standardise_lanes,
        transpose_block,
        weighted_sum,
    )
else:
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    from streamtrain.kernels.lane_code import (
        FLOAT,
        INT,
        VECTOR,
        constant,
        fused_multiply_add,
        load_lanes,
        pointer_to,
        row_passes,
        splat,
        store_lanes,
        sum_block,
        sum_over,
    )

    @intrinsic
    def multiply_rows(
        typingctx, a, a_at, a_panel, n_panels, n_last, b, b_at, init, init_at, init_step, c, c_at,
        relu,
    ):  # fmt: skip
        """Write c[r, :] = init[r, :] + sum_k a[k / 16, r, k % 16] b[k, :] for 16 rows.

        Parameters
        ----------
        a : flat float32, read
            Row r, lane l of panel p is ``a[a_at + p a_panel + 16 r + l]``.
        a_at, a_panel, n_panels : int
        n_last : int
            Lanes of the last panel, 1 to 16.
        b : flat float32, read
            ``b[b_at + 16 k + l]``.
        init : flat float32, read
            ``init[init_at + init_step r + l]``: a bias with step 0, c itself with 16.
        c : flat float32, 256 numbers from c_at overwritten
        relu : int
            Whether sums below zero become zero. NaN stays.
        """
        signature = types.void(
            a, *[types.intp] * 4, b, types.intp, init, types.intp, types.intp, c, types.intp,
            types.intp,
        )  # fmt: skip

        def codegen(context, builder, signature, args):
            kinds = signature.args
            panel, n, last = args[2:5]
            left = pointer_to(context, builder, kinds[0], args[0], args[1])
            right = pointer_to(context, builder, kinds[5], args[5], args[6])
            first = pointer_to(context, builder, kinds[7], args[7], args[8])
            out = pointer_to(context, builder, kinds[10], args[10], args[11])
            zero = ir.Constant(VECTOR, [0.0] * LANES)
            clip = splat(builder, builder.icmp_signed("!=", args[12], constant(0)), ir.IntType(1))
            done = 0
            for n_rows in row_passes():
                rows = range(done, done + n_rows)
                done += n_rows
                start = [
                    load_lanes(builder, builder.gep(first, [builder.mul(args[9], constant(r))]))
                    for r in rows
                ]

                def over_panels(state, rows=rows):
                    p, b, *sums = state
                    at = builder.gep(left, [builder.mul(p, panel)])
                    is_last = builder.icmp_signed("==", p, builder.sub(n, constant(1)))
                    lanes = builder.select(is_last, last, constant(LANES))
                    sums, b = sum_block(builder, rows, sums, at, b, lanes, LANES, 1)
                    p = builder.add(p, constant(1))
                    return [p, b, *sums], builder.icmp_signed("<", p, n)

                _, _, *sums = sum_over(builder, [constant(0), right, *start], over_panels)
                for r, total in zip(rows, sums, strict=True):
                    low = builder.and_(builder.fcmp_ordered("<", total, zero), clip)
                    value = builder.select(low, zero, total)
                    store_lanes(builder, value, builder.gep(out, [constant(LANES * r)]))
            return context.get_dummy_value()

        return signature, codegen

    @intrinsic
    def multiply_columns(typingctx, a, a_at, n, b, b_at, init, init_at, init_step, c, c_at):
        """Write c[j, :] = init[j, :] + sum_r a[r, j] b[r, :] for 16 columns j.

        Parameters
        ----------
        a, b : flat float32, read
            ``a[a_at + 16 r + j]``, ``b[b_at + 16 r + l]``, n rows of a panel each.
        n : int
            At least 1.
        init : flat float32, read
            ``init[init_at + init_step j + l]``.
        c : flat float32, 256 numbers from c_at overwritten
        """
        signature = types.void(
            a, types.intp, types.intp, b, types.intp, init, types.intp, types.intp, c, types.intp
        )

        def codegen(context, builder, signature, args):
            kinds = signature.args
            left = pointer_to(context, builder, kinds[0], args[0], args[1])
            right = pointer_to(context, builder, kinds[3], args[3], args[4])
            first = pointer_to(context, builder, kinds[5], args[5], args[6])
            out = pointer_to(context, builder, kinds[8], args[8], args[9])
            done = 0
            for n_rows in row_passes():
                rows = range(done, done + n_rows)
                done += n_rows
                start = [
                    load_lanes(builder, builder.gep(first, [builder.mul(args[7], constant(r))]))
                    for r in rows
                ]
                sums, _ = sum_block(builder, rows, start, left, right, args[2], 1, LANES)
                for r, total in zip(rows, sums, strict=True):
                    store_lanes(builder, total, builder.gep(out, [constant(LANES * r)]))
            return context.get_dummy_value()

        return signature, codegen

    @intrinsic
    def weighted_sum(typingctx, s, s_at, s_step, v, v_at, n, init, init_at, c, c_at):
        """Write c[:] = init[:] + sum_r s[r] v[r, :], 16 lanes.

        Parameters
        ----------
        s : flat float32, read
            ``s[s_at + s_step r]``.
        v : flat float32, read
            ``v[v_at + 16 r + l]``.
        n : int
            Rows, at least 1.
        init : flat float32, 16 numbers from init_at read
        c : flat float32, 16 numbers from c_at overwritten
        """
        signature = types.void(
            s, types.intp, types.intp, v, types.intp, types.intp, init, types.intp, c, types.intp
        )

        def codegen(context, builder, signature, args):
            kinds = signature.args
            left = pointer_to(context, builder, kinds[0], args[0], args[1])
            right = pointer_to(context, builder, kinds[3], args[3], args[4])
            first = pointer_to(context, builder, kinds[6], args[6], args[7])
            out = pointer_to(context, builder, kinds[8], args[8], args[9])
            fused = fused_multiply_add(builder)

            def step(state):
                k, at, row, total = state
                factor = splat(builder, builder.load(at))
                total = builder.call(fused, [factor, load_lanes(builder, row), total])
                k = builder.add(k, constant(1))
                at = builder.gep(at, [args[2]])
                row = builder.gep(row, [constant(LANES)])
                return [k, at, row, total], builder.icmp_signed("<", k, args[5])

            start = [constant(0), left, right, load_lanes(builder, first)]
            *_, total = sum_over(builder, start, step)
            store_lanes(builder, total, out)
            return context.get_dummy_value()

        return signature, codegen

    @intrinsic
    def dot_panels(typingctx, a, a_at, a_panel, n_panels, b, b_at):
        """Return sum_p sum_l a[a_at + p a_panel + l] b[b_at + 16 p + l], a float32.

        Lanes are summed over panels first, then halved: 8 + 8, 4 + 4, 2 + 2, 1 + 1.
        """
        signature = types.float32(a, types.intp, types.intp, types.intp, b, types.intp)

        def codegen(context, builder, signature, args):
            kinds = signature.args
            left = pointer_to(context, builder, kinds[0], args[0], args[1])
            right = pointer_to(context, builder, kinds[4], args[4], args[5])
            fused = fused_multiply_add(builder)

            def step(state):
                p, at, row, total = state
                total = builder.call(
                    fused, [load_lanes(builder, at), load_lanes(builder, row), total]
                )
                p = builder.add(p, constant(1))
                at = builder.gep(at, [args[2]])
                row = builder.gep(row, [constant(LANES)])
                return [p, at, row, total], builder.icmp_signed("<", p, args[3])

            zero = ir.Constant(VECTOR, [0.0] * LANES)
            *_, total = sum_over(builder, [constant(0), left, right, zero], step)
            half = LANES // 2
            while half:
                lanes = [
                    ir.Constant(ir.VectorType(INT, half), list(range(first, first + half)))
                    for first in (0, half)
                ]
                low, high = (builder.shuffle_vector(total, total, lane) for lane in lanes)
                total = builder.fadd(low, high)
                half //= 2
            return builder.extract_element(total, ir.Constant(INT, 0))

        return signature, codegen

    @intrinsic
    def standardise_lanes(typingctx, x, x_at, n, shift, scale, at, out, out_at):
        """Write (x - shift) scale for n of 16 lanes; NaN and the other lanes become 0.

        What is beyond FARTHEST becomes that.

        Parameters
        ----------
        x : flat float32, n numbers from x_at read
        n : int
            1 to 16.
        shift, scale : flat float32, n numbers from `at` read
        out : flat float32, 16 numbers from out_at overwritten
        """
        signature = types.void(x, types.intp, types.intp, shift, scale, types.intp, out, types.intp)

        def codegen(context, builder, signature, args):
            kinds = signature.args
            lanes = ir.VectorType(INT, LANES)
            n = splat(builder, builder.trunc(args[2], INT), INT)
            mask = builder.icmp_signed("<", ir.Constant(lanes, list(range(LANES))), n)
            masked = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(
                    VECTOR,
                    [VECTOR.as_pointer(), INT, ir.VectorType(ir.IntType(1), LANES), VECTOR],
                ),
                f"llvm.masked.load.v{LANES}f32.p0",
            )
            zero = ir.Constant(VECTOR, [0.0] * LANES)

            def load(which, at):
                pointer = pointer_to(context, builder, kinds[which], args[which], at)
                pointer = builder.bitcast(pointer, VECTOR.as_pointer())
                return builder.call(masked, [pointer, ir.Constant(INT, 4), mask, zero])

            value = builder.fsub(load(0, args[1]), load(3, args[5]))
            value = builder.fmul(value, load(4, args[5]))
            value = builder.select(builder.fcmp_ordered("ord", value, value), value, zero)
            for sign, outside in ((-1.0, "<"), (1.0, ">")):
                bound = ir.Constant(VECTOR, [sign * float(FARTHEST)] * LANES)
                value = builder.select(builder.fcmp_ordered(outside, value, bound), bound, value)
            store_lanes(builder, value, pointer_to(context, builder, kinds[6], args[6], args[7]))
            return context.get_dummy_value()

        return signature, codegen

    @intrinsic
    def copy_lanes(typingctx, a, a_at, c, c_at):
        """Copy 16 numbers from a[a_at] on to c[c_at] on."""
        signature = types.void(a, types.intp, c, types.intp)

        def codegen(context, builder, signature, args):
            kinds = signature.args
            value = load_lanes(builder, pointer_to(context, builder, kinds[0], args[0], args[1]))
            store_lanes(builder, value, pointer_to(context, builder, kinds[2], args[2], args[3]))
            return context.get_dummy_value()

        return signature, codegen

    @intrinsic
    def transpose_block(typingctx, a, a_at, c, c_at):
        """Write the transpose of a block of 16 x 16: c[l, k] = a[k, l].

        Parameters
        ----------
        a : flat float32, 256 numbers from a_at read
        c : flat float32, 256 numbers from c_at overwritten
        """
        signature = types.void(a, types.intp, c, types.intp)

        def codegen(context, builder, signature, args):
            kinds = signature.args
            first = pointer_to(context, builder, kinds[0], args[0], args[1])
            out = pointer_to(context, builder, kinds[2], args[2], args[3])
            rows = [
                load_lanes(builder, builder.gep(first, [constant(LANES * r)])) for r in range(LANES)
            ]
            # Swap the off-diagonal halves of ever smaller squares.
            lanes = ir.VectorType(INT, LANES)
            half = LANES // 2
            while half:
                low = [lane if not lane & half else LANES + lane - half for lane in range(LANES)]
                high = [lane + half if not lane & half else LANES + lane for lane in range(LANES)]
                for r in range(LANES):
                    if r & half:
                        continue
                    pair = rows[r], rows[r + half]
                    rows[r] = builder.shuffle_vector(*pair, ir.Constant(lanes, low))
                    rows[r + half] = builder.shuffle_vector(*pair, ir.Constant(lanes, high))
                half //= 2
            for r in range(LANES):
                store_lanes(builder, rows[r], builder.gep(out, [constant(LANES * r)]))
            return context.get_dummy_value()

        return signature, codegen

    @intrinsic
    def float_of_bits(typingctx, bits):
        """Return the float32 whose bits an int32 holds."""

        def codegen(context, builder, signature, args):
            return builder.bitcast(args[0], FLOAT)

        return types.float32(types.int32), codegen

    @intrinsic
    def bits_of_float(typingctx, value):
        """Return the bits of a float32 as an int32."""

        def codegen(context, builder, signature, args):
            return builder.bitcast(args[0], INT)

        return types.int32(types.float32), codegen
