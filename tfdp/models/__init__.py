"""Image classifiers for private training, most of them from its literature; plain Keras models."""

from tfdp.models.cifar import cifar_cnn
from tfdp.models.digits import digits_mlp
from tfdp.models.mnist import mnist_cnn
from tfdp.models.nf_resnet import nf_resnet50
from tfdp.models.patches import patch_cnn
from tfdp.models.scattering import scattering_cnn
from tfdp.models.vit import vit_small
from tfdp.models.wide_resnet import wide_resnet

__all__ = [
    "cifar_cnn",
    "digits_mlp",
    "mnist_cnn",
    "nf_resnet50",
    "patch_cnn",
    "scattering_cnn",
    "vit_small",
    "wide_resnet",
]
