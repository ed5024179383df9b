"""Codes of crossed fields: one more code a row for every combination of some fields."""

from __future__ import annotations

import numpy as np

from streamtrain.kernels._jit import kernel
from streamtrain.kernels.row_key import mix

_ONE = np.uint64(1)


@kernel
def cross_codes(codes, members, strides, sizes, out):
    """Copy the codes of rows, and append those of their crosses.

    Parameters
    ----------
    codes : (n, F) int32, read
    members : (X, m) int64, read
        Fields of each cross, -1 behind the last.
    strides : (X, m) int64, read
        Where a cross numbers every combination: the code is the sum of codes
        times strides. Where it hashes, the first stride is 0.
    sizes : (X,) int64, read
        Codes of each cross; hashes are taken modulo it.
    out : (n, F + X) int32, overwritten
    """
    n_fields = codes.shape[1]
    for i in range(codes.shape[0]):
        for f in range(n_fields):
            out[i, f] = codes[i, f]
        for x in range(members.shape[0]):
            if strides[x, 0] > 0:
                code = 0
                for k in range(members.shape[1]):
                    if members[x, k] >= 0:
                        code += np.int64(codes[i, members[x, k]]) * strides[x, k]
                out[i, n_fields + x] = code
            else:
                key = np.uint64(0)
                for k in range(members.shape[1]):
                    if members[x, k] >= 0:
                        key = mix(key ^ (np.uint64(codes[i, members[x, k]]) + _ONE))
                out[i, n_fields + x] = np.int32(key % np.uint64(sizes[x]))
