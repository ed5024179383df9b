"""Options of the losses: one place for every command that trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

LOSS_OPTIONS = (
    "quantile", "huber_delta", "tweedie_power", "label_smoothing", "class_weights",
)  # fmt: skip
"""Names of the parameters, which are fields of the settings of training too."""

_OPTIONS = (
    click.option(
        "--quantile",
        type=float,
        default=0.5,
        show_default=True,
        metavar="TAU",
        help="Of the quantile loss: the share of targets to lie below the prediction.",
    ),
    click.option(
        "--huber-delta",
        type=float,
        default=1.0,
        show_default=True,
        metavar="ERROR",
        help="Of the huber loss: the error, in the target's units, beyond which it is linear.",
    ),
    click.option(
        "--tweedie-power",
        type=float,
        default=1.5,
        show_default=True,
        metavar="P",
        help="Of the tweedie loss: the power of the mean that the variance is, 1 to 2.",
    ),
    click.option(
        "--label-smoothing",
        type=float,
        default=0.0,
        show_default=True,
        metavar="EPS",
        help="Of logistic and softmax: the share of the truth that is spread over all classes.",
    ),
    click.option(
        "--class-weights",
        default="none",
        show_default=True,
        metavar="none|balanced",
        help="balanced: weigh rows so that every class counts alike in training.",
    ),
)


def loss_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of the losses."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function
