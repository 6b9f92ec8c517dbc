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
    pytester.makepyfile(EXAMPLE.replace("sensitivities=[0.5]", "sensitivities=[0.4]"))
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*VIOLATION: place 0: one example moved the values by 0.5,*"])
