"""What `flotilla inject` writes for workloads as people write them: whole, and checked against Kubernetes' schemas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate  # pyright: ignore[reportMissingTypeStubs]
import pytest

from flotilla_cli.chart import make_settings
from flotilla_cli.documents import parse, split
from flotilla_cli.injection import Outcome, Source, Wishes, inject
from flotilla_cli.templates import find_objects

FOLDER = Path(__file__).parent / "inject"
INPUTS = sorted(path for path in FOLDER.iterdir() if ".injected" not in path.name)
WISHES = Wishes(make_settings({"images": {"router": {"tag": "1.2.3"}}}))
each_input = pytest.mark.parametrize("path", INPUTS, ids=lambda path: path.name)


def _inject(text: str) -> Outcome:
    return inject([Source("f", text)], WISHES)


@each_input
def test_the_text_with_a_sidecar_is_as_the_golden_file(path: Path, matches_golden: Callable[[str, str], None]) -> None:
    """A reader sees what is added, and that nothing else is touched."""
    outcome = _inject(path.read_text())

    assert outcome.errors == ()
    matches_golden(f"inject/{path.stem}.injected{path.suffix}", outcome.texts[0])


@each_input
def test_the_golden_file_is_left_as_it_is(path: Path) -> None:
    """It has its sidecar."""
    text = path.with_name(f"{path.stem}.injected{path.suffix}").read_text()

    assert _inject(text).texts == (text,)


@each_input
def test_windows_line_ends_stay(path: Path) -> None:
    """What is added ends its lines as the rest does."""
    text = path.read_text()

    (after,) = _inject(text.replace("\n", "\r\n")).texts

    assert after == _inject(text).texts[0].replace("\n", "\r\n")


@pytest.mark.parametrize("version", ["1.29", "1.36"])
@each_input
def test_what_is_written_fits_the_schemas_of_kubernetes(path: Path, version: str) -> None:
    """Strictly, in the oldest and the newest version that is supported."""
    (text,) = _inject(path.read_text()).texts
    found = [each.value for document in split(text) for each in find_objects(parse(document), "default")]
    known: list[dict[str, Any]] = [each for each in found if "flotilla.dev" not in each["apiVersion"]]

    assert known
    for manifest in known:
        kubernetes_validate.validate(manifest, version, strict=True)  # pyright: ignore[reportUnknownMemberType]
