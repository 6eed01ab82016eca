"""``python -m runtime``."""

import sys

from runtime.cli.main import main
from runtime.early_interrupt import restore

if __name__ == "__main__":
    restore()
    sys.exit(main())
