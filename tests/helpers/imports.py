"""Whether what some Python code imports from this project is there."""

import ast
import importlib


def check_imports(source: str, *, but: tuple[str, ...] = ()) -> None:
    """Fails if `source` does not parse, or imports what ssl_jax or configs do not have.

    Args:
        source: Python code; it is not run.
        but: names that need not be there.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "ssl_jax":
                    importlib.import_module(alias.name)
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.split(".")[0] in ("ssl_jax", "configs")
        ):
            module = importlib.import_module(node.module)
            for alias in node.names:
                if alias.name not in but and not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")
