"""Eight bugs are planted one at a time, and the comparison of neighbours finds each of them."""

import functools
import json
import os
import pathlib
import re
import subprocess
import sys

import planted_bugs
import pytest

SCRIPT = pathlib.Path(__file__).parent.parent / "recorded_on_replicas.py"


@functools.cache
def violations_on_replicas():
    done = subprocess.run(
        [sys.executable, SCRIPT],
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("pipeline", [*planted_bugs.PIPELINES, "replicas"])
def test_the_healthy_code_passes(pipeline):
    if pipeline == "replicas":
        assert violations_on_replicas()["no bug"] == []
    else:
        report = planted_bugs.report_of(pipeline)
        assert report.passed, str(report)


@pytest.mark.parametrize("bug", planted_bugs.BUGS)
def test_each_bug_is_found(bug, monkeypatch):
    pipeline, _, message = planted_bugs.BUGS[bug]
    if pipeline == "replicas":
        violations = violations_on_replicas()[bug]
    else:
        planted_bugs.plant(bug, monkeypatch)
        violations = planted_bugs.report_of(pipeline).violations
    assert re.search(message, "\n".join(violations), re.DOTALL), violations
