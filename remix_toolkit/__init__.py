"""remix-toolkit: teach a language model facts that stay.

    from remix_toolkit import load_recipe, results, run, sweep

Each is imported when it is first used: `import remix_toolkit` alone loads nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from remix_toolkit.api import load_recipe, run, sweep
    from remix_toolkit.report.frame import results

__version__ = "0.1.0"
__all__ = ["load_recipe", "results", "run", "sweep"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.report.frame" if name == "results" else f"{__name__}.api"), name)
