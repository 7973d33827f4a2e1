"""Print a command block of README.md by its name, so that CI and tests run what the README says.

A block is named by an HTML comment on the line above its fence: <!-- command: NAME -->.
Usage: python3 tools/readme_command.py NAME
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"
BLOCK = re.compile(r"<!-- command: ([\w-]+) -->\n```(?:sh|python)\n(.*?)```", re.DOTALL)


def commands() -> dict[str, str]:
    """Name -> text of every named block."""
    return dict(BLOCK.findall(README.read_text(encoding="utf-8")))


if __name__ == "__main__":
    print(commands()[sys.argv[1]], end="")
