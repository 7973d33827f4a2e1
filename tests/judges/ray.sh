#!/usr/bin/env bash
# Judges replicas by Ray itself, on loopback: replicas and whole raylets are killed amid streams, and their number changes under load.
# Usage: ray.sh [FOLDER OF THE ENVIRONMENT]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=${1:-$work/venv}
if [ ! -x "$venv/bin/python" ]; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install -q "ray[serve]" gguf tokenizers safetensors jinja2 prompt_toolkit rich llguidance prometheus-client pytest hypothesis
fi
cd "$root"
export PYTHONPATH=${PYTHONPATH:-$root/python}:$root/tests/support # the replicas' processes read it too
"$venv/bin/python" -m pytest -q -p no:cacheprovider tests/serve/test_ray.py tests/serve/test_ray_cluster.py
