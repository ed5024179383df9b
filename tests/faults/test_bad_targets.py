"""Hostile claims of how many targets a row has: refused before anything is read by them."""

import msgspec
import numpy as np
import pytest
import zarr

import streamtrain as st
from data_tools.ingest import ingest
from data_tools.options import IngestOptions
from streamtrain.errors import (
    CheckpointError,
    CorruptShardError,
    ManifestError,
    SourceError,
    StreamtrainError,
)
from streamtrain.library import open_dataset
from streamtrain.model.architecture import has_possible_targets
from streamtrain.model_file import MODEL_NAME, ModelHeader, load_model_file
from streamtrain.predict import load_model
from streamtrain.seal import seal
from streamtrain.store.schema import is_possible_target
from tests.made import make_dataset
from tests.store.test_damage import resealed
from tests.train.training import done

M = 3
ONE = {"count": 9, "missing": 0, "mean": 0.0, "std": 1.0, "minimum": 0.0, "maximum": 1.0}


def made(folder, *, labels=False, compression=None):
    rng = np.random.default_rng(0)
    np.save(folder / "x.npy", rng.normal(size=(100, 4)).astype("f4"))
    y = rng.normal(size=(100, M))
    np.save(folder / "y.npy", y > 0 if labels else y)
    ingest(
        IngestOptions(
            sources=(str(folder / "x.npy"),), target="target", target_file=folder / "y.npy",
            format="zarr", out=folder / "ds", splits={}, block_rows=16, compression=compression,
        )
    )  # fmt: skip
    return folder / "ds"


def target_of(raw):
    return raw["schema"]["target"]


HOSTILE = {
    "one output": lambda t: t.update(outputs=t["outputs"][:1]),
    "no outputs": lambda t: t.update(outputs=[]),
    "too many": lambda t: t.update(outputs=[ONE] * 4097),
    "a task of one value": lambda t: t.update(task="binary"),
    "classes": lambda t: t.update(classes=["a", "b"], values=[0, 1]),
    "text": lambda t: t.update(is_text=True),
    "labels without counts": lambda t: t.update(task="labels", counts=[]),
    "counts of others": lambda t: t.update(task="labels", counts=[1] * (M + 1)),
    "a deviation below 0": lambda t: t["outputs"][1].update(std=-1.0),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_manifest_of_targets_that_cannot_be_is_refused(tmp_path, change):
    folder = made(tmp_path)
    open_dataset(folder)
    resealed(folder, lambda raw: change(target_of(raw)))
    with pytest.raises(ManifestError, match="a target that cannot be"):
        open_dataset(folder)


def test_labels_need_outputs(tmp_path):
    folder = made(tmp_path, labels=True)
    resealed(folder, lambda raw: target_of(raw).pop("outputs"))
    with pytest.raises(ManifestError, match="a target that cannot be"):
        open_dataset(folder)


def test_a_table_has_one_target(tmp_path):
    for form in ("parquet", "zarr"):
        folder = make_dataset(tmp_path / form, n_rows=40, n_classes=0, file_format=form)
        resealed(folder, lambda raw: target_of(raw).update(outputs=[ONE] * 2))
        with pytest.raises(ManifestError, match="several targets of a row of a table"):
            open_dataset(folder)


def test_what_was_adopted_has_one_target(tmp_path):
    rows = np.arange(40.0)
    group = zarr.create_group(tmp_path)
    group.create_array("features", data=np.stack([rows] * 4, axis=1), chunks=(10, 4))
    group.create_array("pairs", data=np.stack([rows, rows], axis=1), chunks=(10, 2))
    group.create_array("target", data=rows / 2, chunks=(10,))
    with pytest.raises(SourceError, match="use `streamtrain ingest` for several targets"):
        st.adopt(tmp_path, target="pairs", splits={})
    st.adopt(tmp_path, target="target", splits={})
    resealed(tmp_path, lambda raw: target_of(raw).update(outputs=[ONE] * 2))
    with pytest.raises(ManifestError, match="cannot be one"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("compression", [None, "zstd", "blosc"])
@pytest.mark.parametrize("m", [2, 4, 64, 4096])
def test_a_claim_of_other_targets_than_the_shards_hold_reads_nothing_foreign(
    tmp_path, m, compression
):
    folder = made(tmp_path, compression=compression)
    resealed(folder, lambda raw: target_of(raw).update(outputs=[ONE] * m))
    dataset = open_dataset(folder)
    with pytest.raises(CorruptShardError):
        list(dataset.batches(7))


def test_labels_that_are_none_are_seen_when_they_are_measured(tmp_path):
    folder = made(tmp_path)
    done(open_dataset(made_labels(tmp_path)), tmp_path / "run", epochs=1)
    resealed(folder, lambda raw: target_of(raw).update(task="labels", counts=[1] * M))
    with pytest.raises(StreamtrainError, match="one of several that are 0 or 1"):
        load_model(tmp_path / "run").evaluate_dataset(open_dataset(folder), "train")


def made_labels(folder):
    (folder / "labels").mkdir()
    return made(folder / "labels", labels=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    done(open_dataset(made(folder)), folder / "run", epochs=1)
    return folder / "run"


def replaced(header, **changes):
    return msgspec.structs.replace(header, architecture=msgspec.structs.replace(
        header.architecture, **changes))  # fmt: skip


def with_target(header, **changes):
    target = msgspec.structs.replace(header.schema.target, **changes)
    return msgspec.structs.replace(
        header, schema=msgspec.structs.replace(header.schema, target=target)
    )


UNSET = msgspec.UNSET
MODELS = {
    "fewer scores": lambda h: replaced(h, n_scores=M - 1),
    "more scores": lambda h: replaced(h, n_scores=M + 1),
    "one score": lambda h: replaced(h, n_scores=1),
    "more means": lambda h: replaced(h, target_means=(0.0,) * 9),
    "fewer scales": lambda h: replaced(h, target_scales=(1.0,)),
    "no scales": lambda h: replaced(h, target_scales=UNSET),
    "no means": lambda h: replaced(h, target_means=UNSET),
    "neither": lambda h: replaced(h, target_means=UNSET, target_scales=UNSET),
    "scales of one target": lambda h: with_target(replaced(h, target_means=UNSET), outputs=UNSET),
    "a scale of 0": lambda h: replaced(h, target_scales=(1.0, 0.0, 1.0)),
    "a scale below 0": lambda h: replaced(h, target_scales=(1.0, -2.0, 1.0)),
    "a loss of classes": lambda h: replaced(h, loss="softmax"),
    "a loss of labels": lambda h: replaced(h, loss="logistic"),
    "weights of classes": lambda h: replaced(h, class_weights=(1.0, 2.0)),
    "a schema of one": lambda h: with_target(h, outputs=UNSET),
    "a schema of two": lambda h: with_target(h, outputs=h.schema.target.outputs[:2]),
    "a task of classes": lambda h: with_target(h, task="classes"),
    "too many": lambda h: with_target(
        replaced(h, n_scores=4097, target_means=(0.0,) * 4097, target_scales=(1.0,) * 4097),
        outputs=h.schema.target.outputs[:1] * 4097,
    ),
}


@pytest.mark.parametrize("change", MODELS.values(), ids=MODELS)
def test_a_model_of_targets_that_cannot_be_is_refused(run, tmp_path, change):
    for file in run.glob("model.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    load_model_file(tmp_path)
    header = msgspec.json.decode((tmp_path / MODEL_NAME).read_bytes(), type=ModelHeader)
    hostile = seal(change(header))
    (tmp_path / MODEL_NAME).write_bytes(msgspec.json.encode(hostile))
    with pytest.raises(CheckpointError, match="its targets cannot be those of a model"):
        load_model_file(tmp_path)


def test_what_training_leaves_is_possible(run):
    header = load_model_file(run).header
    assert is_possible_target(header.schema.target)
    assert has_possible_targets(header.architecture, header.schema.target)
