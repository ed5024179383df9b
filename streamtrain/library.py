"""The library's front: datasets that yield batches, training, and a trainer of arrays."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

import streamtrain
from streamtrain import memory as budget
from streamtrain.config import nearest, parse_interval, parse_size
from streamtrain.errors import ConfigError, DivergedError
from streamtrain.kernels.losses import LOSSES
from streamtrain.kernels.team import Team
from streamtrain.model.architecture import MODELS, Architecture
from streamtrain.model.losses import CLASS_LOSSES, LossSettings, predictions, require_domain
from streamtrain.model.models import make_model
from streamtrain.model.network import NetworkOptions
from streamtrain.model.plan_network import plain_network
from streamtrain.optim.optimizers import OptimizerSettings, make_rule
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
            numeric (B, D) float32, codes (B, F) int32, target (B,) float32,
            weight and exposure (B,) or (0,): NumPy views, valid until the next.
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
    prefetch: int = 1,
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
        n_rows=opened.n_rows("train"),
        has_valid=opened.manifest.n_rows("valid") > 0,
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


class Trainer:
    """Train on your own arrays: all their batches in one call of the kernel.

    Parameters
    ----------
    model : str
        "linear", "fm", "mlp", "wide-deep", "deepfm", "dcn" or "custom".
    n_numeric : int
        D.
    cardinalities : sequence of int
        Codes of each of the F categorical fields.
    loss : str
        One of `streamtrain.kernels.losses.LOSSES`.
    n_classes : int
        Of softmax.
    optimizer : str
    lr : float or None
        None takes the optimizer's default.
    embedding_lr : float or None
        Rate of rows of categories; None takes that of the others.
    threads : int
        0 takes every core this process may use. Never changes a result.
    seed : int
        Of the first parameters of networks, and of dropout.
    **other_settings
        Of the optimizer: momentum, beta1, l2, clip_norm, ...; of the loss:
        quantile, huber_delta, tweedie_power, label_smoothing; of networks:
        hidden, embedding_dim, activation, dropout, ... (`NetworkOptions`).

    Notes
    -----
    Numeric columns and targets are taken as they are: standardise them.
    """

    def __init__(
        self,
        *,
        model: str = "linear",
        n_numeric: int,
        cardinalities: Sequence[int] = (),
        loss: str = "logistic",
        n_classes: int = 2,
        optimizer: str = "adagrad",
        lr: float | None = None,
        embedding_lr: float | None = None,
        threads: int = 0,
        seed: int = 0,
        **other_settings: Any,
    ) -> None:
        known = [
            *OptimizerSettings.__struct_fields__, *NetworkOptions.__struct_fields__,
            *LossSettings.__struct_fields__,
        ]  # fmt: skip
        for name in other_settings:
            if name not in known:
                raise ConfigError(f"no setting {name!r}{nearest(name, known)}", where="Trainer")
        settings = make_settings(
            {
                "model": model, "loss": loss, "optimizer": optimizer, "lr": lr,
                "embedding_lr": embedding_lr, **other_settings,
            }
        )  # fmt: skip
        settings.check()
        if model not in MODELS:
            raise ConfigError(f"no model {model!r}{nearest(model, MODELS)}", where="model")
        if loss not in LOSSES:
            raise ConfigError(f"no loss {loss!r}{nearest(loss, LOSSES)}", where="loss")
        settings.loss_settings.check_use(loss)
        if settings.class_weights != "none":
            raise ConfigError(
                "a trainer does not know how many rows each class will have",
                where="class_weights",
                remedy="give fit_rows the weight of each row",
            )
        self._architecture = Architecture(
            model=model,  # type: ignore[arg-type]
            loss=loss,  # type: ignore[arg-type]
            n_scores=n_classes if loss == "softmax" else 1,
            mean=(0.0,) * n_numeric,
            scale=(1.0,) * n_numeric,
            cardinalities=tuple(int(c) for c in cardinalities),
            quantile=settings.quantile,
            huber_delta=settings.huber_delta,
            tweedie_power=settings.tweedie_power,
            label_smoothing=settings.label_smoothing,
            network=None
            if model == "linear"
            else plain_network(
                model,
                settings.network,
                n_numeric=n_numeric,
                cardinalities=tuple(int(c) for c in cardinalities),
            ),
        )
        self._rate = settings.plan_schedule(1).rate
        self._team = Team(threads or len(os.sched_getaffinity(0)))
        self._seed = seed
        self._model = make_model(self._architecture, self._team)
        self.parameters = self._model.initial_parameters(seed)
        self._rule = make_rule(
            settings.optimizer,
            n_parameters=self._model.layout.n_parameters,
            n_dense=self._model.layout.n_dense,
            n_table_rows=self._model.layout.n_table_rows,
            rate=settings.rate,
            table_rate_factor=settings.table_rate_factor,
        )
        self._batch_size = 0
        self.steps = 0

    def fit_rows(
        self,
        numeric: npt.NDArray[np.float32],
        codes: npt.NDArray[np.int32],
        target: npt.NDArray[np.float32],
        *,
        batch_size: int,
        weight: npt.NDArray[np.float32] | None = None,
        exposure: npt.NDArray[np.float32] | None = None,
    ) -> float:
        """Take one step on each of the consecutive batches of some rows, in their order.

        Parameters
        ----------
        numeric : (n, D) float32
            NaN is missing.
        codes : (n, F) int32
        target : (n,) float32
            Class index, or the value.
        batch_size : int
        weight : (n,) float32 or None
        exposure : (n,) float32 or None
            Positive; the mean of poisson, gamma and tweedie is multiplied by it.

        Returns
        -------
        float
            Mean loss of the batches, each before its step.

        Raises
        ------
        ConfigError
            If shapes, types or codes do not fit.
        DivergedError
            If a loss is not finite.
        """
        numeric, codes, target = self._checked(numeric, codes, target)
        weights = self._optional(weight, len(target), "weights")
        exposures = self._optional(exposure, len(target), "exposures")
        require_domain(self._architecture.loss, target, exposures, where="fit_rows")
        if batch_size < 1:
            raise ConfigError(f"a batch of {batch_size} rows is not possible", where="fit_rows")
        size = min(batch_size, len(target))
        if not size:
            raise ConfigError("no rows", where="fit_rows")
        if size > self._batch_size:
            self._model = make_model(
                self._architecture,
                self._team,
                batch_size=size,
                seed=self._seed,
                clips_norm=self._rule.clips_norm,
            )
            self._batch_size = size
        n_batches = -(-len(target) // size)
        sums = np.zeros((n_batches, 2))
        taken = self._model.take_steps(
            self.parameters,
            self._rule,
            numeric=numeric,
            codes=codes,
            target=target,
            weight=weights,
            exposure=exposures,
            batch_size=size,
            step=self.steps,
            rates=np.full(n_batches, self._rate),
            step_sums=sums,
        )
        self.steps += taken
        if taken < n_batches:
            raise DivergedError(
                "the loss is no longer finite", where=f"step {self.steps}", remedy="lower lr"
            )
        return float(sums[:, 0].sum() / sums[:, 1].sum())

    def predict(
        self,
        numeric: npt.NDArray[np.float32],
        codes: npt.NDArray[np.int32],
        *,
        exposure: npt.NDArray[np.float32] | None = None,
    ) -> npt.NDArray[np.float64]:
        """Return predictions for rows, as `streamtrain.predict.Model.predict` does.

        Parameters
        ----------
        numeric : (n, D) float32
        codes : (n, F) int32
        exposure : (n,) float32 or None
        """
        numeric, codes, _ = self._checked(numeric, codes, np.zeros(len(numeric), np.float32))
        exposures = self._optional(exposure, len(numeric), "exposures")
        parameters = self._model.settled(self.parameters, self._rule)
        scores = self._model.scores(parameters, numeric, codes)
        return predictions(self._architecture, scores, exposures)

    @staticmethod
    def _optional(values: Any, n_rows: int, name: str) -> npt.NDArray[np.float32]:
        if values is None:
            return np.empty(0, np.float32)
        found = np.ascontiguousarray(values, np.float32)
        if len(found) != n_rows:
            raise ConfigError(f"{len(found)} {name} for {n_rows} rows", where="fit_rows")
        return found

    def _checked(self, numeric: Any, codes: Any, target: Any) -> tuple[Any, Any, Any]:
        numeric = np.ascontiguousarray(numeric, np.float32)
        codes = np.ascontiguousarray(codes, np.int32)
        target = np.ascontiguousarray(target, np.float32)
        n, cardinalities = len(target), self._architecture.cardinalities
        shapes = ((n, len(self._architecture.mean)), (n, len(cardinalities)), (n,))
        for name, array, shape in zip(
            ("numeric", "codes", "target"), (numeric, codes, target), shapes, strict=True
        ):
            if array.shape != shape:
                raise ConfigError(f"{name} has shape {array.shape}, expected {shape}", where=name)
        if codes.size and (codes.min() < 0 or (codes.max(axis=0) >= np.array(cardinalities)).any()):
            raise ConfigError("a code is outside of its field's cardinality", where="codes")
        n_classes = self._architecture.n_scores if self._architecture.loss == "softmax" else 2
        if (
            self._architecture.loss in CLASS_LOSSES
            and not np.isin(target, np.arange(n_classes)).all()
        ):
            raise ConfigError(f"targets are not 0 to {n_classes - 1}", where="target")
        return numeric, codes, target
