#!/usr/bin/env bash
# Runs the tests, in the same virtual environment as the quickstart.
#
#     bash scripts/test.sh [arguments of pytest]
#
# Tests on MNIST, Fashion-MNIST and CIFAR-10 run where TFDP_DATA_DIR names a folder of prepared
# TensorFlow Datasets, and are skipped elsewhere. Files of tests run in as many processes as there
# are cores, four at most; --numprocesses=0 runs them in one.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

prepare_environment test
quietly "$PYTHON" -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile "$@"
