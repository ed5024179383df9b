"""What a dataset holds, read with a library that is not ours."""

import pyarrow as pa
import pyarrow.parquet as pq

from streamtrain.store.manifest_file import read_manifest


def read_split(folder, split):
    manifest = read_manifest(folder)
    names = [shard.name for shard in manifest.splits.get(split, ())]
    return pa.concat_tables([pq.ParquetFile(folder / name).read() for name in names])


def read_all(folder):
    return pa.concat_tables([read_split(folder, s) for s in read_manifest(folder).splits])
