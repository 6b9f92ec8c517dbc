"""Small image classifiers from the literature on private training; plain Keras models."""

from tfdp.models.cifar import cifar_cnn
from tfdp.models.digits import digits_mlp
from tfdp.models.mnist import mnist_cnn

__all__ = ["cifar_cnn", "digits_mlp", "mnist_cnn"]
