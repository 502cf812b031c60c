#!/usr/bin/env bash
# Everything that waits for a GPU, in one command; experiments/gpu.py says what, and its options.
#   experiments/gpu.sh                              sets up .venv-gpu, then runs for 25 minutes
#   JSPARSE_PYTHON=python3 experiments/gpu.sh       that Python has all it needs: installs nothing
#   JSPARSE_DEVICE=cpu experiments/gpu.sh           a rehearsal with small sizes, without a GPU
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${JSPARSE_PYTHON:-}
if [[ -z $python ]]; then
  extras=test,rl
  if [[ ${JSPARSE_DEVICE:-gpu} != cpu ]]; then
    if ! driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null); then
      echo "error: no GPU: nvidia-smi finds none; JSPARSE_DEVICE=cpu rehearses without one" >&2
      exit 2
    fi
    extras=test,rl,cuda12
    ((${driver%%.*} < 580)) || extras=test,rl,cuda13 # CUDA 13 needs this driver
  fi
  python=.venv-gpu/bin/python
  if [[ ! -e .venv-gpu/has-$extras ]]; then
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: python3 >= 3.11 is needed")'
    python3 -m venv .venv-gpu
    $python -m pip install --quiet --disable-pip-version-check --editable ".[$extras]"
    touch ".venv-gpu/has-$extras"
  fi
fi
exec "$python" -m experiments.gpu "$@"
