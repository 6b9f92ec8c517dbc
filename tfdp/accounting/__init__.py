"""Privacy accounting: events, ledger, epsilon, calibration and the written privacy statement.

The mathematics is `dp_accounting`'s. Neighbouring data sets differ by adding or removing one
example; batches of fixed size take a public number of examples and replace one by an empty one.
Nothing here knows of TensorFlow or Keras.
"""

from tfdp.accounting.calibration import (
    batch_size,
    noise_multiplier,
    noise_multiplier_for,
    steps,
    steps_in_epochs,
)
from tfdp.accounting.dp_sgd import (
    capacity_for,
    dp_sgd_event,
    fixed_size_dp_sgd_event,
    overflow_probability,
    truncated_dp_sgd_event,
)
from tfdp.accounting.guarantees import epsilon, zcdp_epsilon
from tfdp.accounting.ledger import PrivacyLedger
from tfdp.accounting.release import Release
from tfdp.accounting.renyi import RDP_ORDERS
from tfdp.accounting.statement import PrivacyStatement, ReleaseSummary

__all__ = [
    "RDP_ORDERS",
    "PrivacyLedger",
    "PrivacyStatement",
    "Release",
    "ReleaseSummary",
    "batch_size",
    "capacity_for",
    "dp_sgd_event",
    "epsilon",
    "fixed_size_dp_sgd_event",
    "noise_multiplier",
    "noise_multiplier_for",
    "overflow_probability",
    "steps",
    "steps_in_epochs",
    "truncated_dp_sgd_event",
    "zcdp_epsilon",
]
