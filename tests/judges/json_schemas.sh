#!/usr/bin/env bash
# Judges structured output by JSON-Schema-Test-Suite and every 38th schema of JSONSchemaBench's mask benchmark.
# Usage: json_schemas.sh [FOLDER that keeps the two repositories]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
work=${1:-$(mktemp -d)}
[ -d "$work/suite" ] || git clone -q --depth 1 https://github.com/json-schema-org/JSON-Schema-Test-Suite "$work/suite"
[ -d "$work/bench" ] || git clone -q --depth 1 https://github.com/guidance-ai/jsonschemabench "$work/bench"
mkdir -p "$work/sample"
find "$work/bench/maskbench/data" -name '*.json' | LC_ALL=C sort | awk 'NR % 38 == 7' | xargs -I{} cp {} "$work/sample"
export PYTHONPATH=${PYTHONPATH:-$root/python}
python3 "$here/json_schemas.py" "$work/suite/tests/draft2020-12" "$work/suite/tests/draft7" "$work/sample"
