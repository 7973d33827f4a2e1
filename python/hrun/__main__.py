"""``python -m hrun`` is the command ``hrun``."""

from __future__ import annotations

import sys

from hrun.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
