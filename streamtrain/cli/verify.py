"""The verify command."""

from __future__ import annotations

from pathlib import Path

import click

from streamtrain.cli.output import echo_json
from streamtrain.cli.values import json_option
from streamtrain.config import format_size


@click.command(short_help="Check every byte of a dataset or a run.")
@click.argument("path", type=click.Path(path_type=Path), metavar="DATASET|RUN")
@json_option
def verify(path: Path, *, as_json: bool) -> None:
    """Check every byte of a dataset or a run against its digests.

    \b
    Example:
        streamtrain verify clicks
    """
    from streamtrain.train.run import is_run

    if is_run(path):
        from streamtrain.train.checkpoint import verify_run

        report = verify_run(path)
        text = f"{path}: {report['checkpoints']} checkpoints, model {report['model']}: sound"
    else:
        from streamtrain.store.verify import verify_dataset

        checked = verify_dataset(path)
        report = {"files": checked.files, "bytes": checked.n_bytes}
        text = f"{path}: {checked.files} files, {format_size(checked.n_bytes)}: sound"
    if as_json:
        echo_json({"path": str(path), "sound": True, **report})
    else:
        click.echo(text)
