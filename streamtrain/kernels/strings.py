"""A table of distinct byte strings: 64-bit hash to find, exact comparison to decide.

Strings lie in one buffer with at least 8 readable bytes after the last. An
entry is four 64-bit words in half a cache line: the string's first 8 bytes, its
place in the arena (offset << 24 | length), its count, its id. A string of up to
8 bytes is compared in one load.

m = entries, S = slots (a power of two), n = cells.
"""

from __future__ import annotations

import numpy as np

from streamtrain.kernels._jit import inline, kernel
from streamtrain.kernels.row_key import mix

PADDING_BYTES = 8
MAX_STRING_BYTES = (1 << 24) - 1
_C = np.uint64(0x9FB21C651E98DF25)
_ONE = np.uint64(1)
_ZERO = np.uint64(0)
_24 = np.uint64(24)
_32 = np.uint64(32)
_LENGTH = np.uint64(MAX_STRING_BYTES)
_ID = np.uint64(0xFFFFFFFF)


@inline
def load_word(data, i):
    """Return the 8 bytes at `i` as a little-endian uint64 (one load after optimisation)."""
    # Unsigned indices: a signed one costs a test for wrapping around.
    j = np.uint64(i)
    return (
        np.uint64(data[j])
        | (np.uint64(data[j + np.uint64(1)]) << np.uint64(8))
        | (np.uint64(data[j + np.uint64(2)]) << np.uint64(16))
        | (np.uint64(data[j + np.uint64(3)]) << np.uint64(24))
        | (np.uint64(data[j + np.uint64(4)]) << np.uint64(32))
        | (np.uint64(data[j + np.uint64(5)]) << np.uint64(40))
        | (np.uint64(data[j + np.uint64(6)]) << np.uint64(48))
        | (np.uint64(data[j + np.uint64(7)]) << np.uint64(56))
    )


@inline
def first_word(data, start, length):
    """Return the first min(8, length) bytes as a uint64 padded with zeros."""
    if length == 0:
        return _ZERO
    word = load_word(data, start)
    if length < 8:
        word &= (_ONE << np.uint64(8 * length)) - _ONE
    return word


@inline
def hash_string(data, start, length, word):
    """Return the 64-bit hash of a string whose first word is known."""
    h = word ^ (np.uint64(length) * _C)
    i = 8
    while i < length:
        h = mix(h)
        h ^= first_word(data, start + i, length - i)
        i += 8
    return mix(h ^ _C)


@inline
def same_tail(data, start, other, at, length):
    """Return whether two strings that agree in 8 bytes agree in the rest."""
    for k in range(8, length):
        if data[start + k] != other[at + k]:
            return False
    return True


@inline
def may_be_missing(data, start, stop, first_bytes):
    """Return False for a cell whose first byte says that it is not missing."""
    return start == stop or first_bytes[data[np.uint64(start)]]


@inline
def is_missing(data, start, stop, first_bytes, offsets, texts):
    """Return whether a cell, spaces and tabs around it aside, is a missing-value text.

    Parameters
    ----------
    data : uint8, read
    start, stop : int
    first_bytes : (257,) bool, read
        First bytes of the texts, space and tab; the last element stands for the empty text.
        Look here first (`may_be_missing`): most cells need no more.
    offsets : (t + 1,) int64, read
    texts : uint8, read
    """
    while start < stop and (data[start] == 32 or data[start] == 9):
        start += 1
    while start < stop and (data[stop - 1] == 32 or data[stop - 1] == 9):
        stop -= 1
    if start == stop:
        return first_bytes[256]
    if not first_bytes[data[start]]:
        return False
    length = stop - start
    for t in range(offsets.shape[0] - 1):
        if offsets[t + 1] - offsets[t] == length:
            k = 0
            while k < length and data[start + k] == texts[offsets[t] + k]:
                k += 1
            if k == length:
                return True
    return False


@kernel
def find_missing(data, starts, stops, first_bytes, offsets, texts, out):
    """Write whether each cell is missing, see `is_missing`, to out (n,) bool."""
    for r in range(starts.shape[0]):
        out[r] = is_missing(data, starts[r], stops[r], first_bytes, offsets, texts)


@kernel
def hash_cells(data, starts, stops, out):
    """Write the 64-bit hash of every cell.

    Parameters
    ----------
    data : uint8, read
    starts, stops : (n,) int32 or int64, read
    out : (n,) uint64, overwritten
    """
    for r in range(starts.shape[0]):
        length = stops[r] - starts[r]
        word = first_word(data, starts[r], length)
        out[r] = hash_string(data, starts[r], length, word)


@kernel
def intern_cells(
    data, starts, stops, use, first_bytes, offsets, texts,
    slots, entries, arena, sizes, begin, out,
):  # fmt: skip
    """Give every cell the id of its string, adding new strings; stop when there is no room.

    Parameters
    ----------
    data : uint8, read
    starts, stops : (n,) int32 or int64, read
    use : (n,) uint8, read
        0 to leave a cell out, 1 to look it up and add it, 2 to count it as well.
    first_bytes, offsets, texts
        See `is_missing`.
    slots : (S,) uint64, updated
        0 for empty, else the hash's upper half and (entry + 1).
    entries : (capacity, 4) uint64, updated
    arena : uint8, updated
    sizes : (3,) int64, updated
        Entries, arena bytes, the next id.
    begin : int
    out : (n,) int32, overwritten from `begin`
        0 for a missing cell, else 1 + id.

    Returns
    -------
    int
        The first cell that was not done, n when all were.
    """
    mask = np.uint64(slots.shape[0] - 1)
    n_entries = sizes[0]
    used = sizes[1]
    room = min(entries.shape[0], slots.shape[0] // 2)
    n = starts.shape[0]
    done = n
    for r in range(begin, n):
        if use[r] == 0:
            out[r] = 0
            continue
        start = starts[r]
        stop = stops[r]
        if may_be_missing(data, start, stop, first_bytes) and is_missing(
            data, start, stop, first_bytes, offsets, texts
        ):
            out[r] = 0
            continue
        length = stop - start
        word = first_word(data, start, length)
        h = hash_string(data, start, length, word)
        tag = h >> _32
        at = h & mask
        found = -1
        while slots[at] != _ZERO:
            slot = slots[at]
            if slot >> _32 == tag:
                e = np.int64(slot & _ID) - 1
                place = entries[e, 1]
                if (
                    entries[e, 0] == word
                    and np.int64(place & _LENGTH) == length
                    and (
                        length <= 8 or same_tail(data, start, arena, np.int64(place >> _24), length)
                    )
                ):
                    found = e
                    break
            at = (at + _ONE) & mask
        if found < 0:
            if n_entries >= room or used + length + PADDING_BYTES > arena.shape[0]:
                done = r
                break
            found = n_entries
            slots[at] = (tag << _32) | np.uint64(found + 1)
            entries[found, 0] = word
            entries[found, 1] = (np.uint64(used) << _24) | np.uint64(length)
            for k in range(length):
                arena[used + k] = data[start + k]
            used += length
            entries[found, 2] = _ZERO
            entries[found, 3] = np.uint64(sizes[2])
            sizes[2] += 1
            n_entries += 1
        if use[r] == 2:
            entries[found, 2] += _ONE
        out[r] = np.int32(entries[found, 3] + _ONE)
    sizes[0] = n_entries
    sizes[1] = used
    return done


@kernel
def fill_slots(slots, entries, arena, n_entries):
    """Enter every entry into zeroed slots; `arena` is padded.

    Parameters
    ----------
    slots : (S,) uint64, updated
    entries : (capacity, 4) uint64, read
    arena : uint8, read
    n_entries : int
    """
    mask = np.uint64(slots.shape[0] - 1)
    for e in range(n_entries):
        place = entries[e, 1]
        length = np.int64(place & _LENGTH)
        h = hash_string(arena, np.int64(place >> _24), length, entries[e, 0])
        at = h & mask
        while slots[at] != _ZERO:
            at = (at + _ONE) & mask
        slots[at] = ((h >> _32) << _32) | np.uint64(e + 1)


@kernel
def find_cells(data, starts, stops, first_bytes, offsets, texts, slots, entries, arena, out):
    """Write the code of every cell: 0 missing, 1 unknown, 2 + entry.

    Parameters
    ----------
    data, starts, stops, first_bytes, offsets, texts, slots, entries, arena
        As in `intern_cells`, all read.
    out : (n,) int32, overwritten
    """
    mask = np.uint64(slots.shape[0] - 1)
    for r in range(starts.shape[0]):
        start = starts[r]
        stop = stops[r]
        if may_be_missing(data, start, stop, first_bytes) and is_missing(
            data, start, stop, first_bytes, offsets, texts
        ):
            out[r] = 0
            continue
        length = stop - start
        word = first_word(data, start, length)
        h = hash_string(data, start, length, word)
        tag = h >> _32
        at = h & mask
        code = 1
        while slots[at] != _ZERO:
            slot = slots[at]
            if slot >> _32 == tag:
                e = np.int64(slot & _ID) - 1
                place = entries[e, 1]
                if (
                    entries[e, 0] == word
                    and np.int64(place & _LENGTH) == length
                    and (
                        length <= 8 or same_tail(data, start, arena, np.int64(place >> _24), length)
                    )
                ):
                    code = e + 2
                    break
            at = (at + _ONE) & mask
        out[r] = code


@inline
def _comes_before(a, b, entries, arena):
    """Return whether entry `a` precedes `b`: count descending, then bytes ascending."""
    if entries[a, 2] != entries[b, 2]:
        return entries[a, 2] > entries[b, 2]
    n_a = np.int64(entries[a, 1] & _LENGTH)
    n_b = np.int64(entries[b, 1] & _LENGTH)
    at_a = np.int64(entries[a, 1] >> _24)
    at_b = np.int64(entries[b, 1] >> _24)
    for k in range(min(n_a, n_b)):
        if arena[at_a + k] != arena[at_b + k]:
            return arena[at_a + k] < arena[at_b + k]
    return n_a <= n_b


@kernel
def sort_entries(order, scratch, entries, arena):
    """Sort entry numbers by count descending, ties by bytes ascending (merge sort).

    Parameters
    ----------
    order : (m,) int64, updated
    scratch : (m,) int64, overwritten
    entries : (capacity, 4) uint64, read
    arena : uint8, read
    """
    n = order.shape[0]
    width = 1
    while width < n:
        for low in range(0, n, 2 * width):
            middle = min(low + width, n)
            high = min(low + 2 * width, n)
            i = low
            j = middle
            for k in range(low, high):
                if i < middle and (j >= high or _comes_before(order[i], order[j], entries, arena)):
                    scratch[k] = order[i]
                    i += 1
                else:
                    scratch[k] = order[j]
                    j += 1
        for k in range(n):
            order[k] = scratch[k]
        width *= 2


@kernel
def copy_strings(entries, arena, order, offsets, out):
    """Copy entries in the given order to one contiguous run.

    Parameters
    ----------
    entries : (capacity, 4) uint64, read
    arena : uint8, read
    order : (m,) int64, read
    offsets : (m + 1,) int64, overwritten
    out : uint8, overwritten
    """
    at = 0
    offsets[0] = 0
    for j in range(order.shape[0]):
        place = entries[order[j], 1]
        start = np.int64(place >> _24)
        length = np.int64(place & _LENGTH)
        for k in range(length):
            out[at + k] = arena[start + k]
        at += length
        offsets[j + 1] = at


@kernel
def copy_cells(data, starts, stops, offsets, out):
    """Copy cells to one contiguous run, as Arrow's strings lie.

    Parameters
    ----------
    data : uint8, read
    starts, stops : (n,) int32 or int64, read
    offsets : (n + 1,) int32, overwritten
    out : uint8, overwritten
    """
    at = 0
    offsets[0] = 0
    for r in range(starts.shape[0]):
        for k in range(starts[r], stops[r]):
            out[at] = data[k]
            at += 1
        offsets[r + 1] = at
