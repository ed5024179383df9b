"""streamtrain trains models on data larger than memory, on the CPU, from disk.

import streamtrain as st

st.ingest("events/", out="clicks", target="click")
ds = st.open_dataset("clicks")
for event in st.train(ds, out="run", epochs=3):
    ...
model = st.load_model("run")
p = model.predict({"age": [41.0], "country": ["CH"]})
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Names are imported when first asked for, so that `streamtrain --help` stays instant.
_HOMES = {
    "Dataset": "streamtrain.library",
    "Trainer": "streamtrain.trainer",
    "adopt": "data_tools.library",
    "ingest": "data_tools.library",
    "load_model": "streamtrain.predict",
    "open_dataset": "streamtrain.library",
    "train": "streamtrain.library",
}

if TYPE_CHECKING:
    from data_tools.library import adopt as adopt
    from data_tools.library import ingest as ingest
    from streamtrain.library import Dataset as Dataset
    from streamtrain.library import open_dataset as open_dataset
    from streamtrain.library import train as train
    from streamtrain.predict import load_model as load_model
    from streamtrain.trainer import Trainer as Trainer

__all__ = [
    "Dataset",
    "Trainer",
    "__version__",
    "adopt",
    "ingest",
    "load_model",
    "open_dataset",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'streamtrain' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
