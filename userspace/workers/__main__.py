"""``python -m quicsocks.userspace.workers DESCRIPTOR``: one worker; only a supervisor starts it."""

import sys

from .process import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
