"""`train.py --features`: what is trained on, charged, released and gone on with."""

import json
import pathlib

import keras
import numpy as np
import pytest
from absl import flags

import tfdp
from tfdp.scripts import (
    experiments,
    image_datasets,
    reproduce_training,
    train,
    train_checkpoint,
    train_features,
    train_settings,
)
from tfdp.scripts.command_line import UsageError


@pytest.fixture(scope="module")
def features_dir(tmp_path_factory):
    """The digits' features, worked out by the first test that needs them."""
    return tmp_path_factory.mktemp("features")


@pytest.fixture
def run(tmp_path, features_dir):
    """Trains a linear model of the digits' features for two epochs; more flags win."""

    def train_with(*arguments):
        values = flags.FlagValues()
        train_settings.declare_flags(values)
        values(
            [
                "train.py",
                "--features=scattering",
                f"--features_dir={features_dir}",
                f"--output_dir={tmp_path / 'run'}",
                "--epochs=2",
                "--verbose=0",
                *arguments,
            ]
        )
        return train.train(values)

    return train_with


def released(folder):
    return keras.saving.load_model(folder / "model.keras")


def test_the_released_model_takes_images_and_all_of_it_is_charged(run, tmp_path):
    report = run("--seed=1")
    assert report.model == "linear" and report.test_accuracy > 0.7
    assert 0.99 * 8 < report.epsilon["rdp"] <= 8
    test = image_datasets.load("digits").test
    x, y = test.arrays()
    logits = released(tmp_path / "run").predict(x, verbose=0)
    assert np.mean(logits.argmax(1) == y) == pytest.approx(report.test_accuracy)
    statement = json.loads((tmp_path / "run" / "privacy_statement.json").read_text())
    counts = {release["description"]: release["steps"] for release in statement["releases"]}
    assert counts == {"Statistics of the data": 2, "DP-SGD training": 12}
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    row = experiments.Row("linear", "linear", {"dataset": "digits"})
    repeated = reproduce_training.result_of(row, [record])
    assert repeated["epsilon"] == pytest.approx(report.epsilon["rdp"])
    assert report.parameters == released(tmp_path / "run").count_params()


def test_statistics_take_a_share_of_the_budget(run, tmp_path):
    flags_of = {
        "none": [],
        **dict.fromkeys(("mean", "directions"), ["--statistics_noise_multiplier=3"]),
    }
    noise = [
        run(f"--output_dir={tmp_path / kind}", f"--feature_statistics={kind}", *more, "--epochs=1")
        for kind, more in flags_of.items()
    ]
    none, mean, both = (report.noise_multiplier for report in noise)
    assert none < mean < both
    for report in noise:
        assert 0.98 * 8 < report.epsilon["rdp"] <= 8


@pytest.mark.parametrize("statistics", ["none", "mean", "directions"])
def test_a_dry_run_knows_the_epsilon_and_measures_nothing(run, monkeypatch, statistics):
    flag = f"--feature_statistics={statistics}"
    with monkeypatch.context() as patch:
        patch.setattr(tfdp.statistics, "measure", None)
        estimate = run(flag, "--dry_run", "--epochs=1")
    report = run(flag, "--epochs=1")
    assert estimate.epsilon == pytest.approx(report.epsilon)
    assert estimate.noise_multiplier == report.noise_multiplier


def test_features_are_worked_out_once(run, tmp_path, monkeypatch, capsys):
    own = f"--features_dir={tmp_path / 'features'}"
    run("--epochs=1", own)
    assert "Features of 1,437 images" in capsys.readouterr().out
    files = sorted((tmp_path / "features").iterdir())
    assert len(files) == 2
    monkeypatch.setattr(keras.Sequential, "predict_on_batch", None)
    run("--epochs=1", "--validation_examples=100", own)
    assert sorted((tmp_path / "features").iterdir()) == files


@pytest.mark.parametrize("kind", [kind for kind in train_features.FEATURES if kind != "none"])
def test_features_are_those_of_the_extractor(tmp_path, kind):
    data = image_datasets.load("digits")
    features = train_features.extracted(data, kind, str(tmp_path))
    # A file for the training and for the test images of each kind.
    kinds = sorted(2 * kind.split("+"))
    assert sorted(file.name.rsplit("_", 1)[0] for file in tmp_path.iterdir()) == kinds
    model = train_features.extractor(kind, data.image_shape)
    x, y = features.test.arrays()
    images, labels = data.test.arrays()
    np.testing.assert_allclose(x, model.predict(images, verbose=0), atol=5e-3)
    np.testing.assert_array_equal(y, labels)
    norms = np.linalg.norm(x.reshape(len(x), -1).astype("float64"), axis=1)
    assert norms.max() <= np.sqrt(x[0].size) * 1.001
    assert features.num_classes == 10 and x.shape[1:] == features.image_shape


def test_deslanted_features_are_those_of_upright_images():
    x, _ = image_datasets.load("digits").test.arrays()
    plain, deslanted = (
        train_features.extractor(kind, x.shape[1:])
        for kind in ("scattering", "deslanted_scattering")
    )
    upright = tfdp.layers.Deslant2D()(x[:20])
    np.testing.assert_allclose(deslanted(x[:20]), plain(upright), atol=1e-4)
    assert np.abs(deslanted(x[:20]) - plain(x[:20])).max() > 0.1


def test_an_interrupted_run_goes_on_with_the_same_statistics(run, tmp_path, monkeypatch):
    write = train_checkpoint.write

    def write_and_stop(private, run, folder):
        write(private, run, folder)
        if len(run.epochs) == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train_checkpoint, "write", write_and_stop)
        with pytest.raises(KeyboardInterrupt):
            run()
    starts = []
    fit = tfdp.PrivateModel.fit

    def watched(private, *args, **options):
        starts.append(private)
        return fit(private, *args, **options)

    monkeypatch.setattr(tfdp.PrivateModel, "fit", watched)
    monkeypatch.setattr(tfdp.statistics, "measure", None)
    report = run("--resume")
    (private,) = starts
    counts = {release.description: release.count for release in private.ledger.releases}
    assert counts == {"Statistics of the data": 2, "DP-SGD training": 12}
    layer = private.model.get_layer("statistics")
    assert np.abs(layer.mean).max() > 0.1 and np.abs(layer.directions).max() > 0.1
    assert report.epsilon["rdp"] <= 8 and report.epochs == 2


def test_screening_and_simulation_work_on_features(run):
    report = run("--screening=annealing", "--public_examples=100")
    assert report.train_examples == 1337 and report.epsilon["rdp"] <= 8
    simulated = run("--simulate_at=64")
    assert simulated.epsilon == {"rdp": None, "pld": None}


@pytest.mark.parametrize(
    ("kind", "model"), [("scattering", "scattering_cnn"), ("patches", "patch_cnn")]
)
def test_networks_on_features_train_and_are_released(run, tmp_path, kind, model):
    report = run(
        f"--features={kind}", f"--model={model}", "--feature_statistics=mean", "--epochs=1"
    )
    assert report.model == model and report.epsilon["rdp"] <= 8
    x, y = image_datasets.load("digits").test.arrays()
    logits = released(tmp_path / "run").predict(x, verbose=0)
    assert np.mean(logits.argmax(1) == y) == pytest.approx(report.test_accuracy)


@pytest.mark.parametrize("kind", ["deslanted_scattering", "patches", "scattering+mirrored_patches"])
def test_features_of_other_kinds_are_trained_on_and_released(run, tmp_path, kind):
    report = run(f"--features={kind}", "--seed=1")
    assert report.model == "linear" and report.test_accuracy > 0.7 and report.epsilon["rdp"] <= 8
    x, y = image_datasets.load("digits").test.arrays()
    model = released(tmp_path / "run")
    assert model.layers[0].name == kind.replace("+", "_and_")
    logits = model.predict(x, verbose=0)
    assert np.mean(logits.argmax(1) == y) == pytest.approx(report.test_accuracy)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--features=none", "--feature_statistics=mean"], "--feature_statistics is for --feat"),
        (["--features=none", "--num_directions=3"], "--num_directions is for --features"),
        (["--feature_statistics=mean", "--num_directions=3"], "feature_statistics=mean"),
        (["--features=none", "--statistics_noise_multiplier=3"], "--statistics_noise_multiplier"),
        (
            ["--feature_statistics=none", "--statistics_noise_multiplier=3"],
            "feature_statistics=none",
        ),
        (["--num_directions=0"], "num_directions=0"),
        (["--num_directions=325"], "at most 324.*num_directions=325"),
        (["--statistics_noise_multiplier=0"], r"statistics_noise_multiplier=0\.0"),
        (["--augmentation=shift"], "augmentation=shift"),
        (["--random_access"], "random_access=True"),
        (["--strategy=multi_worker"], "strategy=multi_worker"),
    ],
)
def test_flags_that_do_not_fit_are_refused_before_training(run, tmp_path, arguments, message):
    with pytest.raises(UsageError, match=message):
        run(*arguments)
    assert not (tmp_path / "run" / "model.keras").exists()


def test_images_without_such_features_are_refused(monkeypatch, run):
    digits = image_datasets.load("digits")
    small = digits.train.split(100)[0]
    small = type(small)(small.x[:, :4, :4], small.y)
    data = image_datasets.ImageData("small", small, small, 10)
    monkeypatch.setattr(image_datasets, "load", lambda *args, **kwargs: data)
    with pytest.raises(UsageError, match="of more than 4 pixels"):
        run()


def test_a_folder_of_features_that_cannot_be_written_is_refused(run, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UsageError, match=f"features_dir='{file}'"):
        run(f"--features_dir={file}")
    assert not pathlib.Path(tmp_path / "run" / "model.keras").exists()
