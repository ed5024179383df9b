"""Lines of libsvm (svmlight) into cells or entries: ``label [qid:q] index:value ... [# comment]``.

Only cuts text; numbers are parsed where those of CSV are. R = room for records,
C = columns that are kept, E = room for entries.

Source: Joachims, "SVM light", its page on the format of examples.
"""

from __future__ import annotations

import numpy as np

from streamtrain.kernels._jit import inline, kernel
from streamtrain.kernels.csv_rows import is_utf8
from streamtrain.kernels.entry_rows import E_BAG, E_ROW, E_START, E_STOP, LF, end_of_line, is_blank

GOOD, MALFORMED, ZERO_INDEX, OUT_OF_ORDER, TOO_LARGE, VALUE, TOO_MANY, NOT_UTF8, LABELS = range(9)
# Of the state of a scan.
S_WIDTH, S_QUERY, S_LINES, S_FAULT, S_FAULT_LINE, S_ROWS, S_ENTRIES = range(7)
N_STATE = 7
_HASH, _COMMA, _COLON, _ZERO_DIGIT = 35, 44, 58, 48
_MAX_INDEX = 1 << 31


@inline
def _next_token(data, i, end):
    """Return where a line's next token begins, its first colon or -1, and where it ends.

    It is empty where the line has no more.
    """
    while i < end and is_blank(data[i]):
        i += 1
    low = i
    colon = -1
    while i < end and data[i] != LF and data[i] != _HASH and not is_blank(data[i]):
        if data[i] == _COLON and colon < 0:
            colon = i
        i += 1
    return low, colon, i


@inline
def _is_qid(data, low, high):
    """Return whether low..high is the key ``qid``."""
    return high - low == 3 and data[low] == 113 and data[low + 1] == 105 and data[low + 2] == 100


@inline
def _index(data, low, high):
    """Return the number that digits low..high spell, -1 if they are none."""
    if low == high or high - low > 18:
        return -1
    value = 0
    for k in range(low, high):
        digit = data[k] - _ZERO_DIGIT
        if digit < 0 or digit > 9:
            return -1
        value = value * 10 + digit
    return min(value, _MAX_INDEX)


@inline
def _judge_index(data, low, colon, last, width, strict):
    """Return what is wrong with an index, the index or 0 for none to keep, and the last so far."""
    index = _index(data, low, colon)
    if index < 0:
        return MALFORMED, 0, last
    if index <= last:
        return ZERO_INDEX if index == 0 else OUT_OF_ORDER, 0, last
    if index > width:
        return TOO_LARGE if strict else GOOD, 0, index
    return GOOD, index, index


@inline
def _cut_text(data, low, high, slot, n, starts, stops):
    """Cut a label or a qid, if it is kept; return what is wrong with it."""
    if slot < 0:
        return GOOD
    starts[slot, n] = low
    stops[slot, n] = high
    return GOOD if is_utf8(data, low, high) else NOT_UTF8


@kernel
def scan_svm_rows(data, begin, end, state):
    """Find the greatest index, and the first line whose indices are not 1, 2, ... upwards.

    Parameters
    ----------
    data : (n,) uint8, read
    begin, end : int
        Whole lines.
    state : (N_STATE,) int64, updated
        Greatest index; whether a line has a qid; lines passed; fault of the first
        bad line (`GOOD` while there is none) and its number from 1; rows; entries.
    """
    i = begin
    while i < end:
        state[S_LINES] += 1
        first_token = True
        last = 0
        while True:
            low, colon, i = _next_token(data, i, end)
            if i == low:
                break
            if first_token:
                first_token = False
                state[S_ROWS] += 1
                for k in range(low, i):
                    if data[k] == _COMMA and state[S_FAULT] == GOOD:
                        state[S_FAULT] = LABELS
                        state[S_FAULT_LINE] = state[S_LINES]
                continue
            if colon < 0:
                continue  # the row is malformed: splitting says so
            if _is_qid(data, low, colon):
                state[S_QUERY] = 1
                continue
            index = _index(data, low, colon)
            if index < 0:
                continue
            if index <= last and state[S_FAULT] == GOOD:
                state[S_FAULT] = ZERO_INDEX if index == 0 else OUT_OF_ORDER
                state[S_FAULT_LINE] = state[S_LINES]
            last = index
            state[S_WIDTH] = max(state[S_WIDTH], index)
            state[S_ENTRIES] += 1
        _, i = end_of_line(data, i, end, i)


@kernel
def split_svm_rows(
    data, begin, end, zero, slots, strict, starts, stops,
    record_starts, record_stops, record_lines, status,
):  # fmt: skip
    """Split lines into cells until they end or the outputs are full.

    Parameters
    ----------
    data : (n,) uint8, read
    begin, end : int
        Whole lines.
    zero : int
        Where `data` holds the text 0, the cell of an index that a line leaves out.
    slots : (2 + D,) int32, read
        Column of the label, of the qid, and of the indices 1 to D; -1 for one that is not kept.
    strict : bool
        Whether an index above D makes a row bad.
    starts, stops : (C, R) int32, overwritten
    record_starts, record_stops : (R,) int32, overwritten
    record_lines : (R,) int32, overwritten
        Lines from `begin` to the record's.
    status : (R,) uint8, overwritten
        One of the module's constants.

    Returns
    -------
    tuple of int
        Records, where to go on, lines passed, blank lines.
    """
    n_columns = starts.shape[0]
    capacity = status.shape[0]
    width = slots.shape[0] - 2
    n = 0
    line = 0
    blank = 0
    i = begin
    while i < end and n < capacity:
        start = i
        kind = GOOD
        n_tokens = 0
        last = 0
        for c in range(n_columns):
            starts[c, n] = zero
            stops[c, n] = zero + 1
        if slots[1] >= 0:
            stops[slots[1], n] = zero  # a qid that is left out is missing, not 0
        while True:
            low, colon, i = _next_token(data, i, end)
            if i == low:
                break
            n_tokens += 1
            fault, index = GOOD, 0
            if n_tokens == 1:
                fault = _cut_text(data, low, i, slots[0], n, starts, stops)
            elif colon < 0:
                fault = MALFORMED
            elif _is_qid(data, low, colon):
                fault = _cut_text(data, colon + 1, i, slots[1], n, starts, stops)
            else:
                fault, index, last = _judge_index(data, low, colon, last, width, strict)
            if fault != GOOD:
                kind = fault
            elif index > 0 and slots[1 + index] >= 0:
                starts[slots[1 + index], n] = colon + 1
                stops[slots[1 + index], n] = i
        stop, i = end_of_line(data, i, end, start)
        line += 1
        if n_tokens == 0:
            blank += 1
            continue
        record_starts[n] = start
        record_stops[n] = stop
        record_lines[n] = line - 1
        status[n] = kind
        if kind != GOOD:
            for c in range(n_columns):
                starts[c, n] = start
                stops[c, n] = start
        n += 1
    return n, min(i, end), line, blank


@kernel
def split_svm_entries(
    data, begin, end, width, slots, keep, strict, max_entries,
    starts, stops, records, status, entries, keys,
):  # fmt: skip
    """Split lines into label, qid and entries until they end or the outputs are full.

    Parameters
    ----------
    data : (n,) uint8, read
    begin, end : int
        Whole lines.
    width : int
        D, the greatest index there is.
    slots : (2,) int32, read
        Which cell label and qid are; -1 for one that is not kept.
    keep : bool
        Whether entries are kept.
    strict : bool
        Whether an index above D makes a row bad; otherwise it is left out.
    max_entries : int
        Of a row; at most E.
    starts, stops : (C, R) int32, overwritten
    records : (3, R) int32, overwritten
        Start and stop of each record, and lines from `begin` to it.
    status : (R,) uint8, overwritten
        One of the module's constants, never `VALUE`.
    entries : (N_ENTRY, E) int32, overwritten
    keys : (E,) uint64, overwritten
        Indices.

    Returns
    -------
    tuple of int
        Records, where to go on, lines passed, blank lines, entries.
    """
    capacity = status.shape[0]
    n = 0
    line = 0
    blank = 0
    n_entries = 0
    i = begin
    while i < end and n < capacity:
        start = i
        kind = GOOD
        n_tokens = 0
        last = 0
        first_entry = n_entries
        for c in range(starts.shape[0]):
            starts[c, n] = start
            stops[c, n] = start
        while True:
            low, colon, i = _next_token(data, i, end)
            if i == low:
                break
            n_tokens += 1
            fault, index = GOOD, 0
            if n_tokens == 1:
                fault = _cut_text(data, low, i, slots[0], n, starts, stops)
            elif colon < 0:
                fault = MALFORMED
            elif _is_qid(data, low, colon):
                fault = _cut_text(data, colon + 1, i, slots[1], n, starts, stops)
            else:
                fault, index, last = _judge_index(data, low, colon, last, width, strict)
            if fault != GOOD:
                kind = fault
            elif index > 0 and keep and kind == GOOD:
                if n_entries - first_entry == max_entries:
                    kind = TOO_MANY
                elif n_entries == keys.shape[0]:
                    # The row begins the next batch.
                    return n, start, line, blank, first_entry
                else:
                    keys[n_entries] = np.uint64(index)
                    entries[E_ROW, n_entries] = n
                    entries[E_BAG, n_entries] = 0
                    entries[E_START, n_entries] = colon + 1
                    entries[E_STOP, n_entries] = i
                    n_entries += 1
        stop, i = end_of_line(data, i, end, start)
        line += 1
        if n_tokens == 0:
            blank += 1
            continue
        records[0, n] = start
        records[1, n] = stop
        records[2, n] = line - 1
        status[n] = kind
        if kind != GOOD:
            n_entries = first_entry
            for c in range(starts.shape[0]):
                starts[c, n] = start
                stops[c, n] = start
        n += 1
    return n, min(i, end), line, blank, n_entries
