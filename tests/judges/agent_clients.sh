#!/usr/bin/env bash
# Judges the server by litellm and langchain-openai, in a virtual environment of their own.
# Usage: agent_clients.sh [MODEL.gguf [FOLDER OF THE ENVIRONMENT]]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
model=${1:-$root/models/demo.gguf}
work=$(mktemp -d)
venv=${2:-$work/venv}
if [ ! -x "$venv/bin/python" ]; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install -q litellm langchain-openai
fi
PYTHONPATH=${PYTHONPATH:-$root/python} python3 -m hrun.serve -m "$model" --port 0 2>"$work/log" &
server=$!
trap 'kill $server; wait $server || true; rm -rf "$work"' EXIT
until grep -qs "http://" "$work/log"; do kill -0 $server; sleep 0.1; done
PYTHONPATH='' LITELLM_LOCAL_MODEL_COST_MAP=True "$venv/bin/python" "$here/agent_clients.py" "$(grep -o 'http://[^ ]*' "$work/log")"
