"""Keys of random streams: names and numbers hashed together, never added.

``seed + epoch`` would make run (1, 1) equal run (2, 0). A key is the first
eight bytes of BLAKE2b over an unambiguous encoding of its parts, the same on
every machine and version; the generators that use it live in kernels/.
"""

from __future__ import annotations

import hashlib


def derive_key(*parts: int | str) -> int:
    """Return a 64-bit key, 0 <= key < 2**64, from named parts.

    >>> derive_key("window", 7, 0) != derive_key("window", 0, 7)
    True
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        text = f"{'i' if isinstance(part, int) else 's'}{part}".encode()
        digest.update(len(text).to_bytes(8, "little"))
        digest.update(text)
    return int.from_bytes(digest.digest(), "little")
