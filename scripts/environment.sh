# The virtual environment of the checkout, for the scripts beside this file; to be sourced.
#
# TFDP_VENV names another folder for the environment than .venv, TFDP_PYTHON another Python to make
# it with than the first that is found.

cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV=${TFDP_VENV:-.venv}
PYTHON=$VENV/bin/python
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}

# prepare_environment [EXTRA]: makes the environment and installs tfdp with the extra dependencies,
# unless both were done already for this pyproject.toml and setup.py.
prepare_environment() {
  local extra=${1:-} stamp wanted
  if ! "$PYTHON" -c '' 2>/dev/null; then
    local base
    base=$(supported_python)
    echo "Making a virtual environment in $VENV with $base" >&2
    "$base" -m venv --clear "$VENV"
  fi
  stamp=$VENV/tfdp-installed${extra:+-$extra}
  wanted=$(cat pyproject.toml setup.py | cksum)
  if [[ $(cat "$stamp" 2>/dev/null) != "$wanted" ]]; then
    echo "Installing tfdp${extra:+ and what its \"$extra\" extra asks for} (a few minutes the first time)" >&2
    install ".${extra:+[$extra]}"
    echo "$wanted" | tee "$stamp" > "$VENV/tfdp-installed"
  fi
}

# install REQUIREMENT: the newest release of everything that tfdp needs.
install() {
  "$PYTHON" -m pip install --quiet --editable "$1"
}

# supported_python: prints a Python that can run tfdp, or says what is missing.
supported_python() {
  local name
  for name in ${TFDP_PYTHON:-python3.11 python3.12 python3.13 python3.10 python3}; do
    # Found is not enough: it may be a stand-in for a version that is not installed, or lack venv.
    if "$name" -c 'import ensurepip, sys, venv
assert (3, 10) <= sys.version_info < (3, 14)' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  echo "tfdp needs Python 3.10, 3.11, 3.12 or 3.13 with its venv module; none was found${TFDP_PYTHON:+ at TFDP_PYTHON=$TFDP_PYTHON}." >&2
  echo "(On Debian and Ubuntu: apt install python3 python3-venv)" >&2
  return 1
}

# quietly COMMAND...: runs it without the lines that TensorFlow writes on a machine without a GPU
# before it has read its log level. Everything else passes, and so does the exit status.
quietly() {
  local noise='before absl::InitializeLog\(\)|cudart_stub\.cc|cuda_platform\.cc|failed call to cuInit'
  noise+='|oneDNN custom operations are on|when one has already been registered'
  { "$@" 2>&1 >&3 3>&- | sed -u -E "/$noise/d" >&2 3>&-; } 3>&1
}
