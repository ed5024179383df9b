"""What a reader delivered, as plain lists."""

from __future__ import annotations

import threading

from streamtrain.library import open_dataset
from tests.made import make_dataset


def legible(folder, **options):
    """Open a dataset whose row i holds i in every column."""
    options = {"n_rows": 200, "block_rows": (7, 23, 1, 16), "shard_blocks": 3} | options
    return open_dataset(make_dataset(folder, legible=True, **options))


def read_all(dataset, *, batch_size=16, **options):
    """Return [(row ids, cursor after)] of every batch; all columns of a row agree."""
    batches = []
    bag_sizes = dataset.schema.stored.bag_sizes
    for rows, cursor in dataset.batches(batch_size, **options):
        ids = rows.numeric[:, 0].astype(int)
        assert (rows.numeric == ids[:, None]).all()
        assert (rows.codes == ids[:, None]).all()
        assert (rows.target == ids % 2).all()
        for i, bags in zip(ids.tolist(), entries_of(rows), strict=True):
            # As `make_entries` has them.
            for size, found in zip(bag_sizes, bags, strict=True):
                assert found == [(i % size, i)] * (i % 3)
        batches.append((ids.tolist(), cursor))
    return batches


def entries_of(rows):
    """Return for each row, for each bag, its (code, value) pairs."""
    codes, values = rows.bags.codes.tolist(), rows.bags.values.tolist()
    return [
        [list(zip(codes[a:b], values[a:b], strict=True)) for a, b in row]
        for row in rows.bags.ranges.tolist()
    ]


def ids_of(batches):
    return [i for ids, _ in batches for i in ids]


def reader_threads():
    return [t.name for t in threading.enumerate() if t.name.startswith("streamtrain-")]


def damage(path, position=None):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if position is None else position] ^= 4
    path.write_bytes(data)


def collect(items, found):
    """Append items to `found`, which keeps those before an error."""
    for item in items:
        found.append(item)
