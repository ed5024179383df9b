"""The train command."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from streamtrain.cli.learning import learning_options, learning_settings
from streamtrain.cli.losses import LOSS_OPTIONS, loss_options
from streamtrain.cli.networks import network_options, network_settings
from streamtrain.cli.output import duration, echo_json, figure, metrics_text
from streamtrain.cli.progress import Progress
from streamtrain.cli.values import (
    BATCH_SIZE,
    INTERVAL,
    config_option,
    json_option,
    memory_option,
    threads_option,
)
from streamtrain.config import format_size

_INTERRUPTED = 130
_SHOWN = ("loss", "auc", "accuracy", "deviance", "rmse")


class StopFlag:
    """Set by the first SIGTERM or SIGINT; the second SIGINT ends the process."""

    def __init__(self) -> None:
        self.is_set = False

    def __call__(self) -> bool:
        """Return whether a signal has come."""
        return self.is_set

    def handle(self, signum: int, frame: object) -> None:
        """Note a signal."""
        del frame
        if self.is_set and signum == signal.SIGINT:
            os._exit(_INTERRUPTED)
        self.is_set = True


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Turn SIGTERM and SIGINT into a flag while the block runs."""
    flag = StopFlag()
    signals = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(s, flag.handle) for s in signals]
    try:
        yield flag
    finally:
        for s, handler in zip(signals, before, strict=True):
            signal.signal(s, handler)


@click.command(short_help="Train a model on a dataset.")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="RUN",
    help="Directory of the run.",
)
@click.option(
    "--model",
    default="linear",
    show_default=True,
    metavar="NAME",
    help="Kind of model: linear, fm, mlp, wide-deep, deepfm, dcn or custom.",
)
@click.option(
    "--loss",
    metavar="NAME",
    show_default="by the target",
    help="Loss: squared, absolute, huber or quantile; logistic, hinge or softmax; "
    "poisson, gamma or tweedie.",
)
@loss_options
@learning_options
@network_options
@click.option(
    "--epochs",
    type=int,
    show_default="3; on small data up to 20, networks 64",
    help="Passes over the train split.",
)
@click.option("--max-steps", type=int, metavar="N", help="End after so many steps.")
@click.option(
    "--batch-size",
    type=BATCH_SIZE,
    show_default="256, or every row of a smaller split",
    metavar="N|auto",
    help="Rows of a gradient; auto: 32 to 1024, at least 500 steps an epoch if it can be.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the order of rows.")
@click.option(
    "--early-stop",
    type=int,
    metavar="N",
    show_default="never; linear 3 unless --epochs is given, networks 16",
    help="End after N epochs without a better validation loss; keep the best.",
)
@click.option("--drop-last", is_flag=True, help="Leave out a last batch that is not whole.")
@click.option("--no-shuffle", is_flag=True, help="Read rows in the order of the shards.")
@click.option(
    "--window-blocks",
    type=int,
    default=0,
    metavar="N",
    show_default="about 131,072 rows",
    help="Blocks shuffled together in memory.",
)
@click.option(
    "--progressive",
    is_flag=True,
    help="Measure the first epoch's rows before learning from them: every metric, not the loss "
    "alone.",
)
@click.option(
    "--checkpoint-every",
    type=INTERVAL,
    default="60s",
    show_default=True,
    metavar="N|TIME",
    help="Steps (500) or time (30s, 5min) between checkpoints.",
)
@click.option(
    "--resume",
    type=click.Choice(["auto", "never"]),
    default="never",
    show_default=True,
    help="never: refuse a run that is there; auto: start or continue it, or report its end.",
)
@click.option(
    "--prefetch",
    type=int,
    default=0,
    show_default=True,
    metavar="N",
    help="Windows filled by a thread beside those that compute; each takes the memory of one.",
)
@click.option(
    "--io",
    type=click.Choice(["pread", "mmap"]),
    default="pread",
    show_default=True,
    help="How blocks are read; changes speed alone.",
)
@memory_option
@threads_option
@config_option
@json_option
def train(dataset: Path, out: Path, *, as_json: bool, **options: Any) -> None:
    """Train a model on DATASET into the directory RUN.

    \b
    Example:
        streamtrain train clicks --out run --epochs 3 --memory 2GB
        streamtrain train clicks --out run --epochs 3 --memory 2GB --resume auto
    """
    with stop_on_signals() as stop, Progress() as progress:
        from streamtrain.store.dataset import open_dataset
        from streamtrain.train.session import train as train_run

        opened = open_dataset(dataset)
        settings, resources = _settings(opened, options)
        final: dict[str, Any] = {}
        for event in train_run(
            opened,
            out,
            settings=settings,
            resources=resources,
            resume=options["resume"],
            should_stop=stop,
        ):
            if as_json:
                echo_json(event)
            if not as_json or event["event"] == "progress":
                _show(event, progress)
            final = event
    if not as_json:
        _summarise(final)


def _settings(dataset: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    from streamtrain.train.defaults import model_defaults
    from streamtrain.train.settings import Resources, TrainSettings

    n_rows = dataset.n_rows("train")
    batch_size = _batch_size(options["batch_size"], n_rows)
    defaults = model_defaults(
        options["model"],
        dataset.schema,
        n_rows=n_rows,
        has_valid=dataset.manifest.n_rows("valid") > 0,
        batch_size=batch_size,
        loss=options["loss"],
        optimizer=options["optimizer"],
        epochs=options["epochs"],
        encoding=options["numeric_encoding"],
    )
    options = {**options, **{k: v for k, v in defaults.items() if options.get(k) is None}}
    steps, seconds = options["checkpoint_every"]
    settings = TrainSettings(
        model=options["model"],
        loss=options["loss"],
        **{name: options[name] for name in LOSS_OPTIONS},
        epochs=options["epochs"],
        max_steps=options["max_steps"],
        batch_size=batch_size,
        seed=options["seed"],
        early_stop=options["early_stop"],
        drop_last=options["drop_last"],
        shuffle=not options["no_shuffle"],
        window_blocks=options["window_blocks"],
        **learning_settings(options),
        **network_settings(options),
    )
    resources = Resources(
        memory=options["memory"],
        threads=options["threads"],
        prefetch=options["prefetch"],
        io=options["io"],
        checkpoint_steps=steps,
        checkpoint_seconds=seconds,
        progressive=options["progressive"],
    )
    return settings, resources


def _batch_size(asked: int | str | None, n_rows: int) -> int:
    from streamtrain.train.settings import DEFAULT_BATCH_SIZE, auto_batch_size

    if asked is None:
        return min(DEFAULT_BATCH_SIZE, n_rows)
    return auto_batch_size(n_rows) if isinstance(asked, str) else asked


def _show(event: dict[str, Any], progress: Progress) -> None:
    name = event["event"]
    if name == "start":
        classes = f", classes {', '.join(event['classes'][:6])}" if event["classes"] else ""
        if event.get("targets", 1) > 1:
            classes = f", {event['targets']:,} values"
        progress.say(
            f"{event['rows']:,} rows, {event['task']} target {event['target']!r}{classes}; "
            f"loss {event['loss_name']}, {event['parameters']:,} parameters, "
            f"{event['total_steps']:,} steps of {event['batch_size']} rows, "
            f"{event['threads']} threads"
        )
        if event["compile_s"] > 0.5:
            progress.say(f"compiled the kernels in {event['compile_s']:.1f} s (kept for next time)")
        if event["cache_problem"]:
            progress.say(f"compiled without a cache: {event['cache_problem']}")
    elif name == "resume":
        for line in event["passed_over"]:
            progress.say(f"passed over {line}")
        taken = event["taken"] or "no checkpoint: from the start"
        progress.say(f"resumed at step {event['step']:,} from {taken}")
    elif name == "progress":
        progress.update(
            event["fraction"],
            f"epoch {event['epoch'] + 1}  {event['rows_per_s']:,.0f} rows/s  "
            f"loss {figure(event['loss'])}  {format_size(event['rss_bytes'])}  "
            f"{duration(event['seconds_left'])} left",
        )
    elif name == "epoch":
        line = f"epoch {event['epoch'] + 1}  train loss {figure(event['train']['loss'])}"
        if event["valid"]:
            line += f"  valid {metrics_text(event['valid'], _SHOWN)}"
        progress.say(line)
        if event.get("progressive", {}).get("metrics_rows"):
            before = event["progressive"]
            progress.say(
                f"before learning from them, {before['metrics_rows']:,} rows: "
                f"{metrics_text(before, _SHOWN)}"
            )


def _summarise(event: dict[str, Any]) -> None:
    ledger, stall = event["ledger"], event["stall"]
    click.echo(
        f"done: {event['steps']:,} steps, {event['rows']:,} rows in "
        f"{duration(event['seconds'])} ({event['rows_per_s']:,.0f} rows/s), "
        f"peak memory {format_size(event['peak_rss_bytes'])}"
    )
    click.echo(
        f"ledger: {ledger['expected']:,} expected = {ledger['delivered']:,} delivered + "
        f"{ledger['skipped']:,} skipped + {ledger['dropped']:,} dropped"
    )
    click.echo(
        f"time: {stall['compute']:.0%} computing, {stall['read']:.0%} waiting for reads, "
        f"{stall['decode']:.0%} for decoding"
    )
    click.echo(f"parameters: sha256 {event['parameters_digest']}")
    click.echo(f"model: {event['model']}")
