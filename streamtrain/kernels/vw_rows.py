"""Lines of Vowpal Wabbit's text into cells and entries.

    [label [importance [base]]] ['tag]|namespace[:scale] name[:value] ... |...

Only cuts text; numbers are parsed where those of CSV are. R = room for records,
C = cells that are kept, N = namespaces, E = room for entries, G = for namespaces
of all lines.

Source: the wiki of vowpal_wabbit, "Input format", and its parser,
parse_example.cc: the token before the first bar is the tag where it begins with an
apostrophe or touches the bar, and a bar ends a name or value wherever it stands.
"""

from __future__ import annotations

import numpy as np

from streamtrain.kernels._jit import inline, kernel
from streamtrain.kernels.csv_rows import is_utf8
from streamtrain.kernels.entry_rows import CR, E_BAG, E_GROUP, E_ROW, E_START, E_STOP, LF, is_blank
from streamtrain.kernels.strings import first_word, hash_string

(
    GOOD, NO_BAR, LABEL, SEVERAL_LINES, COSTS, BASE, NO_NAMESPACE, BAD_NAMESPACE, NO_NAME, VALUE,
    TOO_MANY, NOT_UTF8,
) = range(12)  # fmt: skip
# Cells of a line.
C_LABEL, C_IMPORTANCE, C_TAG = range(3)
N_CELL = 3
# Of the state of a scan.
S_NAMES, S_ROWS, S_LINES, S_FULL = range(4)
N_STATE = 4
_COLON, _BAR, _TICK = 58, 124, 39


@inline
def _ends_token(b):
    return is_blank(b) or b == LF or b == _BAR


@inline
def _hash(data, start, stop):
    return hash_string(data, start, stop - start, first_word(data, start, stop - start))


@inline
def _name_end(data, i, end):
    """Return where a name that begins at `i` ends."""
    while i < end and not _ends_token(data[i]) and data[i] != _COLON:
        i += 1
    return i


@inline
def _value_end(data, i, end):
    while i < end and not _ends_token(data[i]):
        i += 1
    return i


@inline
def _find(hashes, n, h, guess):
    """Return which of `n` hashes `h` is, looking at `guess` first; -1 if it is none."""
    if guess < n and hashes[guess] == h:
        return guess
    for k in range(n):
        if hashes[k] == h:
            return k
    return -1


@kernel
def scan_vw_rows(data, begin, end, nameless, hashes, counts, places, state):
    """Find the namespaces of lines.

    Parameters
    ----------
    data : (n,) uint8, read
    begin, end : int
        Whole lines.
    nameless : int
        Hash of the namespace without a name.
    hashes : (N,) uint64, updated
        In order of appearance.
    counts : (N,) int64, updated
        Entries, about.
    places : (N, 2) int64, updated
        Of those that these lines are the first to have: where the name is, (0, 0)
        of the one without.
    state : (N_STATE,) int64, updated
        Namespaces, rows, lines passed, and the line where they are more than N, 0 if none is.
    """
    i = begin
    while i < end:
        state[S_LINES] += 1
        blank = True
        which = -1
        guess = 0
        while i < end and data[i] != LF:
            if data[i] != _BAR:
                blank = blank and is_blank(data[i])
                if which >= 0 and not is_blank(data[i]):
                    counts[which] += 1
                    i = _value_end(data, i, end)
                else:
                    i += 1
                continue
            blank = False
            i += 1
            start = i
            i = _name_end(data, i, end)
            if i == start and i < end and data[i] == _COLON:
                which = -1  # the row is bad: splitting says so
                i = _value_end(data, i, end)
                continue
            h = np.uint64(nameless) if i == start else _hash(data, start, i)
            which = _find(hashes, state[S_NAMES], h, guess)
            if which < 0:
                if state[S_NAMES] == hashes.shape[0]:
                    if state[S_FULL] == 0:
                        state[S_FULL] = state[S_LINES]
                    continue
                which = state[S_NAMES]
                state[S_NAMES] += 1
                hashes[which] = h
                places[which, 0] = start if i > start else 0
                places[which, 1] = i if i > start else 0
            guess = which + 1
            i = _value_end(data, i, end)
        i += 1
        if not blank:
            state[S_ROWS] += 1


@inline
def _head(data, start, bar, one, slots, starts, stops, n):
    """Cut what precedes the first bar; return what is wrong with it."""
    tokens = 0
    kind = GOOD
    i = start
    for c in range(starts.shape[0]):
        starts[c, n] = start
        stops[c, n] = start
    if slots[C_IMPORTANCE] >= 0:
        starts[slots[C_IMPORTANCE], n] = one
        stops[slots[C_IMPORTANCE], n] = one + 1
    while i < bar:
        if is_blank(data[i]):
            i += 1
            continue
        low = i
        colon = False
        plain = True
        zero = True
        while i < bar and not is_blank(data[i]):
            colon = colon or data[i] == _COLON
            plain = plain and 33 <= data[i] <= 126
            zero = zero and (data[i] == 48 or data[i] == 46 or data[i] == 43 or data[i] == 45)
            i += 1
        last = True
        for k in range(i, bar):
            last = last and is_blank(data[k])
        if last and (i == bar or data[low] == _TICK):
            if not is_utf8(data, low, i):
                return NOT_UTF8
            if slots[C_TAG] >= 0:
                starts[slots[C_TAG], n] = low + 1 if data[low] == _TICK else low
                stops[slots[C_TAG], n] = i
            break
        if tokens == 0:
            length = i - low
            word = first_word(data, low, min(length, 8))
            if (
                (length == 6 and word == np.uint64(0x646572616873))  # shared
                or (length == 3 and word == np.uint64(0x626363))  # ccb
                or (length == 2 and word == np.uint64(0x6163))  # ca
                or (length == 6 and word == np.uint64(0x736574616C73))  # slates
            ):
                return SEVERAL_LINES
        if colon:
            return COSTS
        if not plain or tokens > 2:
            return LABEL
        if tokens == 2 and not zero:
            kind = BASE
        if tokens < 2 and slots[tokens] >= 0:
            starts[slots[tokens], n] = low
            stops[slots[tokens], n] = i
        tokens += 1
    return kind


@kernel
def split_vw_rows(
    data, begin, end, one, slots, nameless, hashes, bags, strict, max_entries,
    starts, stops, records, status, entries, keys, groups,
):  # fmt: skip
    """Split lines into cells and entries until they end or the outputs are full.

    Parameters
    ----------
    data : (n,) uint8, read
    begin, end : int
        Whole lines.
    one : int
        Where `data` holds the text 1: the importance and the values that are left out.
    slots : (N_CELL,) int32, read
        Which cell each is; -1 for one that is not kept.
    nameless : int
        Hash of the namespace without a name.
    hashes : (N,) uint64, read
    bags : (N,) int32, read
        Bag of each namespace, -1 for one that is not kept.
    strict : bool
        Whether a namespace that is not among the hashes makes a row bad.
    max_entries : int
        Of a row, and namespaces of it; at most E and G.
    starts, stops : (C, R) int32, overwritten
        C may be 0.
    records : (3, R) int32, overwritten
        Start and stop of each record, and lines from `begin` to it.
    status : (R,) uint8, overwritten
        One of the module's constants, never `VALUE`.
    entries : (N_ENTRY, E) int32, overwritten
    keys : (E,) uint64, overwritten
        Hashes of names.
    groups : (2, G) int32, overwritten
        Text of each namespace's scale.

    Returns
    -------
    tuple of int
        Records, where to go on, lines passed, blank lines, entries, groups.
    """
    capacity = status.shape[0]
    n = 0
    line = 0
    blank = 0
    n_entries = 0
    n_groups = 0
    i = begin
    while i < end and n < capacity:
        start = i
        stop = start
        bar = -1
        is_empty = True
        while stop < end and data[stop] != LF:
            if data[stop] == _BAR and bar < 0:
                bar = stop
            is_empty = is_empty and is_blank(data[stop])
            stop += 1
        if is_empty:
            blank += 1
            line += 1
            i = stop + 1
            continue
        first_entry = n_entries
        first_group = n_groups
        kind = NO_BAR
        if bar >= 0:
            kind = _head(data, start, bar, one, slots, starts, stops, n)
            i = bar
        full = False
        bag = -1
        guess = 0
        while kind == GOOD and i < stop:
            if is_blank(data[i]):
                i += 1
                continue
            low = i
            if data[i] == _BAR:
                low += 1
                i = _name_end(data, low, stop)
                if i == low and i < stop and data[i] == _COLON:
                    kind = NO_NAMESPACE
                    break
                h = np.uint64(nameless) if i == low else _hash(data, low, i)
                which = _find(hashes, hashes.shape[0], h, guess)
                if which < 0 and strict:
                    kind = BAD_NAMESPACE
                    break
                guess = which + 1
                bag = bags[which] if which >= 0 else -1
                scale_start, scale_stop = one, one + 1
                if i < stop and data[i] == _COLON:
                    scale_start = i + 1
                    i = _value_end(data, i, stop)
                    scale_stop = i
                if bag >= 0:
                    if n_groups == groups.shape[1] or n_groups - first_group == max_entries:
                        full = True
                        break
                    groups[0, n_groups] = scale_start
                    groups[1, n_groups] = scale_stop
                    n_groups += 1
                continue
            i = _name_end(data, low, stop)
            if i == low:
                kind = NO_NAME
                break
            name_stop = i
            value_start, value_stop = one, one + 1
            if i < stop and data[i] == _COLON:
                value_start = i + 1
                i = _value_end(data, i, stop)
                value_stop = i
            if bag < 0:
                continue
            if n_entries == keys.shape[0] or n_entries - first_entry == max_entries:
                full = True
                break
            keys[n_entries] = _hash(data, low, name_stop)
            entries[E_ROW, n_entries] = n
            entries[E_BAG, n_entries] = bag
            entries[E_GROUP, n_entries] = n_groups - 1
            entries[E_START, n_entries] = value_start
            entries[E_STOP, n_entries] = value_stop
            n_entries += 1
        if full:
            # A row that more room would hold begins the next batch.
            most = max(n_entries - first_entry, n_groups - first_group)
            if n > 0 and most < max_entries:
                return n, start, line, blank, first_entry, first_group
            kind = TOO_MANY
        if kind != GOOD:
            n_entries, n_groups = first_entry, first_group
            for c in range(starts.shape[0]):
                starts[c, n] = start
                stops[c, n] = start
        i = stop + 1
        records[0, n] = start
        records[1, n] = stop - 1 if stop > start and data[stop - 1] == CR else stop
        records[2, n] = line
        status[n] = kind
        line += 1
        n += 1
    return n, min(i, end), line, blank, n_entries, n_groups
