"""Random-access sources: read in threads, a physical batch at a time, and never mixed up."""

import keras
import numpy as np
import one_example_at_a_time as reference
import pytest
import tensorflow as tf

from tfdp import make_private, optimizers, sampling

SGD = optimizers.VectorizedDPKerasSGDOptimizer


class Source:
    """Element i is ``{"image": i everywhere, "label": i}``; remembers what was asked for."""

    def __init__(self, length, offset=0):
        self.length, self.offset = length, offset
        self.asked = []

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if not 0 <= index < self.length:
            raise IndexError(index)
        self.asked.append(index)
        value = index + self.offset
        return {"image": np.full((2, 3), value, "int32"), "label": np.int64(value)}


class SourceOfMany(Source):
    """The same, asked for several elements at once, as `tfds.data_source` is."""

    def __getitems__(self, indices):
        return [self[index] for index in indices]


def to_pair(element):
    return element["image"].astype("float32"), element["label"]


@pytest.mark.parametrize("kind", [Source, SourceOfMany])
@pytest.mark.parametrize("num_workers", [1, 5])
def test_rows_are_those_that_were_drawn(kind, num_workers):
    data = sampling.PoissonDataset.from_source(
        kind(100), to_pair, expected_batch_size=20, num_workers=num_workers
    )
    assert data.num_examples == 100 and data.sampling_probability == 0.2 and len(data) == 5
    sizes = []
    for x, y in data:
        assert x.dtype == tf.float32 and x.shape[1:] == (2, 3)
        assert (np.diff(y) > 0).all()
        np.testing.assert_array_equal(x, np.broadcast_to(y[:, None, None], x.shape))
        sizes.append(len(y))
    assert len(set(sizes)) > 1


def test_an_empty_batch_has_no_rows():
    data = sampling.PoissonDataset.from_source(Source(1000), to_pair, expected_batch_size=1)
    lengths = [len(y) for _, y in data]
    assert min(lengths) == 0 and len(lengths) == 1000


def test_elements_as_they_are_and_array_records(tmp_path):
    module = pytest.importorskip("array_record.python.array_record_module")
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    file = str(tmp_path / "numbers.array_record")
    writer = module.ArrayRecordWriter(file, "group_size:1")
    for number in range(30):
        writer.write(np.full(3, number, "float32").tobytes())
    writer.close()
    with ArrayRecordDataSource(file) as source:
        data = sampling.PoissonDataset.from_source(
            source, lambda record: np.frombuffer(record, "float32"), expected_batch_size=30
        )
        ((x,),) = list(data)
    np.testing.assert_array_equal(x, np.arange(30.0)[:, None] * np.ones(3))
    pairs = [(np.zeros(2), i) for i in range(4)]
    (x, y) = sampling.PoissonDataset.from_source(pairs, expected_batch_size=4).first_examples(3)[:2]
    assert x.shape == (3, 2) and x.dtype == tf.float32 and list(y) == [0, 1, 2]


def test_data_source_of_tensorflow_datasets(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("array_record")
    builder = tfds.testing.DummyDataset(data_dir=str(tmp_path), file_format="array_record")
    builder.download_and_prepare()
    source = builder.as_data_source(split="train")
    data = sampling.PoissonDataset.from_source(source, expected_batch_size=3)
    ((x,),) = list(data)
    assert sorted(x["id"].numpy()) == [0, 1, 2]


def model():
    return keras.Sequential(
        [keras.Input((2, 3)), keras.layers.Flatten(), keras.layers.Dense(4, activation="tanh")]
    )


def trained(data, **options):
    keras.utils.set_random_seed(1)
    plain = model()
    private = make_private(plain, physical_batch_size=7)
    private.compile(SGD(0.5, 0.0, learning_rate=1.0), loss="mse", **options)
    private.fit(data, epochs=2, verbose=0)
    return [variable.numpy() for variable in plain.trainable_variables]


def to_row(element):
    return element["image"].astype("float32") / 50, np.full(4, element["label"] / 50, "float32")


@pytest.mark.parametrize("options", [{}, {"jit_compile": True}, {"steps_per_execution": 3}])
def test_training_from_a_source_is_training_on_its_arrays(options):
    source = Source(50)
    x, y = (np.stack(column) for column in zip(*map(to_row, source), strict=True))
    arrays = sampling.PoissonDataset(x, y, expected_batch_size=20, steps_per_epoch=3, seed=5)
    read = sampling.PoissonDataset.from_source(
        source, to_row, expected_batch_size=20, steps_per_epoch=3, seed=5
    )
    reference.assert_close(trained(read, **options), trained(arrays, **options))


def test_a_step_reads_a_physical_batch_and_the_next_one(monkeypatch):
    calls = []
    original = sampling.rows.SourceRows._batch

    def recorded(self, indices, upcoming):
        calls.append((indices.tolist(), upcoming.tolist()))
        return original(self, indices, upcoming)

    monkeypatch.setattr(sampling.rows.SourceRows, "_batch", recorded)
    source = Source(50)
    data = sampling.PoissonDataset.from_source(
        source, to_row, expected_batch_size=50, steps_per_epoch=2
    )
    trained(data)
    assert len(calls) == 2 * 2 * 8  # epochs, steps, physical batches
    assert all(len(indices) <= 7 and len(upcoming) <= 7 for indices, upcoming in calls)
    for step in range(0, len(calls), 8):
        whole = [index for indices, _ in calls[step : step + 8] for index in indices]
        assert whole == list(range(50))
        for (_, upcoming), (following, _) in zip(
            calls[step : step + 7], calls[step + 1 : step + 8], strict=True
        ):
            assert upcoming == following
        assert calls[step + 7][1] == []
    most = 4 * 50 + 10  # Nothing is read twice; a few times the first element, for its shape.
    assert len(source.asked) <= most


def test_another_source_of_the_same_form_is_read_in_the_next_fit():
    private = make_private(model())
    private.compile(SGD(0.5, 1.0), loss="mse")
    first, second = Source(20), Source(20, offset=3)
    for source in (first, second):
        data = sampling.PoissonDataset.from_source(source, to_row, expected_batch_size=10)
        source.asked.clear()
        first.asked.clear()
        private.fit(data, verbose=0)
        assert source.asked
    assert not first.asked


class Stream:
    def __iter__(self):
        return iter(())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((Stream(),), TypeError, "source of type Stream"),
        ((Source(3), "x"), TypeError, "transform='x'"),
        ((Source(0), to_pair), ValueError, "length 0"),
        (([b"a", b"b"],), ValueError, "dtype"),
        ((Source(3), lambda e: (1, 2, 3, 4)), ValueError, "tuple of 4"),
    ],
)
def test_bad_sources_are_refused_with_the_reason(arguments, error, message):
    with pytest.raises(error, match=message):
        sampling.PoissonDataset.from_source(*arguments, expected_batch_size=1)


def test_elements_of_different_shapes_are_refused():
    ragged = [np.zeros(2, "float32"), np.zeros(3, "float32")]
    data = sampling.PoissonDataset.from_source(ragged, expected_batch_size=2)
    with pytest.raises(tf.errors.InvalidArgumentError, match="resize or pad them in `transform`"):
        list(data)
    with pytest.raises(ValueError, match="num_workers=0"):
        sampling.PoissonDataset.from_source(Source(3), to_pair, num_workers=0)
