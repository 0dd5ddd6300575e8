"""An optimizer goes on in optax where it stopped here, and the other way round."""

import keras
import numpy as np
import optax
import pytest
from keras import ops

from kerastools.optimizers import (
    SGD,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    RAdam,
    RMSprop,
    from_optax,
    to_optax,
)
from tests.optimizers.trajectory import start

RULES = {
    "SGD": (lambda: SGD(0.1), optax.sgd(0.1)),
    "momentum": (lambda: SGD(0.1, 0.9), optax.sgd(0.1, 0.9)),
    "Nesterov": (lambda: SGD(0.1, 0.9, nesterov=True), optax.sgd(0.1, 0.9, nesterov=True)),
    "Adagrad": (
        lambda: Adagrad(0.1, epsilon=1e-7),
        optax.adagrad(0.1, initial_accumulator_value=0.1, eps=1e-7),
    ),
    "RMSprop": (lambda: RMSprop(0.01), optax.rmsprop(0.01, decay=0.9, eps=1e-7)),
    "RMSprop momentum": (
        lambda: RMSprop(0.01, momentum=0.5, centered=True),
        optax.rmsprop(0.01, decay=0.9, eps=1e-7, momentum=0.5, centered=True),
    ),
    "Adam": (lambda: Adam(0.01, epsilon_mode="outside"), optax.adam(0.01, eps=1e-7)),
    "AdamW": (
        lambda: AdamW(0.01, weight_decay=0.1, epsilon_mode="outside"),
        optax.adamw(0.01, eps=1e-7, weight_decay=0.1),
    ),
    "Adamax": (lambda: Adamax(0.01), optax.adamax(0.01, eps=1e-7)),
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("there", [True, False])
def test_one_goes_on_where_the_other_stopped(there, name):
    make, rule = RULES[name]
    rng = np.random.default_rng(0)
    gradients = [[np.float32(rng.normal(size=w.shape)) for w in start()] for _ in range(6)]
    optimizer, variables = make(), [keras.Variable(np.float32(w)) for w in start()]
    optimizer.build(variables)

    def move_ours(steps):
        for gs in steps:
            optimizer.apply([ops.convert_to_tensor(g) for g in gs], variables)

    def move_optax(params, state, steps):
        for gs in steps:
            updates, state = rule.update(gs, state, params)
            params = optax.apply_updates(params, updates)
        return params, state

    params = [np.float32(w) for w in start()]
    expected, _ = move_optax(params, rule.init(params), gradients)
    if there:
        move_ours(gradients[:3])
        params = [ops.convert_to_numpy(v) for v in variables]
        found, _ = move_optax(params, to_optax(optimizer, rule.init(params)), gradients[3:])
    else:
        params, state = move_optax(params, rule.init(params), gradients[:3])
        for variable, value in zip(variables, params, strict=True):
            variable.assign(np.asarray(value))
        assert from_optax(optimizer, state) is optimizer
        move_ours(gradients[3:])
        found = [ops.convert_to_numpy(v) for v in variables]
    # optax puts ε of adagrad and adamax elsewhere; it is 1e-7.
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


def test_what_does_not_fit_is_refused():
    variables = [keras.Variable(np.float32(w)) for w in start()]
    params = [np.float32(w) for w in start()]
    with pytest.raises(TypeError, match="of type RAdam"):
        to_optax(RAdam(), None)
    adam = Adam()
    with pytest.raises(ValueError, match="that is built"):
        to_optax(adam, optax.adam(0.1).init(params))
    adam.build(variables)
    with pytest.raises(ValueError, match=r"slots \['mu', 'nu'\] in optax's words"):
        to_optax(adam, optax.sgd(0.1, 0.9).init(params))
    with pytest.raises(ValueError, match="in their order"):
        to_optax(adam, optax.adam(0.1).init(params[::-1]))
    with pytest.raises(ValueError, match="in their order"):
        from_optax(adam, optax.adam(0.1).init(params[::-1]))
