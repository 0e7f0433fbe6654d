"""Makes the repository's own packages importable when nothing is installed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

if importlib.util.find_spec("onnxopt_rules") is None:
    folder = ROOT / "rules"
    spec = importlib.util.spec_from_file_location(
        "onnxopt_rules", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["onnxopt_rules"] = module
    spec.loader.exec_module(module)
