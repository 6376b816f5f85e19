"""The router that the suite runs is the one that was asked for, and what msgspec decodes into is never compiled."""

from __future__ import annotations

import os
import re
from pathlib import Path

from flotilla_router import exchange

ROOT = Path(__file__).parents[3]
BUILD = os.environ.get("FLOTILLA_ROUTER_BUILD", "")


def test_the_suite_runs_the_build_that_comes_first() -> None:
    """A build that leads PYTHONPATH is compiled and is what is imported; else the sources are."""
    imported = Path(exchange.__file__)

    if BUILD and os.environ.get("PYTHONPATH", "").startswith(BUILD):
        assert imported.is_relative_to(BUILD)
        assert imported.suffix == ".so"
    else:
        assert imported == ROOT / "router-sidecar" / "flotilla_router" / "exchange.py"


def test_modules_that_decode_into_structs_stay_interpreted() -> None:
    """Mypyc keeps `list` of an annotation `list[Choice]`, so that msgspec would decode into dicts."""
    hook = (ROOT / "router-sidecar" / "compile_hot_path.py").read_text()
    package = ROOT / "router-sidecar" / "flotilla_router"
    for module in package.rglob("*.py"):
        text = module.read_text()
        decoded = re.findall(r"Decoder\((?:list\[|dict\[)?(\w+)", text) + re.findall(r"type=(\w+)\)", text)
        structs = set(re.findall(r"class (\w+)\(msgspec\.Struct", text))
        if structs.intersection(decoded):
            assert f'"{module.relative_to(package).as_posix()}"' in hook, module.name
