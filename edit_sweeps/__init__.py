"""edit_sweeps: measure what editing facts into a language model costs its general abilities."""

import sys
from pathlib import Path

__version__ = "0.1.0"

# Hydra finds launchers only in the namespace package `hydra_plugins`; ours is shipped inside this package.
_PLUGINS = str(Path(__file__).parent / "_hydra")
if _PLUGINS not in sys.path:
    sys.path.append(_PLUGINS)
