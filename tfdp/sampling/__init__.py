"""How examples are drawn, and how a logical batch is cut into physical ones."""

from tfdp.sampling.arrays import (
    check_arrays,
    refuse_beside_dataset,
    split_arrays,
    with_class_weight,
)
from tfdp.sampling.physical import (
    SMALLEST,
    batch_length,
    choose_physical_batch_size,
    sum_over_physical_batches,
)
from tfdp.sampling.poisson import PoissonDataset, poisson_indices

__all__ = [
    "PoissonDataset",
    "SMALLEST",
    "batch_length",
    "check_arrays",
    "choose_physical_batch_size",
    "poisson_indices",
    "refuse_beside_dataset",
    "split_arrays",
    "sum_over_physical_batches",
    "with_class_weight",
]
