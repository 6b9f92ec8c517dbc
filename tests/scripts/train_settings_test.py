"""Tests of the flags of `train.py`, without training."""

import dataclasses
import re

import numpy as np
import pytest
from absl import flags

import tfdp
from tfdp.scripts import image_datasets, train_settings
from tfdp.scripts.command_line import UsageError
from tfdp.scripts.presets import (
    AUGMENTATIONS,
    DESLANTED_PRESETS,
    MODELS,
    OPTIMIZERS,
    PRESETS,
    RECIPES,
    preset_for,
)


def parsed(*arguments):
    values = flags.FlagValues()
    train_settings.declare_flags(values)
    values(["train.py", *arguments])
    return values


def settled(*arguments):
    values = parsed(*arguments)
    train_settings.check_flags(values)
    return train_settings.settle(values, image_datasets.load("digits"))


@pytest.mark.parametrize(
    "argument",
    [
        *("--target_epsilon=0", "--target_epsilon=-1", "--target_epsilon=nan"),
        *("--target_epsilon=inf", "--noise_multiplier=-1", "--noise_multiplier=nan"),
        *("--delta=0", "--delta=1", "--delta=-1e-05", "--batch_size=0", "--epochs=0"),
        *("--learning_rate=0.0", "--momentum=1.0", "--momentum=-0.1", "--l2_norm_clip=0.0"),
        *(
            "--l2_norm_clip=inf",
            "--physical_batch_size=0",
            "--simulate_at=0",
            "--seed=-1",
            "--activation=tanhh",
        ),
        *("--activation=tempered_sigmoid(1,2)", "--activation=tempered_sigmoid(0,1,1)"),
        "--activation=tempered_sigmoid(a,b,c)",
        *("--augmentation_multiplicity=0", "--ema_decay=1.0", "--ema_decay=-0.1"),
    ],
)
def test_a_flag_out_of_range_is_refused_by_name(argument):
    name, value = argument.removeprefix("--").split("=")
    with pytest.raises(UsageError, match=f"^--{name} must be ") as caught:
        train_settings.check_flags(parsed(argument))
    received = re.search(rf"Received: {name}='?(.*?)'?$", str(caught.value))[1]
    try:
        assert str(float(received)) == str(float(value))
    except ValueError:
        assert received == value


@pytest.mark.parametrize("argument", ["--model=resnet", "--optimizer=lion", "--epochs=two"])
def test_a_flag_of_the_wrong_kind_is_refused(argument):
    with pytest.raises(flags.Error, match=argument.split("=")[0].removeprefix("--")):
        parsed(argument)


def test_noise_that_is_given_is_not_calibrated_and_a_budget_beside_it_is_kept():
    for flag, budget in (("--noise_multiplier=1.1", None), ("--target_epsilon=3", 3.0)):
        settings = settled("--noise_multiplier=1.1", flag)
        assert (settings.noise_multiplier, settings.target_epsilon) == (1.1, budget)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max_rejections=3"], "--max_rejections is for --screening=annealing.*screening=none$"),
        (["--screening=annealing", "--score_clip=1"], "for --screening=noisy_threshold"),
        (["--screening=annealing", "--temperature_factor=-1"], "temperature_factor=-1"),
        (["--screening=annealing", "--public_examples=0"], "public_examples=0$"),
        (["--screening=noisy_threshold", "--score_noise_multiplier=0"], "noise_multiplier=0"),
        (["--screening=annealing", "--screening_charge=accepted"], "--noise_multiplier"),
        (["--screening_charge=accepted"], "needs --screening"),
        (["--screening=annealing", "--simulate_at=8"], "simulate_at=8$"),
    ],
)
def test_flags_of_screening_that_do_not_fit_are_refused(flags, message):
    with pytest.raises(UsageError, match=message):
        train_settings.check_flags(parsed(*flags))


def test_a_simulation_is_no_larger_than_what_it_simulates():
    assert settled("--simulate_at=8", "--batch_size=64").simulate_at == 8
    with pytest.raises(UsageError, match="at most 64.*simulate_at=65$"):
        settled("--simulate_at=65", "--batch_size=64")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("--strategy=mirrored", "one device. Received: strategy=mirrored$"),
        ("--strategy=tpu", "one device. Received: strategy=tpu$"),
        ("--noise_multiplier=0", "Received: noise_multiplier=0.0$"),
    ],
)
def test_secure_noise_is_for_one_device_and_needs_noise(other, message):
    assert settled("--secure_noise").secure_noise and not settled().secure_noise
    with pytest.raises(UsageError, match=message):
        train_settings.check_flags(parsed("--secure_noise", other))


def test_a_run_goes_on_with_the_source_of_noise_that_it_had():
    data = image_datasets.load("digits")
    secure, fast = (
        train_settings.to_repeat(settled(*flags), data, 1.0) for flags in (["--secure_noise"], [])
    )
    with pytest.raises(UsageError, match="secure_noise=True. Received: secure_noise=False"):
        train_settings.refuse_other(secure, fast)
    old = {name: value for name, value in fast.items() if name != "secure_noise"}
    train_settings.refuse_other(old, fast)
    with pytest.raises(UsageError, match="secure_noise=False. Received: secure_noise=True"):
        train_settings.refuse_other(old, secure)
    for record, expected in ((secure, True), (old, False)):
        found = train_settings.recorded(record, physical_batch_size=None, verbose=0)
        assert found.secure_noise is expected


def test_momentum_is_for_sgd():
    with pytest.raises(UsageError, match="Received: optimizer=adam$"):
        train_settings.check_flags(parsed("--optimizer=adam", "--momentum=0.9"))


def test_delta_and_batch_size_must_fit_the_data():
    assert settled("--delta=6e-4", "--batch_size=1437").batch_size == 1437
    with pytest.raises(UsageError, match=r"at most 1 / 1437.*Received: delta=0\.001$"):
        settled("--delta=1e-3")
    with pytest.raises(UsageError, match="at most 1437.*Received: batch_size=1438$"):
        settled("--batch_size=1438")


def test_without_flags_the_preset_holds():
    settings = settled()
    preset = PRESETS["digits"]
    for name in ("model", "activation", "optimizer", "batch_size", "epochs", "learning_rate"):
        assert getattr(settings, name) == getattr(preset, name)
    assert settings.target_epsilon == preset.target_epsilon == 8.0
    assert settings.noise_multiplier is None
    assert settings.delta <= 1 / 1437
    assert settings.output_dir == "runs/digits"


def test_flags_take_precedence_over_the_preset():
    settings = settled("--epochs=3", "--noise_multiplier=0", "--optimizer=adam", "--delta=1e-6")
    assert (settings.epochs, settings.noise_multiplier, settings.delta) == (3, 0.0, 1e-6)
    assert settings.target_epsilon is None
    assert settings.momentum is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tempered_sigmoid", (2.0, 2.0, 1.0)),
        ("tempered_sigmoid(1.58,3,0.71)", (1.58, 3.0, 0.71)),
        (" tempered_sigmoid( 1.5 , 3 , -0.5 ) ", (1.5, 3.0, -0.5)),
    ],
)
def test_tempered_sigmoids_are_read(text, expected):
    activation = train_settings.parse_activation(text)
    assert (activation.scale, activation.temperature, activation.offset) == expected


@pytest.mark.parametrize("name", sorted({**PRESETS, **RECIPES}))
def test_a_preset_names_what_there_is(name):
    preset = {**PRESETS, **RECIPES}[name]
    assert preset.augmentation in AUGMENTATIONS
    assert preset.optimizer in OPTIMIZERS
    train_settings.parse_activation(preset.activation)
    shape = {"digits": (8, 8, 1), "mnist": (28, 28, 1), "fashion_mnist": (28, 28, 1)}.get(
        name, (32, 32, 3)
    )
    model = MODELS[preset.model](preset.activation, input_shape=shape, num_classes=10)
    assert model(np.zeros((1, *shape))).shape == (1, 10)


def test_a_recipe_by_name_takes_the_place_of_the_data_set_s():
    settings = settled("--preset=tan_cifar10", "--batch_size=64", "--simulate_at=8")
    assert (settings.model, settings.momentum, settings.learning_rate) == ("wide_resnet", 0.0, 4.0)
    assert (settings.augmentation_multiplicity, settings.ema_decay) == (16, 0.9999)
    assert settled("--preset=tan_cifar10", "--batch_size=64", "--ema_decay=0").ema_decay is None
    with pytest.raises(UsageError, match="activation=tanh$"):
        settled("--preset=tan_cifar10", "--batch_size=64", "--activation=tanh")
    with pytest.raises(UsageError, match="augmentation_multiplicity=2$"):
        settled("--augmentation_multiplicity=2")


def test_the_noise_of_statistics_is_the_preset_s_unless_it_is_given(monkeypatch):
    upright = dataclasses.replace(DESLANTED_PRESETS["digits"], statistics_noise_multiplier=8.0)
    monkeypatch.setitem(DESLANTED_PRESETS, "digits", upright)
    for arguments, noise_multiplier in (
        (("--features=scattering",), 20.0),
        (("--features=deslanted_scattering",), 8.0),
        (("--features=deslanted_scattering", "--statistics_noise_multiplier=3"), 3.0),
    ):
        assert settled(*arguments).statistics.statistics_noise_multiplier == noise_multiplier


def test_the_network_of_upright_images_is_the_published_one_on_them():
    shapes = {"input_shape": (28, 28, 1), "num_classes": 10}
    upright = MODELS["mnist_cnn_deslanted"]("tanh", **shapes)
    plain = MODELS["mnist_cnn"]("tanh", **shapes)
    plain.set_weights(upright.get_weights())
    x = np.random.default_rng(0).random((4, 28, 28, 1), "float32") ** 4
    np.testing.assert_allclose(upright(x), plain(tfdp.layers.Deslant2D()(x)), atol=1e-5)
    assert np.abs(upright(x) - plain(x)).max() > 1e-3


def test_a_data_set_without_a_preset_takes_that_of_similar_images():
    handwriting = preset_for("kmnist", (7, 7, 81), "deslanted_scattering")
    assert handwriting is DESLANTED_PRESETS["mnist"] and handwriting.batch_size == 8192
    assert preset_for("kmnist", (28, 28, 1)) is PRESETS["mnist"]
    assert preset_for("svhn_cropped", (32, 32, 3)) is PRESETS["cifar10"]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UsageError, match=f"Received: output_dir='{file}/results'$"):
        train_settings.prepare_output_dir(str(file / "results"))
