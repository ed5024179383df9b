"""AnnData in Zarr whose X is a CSR matrix: rows of entries, with the columns of obs beside them.

    cells.zarr   X/data (m,)   X/indices (m,)   X/indptr (N + 1,)   obs/<column> (N,)

Everything is read once from front to back, chunk by chunk, in rows of a few megabytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_tools.source import SourceEnd
from data_tools.table_source import SAMPLE_ROWS, TableBatch, TableReader
from data_tools.zarr_source import ZarrSource
from streamtrain.errors import SourceError, StreamtrainError
from streamtrain.store.bags import Keyed, keyed_array
from streamtrain.store.schema import MAX_BAG_CODES

ENTRIES = "X"
MAX_ROW_VALUES = 1 << 22
_MAX_METADATA_BYTES = 1 << 20
_SLAB_ROWS = 1 << 14
_SLAB_VALUES = 1 << 18
_MIN_STEP = 1 << 16
_MAX_TEXTS = 100_000


def is_csr(path: Path) -> bool:
    """Return whether a directory of Zarr is AnnData whose X is a sparse matrix."""
    for name in ("zarr.json", ".zattrs"):
        file = path / ENTRIES / name
        try:
            if file.stat().st_size > _MAX_METADATA_BYTES:
                continue
            told = msgspec.json.decode(file.read_bytes())
        except (OSError, msgspec.DecodeError, RecursionError):
            continue
        attributes = told.get("attributes", told) if isinstance(told, dict) else {}
        if isinstance(attributes, dict):
            return attributes.get("encoding-type") in {"csr_matrix", "csc_matrix"}
    return False


class CsrReader(TableReader):
    """The rows of an AnnData in Zarr, v2 or v3, whose X is a CSR matrix.

    Parameters
    ----------
    path : Path
    name : str

    Raises
    ------
    SourceError
        If it is something else, or its parts do not fit each other.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self._path = path
        try:
            self._examine(self._open())
        except StreamtrainError:
            raise
        except Exception as error:  # whatever its metadata led to
            raise SourceError(f"cannot be read: {_told(error)}", where=name) from error

    def _examine(self, root: Any) -> None:
        name = self.name
        x = root.get(ENTRIES)
        told = dict(x.attrs).get("encoding-type") if _is_group(x) else None
        if told != "csr_matrix":
            what = f"is a {told}" if told else "is no CSR matrix"
            raise SourceError(
                f"X {what}, expected AnnData with a CSR matrix",
                where=name,
                remedy="dense arrays are read with --target-file and --format zarr",
            )
        shape = dict(x.attrs).get("shape")
        if not (isinstance(shape, list) and len(shape) == 2 and all(_is_size(n) for n in shape)):
            raise SourceError(f"X has the shape {shape!r}", where=name)
        self.n_rows, n_columns = shape
        if not 0 < n_columns < MAX_BAG_CODES:
            raise SourceError(
                f"X has {n_columns:,} columns, expected 1 to {MAX_BAG_CODES - 1:,}", where=name
            )
        self._n_columns = n_columns
        self._refuse_pickles(x)
        parts = self._parts()
        for part, kinds in (("data", "iufb"), ("indices", "iu"), ("indptr", "iu")):
            if len(parts[part].shape) != 1 or parts[part].dtype.kind not in kinds:
                raise self._wrong(part, f"is {parts[part].dtype} of shape {parts[part].shape}")
        if parts["indptr"].shape[0] != self.n_rows + 1:
            raise self._wrong("indptr", f"has {parts['indptr'].shape[0]:,} values, not rows + 1")
        if parts["data"].shape != parts["indices"].shape:
            raise self._wrong("data", "and X/indices have several lengths")
        self._n_values = parts["data"].shape[0]
        obs = root.get("obs")
        self._obs = {c: k for c, k in _columns(obs).items() if c != ENTRIES}
        fields = [pa.field(c, kind) for c, kind in self._obs.items()]
        self.schema = pa.schema([*fields, pa.field(ENTRIES, keyed_array(_NOTHING, _NONE).type)])
        self.aside = frozenset(self._obs)
        self.n_codes = {ENTRIES: n_columns}
        self.row_entries = {ENTRIES: self._n_values / max(self.n_rows, 1)}
        sizes = [p.shape[0] * p.dtype.itemsize for p in parts.values()]
        self.n_bytes = sum(sizes)
        self._chunk_bytes = sum(_step(p) * p.dtype.itemsize for p in parts.values())

    def _open(self) -> Any:
        import zarr

        try:
            root = zarr.open(self._path, mode="r", use_consolidated=False)
        except Exception as error:  # whatever its metadata led to
            raise SourceError(f"not Zarr: {_told(error)}", where=self.name) from error
        if not _is_group(root):
            raise SourceError(
                "is one array, expected AnnData with a CSR matrix",
                where=self.name,
                remedy="arrays are read with --target-file and --format zarr",
            )
        return root

    def _wrong(self, part: str, what: str) -> SourceError:
        return SourceError(f"X/{part} {what}", where=self.name, remedy="write it again")

    def _parts(self) -> dict[str, ZarrSource]:
        found = {}
        for part in ("data", "indices", "indptr"):
            path = self._path / ENTRIES / part
            try:
                found[part] = ZarrSource(self._array(path), path, f"{self.name}/X/{part}")
            except StreamtrainError:
                raise
            except Exception as error:  # whatever its metadata led to
                raise self._wrong(part, f"cannot be read: {_told(error)}") from error
        return found

    @staticmethod
    def _array(path: Path) -> Any:
        import zarr

        return zarr.open_array(path, mode="r")

    def _refuse_pickles(self, x: Any) -> None:
        for part in ("data", "indices", "indptr"):
            if part in x and _unpickles(x[part]):
                raise self._wrong(part, "holds pickled objects, which are never loaded")

    def batches(self, columns: Sequence[str]) -> Iterator[TableBatch]:
        """Yield all rows in order, at most 16,384 rows or about 262,144 values at a time."""
        parts = self._parts()
        streams = {part: _Stream(source) for part, source in parts.items()}
        root = self._open()
        obs = [_Column(root["obs"], c, self.name) for c in columns if c in self._obs]
        n_rows = self.n_rows or 0
        at = 0
        if n_rows == 0 and self._n_values:
            raise self._wrong("data", "has values and no rows")
        for first in range(0, n_rows, _SLAB_ROWS):
            last = min(first + _SLAB_ROWS, n_rows)
            ends = streams["indptr"].read(first, last + 1).astype(np.int64)
            self._check_ends(ends, first, at)
            begin = first
            while begin < last:
                room = ends[begin - first] + _SLAB_VALUES
                end = first + int(np.searchsorted(ends, room, side="right")) - 1
                end = min(max(end, begin + 1), last)
                offsets = ends[begin - first : end - first + 1]
                at = int(offsets[-1])
                rows = self._entries(streams, offsets, begin)
                arrays = [*(c.read(begin, end) for c in obs), rows]
                names = [*(c.name for c in obs), ENTRIES]
                batch = pa.RecordBatch.from_arrays(arrays, names=names)
                yield TableBatch(batch, self.n_bytes * end // n_rows)
                begin = end
        if at != self._n_values:
            raise self._wrong("indptr", f"ends at {at:,}, expected {self._n_values:,}")
        self._end = _joined([source.end() for source in parts.values()])

    def _check_ends(self, ends: npt.NDArray[np.int64], first: int, at: int) -> None:
        if ends[0] != at:
            raise self._wrong("indptr", f"begins at {ends[0]:,}, expected {at:,}")
        counts = np.diff(ends)
        most = min(self._n_columns, MAX_ROW_VALUES)
        bad = np.flatnonzero((counts < 0) | (counts > most))
        if len(bad):
            row = first + int(bad[0])
            raise self._wrong(
                "indptr", f"gives row {row:,} {counts[bad[0]]:,} values, expected 0 to {most:,}"
            )
        if ends[-1] > self._n_values:
            raise self._wrong("indptr", f"reaches {ends[-1]:,} of {self._n_values:,} values")

    def _entries(
        self, streams: Mapping[str, _Stream], offsets: npt.NDArray[np.int64], first: int
    ) -> pa.Array:
        begin, end = int(offsets[0]), int(offsets[-1])
        indices = streams["indices"].read(begin, end).astype(np.int64)
        bad = np.flatnonzero((indices < 0) | (indices >= self._n_columns))
        if len(bad):
            row = first + int(np.searchsorted(offsets, begin + bad[0], side="right")) - 1
            raise self._wrong(
                "indices",
                f"has {indices[bad[0]]} in row {row:,}, expected 0 to {self._n_columns - 1:,}",
            )
        with np.errstate(over="ignore"):
            values = streams["data"].read(begin, end).astype(np.float32)
        rows = Keyed(offsets - offsets[0], indices.astype(np.uint64), values)
        return keyed_array(rows, np.arange(len(rows)))

    def end(self) -> SourceEnd:
        """Return the bytes of X, and the digest of its values."""
        return self._end

    def sample(self, columns: Sequence[str], n_places: int) -> Iterator[pa.RecordBatch]:
        """Yield rows from the start."""
        left = n_places * SAMPLE_ROWS
        for batch in self.batches(columns):
            yield batch.rows.slice(0, left)
            left -= batch.rows.num_rows
            if left <= 0:
                return

    def reading_bytes(self, columns: Sequence[str]) -> int:  # noqa: ARG002 (X is always read)
        """Return what chunks take, as they are decoded and while their ends are kept."""
        return 3 * self._chunk_bytes + 64 * _SLAB_VALUES


class _Stream:
    """An array that is read from front to back, each chunk decoded once."""

    def __init__(self, source: ZarrSource) -> None:
        self._slabs = source.slabs(_step(source))
        self._kept: npt.NDArray[Any] = np.empty(0, source.dtype)
        self._at = 0

    def read(self, begin: int, end: int) -> npt.NDArray[Any]:
        """Return values begin .. end - 1; begin never decreases, and end is in the array."""
        kept = [self._kept[begin - self._at :]]
        have = self._at + len(self._kept)
        while have < end:
            kept.append(next(self._slabs))
            have += len(kept[-1])
        self._kept = np.concatenate(kept) if len(kept) > 1 else kept[0]
        self._at = begin
        return self._kept[: end - begin]


class _Column:
    """A column of obs."""

    def __init__(self, obs: Any, name: str, where: str) -> None:
        self.name = name
        self._where = f"{where}/obs/{name}"
        node = obs[name]
        self._categories: pa.Array | None = None
        if _is_group(node):
            texts = node["categories"]
            if len(texts.shape) != 1 or texts.shape[0] > _MAX_TEXTS:
                raise SourceError("more categories than any column has", where=self._where)
            self._categories = pa.array([str(t) for t in self._of(texts, 0, texts.shape[0])])
            node = node["codes"]
        self._node = node

    def _of(self, node: Any, begin: int, end: int) -> Any:
        try:
            return node[begin:end].tolist() if _is_text(node) else np.asarray(node[begin:end])
        except Exception as error:  # whatever a codec makes of damaged bytes
            raise SourceError(f"cannot be read: {_told(error)}", where=self._where) from error

    def read(self, begin: int, end: int) -> pa.Array:
        """Return some rows."""
        found = self._of(self._node, begin, end)
        if len(found) != end - begin:
            raise SourceError("has fewer rows than X", where=self._where)
        if self._categories is None:
            return pa.array(found, pa.string()) if isinstance(found, list) else pa.array(found)
        if ((found < -1) | (found >= len(self._categories))).any():
            raise SourceError("has a code that is no category", where=self._where)
        return self._categories.take(pa.array(found.astype(np.int64), mask=found < 0))


_NOTHING = Keyed(np.zeros(1, np.int64), np.empty(0, np.uint64), np.empty(0, np.float32))
_NONE = np.empty(0, np.int64)


def _columns(obs: Any) -> dict[str, pa.DataType]:
    """Return the columns of obs that can be read."""
    found: dict[str, pa.DataType] = {}
    if not _is_group(obs):
        return found
    for name in sorted(obs):
        node = obs[name]
        if _is_group(node):
            if dict(node.attrs).get("encoding-type") != "categorical":
                continue
            pair = node.get("codes"), node.get("categories")
            if any(_is_group(part) or part is None or _unpickles(part) for part in pair):
                continue
            if np.dtype(pair[0].dtype).kind in "iu":
                found[name] = pa.string()
        elif len(node.shape) == 1 and not _unpickles(node):
            if _is_text(node):
                found[name] = pa.string()
            elif np.dtype(node.dtype).kind in "iufb":
                native = np.dtype(node.dtype).newbyteorder("=")
                found[name] = pa.from_numpy_dtype(native)
    return found


def _is_group(node: Any) -> bool:
    return node is not None and not hasattr(node, "chunks")


def _is_text(node: Any) -> bool:
    kind = np.dtype(node.dtype).kind
    return kind in "TU" or (kind == "O" and any("vlen-utf8" in c for c in _codecs(node)))


def _unpickles(node: Any) -> bool:
    return any("pickle" in codec for codec in _codecs(node))


def _codecs(node: Any) -> list[str]:
    told = node.metadata.to_dict()
    found = [*(told.get("filters") or ()), told.get("compressor"), *(told.get("codecs") or ())]
    return [str(c) for c in found]


def _is_size(n: Any) -> bool:
    return isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 1 << 48


def _step(source: ZarrSource) -> int:
    """Return the values that are read at once: whole chunks."""
    return source.step * max(_MIN_STEP // source.step, 1)


def _joined(ends: Sequence[SourceEnd]) -> SourceEnd:
    return SourceEnd(sum(e.n_bytes for e in ends), "-".join(e.digest for e in ends))


def _told(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
