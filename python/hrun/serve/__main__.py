"""``python -m hrun.serve`` is ``hrun-serve``."""

import sys

from hrun.serve import main

sys.exit(main())
