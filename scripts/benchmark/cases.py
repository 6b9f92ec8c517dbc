"""The workloads of the benchmark: sizes only, no framework.

Every framework module builds the architecture that `Case.architecture` names from the sizes here,
and the worker checks the number of trainable parameters, so that all of them do the same work.
"""

import dataclasses

import numpy as np

LEARNING_RATE = 0.01
L2_NORM_CLIP = 1.0
NOISE_MULTIPLIER = 1.0


@dataclasses.dataclass(frozen=True)
class Case:
    """One workload: a model and a batch.

    Attributes:
        name: What `--cases` calls it.
        title: What the table calls it.
        architecture: `"mnist_cnn"`, `"cifar_cnn"`, `"mlp"`, `"wide_resnet"` or `"transformer"`.
        batch_size: Examples of one step.
        input_shape: Shape of one example; of token ids when `vocabulary` is set.
        num_classes: Width of the logits.
        parameters: Number of trainable parameters.
        vocabulary: Number of token ids, or `None` for real inputs.
        lora_rank: Rank of LoRA on the attention projections, with all else frozen, or `None`.
        fit_steps: Steps of one epoch in the `--fit` mode.
    """

    name: str
    title: str
    architecture: str
    batch_size: int
    input_shape: tuple[int, ...]
    num_classes: int
    parameters: int
    vocabulary: int | None = None
    lora_rank: int | None = None
    fit_steps: int = 20

    def examples(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """`count` random examples and their labels, the same in every framework."""
        generator = np.random.default_rng(0)
        shape = (count, *self.input_shape)
        if self.vocabulary is None:
            x = generator.normal(0, 1, shape).astype(np.float32)
        else:
            x = generator.integers(0, self.vocabulary, shape, dtype=np.int32)
        return x, generator.integers(0, self.num_classes, count, dtype=np.int32)

    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        """The examples and labels of one step."""
        return self.examples(self.batch_size)


@dataclasses.dataclass(frozen=True)
class Transformer:
    """Sizes of the text classifier."""

    layers: int = 4
    width: int = 128
    heads: int = 4
    hidden: int = 512


TRANSFORMER = Transformer()
MLP_WIDTHS = (512, 512)
CIFAR_WIDTHS = (32, 64, 128)
WIDE_RESNET_WIDTHS = (64, 128, 256)
WIDE_RESNET_STEM = 16
WIDE_RESNET_BLOCKS = 2
NORM_GROUPS = 16
NORM_EPSILON = 1e-5


def positions(length: int, width: int) -> np.ndarray:
    """Fixed sinusoidal encodings of shape `(1, length, width)`."""
    angles = np.arange(length)[:, None] / 10_000 ** (np.arange(0, width, 2) / width)
    table = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(1, length, width)
    return table.astype(np.float32)


_MNIST = Case("mnist_cnn_256", "MNIST CNN", "mnist_cnn", 256, (28, 28, 1), 10, 26_010)
_CIFAR = Case("cifar_cnn_64", "CIFAR all-conv CNN", "cifar_cnn", 64, (32, 32, 3), 10, 605_226)
_TEXT = Case(
    "transformer_64",
    "text transformer",
    "transformer",
    64,
    (128,),
    2,
    1_842_178,
    vocabulary=8192,
)

CASES: dict[str, Case] = {
    case.name: case
    for case in (
        _MNIST,
        dataclasses.replace(_MNIST, name="mnist_cnn_2048", batch_size=2048, fit_steps=5),
        _CIFAR,
        dataclasses.replace(_CIFAR, name="cifar_cnn_1024", batch_size=1024, fit_steps=3),
        Case("mlp_256", "MLP 784-512-512-10", "mlp", 256, (784,), 10, 669_706),
        Case("wrn_16_4_16", "WRN-16-4", "wide_resnet", 16, (32, 32, 3), 10, 2_751_562),
        _TEXT,
        dataclasses.replace(
            _TEXT,
            name="transformer_lora_64",
            title="text transformer, LoRA 4",
            lora_rank=4,
            parameters=30_208,
        ),
    )
}
