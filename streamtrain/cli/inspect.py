"""The inspect command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from streamtrain.cli.output import duration, echo_json, echo_lines, figure, metrics_text
from streamtrain.cli.values import json_option
from streamtrain.config import format_size


@click.command(short_help="Show what a dataset or a run holds.")
@click.argument("path", type=click.Path(path_type=Path), metavar="DATASET|RUN")
@json_option
def inspect(path: Path, *, as_json: bool) -> None:
    """Show the schema, statistics and shards of a dataset, or the state of a run.

    \b
    Example:
        streamtrain inspect clicks
        streamtrain inspect run --json
    """
    from streamtrain.train.run import is_run

    if is_run(path):
        report = _run_report(path)
        show = _show_run
    else:
        report = _dataset_report(path)
        show = _show_dataset
    if as_json:
        echo_json(report)
    else:
        show(report)


def _dataset_report(path: Path) -> dict[str, Any]:
    import msgspec

    from streamtrain.reader.stream import choose_window_blocks
    from streamtrain.reader.windows import row_bytes
    from streamtrain.store.dataset import open_dataset

    dataset = open_dataset(path)
    manifest, schema = dataset.manifest, dataset.schema
    splits = {}
    adopted = manifest.adopted is not msgspec.UNSET
    for name, shards in manifest.splits.items():
        splits[name] = {
            "rows": manifest.n_rows(name),
            "shards": len(shards),
            "blocks": len(manifest.blocks(name)),
            # A file that was adopted may have blocks in several splits.
            "bytes": sum(b.n_bytes for s in shards for b in s.blocks)
            if adopted
            else sum(s.n_bytes for s in shards),
        }
    block_rows = [block.n_rows for _, block in manifest.blocks("train")]
    window = choose_window_blocks(block_rows, row_bytes=row_bytes(dataset), budget_bytes=1 << 40)
    return {
        "path": str(path),
        "fingerprint": manifest.fingerprint,
        "format": manifest.format,
        "adopted": adopted,
        "shuffled": manifest.shuffled,
        "seed": manifest.seed,
        "block_rows": manifest.block_rows,
        "splits": splits,
        "target": msgspec.to_builtins(schema.target),
        "weight": schema.weight,
        "exposure": schema.exposure,
        "columns": msgspec.to_builtins(schema.columns),
        "features": msgspec.to_builtins(schema.array),
        "sources": msgspec.to_builtins(manifest.sources),
        "reject_reasons": manifest.reject_reasons,
        "pass": {
            "window_blocks": window,
            "window_bytes": window * max(block_rows) * row_bytes(dataset),
            "bytes_read": splits["train"]["bytes"],
        },
    }


def _show_dataset(report: dict[str, Any]) -> None:
    target = report["target"]
    classes = f", classes {', '.join(target['classes'][:10])}" if target["classes"] else ""
    if "outputs" in target:
        classes = f", {len(target['outputs']):,} values of each row"
    rejected = sum(s["rows_rejected"] for s in report["sources"])
    echo_lines(
        [
            ("dataset", report["path"]),
            ("fingerprint", report["fingerprint"]),
            ("target", f"{target['name']}: {target['task']}{classes}"),
            ("format", report["format"] + ", adopted" * report["adopted"]),
            ("order", "shuffled" if report["shuffled"] else "as in the source"),
            ("label runs", f"{figure(target['run_length'], 3)} rows of equal target in a row"),
            ("sources", f"{len(report['sources'])} files, {rejected:,} rows rejected"),
            *(
                (
                    name,
                    f"{s['rows']:,} rows, {s['shards']} shards, {s['blocks']:,} blocks, "
                    f"{format_size(s['bytes'])}",
                )
                for name, s in report["splits"].items()
            ),
            (
                "a pass",
                f"reads {format_size(report['pass']['bytes_read'])}; a window takes "
                f"{format_size(report['pass']['window_bytes'])}",
            ),
        ]
    )
    features = report["features"]
    if features is not None:
        of = features["statistics"]
        shape = " x ".join(map(str, features["shape"]))
        click.echo(
            f"features    {shape} {features['dtype']}, statistics of "
            f"{'each position' if len(of) > 1 else 'all values together'}, "
            f"min {figure(min(s['minimum'] for s in of), 4)}  "
            f"max {figure(max(s['maximum'] for s in of), 4)}"
        )
    for reason, n in report["reject_reasons"].items():
        click.echo(f"rejected    {n:,} rows: {reason}")
    width = max((len(c["name"]) for c in report["columns"]), default=0)
    click.echo()
    for column in report["columns"]:
        if column["kind"] == "bag":
            e = column["entries"]
            text = (
                f"{column['cardinality']:,} codes of {e['keys']}, {e['total']:,} entries, "
                f"most in a row {e['longest']:,}, empty {e['empty']:,}"
            )
        elif column["kind"] == "numeric":
            s = column["statistics"]
            text = (
                f"mean {figure(s['mean'], 4)}  std {figure(s['std'], 4)}  "
                f"min {figure(s['minimum'], 4)}  max {figure(s['maximum'], 4)}  "
                f"missing {s['missing']:,}"
            )
        else:
            text = (
                f"{column['cardinality'] - 2:,} categories  missing {column['missing']:,}  "
                f"rare {column['rare']:,}"
            )
        click.echo(f"{column['name']:<{width}}  {column['kind']:<11}  {text}")


def _run_report(path: Path) -> dict[str, Any]:
    import msgspec

    from streamtrain.errors import CheckpointError
    from streamtrain.train.checkpoint import find_checkpoints, model_state
    from streamtrain.train.run import last_event, read_record

    record = read_record(path)
    found = list(find_checkpoints(path))
    return {
        "path": str(path),
        "dataset": record.dataset,
        "fingerprint": record.fingerprint,
        "settings": msgspec.to_builtins(record.settings),
        "versions": record.versions,
        "checkpoints": [
            {"path": c.where, "damaged": c.message}
            if isinstance(c, CheckpointError)
            else {"path": str(c.path), "progress": msgspec.to_builtins(c.header.progress)}
            for c in found
        ],
        "model": model_state(path),
        "done": last_event(path, "done"),
    }


def _show_run(report: dict[str, Any]) -> None:
    settings, done = report["settings"], report["done"]
    rows = [
        ("run", report["path"]),
        ("dataset", report["dataset"]),
        ("fingerprint", report["fingerprint"]),
        (
            "settings",
            f"{settings['model']}, loss {settings['loss']}, {settings['optimizer']['name']}, "
            f"batch size {settings['batch_size']}, {settings['epochs']} epochs, "
            f"seed {settings['seed']}",
        ),
    ]
    for c in report["checkpoints"]:
        progress = c.get("progress")
        state = (
            f"step {progress['step']:,}, epoch {progress['epoch']}, row {progress['row']:,}"
            if progress
            else f"damaged: {c['damaged']}"
        )
        rows.append(("checkpoint", f"{c['path']}  {state}"))
    rows.append(("model", report["model"]))
    if done is None:
        rows.append(("state", "not finished; go on with --resume auto"))
    else:
        rows.append(("state", f"done in {duration(done['seconds'])}"))
        rows.append(("train", metrics_text(done["train"])))
        if done["valid"]:
            rows.append(("valid", metrics_text(done["valid"])))
        rows.append(("parameters", done["parameters_digest"]))
    echo_lines(rows)
