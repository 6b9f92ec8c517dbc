"""The denoiser around Stable Diffusion's network; its blocks, in a small one, train privately."""

import sys
import types

import keras
import numpy as np
import one_example_at_a_time as reference
import pytest
import tensorflow as tf
from keras_cv.models import StableDiffusion
from keras_cv.src.models.stable_diffusion.constants import _ALPHAS_CUMPROD
from keras_cv.src.models.stable_diffusion.diffusion_model import (
    CrossAttention,
    ResBlock,
    SpatialTransformer,
)
from keras_cv.src.models.stable_diffusion.padded_conv2d import PaddedConv2D
from scipy import stats

import tfdp
from tfdp.synthesis import StableDiffusionDenoiser
from tfdp.synthesis.stable_diffusion import signal_variance, time_embedding


def inputs():
    return [
        keras.Input((8, 8, 4), name="latent"),
        keras.Input((32,), name="timestep_embedding"),
        keras.Input((5, 12), name="context"),
    ]


def small_unet():
    """A block of each kind that Stable Diffusion has, wired as there."""
    latent, embedding, context = inputs()
    time = keras.layers.Dense(16)(embedding)
    x = PaddedConv2D(32, 3, padding=1)(latent)
    x = ResBlock(32)([x, time])
    x = SpatialTransformer(2, 16)([x, context])
    x = keras.layers.GroupNormalization(epsilon=1e-5)(x)
    return keras.Model([latent, embedding, context], PaddedConv2D(4, 3, padding=1)(x))


def with_lora(unet):
    for variable in unet.variables:
        variable.trainable = False
    for layer in unet._flatten_layers():
        if isinstance(layer, CrossAttention):
            for dense in (layer.to_q, layer.to_k, layer.to_v, layer.out_proj):
                dense.enable_lora(2)
                # From zero, the other factor would get no gradient.
                dense.lora_kernel_b.assign(keras.random.normal(dense.lora_kernel_b.shape))
    return unet


def examples(count, seed=0):
    random = np.random.default_rng(seed)
    return {
        "latents": random.normal(size=(count, 8, 8, 4)).astype("float32"),
        "context": random.normal(size=(count, 5, 12)).astype("float32"),
    }


class Seen(keras.layers.Layer):
    """Returns the latents, and keeps what it was given."""

    def call(self, latent, embedding, context):
        self.given = latent, embedding, context
        return latent


def test_the_schedule_and_the_time_embedding_are_those_of_keras_cv():
    np.testing.assert_allclose(signal_variance(), _ALPHAS_CUMPROD, atol=1e-6)
    for time in (0, 1, 500, 999):
        expected = StableDiffusion._get_timestep_embedding(None, time, 1)
        np.testing.assert_allclose(time_embedding(np.array([time]), 320), expected, atol=1e-4)


def test_the_network_sees_noisy_latents_and_the_residual_is_about_their_noise():
    seen, tensors = Seen(), inputs()
    denoiser = StableDiffusionDenoiser(keras.Model(tensors, seen(*tensors)))
    x = examples(500)
    residual = denoiser(x).numpy()
    noisy, embedding, context = (tensor.numpy() for tensor in seen.given)
    np.testing.assert_array_equal(context, x["context"])
    noise = noisy - residual  # The network predicts the noisy latents.
    assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-4
    assert np.abs(np.corrcoef(noise.reshape(500, -1))[~np.eye(500, dtype=bool)]).max() < 0.4
    embeddings = np.asarray(time_embedding(np.arange(1000), 32))
    time = ((embedding[:, None] - embeddings) ** 2).sum(-1).argmin(axis=1)
    np.testing.assert_allclose(embedding, embeddings[time], atol=1e-6)
    assert stats.kstest(time, "uniform", args=(0, 1000)).pvalue > 1e-4
    share = signal_variance()[time][:, None, None, None]
    expected = np.sqrt(share) * x["latents"] + np.sqrt(1 - share) * noise
    np.testing.assert_allclose(noisy, expected, atol=1e-4)


def test_draws_are_new_at_each_call_and_fixed_by_a_seed():
    tensors = inputs()
    unet = keras.Model(tensors, Seen()(*tensors))
    x = examples(2)
    denoiser, again = StableDiffusionDenoiser(unet, seed=3), StableDiffusionDenoiser(unet, seed=3)
    call = tf.function(denoiser)
    first, second = call(x).numpy(), call(x).numpy()
    assert np.abs(first - second).max() > 0.1
    np.testing.assert_allclose(again(x), first, atol=1e-6)


def test_clipped_gradients_of_lora_are_those_of_each_example():
    denoiser = StableDiffusionDenoiser(with_lora(small_unet()), seed=0)
    x, variables = examples(4), denoiser.trainable_variables
    assert len(variables) == 2 * 2 * 4  # Attentions, factors, projections.

    def loss(y, y_pred, sample_weight=None):
        return tf.reduce_mean(tf.square(y_pred), axis=[1, 2, 3])

    state = denoiser.seed_generator.state
    before = state.numpy()
    with tf.GradientTape() as tape:
        losses = loss(None, denoiser(x, training=True))
    gradients = tape.jacobian(losses, [v.value for v in variables])
    gradients = [np.asarray(tf.convert_to_tensor(g), "float64") for g in gradients]
    norms = reference.norms(gradients)
    clip = float(np.median(norms))
    plan = tfdp.clipping.make_plan(denoiser)
    assert not plan.refusals
    assert {type(layer) for layer in plan.rules} == {keras.layers.Dense}
    clipper = tfdp.clipping.ClipBound(clip).resolve(denoiser)
    context = tfdp.clipping.Context()
    engine = tfdp.clipping.RecordingEngine(denoiser, clipper, plan, context)
    state.assign(before)  # The same draws again.
    result = engine(x, None, None, loss)
    np.testing.assert_allclose(result.norms, norms, rtol=1e-3)
    reference.assert_close(result.sums, reference.clipped_sum(gradients, clip), 1e-3)


def test_private_training_moves_the_adapters_alone():
    unet = with_lora(small_unet())
    before = {v.path: v.numpy() for v in unet.variables}
    private = tfdp.make_private(StableDiffusionDenoiser(unet), physical_batch_size=2)
    private.compile(
        tfdp.optimizers.VectorizedDPKerasAdamOptimizer(1.0, 1.0, learning_rate=1e-3), loss="mse"
    )
    history = private.fit(examples(8), np.zeros((8, 1, 1, 1)), batch_size=4, verbose=0)
    assert 0.1 < history.history["loss"][0] < 100
    moved = {v.path for v in unet.variables if np.abs(v.numpy() - before[v.path]).max() > 0}
    assert moved == {path for path in before if "lora_kernel" in path}
    assert private.ledger.epsilon(delta=1e-2) > 0


def test_weights_are_kept(tmp_path):
    first, second = small_unet(), small_unet()
    path = tmp_path / "denoiser.weights.h5"
    StableDiffusionDenoiser(first).save_weights(path)
    StableDiffusionDenoiser(second).load_weights(path)
    for saved, loaded in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(saved, loaded)


def test_a_network_with_other_inputs_is_refused():
    latent, embedding, context = inputs()
    in_other_order = [embedding, latent, context]
    rows = [keras.layers.Flatten()(tensor) for tensor in in_other_order]
    swapped = keras.Model(in_other_order, keras.layers.Concatenate()(rows))
    with pytest.raises(ValueError, match="`unet`.*latent.*timestep_embedding.*context"):
        StableDiffusionDenoiser(swapped)


def test_the_network_comes_from_keras_cv_without_a_download(monkeypatch, tmp_path):
    made = {}

    class Network:
        def __init__(self, *sizes, download_weights):
            made.update(sizes=sizes, download=download_weights)

        def load_weights(self, path):
            made["weights"] = path

    module = types.ModuleType("stand_in")
    module.DiffusionModel = Network
    monkeypatch.setitem(sys.modules, "keras_cv.models.stable_diffusion", module)
    path = tmp_path / "weights.h5"
    path.touch()
    tfdp.synthesis.stable_diffusion_unet(64, 128, 7, weights=path)
    assert made == {"sizes": (64, 128, 7), "download": False, "weights": str(path)}


def test_without_keras_cv_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_cv.models.stable_diffusion", None)
    with pytest.raises(ImportError, match="pip install keras-cv"):
        tfdp.synthesis.stable_diffusion_unet(64, 64)
