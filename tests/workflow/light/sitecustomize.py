"""Python imports this at start where its folder is on the path: heavy packages cannot be had."""

import os
import sys

FORBIDDEN = frozenset(os.environ.get("DEEPSEEMOE_FORBIDDEN", "").split())


class Refusing:
    """Finds no module, and refuses those that are forbidden."""

    def find_spec(self, name, path=None, target=None):
        """Raise ImportError for a forbidden package."""
        if name.partition(".")[0] in FORBIDDEN:
            raise ImportError(f"{name}: not to be imported here")


sys.meta_path.insert(0, Refusing())
