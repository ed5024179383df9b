"""The tree of errors that a user can cause, each with its exit code.

A message reads ``<where>: <what was found, what was expected>; <what to do>``.
The command line turns this tree alone into one line and an exit code; any
other exception is a bug here and keeps its traceback (code 70).
"""

from __future__ import annotations


class StreamtrainError(Exception):
    """An error with a place, a finding and a remedy.

    Parameters
    ----------
    message : str
        What was found and what was expected.
    where : str
        File, column, option or step that it concerns.
    remedy : str
        What to do about it; may be empty.
    """

    kind = "error"
    exit_code = 1

    def __init__(self, message: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        remedy = f"; {self.remedy}" if self.remedy else ""
        # One line, whatever a hostile name holds.
        text = f"{place}{self.message}{remedy}"
        return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)

    def as_dict(self) -> dict[str, str]:
        """Return the error as the ``error`` object of section 10's JSON."""
        return {
            "kind": self.kind,
            "message": self.message,
            "where": self.where,
            "remedy": self.remedy,
        }


class DivergedError(StreamtrainError):
    """The loss or a parameter is no longer finite."""

    kind = "diverged"


class UsageError(StreamtrainError):
    """An option or value that cannot be parsed."""

    kind = "usage"
    exit_code = 2


class SourceError(StreamtrainError):
    """Source data that cannot be read as what it claims to be."""

    kind = "source"
    exit_code = 65


class ManifestError(StreamtrainError):
    """A manifest that is damaged or not ours."""

    kind = "manifest"
    exit_code = 65


class CorruptShardError(StreamtrainError):
    """Bytes of a shard that do not match their digest."""

    kind = "corrupt_shard"
    exit_code = 65


class CheckpointError(StreamtrainError):
    """A checkpoint or model file that is damaged."""

    kind = "corrupt_checkpoint"
    exit_code = 65


class NoInputError(StreamtrainError):
    """A file, dataset or run that is not there."""

    kind = "no_input"
    exit_code = 66


class OutputError(StreamtrainError):
    """An output that exists already or cannot be created."""

    kind = "output"
    exit_code = 73


class DiskError(StreamtrainError):
    """A full disk or another failure to read or write."""

    kind = "io"
    exit_code = 74


class StoppedError(StreamtrainError):
    """A signal stopped the work after a checkpoint."""

    kind = "stopped"
    exit_code = 75


class ConfigError(StreamtrainError):
    """A configuration that cannot work."""

    kind = "config"
    exit_code = 78


class SchemaError(ConfigError):
    """A column that is not there, or cannot play its role."""

    kind = "schema"


class BudgetError(ConfigError):
    """A memory budget that cannot hold what it must.

    Parameters
    ----------
    message, where, remedy : str
        As in `StreamtrainError`.
    parts : dict of str to int
        Bytes that each part needs.
    """

    kind = "over_budget"

    def __init__(
        self,
        message: str,
        *,
        where: str = "",
        remedy: str = "",
        parts: dict[str, int] | None = None,
    ) -> None:
        super().__init__(message, where=where, remedy=remedy)
        self.parts = dict(parts or {})


class MismatchError(ConfigError):
    """A resume with another dataset or other settings."""

    kind = "mismatch"
