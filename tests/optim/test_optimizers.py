import math

import msgspec
import pytest

from streamtrain.errors import ConfigError
from streamtrain.kernels import updates
from streamtrain.optim.optimizers import DEFAULT_RATES, OptimizerSettings, make_rule


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"name": "adamax"}, "--optimizer"),
        ({"momentum": 1.0}, "--momentum"),
        ({"momentum": -0.1}, "--momentum"),
        ({"momentum": math.nan}, "--momentum"),
        ({"beta1": 1.0}, "--beta1"),
        ({"beta2": 2.0}, "--beta2"),
        ({"epsilon": 0.0}, "--epsilon"),
        ({"epsilon": math.nan}, "--epsilon"),
        ({"l1": -1.0}, "--l1"),
        ({"l1": math.inf}, "--l1"),
        ({"l2": math.nan}, "--l2"),
        ({"l2": -0.1, "name": "adamw"}, "--l2"),
        ({"rho": 1.0}, "--rho"),
        ({"rho": math.nan}, "--rho"),
        ({"ftrl_beta": 0.0}, "--ftrl-beta"),
        ({"ftrl_beta": math.inf}, "--ftrl-beta"),
        ({"clip_value": -1.0}, "--clip-value"),
        ({"clip_value": math.nan}, "--clip-value"),
        ({"clip_norm": -1.0}, "--clip-norm"),
        ({"clip_norm": math.inf}, "--clip-norm"),
    ],
)
def test_settings_that_cannot_work_name_their_option(changes, option):
    with pytest.raises(ConfigError) as caught:
        OptimizerSettings(**changes).check()
    assert caught.value.where == option


@pytest.mark.parametrize("name", updates.OPTIMIZERS)
def test_an_optimizer_has_a_rate_and_a_number(name):
    settings = OptimizerSettings(name=name)
    settings.check()
    assert DEFAULT_RATES[name] > 0
    assert updates.OPTIMIZERS[settings.number] == name
    assert not settings.clip_norm
    assert not settings.clip_value


def test_adamw_decays_unless_told_not_to_and_the_record_says_how_much():
    assert OptimizerSettings(name="adamw").resolved().l2 == 0.01
    assert OptimizerSettings(name="adamw").shrinks
    assert OptimizerSettings(name="adamw").hyper()[updates.H_L2] == 0.01
    assert not OptimizerSettings(name="adamw", l2=0.0).shrinks
    assert OptimizerSettings(name="adam").resolved().l2 == 0.0
    assert OptimizerSettings(name="adam", l2=0.3).resolved().l2 == 0.3


@pytest.mark.parametrize("name", updates.OPTIMIZERS)
@pytest.mark.parametrize(("l1", "l2"), [(0.0, 0.0), (0.1, 0.0), (0.0, 0.1), (0.1, 0.1)])
def test_shrinking_keeps_a_stamp_for_every_row_of_categories(name, l1, l2):
    settings = OptimizerSettings(name=name, l1=l1, l2=l2)
    rule = make_rule(settings, n_parameters=50, n_dense=30, n_table_rows=20, rate=0.1)
    shrinks = bool(l1 or l2) and name != "ftrl"
    assert rule.stamps.shape == (20 if shrinks else 0, 2)
    assert rule.shrinks == settings.shrinks == shrinks


def test_every_setting_reaches_its_place_in_the_kernels_array():
    settings = OptimizerSettings(
        momentum=0.1, beta1=0.2, beta2=0.3, epsilon=0.4, l1=0.5, l2=0.6, rho=0.7, ftrl_beta=0.8,
        clip_value=0.9, clip_norm=1.0,
    )  # fmt: skip
    hyper = settings.hyper(rate=2.0, table_rate_factor=3.0)
    places = [updates.H_MOMENTUM, updates.H_BETA1, updates.H_BETA2, updates.H_EPSILON]
    places += [updates.H_L1, updates.H_L2, updates.H_RHO, updates.H_CLIP_VALUE]
    places += [updates.H_CLIP_NORM, updates.H_TABLE_RATE]
    assert [hyper[k] for k in places] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.9, 1.0, 3.0]
    ftrl = msgspec.structs.replace(settings, name="ftrl").hyper(rate=2.0)
    places = [updates.H_FTRL_ALPHA, updates.H_FTRL_BETA, updates.H_FTRL_L1, updates.H_FTRL_L2]
    assert [ftrl[k] for k in places] == [2.0, 0.8, 0.5, 0.6]
    assert [ftrl[k] for k in (updates.H_L1, updates.H_L2)] == [0.0, 0.0]


def test_ftrl_is_not_made_without_the_rate_in_its_formula():
    with pytest.raises(ConfigError, match="needs its rate"):
        make_rule(OptimizerSettings(name="ftrl"), n_parameters=9, n_dense=9, n_table_rows=0)
