"""Files that programs and functions read: damaged and hostile ones end in clear errors."""

import hashlib
import io
import json
import os
import pathlib
import tempfile
import types
import warnings
import zipfile

import crashing_training
import h5py
import keras
import numpy as np
import pytest
from fuzzing import changed, damaged, fuzzed, texts
from hypothesis import given
from hypothesis import strategies as st

import tfdp
from tfdp.scripts import (
    audit,
    image_datasets,
    read_files,
    synthesis_stages,
    train_checkpoint,
    train_features,
    train_report,
    train_settings,
)
from tfdp.scripts.command_line import UsageError
from tfdp.scripts.images import ArrayImages

FOLDER = pathlib.Path(tempfile.mkdtemp())  # One for all: examples overwrite the file before them.


def refused_or(function, *arguments):
    """What a reader of a program gives, `None` if it refuses in one line that names the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy and Keras warn of odd files.
            return function(*arguments)
    except UsageError as error:
        assert "Received: " in str(error), error
        assert len(str(error)) < 2000
        return None


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The files of a run, and its checkpoint from before they were written."""
    folder = tmp_path_factory.mktemp("finished")
    written = {}
    remove = train_checkpoint.remove

    def keep(path):
        written.update(checkpoint=pathlib.Path(train_checkpoint.path_in(path)).read_bytes())
        remove(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_datasets, "load", crashing_training.tiny_data)
        patch.setattr(train_checkpoint, "remove", keep)
        crashing_training.train_with(f"--output_dir={folder}", "--epochs=1", "--noise_multiplier=1")
    written.update({path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()})
    return types.SimpleNamespace(**{name.replace(".", "_"): b for name, b in written.items()})


@fuzzed(100)
@given(data=st.data())
def test_damaged_checkpoints_are_all_noticed(finished, data):
    content = data.draw(damaged(finished.checkpoint))
    pathlib.Path(train_checkpoint.path_in(FOLDER)).write_bytes(content)
    run = refused_or(train_checkpoint.read, str(FOLDER))
    assert (run is None) == (content != finished.checkpoint)


def sealed(content: bytes, record: str) -> bytes:
    """A checkpoint with another record and a digest that fits."""
    memory = io.BytesIO(content[:-32])
    with h5py.File(memory, "a") as file:
        del file["run"]
        file["run"] = np.frombuffer(record.encode(errors="surrogateescape"), np.uint8)
    return memory.getvalue() + hashlib.sha256(memory.getvalue()).digest()


@fuzzed(50)
@given(data=st.data())
def test_changed_records_of_checkpoints_with_a_new_digest(finished, data):
    with h5py.File(io.BytesIO(finished.checkpoint)) as file:
        record = json.loads(bytes(file["run"][()]))
    path = pathlib.Path(train_checkpoint.path_in(FOLDER))
    path.write_bytes(sealed(finished.checkpoint, data.draw(texts(record)) or " "))
    run = refused_or(train_checkpoint.read, str(FOLDER))
    assert run is None or (
        isinstance(run.settings, dict) and all(run.column("seconds") for _ in run.epochs[:1])
    )


@fuzzed(100)
@given(data=st.data())
def test_changed_results_of_training(finished, data):
    text = data.draw(texts(json.loads(finished.result_json)))
    (FOLDER / "result.json").write_bytes(text.encode(errors="surrogateescape"))
    report = refused_or(train_report.read, str(FOLDER))
    if report is not None:
        assert isinstance(report.settings, dict)
    report = refused_or(audit._report, str(FOLDER))
    if report is not None:
        assert isinstance(report.settings["batch_size"], int)


@fuzzed(100)
@given(texts({"parameters": {"learning_rate": 0.5, "optimizer": "sgd"}, "simulated": {"a": 1}}))
def test_changed_results_of_simulation(text):
    content = text.encode(errors="surrogateescape")
    for name in (train_settings.REFERENCE_FILE, "best.json"):
        (FOLDER / name).write_bytes(content)
    values = crashing_training.flags.FlagValues()
    train_settings.declare_flags(values)
    values(["train.py", f"--from_simulation={FOLDER}"])
    refused_or(train_settings.take_from_simulation, values)


@fuzzed(100)
@given(texts({"parameters": {"a": 1}, "score": 0.5, "seconds": 1.0, "error": None, "note": ""}))
def test_changed_trials(text):
    (FOLDER / tfdp.simulation._RECORD).write_bytes(text.encode(errors="surrogateescape"))
    try:
        trial = tfdp.simulation._read(str(FOLDER))
    except ValueError as error:
        assert "Received: " in str(error)
    else:
        assert isinstance(trial.parameters, dict) and isinstance(trial.score, float | int)


def saved(*arrays, **named) -> bytes:
    memory = io.BytesIO()
    if arrays:
        np.save(memory, *arrays)
    else:
        np.savez_compressed(memory, **named)
    return memory.getvalue()


IMAGES = ArrayImages(np.zeros((2, 8, 8, 1), "float32"), np.zeros(2, "int64"))


class _Extractor:
    """In place of the scattering transform, which takes a while."""

    name = "ones"
    layers = ()
    output_shape = (None, 2, 2, 3)

    def get_weights(self):
        return []

    def predict_on_batch(self, x):
        return np.ones((len(x), 2, 2, 3))


@pytest.fixture(scope="module")
def features():
    """A folder with features, and their file."""
    folder = FOLDER / "features"
    folder.mkdir()
    extractor = _Extractor()
    train_features._features(extractor, IMAGES, str(folder))
    (path,) = folder.iterdir()
    return folder, path, path.read_bytes()


@fuzzed(100)
@given(data=st.data())
def test_damaged_features(features, data):
    folder, path, content = features
    path.write_bytes(data.draw(damaged(content)))
    found = refused_or(train_features._features, _Extractor(), IMAGES, str(folder))
    assert found is None or found.arrays()[0].shape == (2, 2, 2, 3)


ARCHIVE = saved(images=np.ones((3, 2, 2, 1), "float32"), labels=np.arange(3))


@fuzzed(100)
@given(damaged(ARCHIVE))
def test_damaged_images(content):
    path = FOLDER / "images.npz"
    path.write_bytes(content)
    found = refused_or(synthesis_stages._images, str(path), (2, 2, 1))
    assert found is None or found[0].shape == (3, 2, 2, 1)


def adapted():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="dense")])
    tfdp.lora.enable(model, ["dense"], rank=1)
    return model


@pytest.fixture(scope="module")
def adapters():
    model, path = adapted(), FOLDER / "adapters.npz"
    tfdp.lora.save_adapters(model, path)
    return model, path.read_bytes()


@fuzzed(100)
@given(data=st.data())
def test_damaged_adapters(adapters, data):
    model, content = adapters
    path = FOLDER / "adapters.npz"
    path.write_bytes(data.draw(damaged(content)))
    before = model.get_weights()
    try:
        tfdp.lora.load_adapters(model, path)
    except ValueError as error:
        assert "Received: path=" in str(error)
        crashing_training.assert_same_weights(model.get_weights(), before)


class Evil:
    """Says when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, (str(FOLDER / "unpickled"),)


def test_nothing_is_unpickled():
    pickled = np.array([Evil()], dtype=object)
    np.save(FOLDER / "a.npy", pickled)
    np.savez(FOLDER / "a.npz", images=pickled, labels=pickled, **{"dense:a": pickled})
    with pytest.raises(UsageError, match="damaged.*Received: file="):
        read_files.array(str(FOLDER / "a.npy"))
    with pytest.raises(UsageError, match="damaged.*Received: file="):
        read_files.arrays(str(FOLDER / "a.npz"), "images")
    with pytest.raises(ValueError, match="Received: path="):
        tfdp.lora.load_adapters(adapted(), FOLDER / "a.npz")
    assert not (FOLDER / "unpickled").exists()
    np.load(FOLDER / "a.npy", allow_pickle=True)  # It would have been seen.
    assert (FOLDER / "unpickled").exists()


def test_zip_bombs_are_not_unpacked():
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", saved(np.zeros(2**25, "float32")))
    path = FOLDER / "bomb.npz"
    path.write_bytes(memory.getvalue())
    for reader in (lambda: read_files.arrays(str(path), "images"), lambda: read_files.model(path)):
        with pytest.raises(UsageError, match="bytes when unpacked"):
            reader()


def with_entry(content: bytes, name: str, change) -> bytes:
    """A `.keras` file with one of the files in it changed."""
    memory = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(memory, "w") as target:
        for entry in source.namelist():
            inner = source.read(entry)
            target.writestr(entry, change(inner) if entry == name else inner)
    return memory.getvalue()


@pytest.fixture(scope="module")
def model_file():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(3, activation=tfdp.layers.TemperedSigmoid()),
            tfdp.layers.SkipInit(),
        ]
    )
    path = FOLDER / "whole.keras"
    model.save(path)
    return path.read_bytes()


# Numbers of units that could be had, but would fill the memory, are Keras's to refuse.
SMALL = (None, True, 0, -1, 0.5, float("nan"), "", "x", "Lambda", [], {}, [None], 10**30, "os")


@fuzzed(60)
@given(data=st.data())
def test_changed_configurations_of_models(model_file, data):
    config = {}
    with_entry(model_file, "config.json", lambda text: config.update(json.loads(text)) or text)
    text = json.dumps(data.draw(changed(config, hostile=SMALL)))
    path = FOLDER / "changed.keras"
    path.write_bytes(with_entry(model_file, "config.json", lambda _: text.encode()))
    found = refused_or(read_files.model, str(path))
    assert found is None or isinstance(found, keras.Model)


@fuzzed(60)
@given(data=st.data())
def test_damaged_models(model_file, data):
    path = FOLDER / "changed.keras"
    path.write_bytes(data.draw(damaged(model_file)))
    found = refused_or(read_files.model, str(path))
    assert found is None or isinstance(found, keras.Model)


def test_models_with_code_are_refused():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x + 1)])
    path = FOLDER / "lambda.keras"
    model.save(path)
    with pytest.raises(UsageError, match="(?i)lambda|unsafe"):
        read_files.model(str(path))


def compiled(model):
    private = tfdp.make_private(model)
    private.compile(
        tfdp.optimizers.VectorizedDPKerasSGDOptimizer(1.0, 1.0, learning_rate=0.1), loss="mse"
    )
    return private


def plain():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])


@pytest.fixture(scope="module")
def weights():
    private = compiled(plain())
    private.ledger.charge(tfdp.accounting.dp_sgd_event(1.0, 0.1), 10)
    path = FOLDER / "private.weights.h5"
    private.save_weights(path)
    with h5py.File(path) as file:
        return path.read_bytes(), bytes(file["vars/ledger"][()])


@fuzzed(30)
@given(data=st.data())
def test_a_ledger_in_weights_is_never_passed_over(weights, data):
    content, ledger = weights
    changed_ledger, skip = data.draw(damaged(ledger)), data.draw(st.booleans())
    path = FOLDER / "changed.weights.h5"
    path.unlink(missing_ok=True)  # Keras leaves a file open that it cannot load.
    path.write_bytes(content)
    with h5py.File(path, "a") as file:
        del file["vars/ledger"]
        if changed_ledger:
            file["vars/ledger"] = np.frombuffer(changed_ledger, np.uint8)
    try:
        expected = tfdp.accounting.PrivacyLedger.from_json(changed_ledger.decode())
    except ValueError:
        expected = None
    private = with_an_empty_ledger()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if expected is None:
            with pytest.raises(ValueError, match="(?i)ledger"):
                private.load_weights(path, skip_mismatch=skip)
            assert private.ledger.not_private_reasons
        else:
            private.load_weights(path, skip_mismatch=skip)
            assert private.ledger == expected


def with_an_empty_ledger():
    """A model with an empty ledger, without the time that compiling takes."""
    PRIVATE._spending = type(PRIVATE._spending)()
    return PRIVATE


PRIVATE = compiled(plain())


def test_skipped_mismatches_keep_the_ledger(weights):
    path = FOLDER / "private.weights.h5"
    path.write_bytes(weights[0])
    other = compiled(keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)]))
    with pytest.warns(UserWarning, match="could not be loaded"):
        other.load_weights(path, skip_mismatch=True)
    assert other.ledger.releases[0].count == 10
    assert not other.ledger.not_private_reasons
