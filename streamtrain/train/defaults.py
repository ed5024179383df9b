"""What a model is trained with where nothing was asked for (docs/decisions/0006-networks.md)."""

from __future__ import annotations

from typing import Any

_EPOCH_ROWS = 2_000_000
_MAX_EPOCHS = 64
_PATIENCE = 16
_MAX_PLE_COLUMNS = 32


def model_defaults(
    model: str, *, n_rows: int, n_numeric: int, has_valid: bool, encoding: str | None
) -> dict[str, Any]:
    """Return default settings of a model, under the names of `make_settings`.

    Parameters
    ----------
    model : str
    n_rows : int
        Of the train split.
    n_numeric : int
        D.
    has_valid : bool
        Whether there is a valid split, by which to keep the best epoch.
    encoding : str or None
        Numeric encoding that was asked for.

    Returns
    -------
    dict
        Networks pass over about two million rows, but at least 3 epochs and at
        most 64, and stop when the validation loss stands still. Numbers in
        pieces want a small rate and much decay, whole numbers neither.
    """
    if model == "linear":
        return {"optimizer": "adagrad", "schedule": "constant", "epochs": 3, "early_stop": 0}
    defaults: dict[str, Any] = {
        "optimizer": "adamw",
        "schedule": "cosine",
        "epochs": max(3, min(_MAX_EPOCHS, -(-_EPOCH_ROWS // n_rows))),
        "early_stop": _PATIENCE if has_valid else 0,
    }
    if model == "fm":
        return {**defaults, "lr": 0.001, "numeric_encoding": "robust", "embedding_dim": 8}
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
    encoding = encoding or ("ple" if 0 < n_numeric <= _MAX_PLE_COLUMNS else "quantile")
    if encoding == "ple":
        return {**defaults, "numeric_encoding": "ple", "lr": 0.001, "l2": 1.0, "dropout": 0.2}
    return {
        **defaults,
        "numeric_encoding": encoding,
        "lr": 0.003,
        "dropout": 0.1,
        "hidden": (256, 256, 256),
        "activation": "silu",
    }
