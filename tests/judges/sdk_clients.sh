#!/usr/bin/env bash
# Judges the server by OpenAI's and Anthropic's clients, in a virtual environment of their own.
# Usage: sdk_clients.sh [MODEL.gguf [FOLDER OF THE ENVIRONMENT]]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
model=${1:-$root/models/demo.gguf}
venv=${2:-$(mktemp -d)/venv}
if [ ! -x "$venv/bin/python" ]; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install -q openai anthropic
fi
log=$(mktemp)
PYTHONPATH=${PYTHONPATH:-$root/python} python3 -m hrun.serve -m "$model" --port 0 2>"$log" &
server=$!
trap 'kill $server; wait $server || true; rm -f "$log"' EXIT
until grep -qs "http://" "$log"; do kill -0 $server; sleep 0.1; done
"$venv/bin/python" "$here/sdk_clients.py" "$(grep -o 'http://[^ ]*' "$log")"
