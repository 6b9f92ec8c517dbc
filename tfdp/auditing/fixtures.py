"""The comparison of neighbours as a pytest fixture, for tests of one's own rules and models.

In a ``conftest.py`` or test module: ``pytest_plugins = ["tfdp.auditing.fixtures"]``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tfdp.auditing.neighbours import NeighbourReport, compare_neighbours


@pytest.fixture
def check_neighbours() -> Callable[..., NeighbourReport]:
    """A function with the arguments of `tfdp.auditing.compare_neighbours`.

    It fails the test, with the whole report, if there is a violation; else it returns the report.
    """

    def check(
        pipeline: Callable[[], Any], *, sensitivities: Sequence[float], seed: int = 0
    ) -> NeighbourReport:
        report = compare_neighbours(pipeline, sensitivities=sensitivities, seed=seed)
        if not report.passed:
            pytest.fail(str(report), pytrace=False)
        return report

    return check
