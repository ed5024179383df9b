"""The group of commands, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

import click

import streamtrain
from streamtrain.errors import StreamtrainError

# Each command is a function of its own name in the module of that name.
_COMMANDS = (
    "ingest", "adopt", "inspect", "verify", "train", "evaluate", "predict", "demo", "doctor",
)  # fmt: skip
_INTERRUPTED, _TERMINATED, _BUG = 130, 143, 70


class _LazyGroup(click.Group):
    """A group that imports a command's module when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"streamtrain.cli.{cmd_name}")
        command: click.Command = getattr(module, cmd_name)
        return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(streamtrain.__version__, prog_name="streamtrain")
def cli() -> None:
    """Train models on data larger than memory, on the CPU, from disk.

    \b
    Example:
        streamtrain ingest clicks-*.csv.gz --out clicks --target click
        streamtrain train clicks --out run --memory 2GB
        streamtrain evaluate run --split test
        streamtrain predict run new.csv --out scores.csv
    """


class Terminated(KeyboardInterrupt):
    """SIGTERM, where a command has no better answer: unwind, clean up, exit."""


def _terminate(signum: int, frame: object) -> NoReturn:
    del signum, frame
    raise Terminated


def _report(error: StreamtrainError, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"error": error.as_dict()}), err=True)
    else:
        click.echo(f"streamtrain: {error}", err=True)


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    Parameters
    ----------
    args : sequence of str or None
        None takes the process's own.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    sys.exit(run(arguments))


def run(arguments: list[str]) -> int:
    """Run the command line and return its exit code (DESIGN section 10)."""
    as_json = "--json" in arguments
    # Before Arrow is loaded, which reads it once: its own pools keep what was freed,
    # and the bound on resident memory is the process's.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    signal.signal(signal.SIGTERM, _terminate)
    try:
        result: Any = cli.main(args=arguments, prog_name="streamtrain", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except StreamtrainError as error:
        _report(error, as_json=as_json)
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        _report(_usage(error), as_json=as_json)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        click.echo("streamtrain: interrupted", err=True)
        # click turns a KeyboardInterrupt into an Abort, with the reason as its context.
        chain = {type(error), type(error.__cause__), type(error.__context__)}
        return _TERMINATED if Terminated in chain else _INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone: point stdout elsewhere, so that the
        # interpreter's own flush at exit stays silent.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MemoryError:
        click.echo("streamtrain: out of memory; give --memory less than what is free", err=True)
        return 1
    except OSError as error:
        from streamtrain.durable import as_stream_error

        mapped = as_stream_error(error, error.filename or "disk")
        _report(mapped, as_json=as_json)
        return mapped.exit_code
    except Exception:  # noqa: BLE001 (a bug of ours: say everything)
        traceback.print_exc()
        click.echo("streamtrain: this is a bug; please report the lines above", err=True)
        return _BUG


def _usage(error: click.ClickException) -> StreamtrainError:
    from streamtrain.errors import UsageError

    context = getattr(error, "ctx", None)
    command = context.command_path if context else "streamtrain"
    message = error.format_message().replace("\n", " ").removesuffix(".")
    return UsageError(message, remedy=f"see `{command} --help`")
