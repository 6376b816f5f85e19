"""Writes crds/*.yaml and the chart's copies from the models; with --check only says whether they differ."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from flotilla_api.crds import make_crds

ROOT = Path(__file__).resolve().parent.parent
TARGETS = (ROOT / "crds", ROOT / "charts" / "flotilla" / "files" / "crds")
HEADER = "# Generated from operator/flotilla_api by `make crds`; do not edit.\n"


class _Dumper(yaml.SafeDumper):
    """Writes shared nodes out in full: anchors would be noise in a diff."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - the base class's signature
        return True


def _dump(crd: dict[str, Any]) -> str:
    return yaml.dump(crd, Dumper=_Dumper, sort_keys=False, width=120)


def render() -> dict[Path, str]:
    """Path -> text of every generated file."""
    return {folder / name: HEADER + _dump(crd) for folder in TARGETS for name, crd in make_crds().items()}


def main() -> int:
    """Exit 0 when the files are as generated, or now are; 1 when --check finds a difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a file differs")
    check = parser.parse_args().check
    stale = [path for path, text in render().items() if not path.exists() or path.read_text() != text]
    for path in stale:
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(render()[path])
        print(f"{'differs' if check else 'written'}: {path.relative_to(ROOT)}", file=sys.stderr)
    if check and stale:
        print("run `make crds` and commit the result", file=sys.stderr)
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
