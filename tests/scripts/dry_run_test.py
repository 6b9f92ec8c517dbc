"""Tests of `train.py --dry_run`, and of the preset for ImageNet on files in its form."""

import os

import keras
import numpy as np
import pytest
import tiny_imagenet
from absl import flags

import tfdp
from tfdp.scripts import dry_run, train, train_settings
from tfdp.scripts.presets import AUGMENTATIONS, MODELS, RECIPES


def train_with(*arguments):
    values = flags.FlagValues()
    train_settings.declare_flags(values)
    values(["train.py", *arguments])
    return train.train(values)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(dry_run, "_SECONDS", 0.0)


def test_a_dry_run_says_what_the_run_then_spends_and_writes_nothing(quick, tmp_path, capsys):
    arguments = ("--epochs=2", "--verbose=0", f"--output_dir={tmp_path / 'out'}")
    estimate = train_with(*arguments, "--dry_run")
    assert not os.listdir(tmp_path)
    printed = capsys.readouterr().out
    assert printed.startswith("A dry run: nothing was trained or written.\nsteps      12, 6 in an")
    assert "(RDP)" in printed and "GiB of host memory" in printed and " on this machine" in printed
    assert estimate.seconds > 0 and estimate.bytes["host memory"] > 2**20
    report = train_with(*arguments)
    assert report.steps == estimate.steps
    assert report.noise_multiplier == estimate.noise_multiplier
    assert report.epsilon == pytest.approx(estimate.epsilon)


def test_scores_of_screening_are_in_the_epsilon(quick):
    options = ("--dry_run", "--epochs=2", "--target_epsilon=5", "--screening=noisy_threshold")
    assert 4.8 < train_with(*options).epsilon["rdp"] <= 5


def test_a_simulated_run_has_no_epsilon(quick, capsys):
    estimate = train_with("--dry_run", "--epochs=2", "--simulate_at=16")
    assert estimate.epsilon is None and estimate.batch_size == 16
    assert "epsilon    none: a simulated run is not private" in capsys.readouterr().out


def test_the_measured_step_grows_until_it_takes_long_enough(monkeypatch):
    monkeypatch.setattr(dry_run, "_SECONDS", 1e9)
    estimate = train_with("--dry_run", "--epochs=1", "--noise_multiplier=1", "--batch_size=20")
    assert estimate.measured_examples == 20


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.04, "1.0 seconds"), (130, "2.2 minutes"), (86_400, "24.0 hours"), (1e6, "11.6 days")],
)
def test_times_are_in_units_that_can_be_read(seconds, text):
    assert dry_run._duration(seconds) == text


def test_the_preset_for_imagenet_is_the_published_run():
    preset = RECIPES["tan_imagenet"]
    steps = preset.epochs * -(-1_281_167 // preset.batch_size)
    assert steps == 18_000 and preset.delta <= 1 / 1_281_167
    spent = tfdp.accounting.epsilon(2.5, preset.batch_size / 1_281_167, steps, preset.delta)
    assert spent == pytest.approx(preset.target_epsilon, abs=0.02)


def test_the_model_for_imagenet_sees_images_around_zero():
    model = MODELS["nf_resnet50"]("relu", input_shape=(32, 32, 3), num_classes=5)
    assert model.count_params() == 25_557_048 - 995 * 2049
    np.testing.assert_allclose(model.layers[0](np.array([0.0, 0.5, 1.0])), [-2, 0, 2])


def test_three_in_ten_images_change_their_colours():
    keras.utils.set_random_seed(0)
    jittered = AUGMENTATIONS["shift_flip_jitter"]((32, 32, 3))
    flat = np.full((500, 32, 32, 3), 0.5, "float32")
    flat[..., 0] = 0.6
    out = np.asarray(jittered(flat, training=True))
    assert 0 <= out.min() and out.max() <= 1
    changed = np.abs(out - flat).max((1, 2, 3)) > 1e-3
    assert 0.2 < changed.mean() < 0.4
    assert len(np.unique(out[changed][:, 0, 0, 1].round(4))) > 50


def test_the_preset_for_imagenet_trains_on_files_in_its_form(tmp_path):
    pytest.importorskip("array_record")
    tiny_imagenet.prepare(tmp_path / "data")
    report = train_with(
        *("--dataset=imagenet2012", "--preset=tan_imagenet", f"--data_dir={tmp_path / 'data'}"),
        *("--image_size=32", "--model=cifar_cnn", "--batch_size=8", "--epochs=2", "--verbose=0"),
        *("--noise_multiplier=1", "--augmentation_multiplicity=2", "--learning_rate=0.1"),
        *("--validation_examples=4", f"--output_dir={tmp_path / 'out'}"),
    )
    assert (report.train_examples, report.test_examples, report.steps) == (36, 4, 10)
    assert report.sampling_probability == 8 / 36
    model = keras.saving.load_model(tmp_path / "out" / "model.keras")
    assert model.input_shape == (None, 32, 32, 3) and model.output_shape == (None, 1000)
