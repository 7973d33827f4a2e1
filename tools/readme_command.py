"""Print a command block of README.md or docs/ by its name, so that CI and tests run what they say.

A block is named by an HTML comment on the line above its fence: <!-- command: NAME -->.
Usage: python3 tools/readme_command.py NAME
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"<!-- command: ([\w-]+) -->\n```(?:sh|python)\n(.*?)```", re.DOTALL)


def commands() -> dict[str, str]:
    """Name -> text of every named block."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    found = [block for page in pages for block in BLOCK.findall(page.read_text(encoding="utf-8"))]
    assert len(dict(found)) == len(found), "two blocks have one name"
    return dict(found)


if __name__ == "__main__":
    print(commands()[sys.argv[1]], end="")
