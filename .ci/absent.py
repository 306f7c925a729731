"""Exit 1 when any of the named modules can be imported here."""

import importlib.util
import sys

found = [name for name in sys.argv[1:] if importlib.util.find_spec(name) is not None]
if found:
    sys.exit(f"importable, and must not be: {', '.join(found)}")
