"""The fixture, used as the page of the documentation uses it."""

import pathlib
import re

pytest_plugins = ["pytester"]
PAGE = pathlib.Path(__file__).parent.parent.parent / "docs" / "api" / "auditing.md"
(EXAMPLE,) = re.findall(r"^```py\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_example_of_the_page_passes(pytester):
    pytester.makepyfile(EXAMPLE)
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_a_violation_fails_the_test_with_the_report(pytester):
    start = EXAMPLE.index("def train")
    stop = EXAMPLE.index("def test")
    train = "def train():\n    return tfdp.accounting.PrivacyLedger(), x\n\n\n"
    pytester.makepyfile(EXAMPLE[:start] + train + EXAMPLE[stop:])
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*VIOLATION: noise was added at 0 places, sensitivities were*"])
