"""``python -m quicsocks.userspace``: the same as the installed command."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
