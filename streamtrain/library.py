"""The library's front: datasets that yield batches, training, and a trainer of arrays."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import msgspec

import streamtrain
from streamtrain import memory as budget
from streamtrain.config import nearest, parse_interval, parse_size
from streamtrain.errors import ConfigError
from streamtrain.model.network import NetworkOptions
from streamtrain.optim.optimizers import OptimizerSettings
from streamtrain.reader.order import Cursor, OrderSettings
from streamtrain.reader.stream import EpochReader, check_batch_size, choose_window_blocks
from streamtrain.reader.windows import Rows, row_bytes
from streamtrain.store import dataset as store
from streamtrain.store.dataset import IoMethod
from streamtrain.train.defaults import model_defaults
from streamtrain.train.session import train as _train
from streamtrain.train.settings import DEFAULT_BATCH_SIZE, Resources, ResumeMode, TrainSettings

Batch = Rows
"""Rows of one gradient: views that are valid until the next batch."""


class Dataset(store.Dataset):
    """A dataset on disk, made by `open_dataset`."""

    def batches(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        memory: int | str | None = None,
        split: str = "train",
        epochs: int = 1,
        cursor: Cursor = Cursor(),  # noqa: B008 (frozen)
        shuffle: bool = True,
        window_blocks: int = 0,
        prefetch: int = 1,
        readers: int = 1,
        drop_last: bool = False,
        io: IoMethod = "pread",
    ) -> Generator[tuple[Batch, Cursor], None, None]:
        """Yield (batch, cursor) over epochs of a split: the reader that training uses.

        Parameters
        ----------
        batch_size : int
            B; the last batch of an epoch may have fewer rows.
        seed : int
            Of the order.
        memory : int, str or None
            Like "1GB"; a window takes at most a quarter of it, whatever
            `prefetch` is, so up to 3 windows ahead fit. None takes half of the
            default budget.
        split : str
        epochs : int
            The first epoch is that of `cursor`.
        cursor : Cursor
            Where to begin: the one that came with the last batch consumed.
        shuffle : bool
        window_blocks : int
            Blocks shuffled together; 0 chooses about 131,072 rows or what
            `memory` holds. Keep it when resuming: the order depends on it.
        prefetch, readers : int
            Windows read ahead, and threads that read blocks. Neither changes
            the order.
        drop_last : bool
        io : {"pread", "mmap"}

        Yields
        ------
        Batch
            numeric (B, D) float32, codes (B, F) int32, target (B,) float32, or (B, M)
            where a row has M > 1 of them, weight and exposure (B,) or (0,): NumPy
            views, valid until the next.
        Cursor
            The position after it.

        Raises
        ------
        ConfigError
            If the split is not there or smaller than a batch.
        CorruptShardError
            If a block is not what was written.
        """
        if batch_size < 1:
            raise ConfigError(f"a batch of {batch_size} rows is not possible", where="batch_size")
        check_batch_size(batch_size, self.n_rows(split))
        block_rows = [block.n_rows for _, block in self.manifest.blocks(split)]
        n_bytes = parse_size(memory) if memory is not None else budget.default_budget() // 2
        blocks = window_blocks or choose_window_blocks(
            block_rows, row_bytes=row_bytes(self), budget_bytes=n_bytes // 4
        )
        order = OrderSettings(self.fingerprint, seed, blocks, shuffle)
        with EpochReader(
            self,
            split,
            order,
            batch_size=batch_size,
            depth=prefetch,
            n_readers=readers,
            drop_last=drop_last,
            io=io,
        ) as reader:
            last = cursor.epoch + epochs
            while cursor.epoch < last:
                for segment in reader.epoch(cursor):
                    for k in range(segment.n_batches):
                        start = k * batch_size
                        rows = segment.rows.slice(
                            start, min(start + batch_size, segment.rows.n_rows)
                        )
                        yield rows, segment.cursor_after(k + 1)
                cursor = Cursor(cursor.epoch + 1)


def open_dataset(path: str | os.PathLike[str]) -> Dataset:
    """Open a dataset: read its manifest, and check that every shard is there whole.

    Raises
    ------
    NoInputError
        If `path` is not a dataset.
    ManifestError, CorruptShardError
        If the manifest is damaged, or a shard is missing or has another size.
    """
    opened = store.open_dataset(path)
    return Dataset(opened.path, opened.manifest)


def train(
    dataset: store.Dataset | str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    memory: int | str | None = None,
    threads: int = 0,
    prefetch: int = 0,
    io: IoMethod = "pread",
    checkpoint_every: str | int = "60s",
    progressive: bool = False,
    resume: ResumeMode = "never",
    should_stop: Callable[[], bool] = lambda: False,
    **settings: Any,
) -> Iterator[dict[str, Any]]:
    """Train a model on a dataset into the directory `out`, and yield events.

    Parameters
    ----------
    dataset : Dataset or path
    out : path
        The run.
    memory : int, str or None
        Bound on the whole process, like "512MB"; None takes half of what there is.
    threads, prefetch, io
        None of them shows in the result.
    checkpoint_every : str or int
        Steps (500) or a time ("30s").
    progressive : bool
        Measure every metric on the first epoch's rows, each before its own step.
    resume : {"auto", "never"}
    should_stop : callable
        Looked at several times a second; True ends with a checkpoint.
    **settings
        Fields of `streamtrain.train.settings.TrainSettings` (model, loss, lr,
        epochs, batch_size, seed, ...), and of `OptimizerSettings` with
        ``optimizer`` for its name (momentum, beta1, beta2, epsilon, l1, l2,
        rho, ftrl_beta, clip_value, clip_norm).

    Yields
    ------
    dict
        With "event"; the last one is "done".

    Raises
    ------
    StreamtrainError
        As `streamtrain.train.session.train` says.
    """
    opened = dataset if isinstance(dataset, store.Dataset) else open_dataset(dataset)
    settings.setdefault("batch_size", min(DEFAULT_BATCH_SIZE, opened.n_rows("train")))
    defaults = model_defaults(
        str(settings.get("model", "linear")),
        opened.schema,
        n_rows=opened.n_rows("train"),
        has_valid=opened.manifest.n_rows("valid") > 0,
        batch_size=settings["batch_size"],
        loss=settings.get("loss"),
        optimizer=settings.get("optimizer"),
        epochs=settings.get("epochs"),
        encoding=settings.get("numeric_encoding"),
    )
    settings = {**defaults, **settings}
    steps, seconds = parse_interval(str(checkpoint_every))
    resources = Resources(
        memory=None if memory is None else parse_size(memory),
        threads=threads,
        prefetch=prefetch,
        io=io,
        checkpoint_steps=steps,
        checkpoint_seconds=seconds,
        progressive=progressive,
    )
    return _train(
        opened,
        Path(out),
        settings=make_settings(settings),
        resources=resources,
        resume=resume,
        should_stop=should_stop,
    )


# The imports above bound the subpackage of this name to the package.
streamtrain.train = train


def make_settings(options: dict[str, Any]) -> TrainSettings:
    """Return the settings in keyword arguments, those of the optimizer among them.

    Raises
    ------
    ConfigError
        If a name is unknown or a value has the wrong type.
    """
    of_network = set(NetworkOptions.__struct_fields__)
    of_optimizer = {f for f in OptimizerSettings.__struct_fields__ if f != "name"}
    of_run = set(TrainSettings.__struct_fields__)
    for name in options:
        if name not in of_optimizer | of_run | of_network:
            raise ConfigError(
                f"no setting {name!r}{nearest(name, of_optimizer | of_run | of_network)}",
                where="train",
            )
    optimizer = {k: v for k, v in options.items() if k in of_optimizer}
    rest = {k: v for k, v in options.items() if k in of_run and k != "optimizer"}
    network = {k: v for k, v in options.items() if k in of_network}
    if "optimizer" in options:
        optimizer["name"] = options["optimizer"]
    try:
        return msgspec.convert({**rest, "optimizer": optimizer, "network": network}, TrainSettings)
    except msgspec.ValidationError as error:
        raise ConfigError(str(error), where="train") from error
