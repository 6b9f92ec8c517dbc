#!/usr/bin/env bash
# Runs the tests with the oldest release that pyproject.toml allows of everything it names.
#
#     bash scripts/test_oldest.sh [arguments of pytest]
#
# In a virtual environment of its own, .venv-oldest.
set -euo pipefail
export TFDP_VENV=${TFDP_VENV:-.venv-oldest}
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
# On some CPUs the oneDNN kernels of TensorFlow 2.18 give NaN, or end the process.
export TF_ENABLE_ONEDNN_OPTS=${TF_ENABLE_ONEDNN_OPTS:-0}

# install REQUIREMENT: by uv, because pip has no such choice of releases. Newer releases of
# tensorflow-metadata than the one named do not import with the protobuf of TensorFlow 2.18.
install() {
  "$PYTHON" -m pip install --quiet uv
  "$VENV/bin/uv" pip install --quiet --python="$PYTHON" --resolution=lowest-direct --editable "$1" \
    tensorflow-metadata==1.17.2
}

prepare_environment test
# What old releases use of newer ones may be deprecated there by now; and Keras 3.10 expects a list
# with one tensor where it has loaded a model of one input, and says so.
quietly "$PYTHON" -m pytest -W ignore::DeprecationWarning \
  -W "ignore:The structure of:UserWarning" \
  --numprocesses=auto --maxprocesses=4 --dist=loadfile "$@"
