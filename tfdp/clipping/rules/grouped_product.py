"""Outer products within groups of channels: the kernel of a grouped convolution."""

from __future__ import annotations

import tensorflow as tf

from tfdp.clipping.per_example import PerExampleGradient, gram_is_cheaper, sum_of_squares


class GroupedOuterProduct(PerExampleGradient):
    """``g_i[:, k] = left_ik^T right_ik`` for each group k.

    Args:
        left: Shape ``(batch, groups, positions, features)``.
        right: Shape ``(batch, groups, positions, units)``.

    The gradients have the shape ``(batch, features, groups, units)``. As for `OuterProduct`, norms
    come from Gram matrices or from the instantiated products, by the cost for the group's sizes.
    """

    def __init__(self, left: tf.Tensor, right: tf.Tensor):
        super().__init__(left, right)
        groups, self.positions, features = left.shape[1:]
        units = right.shape[-1]
        if gram_is_cheaper(self.positions, features, units):
            self.method = "gram by group"
            self.floats_per_example = 2 * groups * self.positions**2
        else:
            self.method = "instantiate by group"
            self.floats_per_example = groups * features * units
            self.tensors = [self._product()]

    def _product(self) -> tf.Tensor:
        left, right = self.tensors
        return tf.transpose(tf.matmul(left, right, transpose_a=True), [0, 2, 1, 3])

    def squared_norm(self) -> tf.Tensor:
        if len(self.tensors) == 1:
            return sum_of_squares(self.tensors[0])
        left, right = (tf.matmul(t, t, transpose_b=True) for t in self.tensors)
        # The sum is a squared norm; rounding may leave it a hair below zero.
        return tf.nn.relu(tf.reduce_sum(left * right, axis=[1, 2, 3]))

    def weighted_sum(self, weights: tf.Tensor) -> tf.Tensor:
        weights = tf.cast(weights, self.tensors[0].dtype)
        if len(self.tensors) == 1:
            return tf.tensordot(weights, self.tensors[0], 1)
        left, right = self.tensors
        return tf.einsum("bgtp,bgtq->pgq", left, right * weights[:, None, None, None])

    def materialize(self) -> tf.Tensor:
        return self.tensors[0] if len(self.tensors) == 1 else self._product()


def by_group(tensor: tf.Tensor, groups: int, copies: int = 1) -> tf.Tensor:
    """Splits channels into groups: ``(batch, groups, positions, copies * channels of a group)``.

    Args:
        tensor: Shape ``(batch, positions, copies * groups * channels)``, the order of patches.
        groups: Number of groups.
        copies: How often all channels are repeated along the last axis: a patch's offsets.
    """
    batch, positions = tf.shape(tensor)[0], tensor.shape[1]
    channels = tensor.shape[2] // (copies * groups)
    count = -1 if positions is None else positions
    tensor = tf.reshape(tensor, [batch, count, copies, groups, channels])
    tensor = tf.transpose(tensor, [0, 3, 1, 2, 4])
    return tf.reshape(tensor, [batch, groups, count, copies * channels])
