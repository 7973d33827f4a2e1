#!/usr/bin/env bash
# Judges log-probabilities by lm-evaluation-harness: through the server it must find, to the last digit, what hrun says itself.
# Usage: lm_eval.sh [MODEL.gguf [FOLDER OF THE ENVIRONMENT]]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
model=${1:-$root/models/demo.gguf}
work=$(mktemp -d)
venv=${2:-$work/venv}
if [ ! -x "$venv/bin/python" ]; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install -q "lm-eval[api]"
fi
export PYTHONPATH=${PYTHONPATH:-$root/python}
python3 -m hrun.serve -m "$model" --port 0 2>"$work/log" &
server=$!
trap 'kill $server; wait $server || true; rm -rf "$work"' EXIT
until grep -qs "http://" "$work/log"; do kill -0 $server; sleep 0.1; done
url=$(grep -o 'http://[^ ]*' "$work/log")
PYTHONPATH='' HF_HUB_OFFLINE=1 HF_HOME="$work/hf" "$venv/bin/python" "$here/lm_eval_ask.py" "$url" "$work/found.json"
python3 "$here/lm_eval_check.py" "$model" "$work/found.json"
