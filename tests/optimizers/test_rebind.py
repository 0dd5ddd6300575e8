"""`rebind`: slots follow their variables, whatever is frozen or unfrozen."""

import functools

import keras
import numpy as np
import pytest
from keras import ops

from kerastools import optimizers
from kerastools.optimizers import rebind

NAMES = ("a", "b", "c", "head")

OPTIMIZERS = {
    "SGD": lambda: keras.optimizers.SGD(0.01, momentum=0.9),
    "plain SGD": lambda: keras.optimizers.SGD(0.01),
    "Adam": lambda: keras.optimizers.Adam(0.01),
    "AMSGrad": lambda: keras.optimizers.Adam(0.01, amsgrad=True),
    "AdamW": lambda: keras.optimizers.AdamW(0.01),
    "Adagrad": lambda: keras.optimizers.Adagrad(0.01),
    "Adadelta": lambda: keras.optimizers.Adadelta(0.01),
    "Adafactor": lambda: keras.optimizers.Adafactor(0.01),
    "Adamax": lambda: keras.optimizers.Adamax(0.01),
    "Ftrl": lambda: keras.optimizers.Ftrl(0.01),
    "Lamb": lambda: keras.optimizers.Lamb(0.01),
    "Lion": lambda: keras.optimizers.Lion(0.001),
    "Muon": lambda: keras.optimizers.Muon(0.01),
    "Nadam": lambda: keras.optimizers.Nadam(0.01),
    "RMSprop": lambda: keras.optimizers.RMSprop(0.01, momentum=0.9, centered=True),
    "ScheduleFreeAdamW": lambda: keras.optimizers.ScheduleFreeAdamW(0.01),
    "accumulating": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=3),
    "averaging": lambda: keras.optimizers.Adam(0.01, use_ema=True),
    "LossScaleOptimizer": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01)),
    "skipping": lambda: optimizers.SGD(0.01, momentum=0.9, skip_nonfinite=True),
}
WRAPPERS = {"SAM", "Lookahead"}
for name in optimizers.__all__:
    cls = getattr(optimizers, name)
    if isinstance(cls, type) and issubclass(cls, keras.optimizers.Optimizer):
        make = functools.partial(optimizers.Adam if name in WRAPPERS else cls, 0.01)
        OPTIMIZERS[f"kerastools {name}"] = (
            (lambda cls=cls, make=make: cls(make())) if name in WRAPPERS else make
        )


def make_model(names=NAMES, use_bias=False):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(4, "tanh", use_bias=use_bias, name=name) for name in names]
    return keras.Sequential([keras.Input((4,)), *layers])


def parts_of(optimizer):
    inner = [o for o in [getattr(optimizer, "inner_optimizer", None)] if o is not None]
    return [optimizer, *inner, *getattr(optimizer, "optimizers", [])]


def slots_of(optimizer):
    """Returns {(id of the variable, attribute): value}, found without the code that is tested."""
    slots = {}
    for part in parts_of(optimizer):
        known = part._trainable_variables
        for name, value in vars(part).items():
            if (
                not isinstance(value, list)
                or len(value) != len(known)
                or name.endswith("variables")
            ):
                continue
            for variable, slot in zip(known, value, strict=True):
                if isinstance(slot, keras.Variable):
                    slots[id(variable), name] = ops.convert_to_numpy(slot)
    return slots


def step(optimizer, variables, seed):
    """Takes a step with gradients that depend on the seed and the layer's name alone."""
    if not variables:
        return
    rng = np.random.default_rng(seed)
    by_name = {name: rng.normal(size=(4, 4)) for name in NAMES}
    gradients = [ops.convert_to_tensor(by_name[v.path.split("/")[-2]], v.dtype) for v in variables]
    if keras.backend.backend() == "jax" and isinstance(
        optimizer, keras.optimizers.LossScaleOptimizer
    ):  # Keras's eager step fails here.
        values, state = optimizer.stateless_apply(
            [v.value for v in optimizer.variables], gradients, [v.value for v in variables]
        )
        for v, value in zip([*variables, *optimizer.variables], [*values, *state], strict=True):
            v.assign(value)
    else:
        optimizer.apply(gradients, variables)


def kernels(model, *names):
    return [model.get_layer(name).kernel for name in names]


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_slots_follow_their_variables(make):
    # "a" leaves, "b" and "head" stay, "c" joins; all are of equal shapes.
    model, optimizer = make_model(), make()
    model.get_layer("c").trainable = False
    optimizer.build(model.trainable_variables)
    for seed in range(2):
        step(optimizer, model.trainable_variables, seed)
    before, iterations = slots_of(optimizer), int(optimizer.iterations)
    scalars = [ops.convert_to_numpy(v) for p in parts_of(optimizer) for v in p._variables[:2]]
    weights = model.get_weights()
    # Where the optimizer evaluates beside the weights that it trains, what leaves stops there.
    if swaps := getattr(optimizer, "_trains_elsewhere", False):
        optimizer.to_evaluation()
    meant = model.get_layer("a").get_weights()[0]
    if swaps:
        optimizer.to_training()

    model.get_layer("a").trainable = False
    model.get_layer("c").trainable = True
    assert rebind(optimizer, model) is optimizer

    after = slots_of(optimizer)
    stayed = {id(v) for v in kernels(model, "b", "head")}
    kept = [key for key in before if key[0] in stayed]
    assert len(kept) == len(before) * 2 // 3
    for key in kept:
        np.testing.assert_array_equal(after[key], before[key], strict=True)
    fresh = make()
    fresh.build(model.trainable_variables)
    initial, (joined,) = slots_of(fresh), kernels(model, "c")
    for key in after:
        if key[0] == id(joined) and "moving_average" not in key[1]:
            np.testing.assert_array_equal(after[key], initial[key], strict=True)
    assert int(optimizer.iterations) == iterations
    now = [ops.convert_to_numpy(v) for p in parts_of(optimizer) for v in p._variables[:2]]
    for old, new in zip(scalars, now, strict=True):
        np.testing.assert_array_equal(old, new)
    # A file that was written by one is read by the other.
    assert [v.shape for v in optimizer.variables] == [v.shape for v in fresh.variables]

    # The survivors go on as those of an optimizer that was built on all of them and left alone.
    reference = make_model()
    undisturbed = make()
    undisturbed.build(kernels(reference, "a", "b", "head"))
    for seed in range(2):
        step(undisturbed, kernels(reference, "a", "b", "head"), seed)
    for ours, theirs in zip(weights, reference.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for seed in (2, 3):
        step(optimizer, model.trainable_variables, seed)
        step(undisturbed, kernels(reference, "a", "b", "head"), seed)
    for name in ("b", "head"):
        np.testing.assert_array_equal(
            model.get_layer(name).get_weights()[0], reference.get_layer(name).get_weights()[0]
        )
    np.testing.assert_array_equal(model.get_layer("a").get_weights()[0], meant)


@pytest.mark.parametrize("late", [False, True])
def test_multi_optimizer_is_rebound_inside(late):
    def by_name(variable):
        return one if variable.path.split("/")[-2] in ("a", "b") else other

    one, other = keras.optimizers.Adam(0.01), keras.optimizers.SGD(0.01, momentum=0.9)
    model = make_model()
    optimizer = keras.optimizers.MultiOptimizer(by_name)
    if late:
        model.get_layer("a").trainable = False
    optimizer.build(model.trainable_variables)
    step(optimizer, model.trainable_variables, 0)
    before = slots_of(optimizer)
    model.get_layer("a").trainable = late
    rebind(optimizer, model)
    after = slots_of(optimizer)
    for key in before.keys() & after.keys():
        np.testing.assert_array_equal(after[key], before[key])
    assert len(before) + (2 if late else -2) == len(after)
    step(optimizer, model.trainable_variables, 1)
    # The last variable of one of the optimizers leaves, and comes back.
    for flag in (False, True):
        model.get_layer("a").trainable = model.get_layer("b").trainable = flag
        rebind(optimizer, model)
        step(optimizer, model.trainable_variables, 2)
    assert len(slots_of(optimizer)) == 6


@pytest.mark.parametrize("name", ["Adam", "Adamax", "LossScaleOptimizer", "kerastools Adam"])
def test_a_late_joiner_steps_as_with_a_new_optimizer(name):
    make = OPTIMIZERS[name]
    model, reference = make_model(("a", "b")), make_model(("a", "b"))
    optimizer, fresh = make(), make()
    model.get_layer("b").trainable = False
    optimizer.build(model.trainable_variables)
    fresh.build(kernels(reference, "b"))
    for part in parts_of(optimizer):
        part._iterations.assign(2000)
    model.get_layer("b").trainable = True
    rebind(optimizer, model)
    for seed in range(8):
        step(optimizer, model.trainable_variables, seed)
        step(fresh, kernels(reference, "b"), seed)
        ours, theirs = (ops.convert_to_numpy(*kernels(m, "b")) for m in (model, reference))
        # Keras computes 1 − 0.999ᵗ in float32, which costs four digits at t = 1.
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["Adam", "AMSGrad", "Nadam", "Muon", "ScheduleFreeAdamW"])
def test_a_late_joiner_steps_by_at_most_the_learning_rate(name):
    largest = {}
    for rebinds in (False, True):
        model, optimizer = make_model(("a", "b"), use_bias=True), OPTIMIZERS[name]()
        late = model.get_layer("b")
        late.trainable = not rebinds
        optimizer.build(model.trainable_variables)
        optimizer.iterations.assign(2000)
        if name == "Nadam":
            optimizer._u_product.assign(0.0)  # What 2000 steps leave of it.
        late.trainable = True
        if rebinds:
            rebind(optimizer, model)
        steps = []
        for _ in range(12):
            before = ops.convert_to_numpy(late.bias)
            optimizer.apply([ops.ones(v.shape) for v in model.weights], model.trainable_variables)
            steps.append(np.abs(ops.convert_to_numpy(late.bias) - before).max() / 0.01)
        largest[rebinds] = max(steps)
    assert largest[True] < 1.001
    if name == "Adam":
        assert largest[False] > 5.5, "Keras no longer overshoots: own step counts can go."


def test_equal_shapes_that_swap_are_not_confused():
    # Plain Keras on JAX trains "a" with the momentum of "b" here, without an error.
    model = make_model(("a", "b", "head"), use_bias=True)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    x, y = np.ones((8, 4), "float32"), np.zeros((8, 4), "float32")
    model.get_layer("a").trainable = False
    model.fit(x, y, epochs=3, verbose=0)
    model.get_layer("a").trainable = True
    model.get_layer("b").trainable = False
    rebind(model.optimizer, model)
    weights = model.get_weights()
    slots = slots_of(model.optimizer)
    assert not slots[id(model.get_layer("a").kernel), "momentums"].any()
    outputs = model.predict(x, verbose=0)
    model.fit(x, y, epochs=1, verbose=0)

    # One step by hand, in NumPy.
    a, a0, b, b0, c, c0 = (w.astype("float64") for w in weights)
    h1 = np.tanh(x @ a + a0)
    h2 = np.tanh(h1 @ b + b0)
    out = np.tanh(h2 @ c + c0)
    np.testing.assert_allclose(outputs, out, rtol=1e-5, atol=1e-7)  # Sums of float32 near 0.
    d3 = 2 * (out - y) / out.size * (1 - out**2)
    d2 = d3 @ c.T * (1 - h2**2)
    d1 = d2 @ b.T * (1 - h1**2)
    head = model.get_layer("head").kernel
    moved = 0.9 * slots[id(head), "momentums"] - 0.1 * h2.T @ d3
    got = dict(zip(("a", "a0", "b", "b0", "c", "c0"), model.get_weights(), strict=True))
    np.testing.assert_allclose(got["a"], a - 0.1 * x.T @ d1, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(got["b"], weights[2])
    np.testing.assert_allclose(got["c"], c + moved, rtol=1e-5, atol=1e-7)


def test_averages_follow_their_variables_and_begin_at_the_value():
    # Plain Keras on TensorFlow overwrites "b" with the average of "a" when "a" was frozen.
    model = make_model(("a", "b", "head"))
    model.compile(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5), "mse")
    x, y = np.ones((8, 4), "float32"), np.zeros((8, 4), "float32")
    model.fit(x, y, epochs=2, verbose=0)
    frozen = model.get_layer("a").get_weights()
    model.get_layer("a").trainable = False
    rebind(model.optimizer, model)
    model.fit(x, y, epochs=2, verbose=0)
    averages = slots_of(model.optimizer)
    for name in ("b", "head"):
        kernel = model.get_layer(name).kernel
        average = averages[id(kernel), "_model_variables_moving_average"]
        np.testing.assert_array_equal(ops.convert_to_numpy(kernel), average)
    np.testing.assert_array_equal(model.get_layer("a").get_weights()[0], frozen[0])
    model.get_layer("a").trainable = True
    rebind(model.optimizer, model)
    joined = slots_of(model.optimizer)[
        id(model.get_layer("a").kernel), "_model_variables_moving_average"
    ]
    np.testing.assert_array_equal(joined, frozen[0])


def test_exclusions_from_weight_decay_and_live_numbers_survive():
    model = make_model()
    optimizer = keras.optimizers.AdamW(0.01, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_list=[model.get_layer("head").kernel])
    optimizer.build(model.trainable_variables)
    optimizer.learning_rate = 0.25
    optimizer.beta_1 = 0.7
    model.get_layer("a").trainable = False
    rebind(optimizer, model)
    assert float(optimizer.learning_rate) == 0.25
    assert optimizer.beta_1 == 0.7
    kernel = model.get_layer("head").kernel
    before = ops.convert_to_numpy(kernel)
    zeros = [ops.zeros(v.shape) for v in model.trainable_variables]
    optimizer.apply(zeros, model.trainable_variables)
    np.testing.assert_array_equal(ops.convert_to_numpy(kernel), before)


@pytest.mark.parametrize("name", ["Nadam", "kerastools Adam"])
def test_a_rebound_optimizer_is_saved_and_loaded(name, tmp_path):
    model = make_model()
    model.get_layer("a").trainable = False
    model.compile(OPTIMIZERS[name](), "mse")
    x, y = np.ones((8, 4), "float32"), np.zeros((8, 4), "float32")
    model.fit(x, y, epochs=2, verbose=0)
    model.get_layer("b").trainable = False
    rebind(model.optimizer, model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for one in (model, loaded):
        one.fit(x, y, epochs=2, verbose=0)
    for ours, theirs in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_what_leaves_stops_at_the_weights_that_exact_momentum_means():
    model, optimizer = make_model(), optimizers.SGD(0.1, momentum=0.9, nesterov="exact")
    optimizer.build(model.trainable_variables)
    for seed in range(3):
        step(optimizer, model.trainable_variables, seed)
    trained = model.get_weights()
    optimizer.to_evaluation()
    meant = model.get_weights()
    optimizer.to_training()
    model.get_layer("b").trainable = False
    rebind(optimizer, model)
    for i, name in enumerate(NAMES):
        expected = meant[i] if name == "b" else trained[i]
        np.testing.assert_array_equal(model.get_layer(name).get_weights()[0], expected)
    assert not np.array_equal(meant[1], trained[1])


def test_an_unbuilt_optimizer_is_built():
    model, optimizer = make_model(), keras.optimizers.Adam()
    model.get_layer("a").trainable = False
    rebind(optimizer, model)
    assert len(optimizer._trainable_variables) == 3


def test_another_model_is_refused_and_nothing_changed():
    model, other, optimizer = make_model(), make_model(), keras.optimizers.Adam(0.01)
    optimizer.build(model.trainable_variables)
    before = list(optimizer.variables)
    with pytest.raises(ValueError, match="built for another model"):
        rebind(optimizer, other)
    assert all(a is b for a, b in zip(before, optimizer.variables, strict=True))
    assert optimizer.built


def test_the_wrapped_optimizer_of_a_compiled_model_is_refused():
    model, inner = make_model(), keras.optimizers.Adam(0.01)
    model.compile(keras.optimizers.LossScaleOptimizer(inner), "mse")
    model.optimizer.build(model.trainable_variables)
    with pytest.raises(ValueError, match=r"Pass model\.optimizer"):
        rebind(inner, model)


@pytest.mark.parametrize("wrong", ["adam", None, keras.layers.Dense])
def test_what_is_no_optimizer_is_refused(wrong):
    with pytest.raises(TypeError, match=r"needs a keras\.optimizers\.Optimizer"):
        rebind(wrong, make_model())


def test_an_unbuilt_model_is_refused():
    with pytest.raises(ValueError, match="needs a built model"):
        rebind(keras.optimizers.Adam(), keras.Sequential([keras.layers.Dense(1)]))


class Pooled(keras.optimizers.SGD):
    """Keeps one vector for all variables together."""

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self.pool = self.add_variable((len(variables),), name="pool")


def test_state_that_is_not_per_variable_is_refused_and_nothing_changed():
    model, optimizer = make_model(), Pooled(0.1, momentum=0.9)
    optimizer.build(model.trainable_variables)
    step(optimizer, model.trainable_variables, 0)
    before, variables = slots_of(optimizer), list(optimizer.variables)
    model.get_layer("a").trainable = False
    with pytest.raises(ValueError, match="not one slot per variable"):
        rebind(optimizer, model)
    model.get_layer("a").trainable = True
    assert all(a is b for a, b in zip(variables, optimizer.variables, strict=True))
    for key, slot in slots_of(optimizer).items():
        np.testing.assert_array_equal(slot, before[key])
    step(optimizer, model.trainable_variables, 1)
