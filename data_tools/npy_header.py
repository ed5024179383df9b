"""The header of a .npy, wherever it lies, and values read by their places."""

from __future__ import annotations

import ast
import io
import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from streamtrain.errors import SourceError

NPY_MAGIC = b"\x93NUMPY"
_MAX_HEADER_BYTES = 1 << 16


@dataclass(frozen=True)
class NpyHeader:
    """What a .npy file says of itself: `offset` is where its values begin."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    offset: int


def read_npy_header(stream: Any, name: str) -> NpyHeader:
    """Return what a .npy says of itself; a header is a Python literal, evaluated as nothing more.

    Parameters
    ----------
    stream : file
        At its first byte; it is left at the first value.
    name : str

    Raises
    ------
    SourceError
        If it is damaged.

    Source
    ------
    NumPy enhancement proposal 1, "A simple file format for NumPy arrays".
    """
    head = stream.read(8)
    major = head[6] if len(head) == 8 else 0
    width = {1: 2, 2: 4, 3: 4}.get(major)
    if not head.startswith(NPY_MAGIC) or width is None:
        raise SourceError("its .npy header is damaged", where=name)
    n_bytes = int.from_bytes(stream.read(width), "little")
    if n_bytes > _MAX_HEADER_BYTES:
        raise SourceError(f"its .npy header claims {n_bytes} bytes", where=name)
    try:
        text = stream.read(n_bytes).decode("utf-8" if major == 3 else "latin-1")
        fields = ast.literal_eval(text.strip())
        shape, order = fields["shape"], fields["fortran_order"]
        dtype = np.lib.format.descr_to_dtype(fields["descr"])
        sound = isinstance(shape, tuple) and all(isinstance(n, int) and n >= 0 for n in shape)
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError) as error:
        raise SourceError("its .npy header is damaged", where=name) from error
    if not sound:
        raise SourceError("its .npy header is damaged", where=name)
    offset = 8 + width + n_bytes
    return NpyHeader(shape, dtype, bool(order) and len(shape) > 1, offset)


def check_size(header: NpyHeader, n_bytes: int, name: str) -> None:
    """Refuse a file that has another size than its header says.

    Raises
    ------
    SourceError
        If it has; of pickled objects none is known.
    """
    expected = header.offset + math.prod(header.shape) * header.dtype.itemsize
    if not header.dtype.hasobject and n_bytes != expected:
        raise SourceError(
            f"{n_bytes:,} bytes, expected {expected:,} for shape {header.shape}",
            where=name,
            remedy="write or fetch it again",
        )


def read_at(file: io.FileIO, out: npt.NDArray[Any], offset: int, name: str) -> None:
    """Fill an array, in C order, with the values at an offset of a file.

    Raises
    ------
    SourceError
        If the file ends before them.
    """
    view = out.reshape(-1).view(np.uint8).data
    while view:
        n = os.preadv(file.fileno(), [view], offset)
        if n == 0:
            raise SourceError("ends before its last value", where=name)
        view, offset = view[n:], offset + n


def read_rows(
    file: io.FileIO, header: NpyHeader, first: int, n: int, name: str
) -> npt.NDArray[Any]:
    """Return rows first .. first + n - 1 as (n, D), in the order of axes that the file has.

    Raises
    ------
    SourceError
        If the file ends before them.
    """
    n_rows, width, item = header.shape[0], math.prod(header.shape[1:]), header.dtype.itemsize
    if not header.fortran:
        block = np.empty((n, width), header.dtype)
        read_at(file, block, header.offset + first * width * item, name)
        return block
    columns = np.empty((width, n), header.dtype)
    for c in range(width):
        read_at(file, columns[c], header.offset + (c * n_rows + first) * item, name)
    return columns.T
