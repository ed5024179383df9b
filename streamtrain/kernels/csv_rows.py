"""Records and fields of CSV text, found in place.

Quoting is Arrow's: a quote opens a field only as its first byte; inside, two
quotes are one; after the closing quote the rest of the field is literal. Lines
end with LF, CRLF or a lone CR. One thing is not Arrow's: a quoted field that holds
a line end and then text behind its closing quote is a quote never closed that met
another one lines later; its record is UNCLOSED. A field that needs rewriting (doubled quotes,
text after the closing quote) is written to the arena behind the text, so that
every field is one range of one buffer.

R = records that fit, C = columns kept, n = bytes.
"""

from __future__ import annotations

import numpy as np

from streamtrain.kernels._jit import kernel

GOOD, RAGGED, UNCLOSED, NUL, NOT_UTF8 = 0, 1, 2, 3, 4
QUOTE_LIMIT = 1 << 20
"""A quoted field that is open for more bytes than this counts as never closed."""

_QUOTE, _LF, _CR = 34, 10, 13


@kernel
def byte_kinds(data, begin, end):
    """Return whether the bytes hold a (NUL, non-ASCII byte), as two flags.

    Parameters
    ----------
    data : (n,) uint8, read
    begin, end : int
        The range to look at.
    """
    high = np.uint8(0)
    nul = np.uint8(0)
    view = data[begin:end]  # its indices are plainly not negative: the loop becomes SIMD
    for i in range(view.shape[0]):
        high |= view[i]
        nul |= np.uint8(view[i] == 0)
    return nul != 0, high >= 128


@kernel
def is_utf8(data, begin, end):
    """Return whether a range of bytes is valid UTF-8 (no surrogates, no overlong forms)."""
    i = begin
    while i < end:
        b = data[i]
        if b < 0x80:
            i += 1
            continue
        low, high = 0x80, 0xBF
        if 0xC2 <= b <= 0xDF:
            more = 1
        elif 0xE0 <= b <= 0xEF:
            more = 2
            if b == 0xE0:
                low = 0xA0
            elif b == 0xED:
                high = 0x9F
        elif 0xF0 <= b <= 0xF4:
            more = 3
            if b == 0xF0:
                low = 0x90
            elif b == 0xF4:
                high = 0x8F
        else:
            return False
        if i + more >= end:
            return False
        if data[i + 1] < low or data[i + 1] > high:
            return False
        for k in range(2, more + 1):
            if data[i + k] < 0x80 or data[i + k] > 0xBF:
                return False
        i += more + 1
    return True


@kernel
def next_line(data, begin, end):
    """Return where the next physical line begins, or `end`."""
    i = begin
    while i < end:
        b = data[i]
        if b == _LF:
            return i + 1
        if b == _CR:
            if i + 1 < end and data[i + 1] == _LF:
                return i + 2
            return i + 1
        i += 1
    return end


@kernel
def last_line_end(data, begin, end):
    """Return the end of the last line of text without a quote; `begin` if there is none.

    Parameters
    ----------
    data : (n,) uint8, read
    begin, end : int
    """
    quoted = np.uint8(0)
    view = data[begin:end]  # its indices are plainly not negative: the loop becomes SIMD
    for i in range(view.shape[0]):
        quoted |= np.uint8(view[i] == _QUOTE)
    if quoted:
        return begin
    i = view.shape[0]
    while i > 0 and view[i - 1] != _LF:
        i -= 1
    return begin + i


@kernel
def last_record_end(data, begin, end, delimiter):
    """Return the end of the last record that is surely complete, `begin` if there is none.

    `begin` starts a record and more bytes may follow `end`.

    Parameters
    ----------
    data : (n,) uint8, read
    begin, end : int
    delimiter : int
    """
    complete = begin
    i = begin
    while i < end:
        start = i
        # One record from here; `at_field` marks the first byte of a field.
        at_field = True
        ended = False
        while i < end:
            b = data[i]
            if at_field and b == _QUOTE:
                opened = i
                i += 1
                closed = False
                spans = False
                while i < end:
                    if data[i] == _QUOTE:
                        if i + 1 >= end:
                            return complete  # the next byte decides
                        after = data[i + 1]
                        if after != _QUOTE:
                            closed = i - opened <= QUOTE_LIMIT and not (
                                spans and after != delimiter and after != _LF and after != _CR
                            )
                            break
                        i += 1
                    elif data[i] == _LF or data[i] == _CR:
                        spans = True
                    i += 1
                if not closed:
                    if i < end or end - opened > QUOTE_LIMIT:
                        i = next_line(data, start, end)
                        ended = i < end or data[end - 1] == _LF
                        break
                    return complete
                i += 1
                at_field = False
            elif b == delimiter:
                at_field = True
                i += 1
            elif b == _LF:
                i += 1
                ended = True
                break
            elif b == _CR:
                if i + 1 >= end:
                    return complete  # a LF may follow
                i += 2 if data[i + 1] == _LF else 1
                ended = True
                break
            else:
                at_field = False
                i += 1
        if not ended:
            return complete
        complete = i
    return complete


@kernel
def split_records(
    data, begin, end, arena, arena_end, delimiter, slots, check_nul, check_utf8,
    starts, stops, record_starts, record_stops, record_lines, status, detail,
):  # fmt: skip
    """Split text into records and fields until it ends or the outputs are full.

    Parameters
    ----------
    data : (n,) uint8, read; the arena's range is written
    begin, end : int
        Text that starts with a record and ends with one.
    arena, arena_end : int
        Range of `data` for rewritten fields, at least as long as the text.
    delimiter : int
    slots : (fields of a record,) int32, read
        Column of each field, -1 for one that is not kept.
    check_nul, check_utf8 : bool
    starts, stops : (C, R) int32, overwritten
    record_starts, record_stops : (R,) int32, overwritten
        Range of the record without its line end.
    record_lines : (R,) int32, overwritten
        Physical lines from `begin` to the record's first.
    status : (R,) uint8, overwritten
        One of the module's constants.
    detail : (R,) int32, overwritten
        Fields that a ragged record has.

    Returns
    -------
    tuple of int
        Records, where to go on, the arena's new position, physical lines passed, blank lines.
    """
    n_fields = slots.shape[0]
    capacity = status.shape[0]
    n = 0
    line = 0
    blank = 0
    i = begin
    while i < end and n < capacity:
        if data[i] == _LF:
            i += 1
            line += 1
            blank += 1
            continue
        if data[i] == _CR:
            i += 1
            if i < end and data[i] == _LF:
                i += 1
            line += 1
            blank += 1
            continue
        start = i
        first_line = line
        f = 0
        unclosed = False
        stop = end
        while True:
            low = i
            if i < end and data[i] == _QUOTE:
                opened = i
                opened_line = line
                i += 1
                doubled = False
                closed = False
                while i < end:
                    b = data[i]
                    if b == _QUOTE:
                        if i + 1 < end and data[i + 1] == _QUOTE:
                            doubled = True
                            i += 1
                        else:
                            closed = i - opened <= QUOTE_LIMIT
                            break
                    elif b == _LF:
                        line += 1
                    elif b == _CR and not (i + 1 < end and data[i + 1] == _LF):
                        line += 1
                    i += 1
                if not closed:
                    unclosed = True
                    break
                low = opened + 1
                high = i
                i += 1
                tail = i
                while i < end:
                    b = data[i]
                    if b == delimiter or b == _LF or b == _CR:
                        break
                    i += 1
                if line > opened_line and i > tail:
                    unclosed = True
                    break
                if doubled or i > tail:
                    first = arena_end
                    k = low
                    while k < high:
                        data[arena_end] = data[k]
                        arena_end += 1
                        k += 2 if data[k] == _QUOTE else 1
                    for m in range(tail, i):
                        data[arena_end] = data[m]
                        arena_end += 1
                    low = first
                    high = arena_end
            else:
                while i < end:
                    b = data[i]
                    if b == delimiter or b == _LF or b == _CR:
                        break
                    i += 1
                high = i
            if f < n_fields:
                slot = slots[f]
                if slot >= 0:
                    starts[slot, n] = low
                    stops[slot, n] = high
            f += 1
            if i >= end:
                stop = end
                break
            b = data[i]
            if b == delimiter:
                i += 1
                continue
            stop = i
            i += 1
            if b == _CR and i < end and data[i] == _LF:
                i += 1
            line += 1
            break
        kind = GOOD
        if unclosed:
            # Only the first physical line is lost: what follows may be sound.
            kind = UNCLOSED
            i = next_line(data, start, end)
            stop = i
            while stop > start and (data[stop - 1] == _LF or data[stop - 1] == _CR):
                stop -= 1
            line = first_line + 1
        elif f != n_fields:
            kind = RAGGED
        if check_nul and kind != UNCLOSED:
            for k in range(start, stop):
                if data[k] == 0:
                    kind = NUL
                    break
        if check_utf8 and kind == GOOD and not is_utf8(data, start, stop):
            kind = NOT_UTF8
        record_starts[n] = start
        record_stops[n] = stop
        record_lines[n] = first_line
        status[n] = kind
        detail[n] = f
        if kind != GOOD:
            for c in range(starts.shape[0]):
                starts[c, n] = start
                stops[c, n] = start
        n += 1
    return n, i, arena_end, line, blank
