"""What a model is trained with where nothing was asked for (docs/decisions/0006-networks.md)."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from streamtrain.model.losses import CLASS_LOSSES, LOG_LINKS, guess_loss
from streamtrain.store.schema import Schema, Target

_EPOCH_ROWS = 2_000_000
_MIN_EPOCHS = 3
_MAX_EPOCHS = 64
_MAX_LINEAR_EPOCHS = 20
_PATIENCE = 16
_LINEAR_PATIENCE = 3
_MAX_PLE_COLUMNS = 32
_LINEAR_RATE, _LINEAR_ROWS = 0.07, 5.0
_BAG_RATE = 0.1
_FM_RATE, _FM_ROWS, _FM_DECAY = 0.004, 0.25, 0.06


def model_defaults(
    model: str,
    schema: Schema,
    *,
    n_rows: int,
    has_valid: bool,
    batch_size: int,
    loss: str | None = None,
    optimizer: str | None = None,
    epochs: int | None = None,
    encoding: str | None = None,
) -> dict[str, Any]:
    """Return default settings of a model, under the names of `make_settings`.

    Parameters
    ----------
    model : str
    schema : Schema
        Of the dataset: its target and its numeric columns decide.
    n_rows : int
        Of the train split.
    has_valid : bool
        Whether there is a valid split, by which to keep the best epoch.
    batch_size : int
        B.
    loss, optimizer, epochs, encoding : str, int or None
        What was asked for.

    Returns
    -------
    dict
        Models pass over about two million rows, but at least 3 epochs and at
        most 64, linear ones 20, and stop when the validation loss stands still.
        Numbers in pieces want a small rate and much decay, whole numbers neither.

    Notes
    -----
    After n rows of a category AdaGrad divides by about sqrt(n) s / B, where s is
    the deviation of a row's gradient: the first rows move it furthest, and most
    categories have few. With ``epsilon`` = k s / B its first k^2 rows count alike,
    so that stopping early shrinks rare categories as ridge regression does. Adam's
    mean of squares begins anew with each category too.
    """
    if model == "linear":
        passes = _MIN_EPOCHS
        if has_valid and epochs is None:
            passes = _epochs(n_rows, _MAX_LINEAR_EPOCHS)
        # Three epochs never end earlier: nothing to keep a copy of the parameters for.
        stop = _LINEAR_PATIENCE if passes > _MIN_EPOCHS else 0
        linear = {"schedule": "constant", "epochs": passes, "early_stop": stop}
        if schema.bags and optimizer in {None, "adagrad"}:
            # The values of a text have norm 1: an entry's gradients are a tenth of a category's.
            return linear | {"optimizer": "adagrad", "lr": _BAG_RATE, "epsilon": 1e-8}
        return linear | _linear_steps(schema.target, batch_size, loss, optimizer)
    defaults: dict[str, Any] = {
        "optimizer": "adamw",
        "schedule": "cosine",
        "epochs": _epochs(n_rows, _MAX_EPOCHS),
        "early_stop": _PATIENCE if has_valid else 0,
    }
    if model == "fm":
        defaults |= {"numeric_encoding": "robust", "embedding_dim": 8}
        return defaults | _fm_steps(schema.target, batch_size, loss, optimizer)
    if model == "deepfm":
        return {
            **defaults,
            "lr": 0.001,
            "numeric_encoding": "robust",
            "embedding_dim": 8,
            "dropout": 0.2,
        }
    if model == "custom":
        return {**defaults, "lr": 0.001, "numeric_encoding": encoding or "quantile"}
    # The values of an array are of one kind, and many: they need no curve each.
    many = "standard" if schema.array else "quantile"
    encoding = encoding or ("ple" if 0 < len(schema.numeric) <= _MAX_PLE_COLUMNS else many)
    if encoding == "ple":
        # Cross layers multiply what they pass on: a decay of 1 keeps products from being learnt.
        decay = 0.1 if model == "dcn" else 1.0
        return {**defaults, "numeric_encoding": "ple", "lr": 0.001, "l2": decay, "dropout": 0.2}
    return {
        **defaults,
        "numeric_encoding": encoding,
        "lr": 0.003,
        "dropout": 0.1,
        "hidden": (256, 256, 256),
        "activation": "silu",
    }


def gradient_scale(target: Target, loss: str | None) -> float:
    """Return the deviation of a row's first gradient, in that of a class in two: 0 to 1.

    Returns
    -------
    float
        1 for losses of numbers, which are learnt standardised; 0 where it is
        not known, as where a mean is an exponential.
    """
    name = loss or guess_loss(target.task)
    if name in LOG_LINKS:
        return 0.0
    if not isinstance(target.outputs, msgspec.UnsetType):
        # Of labels, the root of the mean over outputs: each has its share of ones.
        shares = [s.mean for s in target.outputs]
        labels = target.task == "labels" and name in CLASS_LOSSES
        return 2.0 * math.sqrt(sum(p * (1.0 - p) for p in shares) / len(shares)) if labels else 1.0
    total = sum(target.counts)
    if name not in CLASS_LOSSES or total == 0:
        return 1.0
    shares = [count / total for count in target.counts]
    return 2.0 * math.sqrt(sum(p * (1.0 - p) for p in shares) / len(shares))


def _epochs(n_rows: int, most: int) -> int:
    return max(_MIN_EPOCHS, min(most, -(-_EPOCH_ROWS // n_rows)))


def _linear_steps(
    target: Target, batch_size: int, loss: str | None, optimizer: str | None
) -> dict[str, Any]:
    scale = gradient_scale(target, loss)
    if optimizer not in {None, "adagrad"} or scale == 0.0:
        return {"optimizer": "adagrad"}
    epsilon = _LINEAR_ROWS * scale / max(batch_size, 1)
    return {"optimizer": "adagrad", "lr": _LINEAR_RATE, "epsilon": epsilon}


def _fm_steps(
    target: Target, batch_size: int, loss: str | None, optimizer: str | None
) -> dict[str, Any]:
    scale = gradient_scale(target, loss)
    if optimizer not in {None, "adamw"} or scale == 0.0:
        return {"lr": 0.001}
    return {"lr": _FM_RATE, "l2": _FM_DECAY, "epsilon": _FM_ROWS * scale / max(batch_size, 1)}
