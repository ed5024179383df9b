import math

import pytest

from streamtrain.errors import ConfigError
from streamtrain.kernels import updates
from streamtrain.optim.optimizers import DEFAULT_RATES, OptimizerSettings, make_rule


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"name": "rmsprop"}, "--optimizer"),
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
    ],
)
def test_settings_that_cannot_work_name_their_option(changes, option):
    with pytest.raises(ConfigError) as caught:
        OptimizerSettings(**changes).check()
    assert caught.value.where == option


@pytest.mark.parametrize("name", updates.OPTIMIZERS)
def test_an_optimizer_has_a_rate_a_number_and_the_state_it_plans_for(name):
    settings = OptimizerSettings(name=name)
    settings.check()
    assert DEFAULT_RATES[name] > 0
    assert updates.OPTIMIZERS[settings.number] == name
    rule = make_rule(settings, n_parameters=50, n_table_rows=20)
    # The memory plan counts n_slots arrays of the parameters' size.
    assert len(rule.first) + len(rule.second) == settings.n_slots * 50
    assert len(rule.stamps) == 0
    assert not rule.shrinks


@pytest.mark.parametrize(("l1", "l2"), [(0.1, 0.0), (0.0, 0.1), (0.1, 0.1)])
def test_shrinking_keeps_a_stamp_for_every_row_of_categories(l1, l2):
    settings = OptimizerSettings(l1=l1, l2=l2)
    rule = make_rule(settings, n_parameters=50, n_table_rows=20)
    assert rule.stamps.shape == (20, 2)
    assert rule.shrinks
    assert settings.shrinks


def test_every_setting_reaches_its_place_in_the_kernels_array():
    settings = OptimizerSettings(momentum=0.1, beta1=0.2, beta2=0.3, epsilon=0.4, l1=0.5, l2=0.6)
    hyper = settings.hyper()
    places = [updates.H_MOMENTUM, updates.H_BETA1, updates.H_BETA2]
    places += [updates.H_EPSILON, updates.H_L1, updates.H_L2]
    assert [hyper[k] for k in places] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
