"""Directions in the space of all trainable weights, along which canaries are gradients."""

from __future__ import annotations

import abc
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

#: The most numbers that dense directions may take: 1 GiB of float32.
LARGEST = 2**28


class Directions(abc.ABC):
    """Orthogonal unit vectors over several tensors: no canary hides another.

    Attributes:
        count: Number of directions.
        squared_norms: For each tensor the squared norms of what lies in it, shape ``(count,)``.
    """

    count: int
    squared_norms: list[tf.Tensor]

    @abc.abstractmethod
    def combined(self, weights: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """The sum of all directions, weighted, as tensors.

        Args:
            weights: For each tensor the weights in it, shape ``(count,)``.
        """

    @abc.abstractmethod
    def along(self, tensors: Sequence[tf.Tensor]) -> tf.Tensor:
        """The inner product of tensors with each direction, shape ``(count,)``."""


class RandomDirections(Directions):
    """Directions drawn uniformly, orthogonal to each other: ``count`` times the weights in memory.

    Args:
        shapes: Of the tensors.
        count: How many, at most the numbers in all tensors.
        random: What they are drawn by.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], count: int, random: np.random.Generator):
        self.count, self._shapes = count, list(shapes)
        sizes = [int(np.prod(shape)) for shape in shapes]
        # The columns of Q, with these signs, have the uniform law (Mezzadri 2007).
        normal = random.standard_normal((sum(sizes), count), dtype=np.float32)
        q, r = tf.linalg.qr(normal)  # NumPy's is slow where other programs take the processors.
        blocks = np.split(q.numpy() * np.sign(np.diag(r)), np.cumsum(sizes)[:-1])
        # Variables: a constant would be part of every compiled step.
        self._blocks = [tf.Variable(block, trainable=False) for block in blocks]
        self.squared_norms = [tf.constant(np.square(block).sum(axis=0)) for block in blocks]

    def combined(self, weights: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        return [
            tf.reshape(tf.linalg.matvec(block, weight), shape)
            for block, weight, shape in zip(self._blocks, weights, self._shapes, strict=True)
        ]

    def along(self, tensors: Sequence[tf.Tensor]) -> tf.Tensor:
        return tf.add_n(
            [
                tf.linalg.matvec(block, tf.reshape(tensor, [-1]), transpose_a=True)
                for block, tensor in zip(self._blocks, tensors, strict=True)
            ]
        )


class SingleWeights(Directions):
    """Directions along one weight each, with a random sign: Dirac canaries; no memory to speak of.

    Args:
        shapes: Of the tensors.
        count: How many, at most the numbers in all tensors.
        random: What they are drawn by.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], count: int, random: np.random.Generator):
        self.count, self._shapes = count, list(shapes)
        ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
        places = np.sort(random.choice(ends[-1], count, replace=False))
        signs = random.choice(np.array([-1, 1], np.float32), count)
        tensor_of = np.searchsorted(ends, places, side="right")
        self._parts = []  # For each tensor: which directions lie in it, where, with which sign.
        self.squared_norms = []
        for index, end in enumerate(ends):
            which = np.flatnonzero(tensor_of == index)
            start = end - int(np.prod(shapes[index]))
            self._parts.append((which, places[which] - start, signs[which]))
            self.squared_norms.append(tf.constant((tensor_of == index).astype("float32")))

    def combined(self, weights: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        combined = []
        for (which, places, signs), weight, shape in zip(
            self._parts, weights, self._shapes, strict=True
        ):
            flat = tf.scatter_nd(
                places[:, None], signs * tf.gather(weight, which), [int(np.prod(shape))]
            )
            combined.append(tf.reshape(flat, shape))
        return combined

    def along(self, tensors: Sequence[tf.Tensor]) -> tf.Tensor:
        # They are sorted by their places, so those of one tensor follow those of another.
        return tf.concat(
            [
                signs * tf.gather(tf.reshape(tensor, [-1]), places)
                for (_, places, signs), tensor in zip(self._parts, tensors, strict=True)
            ],
            axis=0,
        )
