"""The losses of a model on given examples, a part at a time, in the graph."""

from __future__ import annotations

import tensorflow as tf

from tfdp import _validate, clipping, sampling
from tfdp.sampling.rows import ArrayRows


class Evaluation:
    """Evaluates a model on examples, in inference mode.

    Args:
        model: A compiled `tfdp.PrivateModel`.
        rows: Where examples come from: ``len(rows)`` and ``rows.gather(indices)``.
        batch_size: Examples in memory at a time.
    """

    def __init__(self, model, rows, batch_size: int):
        self._model, self._rows, self._batch_size = model, rows, batch_size
        self._loss = clipping.PerExampleLoss(model._compile_loss)

    @property
    def num_examples(self) -> int:
        """Number of examples there are."""
        return len(self._rows)

    def losses(self, indices: tf.Tensor | None = None) -> tf.Tensor:
        """The loss of each example, float32, in the order of ``indices``.

        Args:
            indices: Which examples, int64; may be empty. Defaults to all.
        """
        if indices is None:
            indices = tf.range(self.num_examples, dtype=tf.int64)
        length = tf.shape(indices)[0]
        slices = (length + self._batch_size - 1) // self._batch_size
        found = tf.TensorArray(
            tf.float32, size=slices, infer_shape=False, element_shape=tf.TensorShape([None])
        )

        def body(index, found):
            start = index * self._batch_size
            x, y, weight = self._rows.gather(indices[start : start + self._batch_size])
            losses = self._loss(y, self._model.model(x, training=False), weight)
            return index + 1, found.write(index, tf.cast(losses, tf.float32))

        _, found = tf.while_loop(lambda index, _: index < slices, body, (0, found))
        return tf.cond(slices > 0, found.concat, lambda: tf.zeros([0]))


def rows_of(data: sampling.PublicData | sampling.PoissonDataset | tuple):
    """Where the examples of evaluation data come from."""
    if isinstance(data, (sampling.PublicData, sampling.PoissonDataset)):
        return data.rows
    data = data if isinstance(data, tuple) else (data,)
    if len(data) > 3 or data[0] is None:
        raise _validate.value_error(
            "evaluation_data", data, "x, (x, y), (x, y, sample_weight) or a data set"
        )
    return ArrayRows((*data, *[None] * (3 - len(data))))
