"""One entry of the ledger."""

import dataclasses
import json
import math
from collections.abc import Mapping

import dp_accounting
import numpy as np

from tfdp import _validate

Detail = str | int | float | bool


@dataclasses.dataclass(frozen=True)
class Release:
    """A mechanism that has been applied to the data, and how often.

    Attributes:
        event: the mechanism.
        count: how often it was applied, 1 or above.
        description: what it was for, such as `"DP-SGD step"`.
        details: what the statement shows beside it, such as `{"l2_norm_clip": 0.1}`. Text for the
            reader: no epsilon depends on it.
        estimate: what would stand in for the event had the batches been Poisson samples, if that
            is worth telling. Only the statement's comparison depends on it.

    Example:
        >>> import tfdp
        >>> ledger = tfdp.accounting.PrivacyLedger()
        >>> ledger.charge(tfdp.accounting.dp_sgd_event(1.1, 0.01), 500, description="DP-SGD step")
        >>> (release,) = ledger.releases
        >>> release.count, release.description
        (500, 'DP-SGD step')
    """

    event: dp_accounting.DpEvent
    count: int
    description: str
    details: Mapping[str, Detail] = dataclasses.field(default_factory=dict)
    estimate: dp_accounting.DpEvent | None = None

    def same_kind(self, other: "Release") -> bool:
        """Tells whether two releases differ in nothing but their counts.

        Args:
            other: the release to compare with.

        Returns:
            Whether event, description, details and estimate are equal. `1`, `1.0` and `True` are
            three different details.
        """
        return (
            self.event == other.event
            and self.description == other.description
            and details_key(self.details) == details_key(other.details)
            and self.estimate == other.estimate
        )


def checked_details(details: Mapping[str, Detail] | None) -> dict[str, Detail]:
    """Copies details after checking them.

    Args:
        details: a flat mapping from text to text, number or bool; `None` means empty.

    Returns:
        A new dictionary of plain Python values, in the order received.

    Raises:
        TypeError: if it is not such a mapping.
        ValueError: if a key is empty or a number is NaN.
    """
    if details is None:
        return {}
    if not isinstance(details, Mapping):
        raise _validate.type_error("details", details, "a mapping")
    result: dict[str, Detail] = {}
    for key, value in details.items():
        key = _validate.text("details key", key)
        if isinstance(value, str):
            result[key] = str(value)
        elif isinstance(value, bool | np.bool_):
            result[key] = bool(value)
        elif isinstance(value, int | np.integer):
            result[key] = int(value)
        elif isinstance(value, float | np.floating):
            if math.isnan(value):
                raise _validate.value_error(f"details[{key!r}]", value, "a number")
            result[key] = float(value)
        else:
            raise _validate.type_error(f"details[{key!r}]", value, "a string, a number or a bool")
    return result


def details_key(details: Mapping[str, Detail]) -> str:
    """Returns text that is equal for equal details only, whatever their order.

    Args:
        details: what `checked_details` has returned.

    Returns:
        The text.
    """
    return json.dumps(details, sort_keys=True)
