"""Tests of `synthesize.py`: all stages on tiny images, interruptions, other methods, bad flags."""

import json
import math
import os

import keras
import numpy as np
import pytest
from absl import flags

import tfdp
from tfdp.scripts import image_datasets, synthesis_stages, synthesize
from tfdp.scripts.command_line import UsageError
from tfdp.scripts.image_datasets import ImageData
from tfdp.scripts.images import ArrayImages

SIZE = 16
QUICK = (
    "--public=coloured,grey",
    "--sensitive=private",
    "--target_epsilon=5",
    "--candidates=attention",
    "--pretrain_epochs=1",
    "--batch_size=10",
    "--steps=11",
    "--num_images=80",
    "--sampling_steps=2",
    "--score_noise_multiplier=5",
    "--verbose=0",
)


def images_of(name, **_):
    """Noise around a level of grey by class, in the three forms that sets come in."""
    if name == "unknown":
        raise UsageError(f"TensorFlow Datasets knows no data set of this name. Received: {name}")
    seeds = {"coloured": 1, "grey": 2, "private": 3}
    rng = np.random.default_rng(seeds[name])
    shape = (20, 20, 3) if name == "coloured" else (SIZE, SIZE, 1)

    def some(count):
        y = np.arange(count) % 2
        x = 0.2 + 0.5 * y[:, None, None, None] + 0.1 * rng.random((count, *shape))
        return ArrayImages(x.astype("float32"), y)

    return ImageData(name, some(60), some(60), num_classes=2)


BUILD = tfdp.synthesis.attention_unet


def small_unet(image_shape, num_classes):
    """With attention in the middle alone: 8 matrices."""
    return BUILD(image_shape, num_classes, widths=(8,), attention=(False,), patch_size=4)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(image_datasets, "load", images_of)
    monkeypatch.setattr(tfdp.synthesis, "attention_unet", small_unet)
    judge = tfdp.synthesis.classifier_features
    small = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 1)),
            keras.layers.AveragePooling2D(4),
            keras.layers.Flatten(),
            keras.layers.Dense(4, "tanh"),
            keras.layers.Dense(4),
        ]
    )
    monkeypatch.setattr(
        tfdp.synthesis,
        "classifier_features",
        lambda *arguments, **options: judge(*arguments, model=small, **options),
    )
    accuracy = tfdp.synthesis.downstream_accuracy
    monkeypatch.setattr(
        tfdp.synthesis,
        "downstream_accuracy",
        lambda *arguments, **options: accuracy(*arguments, epochs=1, **options),
    )


def run(folder, *arguments):
    values = flags.FlagValues()
    synthesize.declare_flags(values)
    values(["synthesize.py", *QUICK, f"--output_dir={folder}", *arguments])
    return synthesize.synthesize(values)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A folder as `pretrain` leaves it, with untrained networks."""
    folder = tmp_path_factory.mktemp("network")
    small_unet((SIZE, SIZE, 1), 4).save(folder / "pretrained.keras")
    judge = keras.Sequential([keras.Input((SIZE, SIZE, 1)), keras.layers.GlobalMaxPooling2D()])
    judge.save(folder / "judge.keras")
    (folder / "pretrain.json").write_text(json.dumps({"judge": "highest pixel"}))
    return folder


@pytest.mark.slow
def test_all_stages_stay_within_the_budget_and_are_not_done_twice(tmp_path, capsys):
    result = run(tmp_path)
    expected = {f"{stage}.json" for stage in synthesize.STAGES} | {
        *(
            "pretrained.keras",
            "judge.keras",
            "selection.json",
            "selection.png",
            "finetuned.keras",
            "ledger.json",
        ),
        *("statement.txt", "images.npz", "images.png", "closest.png", "result.json"),
    }
    assert {*os.listdir(tmp_path)} == expected
    assert json.loads((tmp_path / "result.json").read_text()) == result

    delta = 1 / (60 * math.log(60))
    assert result["settings"]["delta"] == delta
    ledger = tfdp.accounting.PrivacyLedger.from_json((tmp_path / "ledger.json").read_text())
    assert ledger.epsilon(delta) == result["epsilon"]["rdp"] <= 5 < 1.01 * result["epsilon"]["rdp"]
    parts = result["epsilon_of_selection"], result["epsilon_of_finetuning"]
    assert max(parts) < result["epsilon"]["rdp"] < sum(parts)
    assert "Selection of weight matrices" in (tmp_path / "statement.txt").read_text()
    assert result["steps"] == 20 and len(result["selected"]) == 2  # of 8, 0.3 of them

    with np.load(tmp_path / "images.npz") as file:
        assert file["images"].shape == (80, SIZE, SIZE, 1) and file["images"].dtype == np.uint8
        assert (np.bincount(file["labels"]) == 40).all()
    assert "coloured and grey" in result["frechet"]["extractor"]
    assert result["frechet"]["distance"] > 0 and 0 <= result["downstream"]["accuracy"] <= 1

    images = (tmp_path / "images.npz").read_bytes()
    capsys.readouterr()
    assert run(tmp_path) == result
    assert capsys.readouterr().out.count("done before") == 5
    with pytest.raises(UsageError, match=r"stage 'finetune' .* differ in rank"):
        run(tmp_path, "--rank=2")
    assert (tmp_path / "images.npz").read_bytes() == images


def test_a_run_can_take_over_what_another_has_pretrained(tmp_path, pretrained):
    result = run(tmp_path, f"--pretrained={pretrained}", "--method=none")
    assert result["frechet"]["extractor"] == result["judge"] == "highest pixel"
    assert result["frechet"]["dimension"] == 1


def test_a_network_of_other_classes_is_refused(tmp_path, pretrained):
    with pytest.raises(UsageError, match="is of 4 classes, those of --public are 2"):
        run(tmp_path, f"--pretrained={pretrained}", "--stage=pretrain", "--public=grey")
    assert not (tmp_path / "pretrain.json").exists()


@pytest.mark.parametrize(("most", "taken"), [(0, 120), (25, 50), (100, 120)])
def test_as_many_public_images_are_taken_as_are_asked_for(most, taken):
    sets = [images_of(name) for name in ("coloured", "grey")]
    images, labels = synthesis_stages.Data(sets, images_of("private"), most).public
    assert images.shape == (taken, SIZE, SIZE, 1)
    assert np.bincount(labels).max() - np.bincount(labels).min() <= 1 and labels.max() == 3


def test_selection_from_all_matrices_leaves_out_the_embedding_of_classes(tmp_path, pretrained):
    arguments = f"--pretrained={pretrained}", "--candidates=all_matrices", "--method=random"
    result = run(tmp_path, *arguments, "--stage=pretrain,select", "--fraction=1")
    assert len(result["selected"]) == result["candidates"] > 8
    assert any("patches" in name for name in result["selected"])
    assert not any("class_embedding" in name for name in result["selected"])


def test_finetuning_goes_on_where_it_was_interrupted(tmp_path, pretrained, monkeypatch):
    arguments = f"--pretrained={pretrained}", "--stage=pretrain,select,finetune"
    write = synthesis_stages.CheckpointEachEpoch.on_epoch_end

    def write_and_stop(self, epoch, logs=None):
        write(self, epoch, logs)
        raise KeyboardInterrupt

    monkeypatch.setattr(synthesis_stages.CheckpointEachEpoch, "on_epoch_end", write_and_stop)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, *arguments)
    assert not (tmp_path / "finetuned.keras").exists()
    monkeypatch.setattr(synthesis_stages.CheckpointEachEpoch, "on_epoch_end", write)
    with pytest.raises(UsageError, match="unfinished run with other flags"):
        run(tmp_path, *arguments, "--learning_rate=0.5")
    result = run(tmp_path, *arguments)
    whole = run(tmp_path / "whole", *arguments)
    assert result["epsilon"] == pytest.approx(whole["epsilon"])
    assert not (tmp_path / "checkpoint.weights.h5").exists()
    releases = json.loads((tmp_path / "ledger.json").read_text())["releases"]
    assert sum(release["count"] for release in releases) == 1 + 20


def test_what_was_released_before_a_crash_is_not_released_again(tmp_path, pretrained, monkeypatch):
    arguments = f"--pretrained={pretrained}", "--stage=pretrain,select,finetune", "--steps=1"
    dump = synthesize.json.dump

    def crash(record, *rest, **options):
        if "trainable_parameters" in record or "selected" in record:
            raise KeyboardInterrupt
        dump(record, *rest, **options)

    kept = {}
    for stage, name in (("select", "selection.json"), ("finetune", "finetuned.keras")):
        monkeypatch.setattr(synthesize.json, "dump", crash)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, *arguments)
        monkeypatch.setattr(synthesize.json, "dump", dump)
        kept[name] = (tmp_path / name).read_bytes()
        assert not (tmp_path / f"{stage}.json").exists()
        if stage == "select":
            with pytest.raises(UsageError, match="has a selection with other flags"):
                run(tmp_path, *arguments, "--score_noise_multiplier=6")
            run(tmp_path, f"--pretrained={pretrained}", "--stage=select", "--steps=1")
    weights = keras.models.load_model(tmp_path / "finetuned.keras", compile=False).get_weights()
    run(tmp_path, *arguments)
    assert (tmp_path / "selection.json").read_bytes() == kept["selection.json"]
    again = keras.models.load_model(tmp_path / "finetuned.keras", compile=False).get_weights()
    for before, after in zip(weights, again, strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    ("method", "selected", "trained"),
    [("lora", 8, None), ("random", 2, None), ("full", None, "all"), ("none", None, 0)],
)
def test_other_methods_spend_the_budget_on_training_alone(
    tmp_path, pretrained, method, selected, trained
):
    result = run(
        tmp_path,
        f"--pretrained={pretrained}",
        f"--method={method}",
        "--stage=pretrain,select,finetune",
        "--steps=1",
    )
    before, after = (
        keras.models.load_model(path, compile=False).get_weights()
        for path in (pretrained / "pretrained.keras", tmp_path / "finetuned.keras")
    )
    changed = sum(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    if selected is None:
        assert result["selected"] is None
    else:
        assert len(result["selected"]) == selected == changed - 1  # The embedding of classes.
    sizes = {"all": result["pretrained_weights"], 0: 0}
    if trained in sizes:
        assert result["trainable_parameters"] == sizes[trained]
    else:
        assert 0 < result["trainable_parameters"] < result["pretrained_weights"]
    assert result["epsilon_of_selection"] == 0
    if method == "none":
        assert changed == 0 and result["epsilon"] == {"rdp": 0, "pld": 0}
    else:
        assert result["epsilon"]["rdp"] == pytest.approx(5, rel=2e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stage=train"], r"--stage takes pretrain, select.* Received: stage=\['train'\]"),
        (["--public=private"], "must be different data sets"),
        (["--public="], "must be different data sets"),
        (["--public=unknown"], "no data set of this name"),
        (["--fraction=0"], r"--fraction must be in \(0, 1\]. Received: fraction=0.0"),
        (["--target_epsilon=0"], "--target_epsilon must be positive"),
        (["--automatic_gamma=-1"], "--automatic_gamma must not be negative"),
        (["--delta=1.5"], r"--delta must be in \(0, 1\)"),
        (["--batch_size=100"], "--batch_size must be at most 60"),
        (["--pretrained=nowhere"], "--pretrained is no folder in which"),
        (["--inception_weights=nowhere.h5"], "--inception_weights is no file"),
        (["--score_noise_multiplier=0.1"], "the selection alone is too much"),
        (["--stage=finetune"], "the stage 'pretrain' comes first"),
    ],
)
def test_bad_flags_are_refused_before_any_work(tmp_path, arguments, message):
    with pytest.raises(UsageError, match=message):
        run(tmp_path, *arguments)
    assert not os.listdir(tmp_path)
