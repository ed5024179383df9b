"""Options that say how parameters move: optimizer, clipping, rate, averaging."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from streamtrain.config import nearest
from streamtrain.errors import ConfigError

_OPTIONS = (
    click.option(
        "--optimizer",
        show_default="by the model: adagrad or adamw",
        metavar="NAME",
        help="sgd, momentum, nesterov, adagrad, rowwise-adagrad, rmsprop, adam, adamw or ftrl.",
    ),
    click.option(
        "--lr",
        type=float,
        metavar="RATE",
        show_default="by the model and the optimizer",
        help="Highest learning rate.",
    ),
    click.option(
        "--embedding-lr",
        type=float,
        metavar="RATE",
        show_default="as --lr",
        help="Highest rate of rows of categories; it follows the same schedule.",
    ),
    click.option(
        "--momentum",
        type=float,
        default=0.9,
        show_default=True,
        help="Of momentum and nesterov, 0 to below 1.",
    ),
    click.option(
        "--beta1", type=float, default=0.9, show_default=True, help="Of adam and adamw: mean of g."
    ),
    click.option(
        "--beta2",
        type=float,
        default=0.999,
        show_default=True,
        help="Of adam and adamw: mean of g^2.",
    ),
    click.option(
        "--rho", type=float, default=0.99, show_default=True, help="Of rmsprop: mean of g^2."
    ),
    click.option(
        "--epsilon",
        type=float,
        show_default="1e-08; linear and fm by rows and target",
        help="Added to what adaptive optimizers divide by.",
    ),
    click.option(
        "--ftrl-beta",
        type=float,
        default=1.0,
        show_default=True,
        help="Of ftrl: larger makes first steps shorter.",
    ),
    click.option("--l1", type=float, default=0.0, show_default=True, help="L1 penalty."),
    click.option(
        "--l2",
        type=float,
        show_default="0, adamw 0.01, fm 0.06, ple 1 (dcn 0.1)",
        help="L2 penalty.",
    ),
    click.option(
        "--clip-value",
        type=float,
        default=0.0,
        show_default="never",
        help="Bound on every element of a batch's gradient.",
    ),
    click.option(
        "--clip-norm",
        type=float,
        default=0.0,
        show_default="never",
        help="Bound on the norm of a batch's gradient, over all parameters.",
    ),
    click.option(
        "--schedule",
        show_default="by the model: constant or cosine",
        metavar="NAME",
        help="Course of the rate: constant, step, exponential, inverse-sqrt, linear, cosine, "
        "one-cycle, coslog or plateau.",
    ),
    click.option(
        "--warmup-steps",
        type=int,
        default=0,
        metavar="N",
        help="Steps in which the rate rises from 0.",
    ),
    click.option(
        "--decay",
        type=float,
        default=0.5,
        show_default=True,
        help="Factor of the step, exponential and plateau schedules.",
    ),
    click.option(
        "--decay-steps",
        type=int,
        default=0,
        metavar="N",
        show_default="a tenth of all",
        help="Steps between two decays.",
    ),
    click.option(
        "--patience",
        type=int,
        default=1,
        show_default=True,
        metavar="N",
        help="Of plateau: decay after N epochs without a better validation loss.",
    ),
    click.option(
        "--average",
        default="none",
        show_default=True,
        metavar="NAME",
        help="Validate and keep averaged parameters: none, ema or polyak.",
    ),
    click.option(
        "--average-decay",
        type=float,
        default=0.999,
        show_default=True,
        help="Of ema, for one step.",
    ),
    click.option(
        "--average-start",
        type=float,
        default=0.5,
        show_default=True,
        help="Of polyak: part of the steps before the average begins.",
    ),
)
_OF_OPTIMIZER = (
    "momentum", "beta1", "beta2", "rho", "epsilon", "ftrl_beta", "l1", "l2", "clip_value",
    "clip_norm",
)  # fmt: skip
_OF_RUN = (
    "lr", "embedding_lr", "schedule", "warmup_steps", "decay", "decay_steps", "patience",
    "average", "average_decay", "average_start",
)  # fmt: skip


def learning_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how parameters move."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def learning_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Return those fields of `TrainSettings` that these options set.

    Raises
    ------
    ConfigError
        If an optimizer, a schedule or an average is unknown.
    """
    from streamtrain.optim.averaging import AVERAGES
    from streamtrain.optim.optimizers import DEFAULT_RATES, OptimizerSettings
    from streamtrain.optim.schedules import SCHEDULES

    known_names = {
        "optimizer": tuple(DEFAULT_RATES), "schedule": SCHEDULES, "average": AVERAGES,
    }  # fmt: skip
    for option, known in known_names.items():
        if options[option] not in known:
            raise ConfigError(
                f"no {option} {options[option]!r}{nearest(options[option], known)}",
                where=f"--{option}",
                remedy=f"choose one of {', '.join(known)}",
            )
    optimizer = OptimizerSettings(
        name=options["optimizer"],
        **{name: options[name] for name in _OF_OPTIMIZER if options[name] is not None},
    )
    return {"optimizer": optimizer, **{name: options[name] for name in _OF_RUN}}
