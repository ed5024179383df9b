"""What a model is trained with where nothing was asked for (docs/decisions/0006-networks.md)."""

from __future__ import annotations

from typing import Any

_EPOCH_ROWS = 2_000_000
_MAX_EPOCHS = 64
_PATIENCE = 16


def model_defaults(model: str, *, n_rows: int, has_valid: bool) -> dict[str, Any]:
    """Return default settings of a model, under the names of `make_settings`.

    Parameters
    ----------
    model : str
    n_rows : int
        Of the train split.
    has_valid : bool
        Whether there is a valid split, by which to keep the best epoch.

    Returns
    -------
    dict
        Networks pass over about two million rows, but at least 3 epochs and at
        most 64, and stop when the validation loss stands still.
    """
    if model == "linear":
        return {"optimizer": "adagrad", "schedule": "constant", "epochs": 3, "early_stop": 0}
    defaults: dict[str, Any] = {
        "optimizer": "adamw",
        "lr": 0.001,
        "schedule": "cosine",
        "epochs": max(3, min(_MAX_EPOCHS, -(-_EPOCH_ROWS // n_rows))),
        "early_stop": _PATIENCE if has_valid else 0,
    }
    if model == "fm":
        return {**defaults, "numeric_encoding": "robust", "embedding_dim": 8}
    if model == "deepfm":
        defaults["embedding_dim"] = 8
    return {**defaults, "dropout": 0.1, "numeric_encoding": "quantile"}
