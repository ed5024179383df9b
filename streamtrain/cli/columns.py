"""Options of `ingest` and `adopt` alike: what columns are, and how they are read."""

from __future__ import annotations

from typing import Any

import click

from streamtrain.cli.values import DATE_PARTS, NAMES
from streamtrain.errors import UsageError

exposure_option = click.option(
    "--exposure",
    metavar="COLUMN",
    help="Column of exposures, above 0: they multiply the mean of poisson, gamma and tweedie.",
)
categorical_option = click.option(
    "--categorical", type=NAMES, default=(), metavar="A,B", help="Columns of categories."
)
drop_option = click.option(
    "--drop", type=NAMES, default=(), metavar="A,B", help="Columns to leave out."
)
date_parts_option = click.option(
    "--date-parts",
    type=DATE_PARTS,
    metavar="A,B",
    show_default="hour,weekday,yearday,epoch",
    help="Parts of times that become columns; 'none' leaves times as categories.",
)
rare_option = click.option(
    "--rare", type=click.IntRange(1), default=1, show_default=True,
    help="Categories seen fewer times in train share one code; 1 keeps all.",
)  # fmt: skip
max_categories_option = click.option(
    "--max-categories", type=click.IntRange(1), default=1_000_000, show_default=True,
    help="Most categories of a column.",
)  # fmt: skip
positive_option = click.option(
    "--positive",
    metavar="VALUE",
    show_default="the greater of the two",
    help="Positive class of a binary target.",
)


def shared_settings(given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `IngestOptions` that both commands have.

    Raises
    ------
    UsageError
        If the seed is negative.
    """
    if given["seed"] < 0:
        raise UsageError(f"{given['seed']} is not a seed, expected 0 or more", where="--seed")
    names = (
        "weight", "exposure", "numeric", "categorical", "drop", "rare", "max_categories",
        "positive", "memory", "seed", "overwrite",
    )  # fmt: skip
    found = {name: given[name] for name in names}
    found["threads"] = given["threads"] or None
    if given["date_parts"] is not None:
        found["date_parts"] = given["date_parts"]
    if given["missing"] is not None:
        found["missing"] = tuple(given["missing"].split(","))
    return found
