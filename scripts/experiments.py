"""What `reproduce.py` can run: the settings of every row of every table, as flags of a program."""

import dataclasses
import itertools
from typing import Any

Flags = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table: the same run, once for each seed.

    Attributes:
        name: Names its folder.
        label: What the table says.
        flags: Flags of the experiment's program.
        published: The figure that it is compared with, in percent. Defaults to `None`.
        x: Where it stands on the picture's horizontal axis. Defaults to `None`: the picture has a
            line for each row.
        series: Which of the picture's curves it belongs to.
        seeds: At most so many seeds. Defaults to `None`: as many as are asked for.
        after: A row that is run before, with seed 0 alone, and whose folder is this one's flag
            `pretrained`. Defaults to `None`.
    """

    name: str
    label: str
    flags: Flags
    published: str | None = None
    x: float | None = None
    series: str = ""
    seeds: int | None = None
    after: "Row | None" = None

    @property
    def dataset(self) -> str:
        """The data set that privacy is for."""
        return self.flags.get("dataset") or self.flags["sensitive"]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Rows that are compared.

    Attributes:
        question: What it answers.
        rows: The rows by the title of their table.
        quick: Flags that make it a matter of seconds, to see that it works.
        axis: What rows with an `x` are drawn over.
        program: `"train"` or `"synthesize"`.
    """

    question: str
    rows: dict[str, tuple[Row, ...]]
    quick: Flags
    axis: str = ""
    program: str = "train"


_TITLES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}
_QUICK = {
    "dataset": "digits",
    "epochs": 2,
    "batch_size": 256,
    "learning_rate": 1.0,
    "target_epsilon": 20.0,
}

# Update screening. One network, clip norm, batch size, number of trials and true budget for all:
# epsilon 3 at delta 1e-5, by RDP, with every trial and every score charged. What differs was tuned
# by `screening_tuning` on MNIST, with as many runs for each method.
_SCREENING = {
    "target_epsilon": 3.0,
    "delta": 1e-5,
    "batch_size": 2048,
    "epochs": 8,
    "l2_norm_clip": 0.1,
}
_ANNEALING = {"screening": "annealing"}
_THRESHOLD = {"screening": "noisy_threshold"}
_BY_EXAMPLE = {"score_difference": "examples", "score_clip": 0.1, "score_threshold": 0.0}


def _tuning_rows(dataset: str) -> tuple[Row, ...]:
    candidates = [
        Row(f"plain_{rate}", f"plain, rate {rate}", {"learning_rate": rate})
        for rate in (2, 4, 8, 16)
    ]
    for rate, factor in ((4, 10), (8, 10), (16, 10), (8, 1)):
        candidates.append(
            Row(
                f"annealing_{rate}_{factor}",
                f"annealing, rate {rate}, k = {factor}",
                {"learning_rate": rate, "temperature_factor": factor, **_ANNEALING},
            )
        )
    for rate, difference in ((4, "mean"), (8, "mean"), (4, "examples"), (8, "examples")):
        candidates.append(
            Row(
                f"threshold_{difference}_{rate}",
                f"noisy threshold, {difference}, rate {rate}",
                {
                    "learning_rate": rate,
                    **_THRESHOLD,
                    **(_BY_EXAMPLE if difference == "examples" else {}),
                },
            )
        )
    return tuple(
        dataclasses.replace(row, flags={"dataset": dataset, **_SCREENING, **row.flags})
        for row in candidates
    )


def _comparison_rows(dataset: str) -> tuple[Row, ...]:
    """Each method with its tuned settings; then the same with the accounting of its paper."""
    # Not calibrated: how many updates will be kept is not known. It is the noise with which as many
    # updates as the others try cost the budget; training goes on until as many are kept.
    accepted = {"screening_charge": "accepted", "noise_multiplier": 1.15, "epochs": 40}
    annealing = {"learning_rate": 8, "temperature_factor": 1, **_ANNEALING}
    threshold = {"learning_rate": 8, **_THRESHOLD}
    rows = (
        Row("plain", "plain DP-SGD", {"learning_rate": 8}),
        Row("annealing", "annealing on 256 public images", annealing),
        Row("threshold_mean", "noisy threshold, as published", threshold),
        Row(
            "threshold_examples",
            "noisy threshold, clipped by example",
            {**threshold, **_BY_EXAMPLE},
        ),
        Row(
            "annealing_accepted",
            "annealing, only kept updates charged",
            {**annealing, **accepted},
            {"mnist": "98.35, tuned 98.89", "fashion_mnist": "87.41, tuned 88.50"}[dataset],
        ),
        Row(
            "threshold_accepted",
            "noisy threshold, only kept updates charged",
            {**threshold, **accepted},
            {"mnist": "98.88", "fashion_mnist": "89.71"}[dataset],
        ),
    )
    return tuple(
        dataclasses.replace(row, flags={"dataset": dataset, **_SCREENING, **row.flags})
        for row in rows
    )


def _variant_rows(dataset: str) -> tuple[Row, ...]:
    """Screening of larger steps, with more tolerance, with better scores, without undoing all."""
    large = {"batch_size": 8192, "learning_rate": 16}
    annealing = {"learning_rate": 8, "temperature_factor": 1, **_ANNEALING}
    by_example = {"learning_rate": 8, **_THRESHOLD, **_BY_EXAMPLE}
    rows = (
        Row("plain_large", "plain, batch 8,192", large),
        Row("annealing_large", "annealing, batch 8,192", {**annealing, **large}),
        Row("threshold_large", "by example, batch 8,192", {**by_example, **large}),
        Row(
            "annealing_keeps_momentum",
            "annealing, momentum not undone",
            {**annealing, "restore_optimizer": False},
        ),
        Row(
            "annealing_4000",
            "annealing on 4,000 public images",
            {**annealing, "public_examples": 4000},
        ),
        Row(
            "annealing_early",
            "annealing, the first 60 updates only",
            {**annealing, "screening_decisions": 60},
        ),
        Row(
            "annealing_by_epoch",
            "annealing, whole epochs kept or undone",
            {**annealing, "screening_each": "epoch"},
        ),
        Row(
            "threshold_tolerant",
            "by example, a loss higher by 0.01 is kept",
            {**by_example, "score_threshold": 0.1},
        ),
        Row(
            "threshold_sharp",
            "by example, scores of 2,048 images",
            {**by_example, "score_batch_size": 2048, "score_noise_multiplier": 6.0},
        ),
    )
    return tuple(
        dataclasses.replace(row, flags={"dataset": dataset, **_SCREENING, **row.flags})
        for row in rows
    )


# Simulated training. The reference has the noise that epsilon 3 at delta 1e-5 asks for; beside it
# runs of fewer examples and of as many steps at the same rate, with noise in proportion.
_SMALL_CNN = {
    "target_epsilon": 3.0,
    "delta": 1e-5,
    "l2_norm_clip": 0.1,
    "model": "mnist_cnn",
    "activation": "tanh",
    "momentum": 0.9,
}
_REFERENCES = {
    "fashion_mnist": {**_SMALL_CNN, "batch_size": 8192, "epochs": 8},
    "cifar10_jpeg": {**_SMALL_CNN, "batch_size": 4096, "epochs": 6},
}
_LAW_RATES = {"fashion_mnist": 8, "cifar10_jpeg": 2}
_LAW_TITLES = {"fashion_mnist": "Fashion-MNIST", "cifar10_jpeg": "CIFAR-10 (JPEG)"}
_SMALL = {
    "dataset": "digits",
    "model": "digits_mlp",
    "batch_size": 512,
    "delta": 1e-4,
    "epochs": 2,
    "augmentation": "none",
    "augmentation_multiplicity": 1,
}


def _law_rows(dataset: str) -> tuple[Row, ...]:
    """The reference and its simulations."""
    reference = _REFERENCES[dataset]
    batch = reference["batch_size"]
    flags = {"dataset": dataset, **reference, "learning_rate": _LAW_RATES[dataset]}
    rows = [
        Row(
            f"at_{batch // part}",
            f"1/{part} of the batch",
            {**flags, "simulate_at": batch // part},
            x=batch // part,
        )
        for part in (64, 16, 4)
    ]
    return (*rows, Row("private", "the private run", flags, x=batch))


def _tuning_grid(part: int) -> tuple[Row, ...]:
    """Learning rates and augmentation multiplicities, simulated at a part of the batch."""
    reference = _REFERENCES["fashion_mnist"]
    size = reference["batch_size"] // part
    # All multiplicities at 1/64; at 1/4, which takes 16 times as long, those of one rate.
    grid = [(rate, 1) for rate in (2, 4, 8, 16)]
    grid += [(rate, views) for views in (2, 4) for rate in ((2, 4, 8, 16) if part == 64 else (8,))]
    return tuple(
        Row(
            f"rate_{rate}_views_{views}_at_{size}",
            f"rate {rate}, K = {views}",
            {
                "dataset": "fashion_mnist",
                **reference,
                "simulate_at": size,
                "validation_examples": 5000,
                "learning_rate": rate,
                **_views(views),
            },
            x=rate,
            series=f"K = {views}",
        )
        for rate, views in grid
    )


# The search at 1/64 tries 12 settings on 56 steps of 128 examples, 201,000 views in all; with the
# private run that follows 725,000. A search among private runs that gives each setting one pass
# over the data, in batches for as many steps, works on 1,540,000.
_DIRECT_BATCH = 944
_FOUND = {"simulated": (16, 1), "direct": (16, 1)}  # the best of seed 0, by held-out images


def _direct_grid() -> tuple[Row, ...]:
    """The settings of the search, each trained privately on one pass over the data."""
    return tuple(
        Row(
            f"direct_{rate}_{views}",
            f"rate {rate}, K = {views}",
            {**_direct(rate, views), "validation_examples": 5000},
            x=rate,
            series=f"K = {views}",
        )
        for rate, views in itertools.product((2, 4, 8, 16), (1, 2, 4))
    )


def _found_rows() -> tuple[Row, ...]:
    """What the two searches found, trained on all training images."""
    rate, views = _FOUND["simulated"]
    simulated = {
        "dataset": "fashion_mnist",
        **_REFERENCES["fashion_mnist"],
        "learning_rate": rate,
        **_views(views),
    }
    return (
        Row("found_simulated", "12 simulated runs, then one private run", simulated),
        Row("found_direct", "the best of 12 private runs", _direct(*_FOUND["direct"])),
    )


def _direct(rate: float, views: int) -> Flags:
    return {
        "dataset": "fashion_mnist",
        **_REFERENCES["fashion_mnist"],
        "batch_size": _DIRECT_BATCH,
        "epochs": 1,
        "learning_rate": rate,
        **_views(views),
    }


def _views(count: int) -> Flags:
    if count == 1:
        return {"augmentation": "none"}
    return {"augmentation": "shift_flip", "augmentation_multiplicity": count}


# The published budgets, and epsilon 3; networks with the settings of `presets.py`.
_ACCURACY = {
    "mnist": {2.93: "98.1", 3.0: "98.35, tuned 98.89"},
    "fashion_mnist": {2.7: "86.1", 3.0: "87.41, tuned 88.50"},
    "cifar10_jpeg": {7.53: "66.2 (CIFAR-10)", 3.0: "60.92, tuned 64.17 (CIFAR-10)"},
}
_RELU = {"mnist": "96.6", "fashion_mnist": "81.9", "cifar10_jpeg": "61.6 (CIFAR-10)"}
_SCATTERED = {"mnist": "98.7", "fashion_mnist": "89.7", "cifar10_jpeg": "67.0 (CIFAR-10)"}
# Of each image by itself; the same for every activation.
_STANDARDIZED = {
    "model": "mnist_cnn_standardized",
    "batch_size": 2048,
    "learning_rate": 4.0,
    "ema_decay": 0.98,
}
_CNN = {
    "mnist": {},
    "fashion_mnist": _STANDARDIZED,
    # A third of the epochs of the preset: a run still takes 20 minutes of two cores.
    "cifar10_jpeg": {"ema_decay": 0.98, "epochs": 10},
}
# A small CNN of scattering features, with the private statistics of the linear model.
_SCATTERING_CNN = {
    "features": "scattering",
    "model": "scattering_cnn",
    "learning_rate": 4.0,
    "ema_decay": 0.98,
}
_SCATTERING_BATCHES = {
    "mnist": {"batch_size": 2048},
    "fashion_mnist": {"batch_size": 2048},
    "cifar10_jpeg": {"batch_size": 4096, "epochs": 30},
}
# A linear model of features of patches, on Fashion-MNIST beside scattering features. Clothes and
# things look the same in a mirror; for digits, which do not, patches brought nothing.
_PATCHES = {
    "fashion_mnist": ("scattering and mirrored patches", "scattering+mirrored_patches"),
    "cifar10_jpeg": ("mirrored patches", "mirrored_patches"),
}
# One hidden layer more, where features keep the places that they are from. Half the examples of the
# linear model: a run still takes minutes. Settings were simulated, on images that were held out.
_PATCH_CNN = {"model": "patch_cnn", "batch_size": 4096, "epochs": 30, "learning_rate": 8.0}
# Without noise, and with a clip norm that clips nothing: gradients are then longer.
_NOT_PRIVATE = {
    "noise_multiplier": 0.0,
    "l2_norm_clip": 1e6,
    "batch_size": 512,
    "learning_rate": 0.05,
    "epochs": 10,
}


def _accuracy_rows(dataset: str, epsilon: float, published: str) -> tuple[Row, ...]:
    """The CNN with either activation, and models of features that are not learned.

    The same without privacy is in both tables of a data set, and run once.
    """
    data = {"dataset": dataset, "delta": 1e-5}
    private = {**data, "target_epsilon": epsilon}
    cnn, linear = _CNN[dataset], {"features": "scattering"}
    uncentred = {**linear, "feature_statistics": "none"}
    features_cnn = {**_SCATTERING_CNN, **_SCATTERING_BATCHES[dataset]}
    at_three = epsilon == 3
    return (
        Row(
            f"relu_{epsilon:g}",
            "CNN, ReLU",
            {**private, **cnn, "activation": "relu"},
            None if at_three else _RELU[dataset],
        ),
        Row(f"tanh_{epsilon:g}", "CNN, tanh", {**private, **cnn}, published),
        Row(
            f"linear_uncentred_{epsilon:g}",
            "linear, scattering features",
            {**private, **uncentred},
            _SCATTERED[dataset] if at_three else None,
        ),
        Row(f"linear_{epsilon:g}", "linear, with private statistics", {**private, **linear}),
        Row(
            f"linear_pld_{epsilon:g}",
            "linear, with private statistics, noise found by PLD",
            {**private, **linear, "accountant": "pld"},
        ),
        *_patch_rows(private, epsilon),
        *_deslanted_rows(private, epsilon),
        Row(
            f"scattering_relu_{epsilon:g}",
            "CNN of scattering features, ReLU",
            {**private, **features_cnn, "activation": "relu"},
        ),
        Row(
            f"scattering_cnn_{epsilon:g}",
            "CNN of scattering features, tanh",
            {**private, **features_cnn},
        ),
        Row(
            "relu_not_private",
            "CNN, ReLU, not private",
            {**data, **cnn, **_NOT_PRIVATE, "activation": "relu"},
            seeds=1,
        ),
        Row("tanh_not_private", "CNN, tanh, not private", {**data, **cnn, **_NOT_PRIVATE}, seeds=1),
        Row(
            "linear_not_private",
            "linear, scattering features, not private",
            {**data, **uncentred, **_NOT_PRIVATE, "learning_rate": 0.01},
            seeds=1,
        ),
    )


def _deslanted_rows(private: Flags, epsilon: float) -> tuple[Row, ...]:
    """CNNs and linear models of digits that are brought upright, with privacy and without."""
    if private["dataset"] != "mnist":
        return ()
    cnn = {"model": "mnist_cnn_deslanted", "ema_decay": 0.99}
    linear = {"features": "deslanted_scattering"}
    plain = {"dataset": "mnist", "delta": 1e-5, **_NOT_PRIVATE}
    plain_linear = {**linear, "feature_statistics": "none", "learning_rate": 0.01}
    return (
        Row(
            f"deslanted_relu_{epsilon:g}",
            "CNN of upright images, ReLU",
            {**private, **cnn, "activation": "relu"},
        ),
        Row(f"deslanted_tanh_{epsilon:g}", "CNN of upright images, tanh", {**private, **cnn}),
        Row(
            f"deslanted_{epsilon:g}",
            "linear, scattering features of upright images, with private statistics",
            {**private, **linear},
        ),
        Row(
            "deslanted_tanh_not_private",
            "CNN of upright images, tanh, not private",
            {**plain, **cnn},
            seeds=1,
        ),
        Row(
            "deslanted_not_private",
            "linear, scattering features of upright images, not private",
            {**plain, **plain_linear},
            seeds=1,
        ),
    )


def _patch_rows(private: Flags, epsilon: float) -> tuple[Row, ...]:
    """Models of features of patches, with privacy and without, where there are any."""
    if private["dataset"] not in _PATCHES:
        return ()
    label, kind = _PATCHES[private["dataset"]]
    features = {**private, "features": kind}
    plain = {**features, "feature_statistics": "none", **_NOT_PRIVATE, "learning_rate": 0.01}
    del plain["target_epsilon"]
    cnns = (
        Row(
            f"patches_relu_{epsilon:g}",
            f"CNN of {label}, ReLU",
            {**features, **_PATCH_CNN, "activation": "relu"},
        ),
        Row(f"patches_tanh_{epsilon:g}", f"CNN of {label}, tanh", {**features, **_PATCH_CNN}),
        Row(
            "patches_tanh_not_private",
            f"CNN of {label}, tanh, not private",
            {**plain, "model": "patch_cnn"},
            seeds=1,
        ),
    )
    return (
        *(cnns if "+" not in kind else ()),
        Row(f"patches_{epsilon:g}", f"linear, {label}, with a private mean", features),
        Row("patches_not_private", f"linear, {label}, not private", plain, seeds=1),
    )


# Scale, temperature and offset of tempered sigmoids, each changed alone from tanh, (2, 2, 1); the
# logistic sigmoid; and a triplet that other projects use for CIFAR-10. Runs of 40 epochs (30 on
# CIFAR-10) simulated at 1/16 of the batch, at the same two rates for every activation; what decides
# is training images that are held out.
_TRIPLETS = ("2,2,1", "1,2,0.5", "3,2,1.5", "2,1,1", "2,4,1", "2,2,0.5", "1,1,0", "1.58,3,0.71")
_TRIPLET_RUN = {
    "delta": 1e-5,
    "batch_size": 2048,
    "l2_norm_clip": 0.1,
    "ema_decay": 0.98,
    "simulate_at": 128,
    "validation_examples": 5000,
}


def _triplet_rows(dataset: str, epsilon: float) -> tuple[Row, ...]:
    labels = {"relu": "ReLU"} | {f"tempered_sigmoid({t})": f"({t})" for t in _TRIPLETS}
    return tuple(
        Row(
            f"{activation.translate(str.maketrans('(,', '__', ')'))}_at_{rate}",
            f"{label}, rate {rate}",
            {
                "dataset": dataset,
                "target_epsilon": epsilon,
                "model": _CNN[dataset].get("model", "mnist_cnn"),
                **_TRIPLET_RUN,
                "learning_rate": rate,
                "activation": activation,
            },
            x=rate,
            series=label,
        )
        for rate in (2, 4)
        for activation, label in labels.items()
    )


def _growth_rows() -> tuple[Row, ...]:
    """Both activations, trained with noise and clipping and without."""
    private = {"target_epsilon": 2.93, "learning_rate": 0.5}
    # Clipped at 0.1, gradients are shorter by more than ten times.
    plain = {"noise_multiplier": 0.0, "l2_norm_clip": 1e6, "learning_rate": 0.05}
    return tuple(
        Row(
            f"{activation}_{name}",
            f"{label}, {'private' if name == 'private' else 'not private'}",
            {
                "dataset": "mnist",
                "delta": 1e-5,
                "batch_size": 512,
                "epochs": 10,
                "activation": activation,
                "activation_norms": True,
                **flags,
            },
            seeds=1,
        )
        for name, flags in (("private", private), ("plain", plain))
        for activation, label in (("relu", "ReLU"), ("tanh", "tanh"))
    )


# DP-SAPF. One network, pre-trained on public images, one budget for selection and fine-tuning, one
# number of private steps. The learning rate of adapters was the better of two in short runs, by the
# loss on test images; that of all weights lies between two that did alike.
_SYNTHESIS = {
    "target_epsilon": 10.0,
    "batch_size": 512,
    "steps": 120,
    "learning_rate": 0.012,
    "rank": 8,
    "num_images": 2000,
    "ema_decay": 0.95,
    "fraction": 0.3,
    "sampling_steps": 20,
}
_METHODS = {
    "sapf": ("DP-SAPF, 30 % of the matrices", {}),
    "random": ("a random 30 %", {}),
    "lora": ("LoRA on all matrices", {}),
    "attention": ("LoRA on all of attention", {"method": "lora", "candidates": "attention"}),
    "full": ("all weights", {"learning_rate": 0.003}),
    "none": ("no fine-tuning", {}),
}
_PUBLIC = {"fashion_mnist": "mnist,cifar10_jpeg", "mnist": "fashion_mnist,cifar10_jpeg"}


def _synthesis_rows(dataset: str, epsilon: float, seeds: int | None = None) -> tuple[Row, ...]:
    rows = []
    for method, (label, flags) in _METHODS.items():
        name, flags = method, {"method": method, **flags}
        if method != "none":  # Nothing is spent on it.
            name, flags = f"{method}_{epsilon:g}", {**flags, "target_epsilon": epsilon}
        rows.append(_synthesis_row(name, label, dataset, flags, seeds=seeds))
    return tuple(rows)


def _fraction_rows() -> tuple[Row, ...]:
    return tuple(
        _synthesis_row(
            "sapf_10" if percent == 30 else f"sapf_10_{percent}",
            f"DP-SAPF, {percent} %",
            "fashion_mnist",
            {"method": "sapf", "fraction": percent / 100},
            seeds=1,
            x=percent,
        )
        for percent in (5, 15, 30, 50, 70)
    )


def _longer_rows() -> tuple[Row, ...]:
    """Three times the steps of the other tables, for digits."""
    longer = {"steps": 360, "ema_decay": 0.98}
    return tuple(
        _synthesis_row(
            f"{method}_10_long",
            _METHODS[method][0],
            "mnist",
            {"method": method, **longer},
            seeds=1,
        )
        for method in ("sapf", "lora")
    )


def _synthesis_row(name: str, label: str, dataset: str, flags: Flags, **options: Any) -> Row:
    data = {"public": _PUBLIC[dataset], "sensitive": dataset}
    first = Row("pretrained", "pre-training", {**data, "stage": "pretrain", "pretrain_epochs": 2})
    return Row(name, label, {**data, **_SYNTHESIS, **flags}, after=first, **options)


EXPERIMENTS = {
    "accuracy": Experiment(
        "How accurate are private classifiers at the published budgets, with learned features and "
        "with others?",
        {
            f"{_LAW_TITLES.get(dataset, 'MNIST')}, ε = {epsilon:g}": _accuracy_rows(
                dataset, epsilon, published
            )
            for dataset, budgets in _ACCURACY.items()
            for epsilon, published in budgets.items()
        },
        {"dataset": "digits", "model": "digits_mlp", "epochs": 2, "batch_size": 256},
    ),
    "tempered_sigmoids": Experiment(
        "Which tempered sigmoids (scale, temperature, offset) lose the least under noise and "
        "clipping, and does ReLU lose more?",
        {
            f"{title}, ε = {epsilon:g}, simulated": _triplet_rows(dataset, epsilon)
            for dataset, title, epsilon in (
                ("cifar10_jpeg", "CIFAR-10 (JPEG)", 7.53),
                ("fashion_mnist", "Fashion-MNIST", 2.7),
                ("mnist", "MNIST", 2.93),
            )
        },
        {**_SMALL, "validation_examples": 100, "simulate_at": 64},
        axis="learning rate",
    ),
    "activation_norms": Experiment(
        "Do activations grow under noise and clipping, and do bounded ones grow less?",
        {"MNIST, ε = 2.93, 10 epochs": _growth_rows()},
        {**_SMALL, "batch_size": 256},
    ),
    "screening": Experiment(
        "Does update screening help at an equal true budget, and what does the accounting of the "
        "papers leave out?",
        {title: _comparison_rows(dataset) for dataset, title in _TITLES.items()},
        _QUICK,
    ),
    "screening_variants": Experiment(
        "Does screening help at an equal true budget if it is done in another way?",
        {"MNIST": _variant_rows("mnist")},
        _QUICK,
    ),
    "screening_tuning": Experiment(
        "Which settings suit each way of screening, found with as many runs for each?",
        {"MNIST": _tuning_rows("mnist")},
        _QUICK,
    ),
    "tan_law": Experiment(
        "Does a simulated run, of a part of the batch and of the noise, predict the accuracy of "
        "the private one?",
        {title: _law_rows(dataset) for dataset, title in _LAW_TITLES.items()},
        {**_SMALL, "simulate_at": 64},
        axis="expected batch size; noise in proportion, the rightmost run is private",
    ),
    "tan_tuning": Experiment(
        "Are the best learning rate and multiplicity of small simulated runs the best of larger "
        "ones?",
        {f"Fashion-MNIST, 1/{part} of the batch": _tuning_grid(part) for part in (64, 4)},
        {**_SMALL, "validation_examples": 100, "simulate_at": 64},
        axis="learning rate",
    ),
    "tan_direct": Experiment(
        "Which setting is the best of private runs that have one pass over the data each?",
        {"Fashion-MNIST": _direct_grid()},
        {**_SMALL, "validation_examples": 100},
        axis="learning rate",
    ),
    "tan_search": Experiment(
        "At equal epsilon and no more compute, does a search by simulation and one private run "
        "beat a search among private runs?",
        {"Fashion-MNIST": _found_rows()},
        _SMALL,
    ),
    "synthesis": Experiment(
        "What are synthetic images worth at equal true epsilon, by what is tuned privately?",
        {
            "Fashion-MNIST, ε = 10": _synthesis_rows("fashion_mnist", 10.0),
            "Fashion-MNIST, ε = 1": _synthesis_rows("fashion_mnist", 1.0, seeds=1),
            "MNIST, ε = 10": _synthesis_rows("mnist", 10.0, seeds=1),
            "MNIST, ε = 10, 360 steps": _longer_rows(),
            "Fashion-MNIST, ε = 10, by fraction": _fraction_rows(),
        },
        {
            "public_images": 1000,
            "pretrain_epochs": 1,
            "steps": 10,
            "batch_size": 64,
            "num_images": 200,
        },
        axis="share of the matrices that is tuned, %",
        program="synthesize",
    ),
}
