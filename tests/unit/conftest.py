"""Makes the node's own tool, which is no part of the package, something that tests can import."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "packer/files/usr/lib/hapx"))
