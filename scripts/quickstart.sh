#!/usr/bin/env bash
# From a fresh checkout to a model trained with differential privacy.
#
#     bash scripts/quickstart.sh [flags of scripts/train.py]
#
# Makes a virtual environment in the checkout on first use, installs tfdp into it, and trains on
# scikit-learn's digits, which need no download. A later --dataset=... takes precedence.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

prepare_environment
quietly "$PYTHON" scripts/train.py --dataset=digits "$@"
