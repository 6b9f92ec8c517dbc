"""How examples are drawn, and how a logical batch is cut into physical ones."""

from tfdp.sampling.declared import DeclaredDataset, declare
from tfdp.sampling.physical import (
    SMALLEST,
    Batch,
    batch_length,
    choose_physical_batch_size,
    sum_over_physical_batches,
)
from tfdp.sampling.poisson import PoissonDataset, poisson_indices
from tfdp.sampling.public import PublicData, public
from tfdp.sampling.scheme import Scheme
from tfdp.sampling.training_data import split_arrays, training_data, with_class_weight
from tfdp.sampling.views import Views

__all__ = [
    "Batch",
    "DeclaredDataset",
    "PoissonDataset",
    "PublicData",
    "SMALLEST",
    "Scheme",
    "Views",
    "batch_length",
    "choose_physical_batch_size",
    "declare",
    "poisson_indices",
    "public",
    "split_arrays",
    "sum_over_physical_batches",
    "training_data",
    "with_class_weight",
]
