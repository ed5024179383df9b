"""Which column plays which role, and what is kept of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from data_tools.bag_rows import BagPlan
from data_tools.options import IngestOptions
from data_tools.source import Field, names_of
from streamtrain.config import nearest
from streamtrain.errors import SchemaError, UsageError


@dataclass(frozen=True)
class Roles:
    """The columns that the options name, as the source names them."""

    target: str
    weight: str | None
    exposure: str | None
    split_by: str | None
    numeric: frozenset[str]
    categorical: frozenset[str]
    features: tuple[str, ...]
    text: frozenset[str] = frozenset()
    bags: frozenset[str] = frozenset()


def find_column(name: str, columns: Sequence[str], *, positional: bool, option: str) -> str:
    """Return the column that an option names.

    Raises
    ------
    SchemaError
        If there is none, with the nearest name.
    """
    if name in columns:
        return name
    if (
        positional
        and name.startswith("-")
        and name[1:].isdigit()
        and 0 < int(name[1:]) <= len(columns)
    ):
        return columns[int(name)]
    what = f"no column {name!r}{nearest(name, columns)}"
    if positional:
        n = sum(column.isdigit() for column in columns)
        raise SchemaError(what, where=option, remedy=f"columns are numbered 0 to {n - 1}")
    shown = ", ".join(repr(c) for c in columns[:12]) + (", ..." if len(columns) > 12 else "")
    raise SchemaError(what, where=option, remedy=f"the columns are {shown}")


def resolve_roles(
    options: IngestOptions,
    fields: Sequence[Field],
    *,
    positional: bool,
    parts: Collection[str] = (),
    hidden: Collection[str] = (),
) -> Roles:
    """Check every column that the options name.

    Parameters
    ----------
    options : IngestOptions
    fields : sequence of Field
    positional : bool
        Whether their names are positions, which may count from the end.
    parts : collection of str
        What a column may yet become: options may name `column.part` too.
    hidden : collection of str
        Columns that are no fields any more, by which rows may be split all the same.

    Raises
    ------
    SchemaError
        If a column is not there, plays two roles, is of no use to a model, or
        no feature is left.
    UsageError
        If no target is named, and the format has none.
    """
    columns = names_of(fields)

    def one(name: str | None, option: str) -> str | None:
        return (
            None
            if name is None
            else find_column(name, columns, positional=positional, option=option)
        )

    def several(names: Collection[str], option: str) -> frozenset[str]:
        later = {n for n in names if n not in columns and n.rpartition(".")[2] in parts}
        for name in later:
            find_column(name.rpartition(".")[0], columns, positional=positional, option=option)
        return frozenset(
            find_column(n, columns, positional=positional, option=option)
            for n in names
            if n not in later
        )

    told = next((field.name for field in fields if field.role == "target"), None)
    named = options.target if options.target is not None else told
    if named is None:
        raise UsageError("no target", where="--target", remedy="name the column to predict")
    target = find_column(named, columns, positional=positional, option="--target")
    weight, exposure = one(options.weight, "--weight"), one(options.exposure, "--exposure")
    numeric = several(options.numeric, "--numeric")
    categorical = several(options.categorical, "--categorical")
    drop = several(options.drop, "--drop")
    text = several(options.text, "--text")
    bags = frozenset(field.name for field in fields if field.kind == "bag")
    for one_kind, other, what, where in (
        (numeric, categorical, "numeric and categorical", "--numeric"),
        (numeric, text, "numeric and text", "--text"),
        (categorical, text, "categorical and text", "--text"),
        (numeric, bags, "a list and numeric", "--numeric"),
        (categorical, bags, "a list and categorical", "--categorical"),
        (text, bags, "a list and text", "--text"),
        (text, drop, "dropped and text", "--drop"),
    ):
        both = sorted(one_kind & other)
        if both:
            raise SchemaError(f"column {both[0]!r} cannot be {what}", where=where)
    others = [name for name in (target, weight, exposure) if name is not None]
    for name in others:
        if name in bags or name in text:
            raise SchemaError(
                f"column {name!r} cannot be a list or text, and target, weight or exposure",
                where="--target" if name == target else "--text",
            )
        if others.count(name) > 1:
            raise SchemaError(f"column {name!r} cannot play two roles", where="--target")
        if name in drop:
            raise SchemaError(f"column {name!r} is needed", where="--drop")
    aside = {f.name for f in fields if f.role == "aside"} - numeric - categorical - text
    features = tuple(c for c in columns if c not in drop and c not in others and c not in aside)
    if not features:
        raise SchemaError("no feature is left beside the target", where="--target")
    for field in fields:
        if field.kind == "other" and field.name not in drop:
            raise SchemaError(
                f"is {field.told}, expected numbers, text, times or lists",
                where=f"column {field.name!r}",
                remedy=f"leave it out with --drop {field.name}",
            )
    return Roles(
        target=target,
        weight=weight,
        exposure=exposure,
        split_by=options.split_by
        if options.split_by in hidden
        else one(options.split_by, "--split-by"),
        numeric=numeric,
        categorical=categorical,
        features=features,
        text=text,
        bags=bags & frozenset(features),
    )


@dataclass(frozen=True)
class ColumnPlan:
    """What is parsed, and in which order it is stored.

    Parameters
    ----------
    numeric, categorical : tuple of str
        Features, in source order.
    target : str
    target_is_text : bool
    weight, exposure, split_by : str or None
    bags : tuple of BagPlan
        Columns of variable length.
    """

    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    target: str
    target_is_text: bool
    weight: str | None
    exposure: str | None
    split_by: str | None
    bags: tuple[BagPlan, ...] = ()

    @property
    def stored(self) -> tuple[str, ...]:
        """Every stored column but the bags, in shard order."""
        extra = [name for name in (self.weight, self.exposure) if name is not None]
        return (*self.numeric, *self.categorical, self.target, *extra)

    @property
    def wanted(self) -> tuple[str, ...]:
        """Every column that is parsed: the stored ones, bags, then split_by if it is another."""
        known = (*self.stored, *(bag.name for bag in self.bags))
        extra = () if self.split_by is None or self.split_by in known else (self.split_by,)
        return (*known, *extra)

    @property
    def text(self) -> tuple[int, ...]:
        """Positions in `stored` of the columns that are numbered by a string table."""
        first, n = len(self.numeric), len(self.categorical)
        return (*range(first, first + n), *((first + n,) if self.target_is_text else ()))

    @property
    def numbers(self) -> tuple[int, ...]:
        """Positions in `stored` of the columns that are parsed as numbers."""
        return tuple(i for i in range(len(self.stored)) if i not in set(self.text))


def plan_columns(
    roles: Roles, is_number: dict[str, bool], bags: Sequence[BagPlan] = ()
) -> ColumnPlan:
    """Return the plan for roles and the kinds found: `is_number` of target and other features."""
    rest = [c for c in roles.features if c not in {bag.name for bag in bags}]
    return ColumnPlan(
        bags=tuple(bags),
        numeric=tuple(c for c in rest if is_number[c]),
        categorical=tuple(c for c in rest if not is_number[c]),
        target=roles.target,
        target_is_text=not is_number[roles.target],
        weight=roles.weight,
        exposure=roles.exposure,
        split_by=roles.split_by,
    )
