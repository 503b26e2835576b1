"""`app.learning` needs NumPy, SciPy and the standard library only.

One module imports scikit-learn.
"""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys

import app.learning

SCIKIT_LEARN_INTERFACE = "app.learning.boltzmann.transformer"
FORBIDDEN = ("pandas", "fastapi", "sqlalchemy", "pydantic", "sklearn", "threadpoolctl", "starlette")


def test_importing_every_learning_module_imports_nothing_else_of_the_application() -> None:
    modules = [module.name for module in pkgutil.walk_packages(app.learning.__path__, "app.learning.")]
    modules.remove(SCIKIT_LEARN_INTERFACE)
    code = f"import json, sys, {', '.join(modules)}\nprint(json.dumps(list(sys.modules)))"
    loaded = json.loads(subprocess.check_output([sys.executable, "-c", code], text=True))
    assert "app.learning.training" in loaded
    assert [name for name in loaded if name.split(".")[0] in FORBIDDEN] == []
    assert [name for name in loaded if name.startswith("app.") and not name.startswith("app.learning")] == []
