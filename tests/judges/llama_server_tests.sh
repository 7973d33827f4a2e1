#!/usr/bin/env bash
# Judges the server by llama-server's own tests: those that are about HTTP and not about its model, slots or native routes.
# Usage: llama_server_tests.sh LLAMA.CPP/tools/server/tests [MODEL.gguf [FOLDER OF THE ENVIRONMENT [pytest's arguments]]]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
tests=$1
export HRUN_JUDGE_MODEL=$(realpath "${2:-$root/models/demo.gguf}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=${3:-$work/venv}
if [ ! -x "$venv/bin/python" ]; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install -q aiohttp pytest filelock numpy openai prometheus-client requests wget
fi
mkdir -p "$work/tools/server"
cp -r "$tests" "$work/tools/server/tests"
ln -s "$(cd "$tests/../../.." && pwd)/models" "$work/models" # templates that the tests name
cat > "$work/shim" <<EOF
#!/bin/sh
PYTHONPATH="${PYTHONPATH:-$root/python}" exec "$(command -v python3)" "$here/llama_server_shim.py" "\$@"
EOF
chmod +x "$work/shim"
export LLAMA_SERVER_BIN_PATH=$work/shim PORT=${PORT:-8231}
cd "$work/tools/server/tests"
left_out=$(grep -v '^#' "$here/llama_server_left_out.txt" | sed '/^$/d; s/^/--deselect /')
files=(test_basic test_security test_chat_completion test_compat_anthropic test_compat_oai_responses test_embedding test_ignore_eos
  test_metrics test_rerank test_template test_tokenize test_completion test_tool_call test_infill test_ctx_shift)
more=("${@:4}")
[ ${#more[@]} -gt 0 ] || for file in "${files[@]}"; do more+=("unit/$file.py"); done
sed -i 's/ServerPreset.load_all()/pass/' conftest.py # downloads
PYTHONPATH='' "$venv/bin/python" -m pytest -q -p no:cacheprovider -c /dev/null --rootdir . $left_out "${more[@]}"
