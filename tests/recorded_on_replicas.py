"""Compares neighbours on two replicas, with and without a planted bug; prints JSON.

    python tests/recorded_on_replicas.py

Devices are a matter of a whole process: so this is no test function.
"""

import json

import planted_bugs
import pytest
import tensorflow as tf

import tfdp
from tfdp.auditing import compare_neighbours


def training():
    with tfdp.distribution.strategy("mirrored").scope():
        return planted_bugs.training(planted_bugs.with_dropout)()


def main():
    (processor,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        processor, [tf.config.LogicalDeviceConfiguration()] * 2
    )
    found = {}
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in ("no bug", "noise per replica at full scale"):
            if name != "no bug":
                planted_bugs.plant(name, monkeypatch)
            report = compare_neighbours(training, sensitivities=[planted_bugs.CLIP])
            found[name] = report.violations
    print(json.dumps(found))


if __name__ == "__main__":
    main()
