"""Predictions and evaluations with a trained model's artefact, streaming."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from streamtrain.errors import SchemaError
from streamtrain.kernels.team import Team
from streamtrain.memory import default_budget
from streamtrain.model.evaluation import Evaluation
from streamtrain.model.losses import CLASS_LOSSES, in_domain
from streamtrain.model.models import make_model
from streamtrain.model.predictions import predictions
from streamtrain.model_file import ModelFile, load_model_file
from streamtrain.reader.order import Cursor, OrderSettings
from streamtrain.reader.stream import EpochReader
from streamtrain.scoring import (
    evaluate_split,
    plan_scoring,
    require_scoring_memory,
)
from streamtrain.store.dataset import Dataset
from streamtrain.store.encode import EncodedRows, Encoder, encode_array
from streamtrain.store.tables import as_record_batch

Floats = npt.NDArray[np.float32]


class Model:
    """A trained model that scores raw rows.

    Parameters
    ----------
    file : ModelFile
    threads : int
        0 takes every core that this process may use.

    Notes
    -----
    Made by `load_model`.
    """

    def __init__(self, file: ModelFile, *, threads: int = 0) -> None:
        self.file = file
        self.schema = file.schema
        self.architecture = file.architecture
        self.n_threads = threads or len(os.sched_getaffinity(0))
        self._team = Team(self.n_threads)
        self._model = make_model(file.architecture, self._team)
        self._encoder: Encoder | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The target's classes as text; empty for a regression, and for several targets."""
        return self.schema.target.classes if self.architecture.loss in CLASS_LOSSES else ()

    @property
    def encoder(self) -> Encoder:
        """The encoders of raw rows, made at first use."""
        if self._encoder is None:
            schema = self.schema
            if not self.classes:
                # To a regression on few distinct numbers any other number is a target too.
                target = msgspec.structs.replace(schema.target, classes=(), values=())
                schema = msgspec.structs.replace(schema, target=target)
            self._encoder = Encoder(
                schema,
                {
                    column.name: vocabulary
                    for column, vocabulary in zip(
                        self.schema.categorical, self.file.vocabularies, strict=True
                    )
                },
            )
        return self._encoder

    def scores(self, rows: EncodedRows) -> Floats:
        """Return the scores of encoded rows, (n, C) float32."""
        return self._model.scores(self.file.parameters, rows.numeric, rows.codes, rows.bags)

    def predict(self, data: Any) -> npt.NDArray[np.float64]:
        """Return predictions for raw rows.

        Parameters
        ----------
        data : mapping of column name to sequence, Arrow table or batch, or (n, D) array
            Any object with ``__arrow_c_stream__`` too. An array has the feature
            columns in the schema's order; a model of arrays takes (n, ...) numbers
            of any type. Missing values are None or NaN, categories that training
            did not see count as rare.

        Returns
        -------
        (n,) float64 values or means, probabilities of the positive class
        (logistic) or margins (hinge); (n, C) probabilities (softmax), classes in
        the order of `classes`; (n, M) values, or probabilities of 1 (logistic), where
        a row has M > 1 targets. Means are multiplied by the exposure where the
        data have it, and are those of exposure 1 where they do not; NaN where an
        exposure is missing or not positive, or a value of an array is infinite.

        Raises
        ------
        SchemaError
            If a feature column is missing or cannot be read as its kind.
        """
        if self.schema.array is not None:
            rows = encode_array(data, self.schema.array)
            bad = np.asarray(np.isinf(rows.numeric).any(axis=1))
            if not bad.any():
                return self._predictions(rows)
            some = self._predictions(rows.take(~bad))
            found = np.full((len(bad), *some.shape[1:]), np.nan)
            found[~bad] = some
            return found
        return self._predictions(self.encoder.encode(as_record_batch(data, self.schema)))

    def _predictions(self, rows: EncodedRows) -> npt.NDArray[np.float64]:
        values = predictions(self.architecture, self.scores(rows), self._exposure(rows))
        lacking = self.lacks_exposure(rows)
        if lacking.any():
            values[lacking] = np.nan
        return values

    def _exposure(self, rows: EncodedRows) -> Floats | None:
        """Return the exposures that the model multiplies means by, 1 where one is no good."""
        if rows.exposure is None or self.schema.exposure is None:
            return None
        return np.where(self.lacks_exposure(rows), np.float32(1), rows.exposure)

    def lacks_exposure(self, rows: EncodedRows) -> npt.NDArray[np.bool_]:
        """Return which rows have an exposure that is missing or not positive, (n,) bool.

        None has where the model or the source knows no exposures.
        """
        if rows.exposure is None or self.schema.exposure is None:
            return np.zeros(len(rows.numeric), np.bool_)
        # Written so that NaN lacks it.
        good: npt.NDArray[np.bool_] = (rows.exposure > 0) & np.isfinite(rows.exposure)
        return ~good

    def prediction_names(self) -> list[str]:
        """Return the columns of `prediction_columns`."""
        loss, n_targets = self.architecture.loss, self.architecture.n_targets
        if n_targets > 1:
            kinds = ["prediction", *(["probability"] if loss == "logistic" else [])]
            return [f"{kind}_{m}" for kind in kinds for m in range(n_targets)]
        if loss == "softmax":
            return ["prediction", *(f"probability_{name}" for name in self.classes)]
        return ["prediction", *{"logistic": ["probability"], "hinge": ["margin"]}.get(loss, [])]

    def prediction_columns(self, rows: EncodedRows) -> list[npt.NDArray[Any]]:
        """Return what the predict command writes of encoded rows.

        Returns
        -------
        list of (n,) arrays
            The value, or the likelier class as text and then the
            probability of the positive class (logistic), its margin (hinge), or
            the probability of every class (softmax). Of several targets the values,
            or 0 and 1 and then the probabilities of 1 (logistic).
        """
        values = self._predictions(rows)
        if self.architecture.n_targets > 1:
            columns = list(np.ascontiguousarray(values.T))
            if self.architecture.loss != "logistic":
                return columns
            return [*((column > 0.5).astype(np.int8) for column in columns), *columns]
        if not self.classes:
            return [values]
        names = np.array(self.classes)
        if self.architecture.loss == "softmax":
            return [names[values.argmax(axis=1)], *np.ascontiguousarray(values.T)]
        threshold = 0.5 if self.architecture.loss == "logistic" else 0.0
        return [names[(values > threshold).astype(np.intp)], values]

    def evaluate_dataset(
        self,
        dataset: Dataset,
        split: str,
        *,
        memory: int | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> dict[str, Any]:
        """Return split, rows, loss and metrics on a split of a dataset.

        Parameters
        ----------
        dataset : Dataset
        split : str
        memory : int or None
            Budget of the whole process in bytes; None takes half of what there is.
        should_stop : callable

        Raises
        ------
        ConfigError
            If there is no such split.
        SchemaError
            If the dataset was encoded otherwise than the training data.
        """
        dataset.n_rows(split)
        self._check_encoding(dataset)
        auc_rows = require_scoring_memory(
            dataset,
            split,
            self._model,
            budget=memory or default_budget(),
            n_threads=self.n_threads,
        )
        result = evaluate_split(
            dataset,
            split,
            self._model,
            self.file.parameters,
            n_threads=self.n_threads,
            auc_rows=auc_rows,
            should_stop=should_stop,
        )
        return {"split": split, **result}

    def evaluate_rows(self, pieces: Iterator[EncodedRows]) -> dict[str, Any]:
        """Return rows, loss and metrics on encoded raw rows that have a target.

        Rows whose target is missing, none of the classes or outside of the loss's
        domain are left out and counted in `rows_without_target`; then those that
        ingest would reject, whose weight is missing or negative in
        `rows_without_weight`, whose exposure is missing or not positive in
        `rows_without_exposure`.
        """
        n_classes = len(self.schema.target.classes)
        evaluation = Evaluation(self.architecture, n_classes=n_classes)
        n_without = n_weightless = n_unexposed = 0
        for rows in pieces:
            if rows.target is None:
                raise SchemaError(
                    "the source has no target column to evaluate against",
                    where=self.schema.target.name,
                    remedy="use `streamtrain predict` for rows without a target",
                )
            if rows.exposure is None and self.schema.exposure is not None:
                raise SchemaError(
                    "the source has no such column, and the model was trained with exposures",
                    where=f"column {self.schema.exposure!r}",
                    remedy="add it; a column of ones measures the model at exposure 1",
                )
            target = self._target(rows.target)
            known = self._known(target)
            n_without += int((~known).sum())
            if rows.weight is not None:
                weighed = np.isfinite(rows.weight) & (rows.weight >= 0)
                n_weightless += int((known & ~weighed).sum())
                known &= weighed
            lacking = self.lacks_exposure(rows)
            n_unexposed += int((known & lacking).sum())
            known &= ~lacking
            exposure = self._exposure(rows)
            evaluation.update(
                self.scores(rows)[known],
                target[known],
                np.empty(0, np.float32) if rows.weight is None else rows.weight[known],
                None if exposure is None else exposure[known],
            )
        result = evaluation.result()
        if not result["rows"]:
            raise SchemaError(
                "no row has a target that the model knows", where=self.schema.target.name
            )
        return {
            "split": None,
            **result,
            "rows_without_target": n_without,
            "rows_without_weight": n_weightless,
            "rows_without_exposure": n_unexposed,
        }

    def dataset_rows(
        self,
        dataset: Dataset,
        split: str,
        *,
        memory: int | None = None,
        waiting_bytes: int = 0,
    ) -> Iterator[EncodedRows]:
        """Yield the rows of a split in order, for predictions.

        Parameters
        ----------
        dataset : Dataset
        split : str
        memory : int or None
            Budget of the whole process in bytes; None takes half of what there is.
        waiting_bytes : int
            Of predictions that wait to be written.

        Raises
        ------
        SchemaError
            If the dataset was encoded otherwise than the training data.
        """
        dataset.n_rows(split)
        self._check_encoding(dataset)
        require_scoring_memory(
            dataset,
            split,
            self._model,
            budget=memory or default_budget(),
            n_threads=self.n_threads,
            waiting_bytes=waiting_bytes,
        )
        plan = plan_scoring(dataset, split, n_threads=self.n_threads)
        order = OrderSettings(dataset.fingerprint, 0, plan.window_blocks, shuffle=False)
        with EpochReader(
            dataset, split, order, batch_size=plan.n_rows, n_readers=plan.n_readers
        ) as reader:
            for segment in reader.epoch(Cursor()):
                for k in range(segment.n_batches):
                    rows = segment.rows.slice(k * plan.n_rows, (k + 1) * plan.n_rows)
                    exposure = rows.exposure if len(rows.exposure) else None
                    yield EncodedRows(
                        rows.numeric, rows.codes, rows.target, None, exposure, rows.bags
                    )

    def _target(self, target: Floats) -> Floats:
        """Return class indices (-1 where there is none), or the values of a regression."""
        if not self.classes:
            return target
        values = np.array(self.schema.target.values, np.float32)
        order = np.argsort(values)
        at = np.clip(np.searchsorted(values[order], target), 0, len(values) - 1)
        found: npt.NDArray[np.bool_] = values[order][at] == target
        return np.where(found, order[at], -1).astype(np.float32)

    def _known(self, target: Floats) -> npt.NDArray[np.bool_]:
        """Return which rows have targets that the loss is defined for, (n,) bool."""
        known: npt.NDArray[np.bool_] = np.isfinite(target)
        if self.architecture.n_targets == 1:
            known &= in_domain(self.architecture.loss, target)
            return known
        if self.architecture.loss == "logistic":
            known = (target == 0) | (target == 1)
        rows: npt.NDArray[np.bool_] = np.logical_and.reduce(known, axis=1)
        return rows

    def _check_encoding(self, dataset: Dataset) -> None:
        def shape(schema: Any) -> list[tuple[str, str, Any]]:
            if schema.array is not None:
                return [("", "array", str(schema.array.shape)), ("", "", repr(schema.array.names))]
            return [
                (
                    c.name,
                    c.kind,
                    (c.cardinality, c.bag.key) if c.kind == "bag" else c.vocabulary_digest,
                )
                for c in schema.columns
            ]

        if shape(dataset.schema) != shape(self.schema):
            raise SchemaError(
                "its columns or categories are not those the model was trained on",
                where=str(dataset.path),
                remedy="give the raw files instead: the model encodes them itself",
            )
        if (dataset.schema.exposure is None) != (self.schema.exposure is None):
            raise SchemaError(
                "it has exposures and the training data had none, or the other way round",
                where=str(dataset.path),
                remedy="ingest it with the same --exposure",
            )
        found, expected = dataset.schema.target.n_outputs, self.schema.target.n_outputs
        if found != expected:
            raise SchemaError(
                f"its rows have {found:,} targets, the model was trained on {expected:,}",
                where=str(dataset.path),
            )
        labels = self.architecture.loss == "logistic" and expected > 1
        if labels and dataset.schema.target.task != "labels":
            raise SchemaError(
                "its targets are not all 0 or 1, as those were that the model was trained on",
                where=str(dataset.path),
            )
        if dataset.schema.target.values != self.schema.target.values and self.classes:
            raise SchemaError(
                "its target's classes are not those the model was trained on",
                where=str(dataset.path),
            )


def load_model(run: str | os.PathLike[str], *, threads: int = 0) -> Model:
    """Load the model that a run left.

    Raises
    ------
    NoInputError
        If the run is not there or has not finished.
    CheckpointError
        If its files are damaged.
    """
    return Model(load_model_file(Path(run)), threads=threads)
