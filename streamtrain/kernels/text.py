"""Texts to the codes of their parts: runs of words, and runs of characters in a word.

A word is a run of letters, digits and underscores; ASCII letters count as small.
Bytes from 128 on are letters: whoever calls has made other alphabets small, and put
spaces for what is no letter.
"""

from __future__ import annotations

import math

import numpy as np

from streamtrain.kernels._jit import inline, kernel
from streamtrain.kernels.row_key import mix
from streamtrain.kernels.strings import first_word, hash_string

MAX_RUN = 8
"""Longest run of words or of characters."""
_WORD, _CHARACTERS = np.uint64(0x5851F42D4C957F2D), np.uint64(0x14057B7EF767814F)
_BEGIN, _END = np.uint64(0x02), np.uint64(0x03)


@inline
def small(byte):
    """Return a small ASCII letter for a capital one, any other byte as it is."""
    return byte + np.uint8(32) if np.uint8(65) <= byte <= np.uint8(90) else byte


@inline
def is_word_byte(byte):
    """Return whether a byte is part of a word."""
    return (
        np.uint8(97) <= byte <= np.uint8(122)
        or np.uint8(65) <= byte <= np.uint8(90)
        or np.uint8(48) <= byte <= np.uint8(57)
        or byte == np.uint8(95)
        or byte >= np.uint8(128)
    )


@inline
def _combined(before, word):
    """Return the hash of a run of words from that of all but the last."""
    return mix(before ^ (word + _WORD))


@inline
def _hash_word(data, start, stop):
    h = np.uint64(stop - start) ^ _WORD
    for i in range(start, stop):
        h = (h ^ np.uint64(small(data[i]))) * np.uint64(0x100000001B3)
        h ^= h >> np.uint64(29)
    return mix(h)


@kernel
def text_codes(data, starts, stops, words, characters, n_codes, normed, ends, codes, values):
    """Write the codes of the parts of texts, each once a text, and how often it is there.

    Parameters
    ----------
    data : (bytes,) uint8, read
        UTF-8.
    starts, stops : (n,) int64, read
    words, characters : (2,) int64, read
        Shortest and longest run of each, 0 and 0 for none; at most `MAX_RUN`.
        Runs of characters lie in one word, whose ends count as characters.
    n_codes : int
        A code is a hash of the part modulo this.
    normed : bool
        Divide each text's values by their Euclidean norm.
    ends : (n,) int64, overwritten
        Entries up to the end of each text.
    codes, values : (m,) int32, (m,) float32, overwritten
        m at least `most_parts` of all texts.

    Returns
    -------
    int
        Entries.

    Source
    ------
    Weinberger et al. 2009, "Feature hashing for large scale multitask learning".
    """
    modulus = np.uint64(n_codes)
    recent = np.zeros(MAX_RUN, np.uint64)
    window = np.zeros(MAX_RUN, np.uint64)
    total = 0
    for r in range(starts.shape[0]):
        first = total
        n_words = 0
        i = starts[r]
        stop = stops[r]
        while i < stop:
            if not is_word_byte(data[i]):
                i += 1
                continue
            begin = i
            while i < stop and is_word_byte(data[i]):
                i += 1
            if words[1] > 0:
                h = _hash_word(data, begin, i)
                # Runs that end with this word, from the hash of each shorter one.
                for length in range(min(n_words + 1, words[1]), 0, -1):
                    run = h if length == 1 else _combined(recent[length - 2], h)
                    recent[length - 1] = run
                    if length >= words[0]:
                        codes[total] = np.int32(mix(run ^ np.uint64(length)) % modulus)
                        total += 1
                n_words += 1
            if characters[1] > 0:
                n_seen = 0
                at = begin
                while at <= i + 1:
                    # The character at hand: one of the word's ends, or a run of UTF-8.
                    if at == begin and n_seen == 0:
                        c = _BEGIN
                    elif at >= i:
                        c = _END
                        at = i + 2
                    else:
                        c = np.uint64(small(data[at]))
                        at += 1
                        while at < i and (data[at] & np.uint8(0xC0)) == np.uint8(0x80):
                            c = (c << np.uint64(8)) | np.uint64(data[at])
                            at += 1
                    for length in range(min(n_seen + 1, characters[1]), 0, -1):
                        run = mix(c ^ _CHARACTERS)
                        if length > 1:
                            run = mix(window[length - 2] ^ (run + _CHARACTERS))
                        window[length - 1] = run
                        if length >= characters[0]:
                            part = mix(run ^ np.uint64(64 + length))
                            codes[total] = np.int32(part % modulus)
                            total += 1
                    n_seen += 1
        # Each code once, with its count.
        part = codes[first:total]
        part.sort()
        to = first
        for e in range(first, total):
            if to > first and codes[to - 1] == codes[e]:
                values[to - 1] += np.float32(1.0)
            else:
                codes[to] = codes[e]
                values[to] = np.float32(1.0)
                to += 1
        total = to
        if normed and total > first:
            squares = 0.0
            for e in range(first, total):
                squares += np.float64(values[e]) * np.float64(values[e])
            scale = np.float32(1.0 / math.sqrt(squares))
            for e in range(first, total):
                values[e] *= scale
        ends[r] = total
    return total


def most_parts(n_bytes: int, words: tuple[int, int], characters: tuple[int, int]) -> int:
    """Return the most parts of a text of so many bytes."""
    found = 0
    if words[1]:
        found += (n_bytes + 1) // 2 * (words[1] - words[0] + 1)
    if characters[1]:
        # A word of n characters has n + 2 with its ends, and takes n + 1 bytes with a space.
        found += (n_bytes + (n_bytes + 1) // 2 * 2) * (characters[1] - characters[0] + 1)
    return found


@kernel
def hash_names(data, starts, stops, out):
    """Write the 64-bit hash of each name to out (n,) uint64; see `strings.hash_string`."""
    for i in range(starts.shape[0]):
        length = stops[i] - starts[i]
        out[i] = hash_string(data, starts[i], length, first_word(data, starts[i], length))
