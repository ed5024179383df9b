"""A kernel without a test of its own fails here."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Called through their wrappers in streamtrain/model/ and data_tools/, and in the oracles of
# tests/kernels/.
THROUGH = {
    "cross_codes": "Crosser",
    "train_linear": "kernel_steps",
    "score_linear": "model.scores",
    "settle_rows": "settled",
    "train_network": "network_steps",
    "score_network": "network_scores",
    "settle_tables": "network_steps",
    "split_svm_rows": "SvmSplitter",
    "text_codes": "code_texts",
    "hash_names": "keyed_of",
    "split_svm_entries": "SparseSplitter",
    "scan_vw_rows": "VwSource",
    "split_vw_rows": "VwSplitter",
}


def kernels():
    for path in sorted((ROOT / "streamtrain/kernels").glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                marks = {d.id for d in node.decorator_list if isinstance(d, ast.Name)}
                if marks & {"kernel", "fast_kernel"}:
                    yield path.stem, node.name


INGEST = {"csv_rows", "moments", "numbers", "packing", "row_key", "strings"}
TEXT = "\n".join(
    p.read_text() for p in (ROOT / "tests").rglob("*.py") if p != Path(__file__).resolve()
)


@pytest.mark.parametrize(("module", "name"), [k for k in kernels() if k[0] not in INGEST])
def test_every_kernel_of_training_is_called_by_a_test(module, name):
    assert f"{THROUGH.get(name, name)}(" in TEXT, f"kernels/{module}.py: {name} has no test"
