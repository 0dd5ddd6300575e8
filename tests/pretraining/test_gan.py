import keras
import numpy as np
import pytest
from keras import ops
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from kerastools.pretraining import GAN, pretrain_gan
from kerastools.transfer import reuse_layers

L = keras.layers


def nets(seed=1):
    keras.utils.set_random_seed(seed)
    discriminator = keras.Sequential([keras.Input((3,)), L.Dense(5, "tanh"), L.Dense(1)])
    generator = keras.Sequential([keras.Input((2,)), L.Dense(4, "tanh"), L.Dense(3)])
    return discriminator, generator


def rows(n=64):
    return np.random.default_rng(3).normal(size=(n, 3)).astype("float32")


class Parts:
    """The losses by their definition, in float64, as functions of the weights."""

    def __init__(self, gan, z):
        self.z = z.astype("float64")
        self.d = [w.astype("float64") for w in gan.discriminator.get_weights()]
        self.g = [w.astype("float64") for w in gan.generator.get_weights()]

    @staticmethod
    def net(weights, x):
        return np.tanh(x @ weights[0] + weights[1]) @ weights[2] + weights[3]

    def loss_d(self, d, x, noise=None, penalty=0.0):
        fake = self.net(d, self.net(self.g, self.z))
        loss = np.log1p(np.exp(-self.net(d, x))).mean() + np.log1p(np.exp(fake)).mean()
        if noise is not None:
            slope = (self.net(d, x + 0.01 * noise) - self.net(d, x)) / 0.01
            loss += 0.5 * penalty * (slope**2).mean()
        return loss

    def loss_g(self, g):
        return np.log1p(np.exp(-self.net(self.d, self.net(g, self.z)))).mean()


def slopes(function, weights, step=1e-5):
    """∂function/∂weights by central differences."""
    gradients = []
    for w in weights:
        gradient = np.zeros_like(w)
        for i in np.ndindex(w.shape):
            value = w[i]
            w[i] = value + step
            high = function(weights)
            w[i] = value - step
            gradient[i] = (high - function(weights)) / (2 * step)
            w[i] = value
        gradients.append(gradient)
    return gradients


def test_each_net_steps_along_the_gradient_of_its_own_loss():
    gan = GAN(*nets(), penalty=0.7, seed=1)
    draws = []
    draw = gan._normal
    gan._normal = lambda shape: draws.append(draw(shape)) or draws[-1]
    gan.compile(keras.optimizers.SGD(1.0), run_eagerly=True)
    before = [[w.copy() for w in n.get_weights()] for n in (gan.discriminator, gan.generator)]
    x = rows(16)
    seeds = ops.convert_to_numpy(gan.seed_generator.state)
    gan.train_on_batch(x)
    gan.seed_generator.state.assign(seeds)
    # The same draws again: under JAX those above were traced.
    z, noise = (ops.convert_to_numpy(draw(shape)) for shape in ((16, 2), (16, 3)))
    after = [n.get_weights() for n in (gan.discriminator, gan.generator)]
    for net, old in zip((gan.discriminator, gan.generator), before, strict=True):
        net.set_weights(old)
    parts = Parts(gan, z)
    wanted = [
        slopes(lambda d: parts.loss_d(d, x.astype("float64"), noise, 0.7), parts.d),
        slopes(parts.loss_g, parts.g),
    ]
    for old, new, want in zip(before, after, wanted, strict=True):
        for a, b, gradient in zip(old, new, want, strict=True):
            # Differences of nearby float32 logits, divided by 0.01.
            np.testing.assert_allclose(a - b, gradient, rtol=2e-3, atol=2e-4)


def test_penalty_is_the_squared_slope():
    """For a linear discriminator D(x) = a·x it is ‖a‖² whatever the step."""
    discriminator = keras.Sequential([keras.Input((3,)), L.Dense(1)])
    discriminator.set_weights([np.array([[2.0], [0.0], [-1.0]]), np.zeros(1)])
    gan = GAN(discriminator, nets()[1], seed=1)
    got = np.mean([float(gan._roughness(ops.convert_to_tensor(rows()))) for _ in range(200)])
    assert got == pytest.approx(5.0, rel=0.05)


def test_undecided_nets_report_the_losses_of_equilibrium():
    trunk = keras.Sequential([keras.Input((3,)), L.Dense(4, "leaky_relu")])
    still = keras.optimizers.SGD(0.0)
    gan = pretrain_gan(trunk, rows(), latent_dim=2, optimizer=still, epochs=1, verbose=0)
    assert gan.history.history["discriminator_loss"][0] == pytest.approx(2 * np.log(2), rel=1e-6)
    assert gan.history.history["generator_loss"][0] == pytest.approx(np.log(2), rel=1e-6)


@pytest.mark.tensorflow  # Learning is told on one; the other tests run on both.
def test_generated_digits_are_of_all_classes(tmp_path, capsys):
    data = load_digits()
    x = (data.data / 16).astype("float32")
    judge = LogisticRegression(max_iter=300).fit(x, data.target)
    keras.utils.set_random_seed(1)
    layers = [L.Dense(96, "leaky_relu", name="lower"), L.Dense(48, "leaky_relu", name="upper")]
    trunk = keras.Sequential([keras.Input((64,)), *layers])
    optimizer = keras.optimizers.Adam(1e-3, beta_1=0.5)
    gan = pretrain_gan(
        trunk,
        x,
        output_activation="sigmoid",
        optimizer=optimizer,
        epochs=50,
        batch_size=64,
        seed=0,
        verbose=0,
    )
    made = gan.generate(1000, seed=0)
    share = np.bincount(judge.predict(made), minlength=10) / 1000
    entropy = -(share[share > 0] * np.log(share[share > 0])).sum()
    sure, noise = judge.predict_proba(made).max(axis=1).mean(), np.random.default_rng(1)
    real = judge.predict_proba(x).max(axis=1).mean()
    with capsys.disabled():
        print(f"\nentropy of generated classes {entropy:.3f} nats (all equal: {np.log(10):.3f})")
        print(f"sureness of the judge: {sure:.3f}, on real digits {real:.3f}")
    assert entropy >= 2.0
    shuffled = noise.permuted(x, axis=0)  # right pixel by pixel, and no digit
    assert sure > judge.predict_proba(shuffled).max(axis=1).mean() + 0.05
    # The lower layers are there to be reused, and the whole can be saved.
    lower = reuse_layers(gan.discriminator, upto="lower")
    np.testing.assert_array_equal(lower.get_weights()[0], trunk.get_weights()[0])
    gan.save(tmp_path / "gan.keras")
    loaded = keras.models.load_model(tmp_path / "gan.keras")
    np.testing.assert_allclose(loaded.generate(3, seed=0), made[:3], atol=1e-6)
    np.testing.assert_allclose(loaded.predict(x[:3], verbose=0), gan.predict(x[:3], verbose=0))


@pytest.mark.tensorflow  # The steps are tested on both.
def test_images_get_a_convolutional_generator():
    layers = [L.Conv2D(4, 3, strides=2, padding="same", activation="leaky_relu"), L.Dropout(0.1)]
    trunk = keras.Sequential([keras.Input((7, 7, 2)), *layers])
    x = np.random.default_rng(1).random((8, 7, 7, 2))
    gan = pretrain_gan(trunk, x, latent_dim=3, epochs=1, batch_size=8, verbose=0)
    assert gan.generate(5).shape == (5, 7, 7, 2)
    assert gan.discriminator.layers[1] is trunk.layers[0]
    assert np.isfinite(list(gan.history.history.values())).all()


def test_an_interrupted_run_goes_on_to_the_bit(tmp_path):
    def run(**arguments):
        keras.utils.set_random_seed(1)
        trunk = keras.Sequential([keras.Input((3,)), L.Dense(4, "leaky_relu")])
        return pretrain_gan(trunk, rows(), latent_dim=2, batch_size=16, verbose=0, **arguments)

    straight = run(epochs=3)
    run(epochs=2, directory=tmp_path)
    resumed = run(epochs=3, directory=tmp_path)
    assert resumed.history.history == straight.history.history
    for a, b in zip(straight.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("x", "arguments", "message"),
    [
        (np.arange(64), {}, "look like labels"),
        (rows() * np.nan, {}, "NaN"),
        (rows(10), {}, "batch_size"),
        (rows(), {"output_activation": "tanh"}, r"x in \[-1, 1\]"),
        (rows(), {"output_activation": "softmax"}, "needs output_activation"),
        (rows(), {"penalty": -1}, "penalty >= 0"),
        (rows(), {"generator": keras.Sequential([keras.Input((2,)), L.Dense(4)])}, "GAN needs"),
    ],
)
def test_bad_input_is_refused_before_anything_is_changed(x, arguments, message):
    trunk = keras.Sequential([keras.Input((3,)), L.Dense(4)])
    before = trunk.get_weights()
    with pytest.raises(ValueError, match=message):
        pretrain_gan(trunk, x, **arguments)
    for a, b in zip(before, trunk.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
