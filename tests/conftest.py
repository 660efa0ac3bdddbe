"""What every test shares.

The tree's root goes to the end of sys.path, never to its front: there, our folder ``socks`` would hide PySocks.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:] = [entry for entry in sys.path if entry and Path(entry).resolve() != ROOT]
sys.path.append(str(ROOT))
