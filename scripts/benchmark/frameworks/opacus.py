"""Opacus 1.6 on PyTorch: per-example gradients by hooks, and ghost clipping."""

from collections.abc import Callable

import cases
import torch
from opacus import PrivacyEngine
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

PACKAGES = ("torch", "opacus")
METHODS = ("hooks", "ghost")


class Permute(nn.Module):
    """Reorders the axes of a batch."""

    def __init__(self, *axes: int) -> None:
        super().__init__()
        self._axes = axes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(*self._axes)


class Mean(nn.Module):
    """Averages over some axes."""

    def __init__(self, *axes: int) -> None:
        super().__init__()
        self._axes = axes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(self._axes)


def _mnist_cnn(case: cases.Case) -> list[nn.Module]:
    return [
        Permute(0, 3, 1, 2),
        nn.Conv2d(1, 16, 8, stride=2, padding=3),
        nn.Tanh(),
        nn.MaxPool2d(2, stride=1),
        nn.Conv2d(16, 32, 4, stride=2),
        nn.Tanh(),
        nn.MaxPool2d(2, stride=1),
        nn.Flatten(),
        nn.Linear(512, 32),
        nn.Tanh(),
        nn.Linear(32, case.num_classes),
    ]


def _cifar_cnn(case: cases.Case) -> list[nn.Module]:
    stack: list[nn.Module] = [Permute(0, 3, 1, 2)]
    channels = case.input_shape[-1]
    for width in cases.CIFAR_WIDTHS:
        for _ in range(2):
            stack += [nn.Conv2d(channels, width, 3, padding=1), nn.Tanh()]
            channels = width
        stack.append(nn.AvgPool2d(2))
    stack += [nn.Conv2d(channels, 256, 3, padding=1), nn.Tanh()]
    return [*stack, nn.Conv2d(256, case.num_classes, 3, padding=1), Mean(2, 3)]


def _mlp(case: cases.Case) -> list[nn.Module]:
    stack: list[nn.Module] = []
    features = case.input_shape[0]
    for width in cases.MLP_WIDTHS:
        stack += [nn.Linear(features, width), nn.ReLU()]
        features = width
    return [*stack, nn.Linear(features, case.num_classes)]


def _pre_activation_conv(channels: int, width: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(),
        nn.GroupNorm(cases.NORM_GROUPS, channels, eps=cases.NORM_EPSILON),
        nn.Conv2d(channels, width, kernel, stride=stride, padding=kernel // 2),
    )


class ResidualBlock(nn.Module):
    """Two pre-activation convolutions and a shortcut."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self._residual = nn.Sequential(
            _pre_activation_conv(channels, width, 3, stride),
            _pre_activation_conv(width, width, 3, 1),
        )
        self._shortcut: nn.Module = nn.Identity()
        if channels != width:
            self._shortcut = _pre_activation_conv(channels, width, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._residual(x) + self._shortcut(x)


def _wide_resnet(case: cases.Case) -> list[nn.Module]:
    channels = cases.WIDE_RESNET_STEM
    stack = [Permute(0, 3, 1, 2), nn.Conv2d(case.input_shape[-1], channels, 3, padding=1)]
    for stage, width in enumerate(cases.WIDE_RESNET_WIDTHS):
        for block in range(cases.WIDE_RESNET_BLOCKS):
            stack.append(ResidualBlock(channels, width, 2 if stage and not block else 1))
            channels = width
    stack += [nn.ReLU(), nn.GroupNorm(cases.NORM_GROUPS, channels, eps=cases.NORM_EPSILON)]
    return [*stack, Mean(2, 3), nn.Linear(channels, case.num_classes)]


class LoraLinear(nn.Module):
    """A frozen linear layer plus the product of two factors, shaped as Keras shapes them.

    Keras factorizes a kernel of shape (..., last) into (..., rank) and (rank, last). The kernel of
    a query, key or value projection is (width, heads, width of a head): there is one first factor a
    head, and one second factor for all of them.
    """

    def __init__(self, base: nn.Linear, rank: int, heads: int) -> None:
        super().__init__()
        self._base = base.requires_grad_(False)
        self._a = nn.Linear(base.in_features, rank * heads, bias=False)
        self._b = nn.Linear(rank, base.out_features // heads, bias=False)
        nn.init.zeros_(self._b.weight)
        self._heads = heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        low = self._a(x).reshape(batch, length * self._heads, -1)
        return self._base(x) + self._b(low).reshape(batch, length, -1)


class TransformerBlock(nn.Module):
    """Attention and a two-layer perceptron, each behind a layer normalisation."""

    def __init__(self, sizes: cases.Transformer, lora_rank: int | None) -> None:
        super().__init__()
        self._heads = sizes.heads
        self._norm = nn.LayerNorm(sizes.width, eps=cases.NORM_EPSILON)
        self._query, self._key, self._value, self._output = (
            nn.Linear(sizes.width, sizes.width) for _ in range(4)
        )
        self._perceptron = nn.Sequential(
            nn.LayerNorm(sizes.width, eps=cases.NORM_EPSILON),
            nn.Linear(sizes.width, sizes.hidden),
            nn.GELU(),
            nn.Linear(sizes.hidden, sizes.width),
        )
        if lora_rank:
            self.requires_grad_(False)
            self._query, self._key, self._value = (
                LoraLinear(layer, lora_rank, sizes.heads)
                for layer in (self._query, self._key, self._value)
            )
            self._output = LoraLinear(self._output, lora_rank, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self._norm(x)
        heads = [
            projection(y).unflatten(2, (self._heads, -1)).transpose(1, 2)
            for projection in (self._query, self._key, self._value)
        ]
        y = nn.functional.scaled_dot_product_attention(*heads)
        x = x + self._output(y.transpose(1, 2).flatten(2))
        return x + self._perceptron(x)


class Positions(nn.Module):
    """Adds the fixed position encodings."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.register_buffer("_table", torch.from_numpy(cases.positions(length, width)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self._table


def _transformer(case: cases.Case) -> list[nn.Module]:
    sizes = cases.TRANSFORMER
    embedding = nn.Embedding(case.vocabulary, sizes.width)
    blocks = [TransformerBlock(sizes, case.lora_rank) for _ in range(sizes.layers)]
    norm = nn.LayerNorm(sizes.width, eps=cases.NORM_EPSILON)
    head = nn.Linear(sizes.width, case.num_classes)
    if case.lora_rank:
        for module in (embedding, norm, head):
            module.requires_grad_(False)
    positions = Positions(*case.input_shape, sizes.width)
    return [embedding, positions, *blocks, norm, Mean(1), head]


_ARCHITECTURES = {
    "mnist_cnn": _mnist_cnn,
    "cifar_cnn": _cifar_cnn,
    "mlp": _mlp,
    "wide_resnet": _wide_resnet,
    "transformer": _transformer,
}


def _model(case: cases.Case) -> nn.Module:
    return nn.Sequential(*_ARCHITECTURES[case.architecture](case)).train()


def _trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def num_parameters(case: cases.Case) -> int:
    """Number of trainable parameters of the model of `case`."""
    return sum(parameter.numel() for parameter in _trainable(_model(case)))


def _loop(
    case: cases.Case, model: nn.Module, optimizer: torch.optim.Optimizer, loss: Callable
) -> Callable[[], object]:
    x, y = map(torch.from_numpy, case.batch())
    x, y = (x.long() if case.vocabulary else x), y.long()

    def run() -> None:
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()

    return run


def ordinary_step(case: cases.Case, method: str) -> Callable[[], object]:
    """One ordinary step a call."""
    del method  # all have the same one
    model = _model(case)
    optimizer = torch.optim.SGD(_trainable(model), lr=cases.LEARNING_RATE)
    return _loop(case, model, optimizer, nn.CrossEntropyLoss())


def private_step(case: cases.Case, method: str) -> Callable[[], object]:
    """One private step a call."""
    model, loss = _model(case), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(_trainable(model), lr=cases.LEARNING_RATE)
    # The loader only tells the engine the batch size: the steps run on one batch held in memory.
    loader = DataLoader(TensorDataset(torch.zeros(case.batch_size)), batch_size=case.batch_size)
    made = PrivacyEngine(accountant="rdp").make_private(
        module=model,
        optimizer=optimizer,
        criterion=loss,
        data_loader=loader,
        noise_multiplier=cases.NOISE_MULTIPLIER,
        max_grad_norm=cases.L2_NORM_CLIP,
        poisson_sampling=False,
        grad_sample_mode=method,
    )
    model, optimizer = made[:2]
    return _loop(case, model, optimizer, made[2] if method == "ghost" else loss)
