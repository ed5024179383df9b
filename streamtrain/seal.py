"""The seal of a JSON record: a digest of its contents that it carries itself."""

from __future__ import annotations

from typing import TypeVar

import msgspec
import xxhash

R = TypeVar("R", bound=msgspec.Struct)


def seal(record: R) -> R:
    """Return a record with its `digest` set to the xxh3-128 of all its other fields.

    Parameters
    ----------
    record : msgspec.Struct
        With a field `digest` of text.
    """
    bare = msgspec.structs.replace(record, digest="")
    digest = xxhash.xxh3_128_hexdigest(msgspec.json.encode(bare, order="sorted"))
    return msgspec.structs.replace(bare, digest=digest)


def is_sealed(record: msgspec.Struct) -> bool:
    """Return whether a record holds what it held when it was sealed."""
    return seal(record) == record
