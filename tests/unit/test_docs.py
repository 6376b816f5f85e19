"""The documents keep in step with the project: quickstart, make targets, files, reasons and metrics that they name."""

from __future__ import annotations

import ast
import inspect
import itertools
import os
import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from flotilla_api import conditions, metrics
from flotilla_api.causes import CAUSE_GROUPS
from flotilla_api.conditions import ConditionType, Reason
from flotilla_api.scaling import Scaling
from flotilla_operator.scaling import types
from flotilla_router.wakes import REPEAT_SECONDS

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
OPERATIONS = ROOT / "docs" / "operations.md"
AUTOSCALING = ROOT / "docs" / "autoscaling.md"
CONCEPTS = ROOT / "docs" / "concepts.md"
DOCUMENTS = [README, *sorted((ROOT / "docs").glob("*.md"))]
SHOWN = {"quickstart": "*.yaml", "sidecar": "20-deployment.yaml"}
"""Folders of examples, and which files of each the README shows."""
LINK = re.compile(r"\]\((?!https?://)([^)#]+)")


def _shown(folder: str) -> str:
    files = sorted((ROOT / "examples" / folder).glob(SHOWN[folder]))
    return "\n".join(f"\n```yaml\n# {file.relative_to(ROOT)}\n{file.read_text().strip()}\n```" for file in files)


def _current_readme() -> str:
    text = README.read_text()
    for folder in SHOWN:
        begin, end = f"<!-- {folder}: files of examples/{folder}, kept in step by a test -->", f"<!-- /{folder} -->"
        head, rest = text.split(begin)
        _, tail = rest.split(end)
        text = f"{head}{begin}{_shown(folder)}\n\n{end}{tail}"
    return text


def test_readme_shows_the_examples_as_they_are() -> None:
    """The YAML in the README is the YAML that `kubectl apply` gets; UPDATE_GOLDEN=1 writes it."""
    if os.environ.get("UPDATE_GOLDEN"):
        README.write_text(_current_readme())

    assert README.read_text() == _current_readme()


def test_readme_names_make_targets_that_exist() -> None:
    """Every `make TARGET` in the documents is a target."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        target for path in DOCUMENTS for target in re.findall(r"(?:`|^)make ([a-z]+)", path.read_text(), re.MULTILINE)
    }

    assert named
    assert named <= targets


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(path: Path) -> None:
    """A relative link names a file or folder of the project."""
    missing = [link for link in LINK.findall(path.read_text()) if not (path.parent / link).exists()]

    assert missing == []


def _sentences(module: ModuleType, name: str = "") -> dict[str, str]:
    """What stands under each constant of a module, or of its class `name`, by the constant's value."""
    tree = ast.parse(inspect.getsource(module))
    bodies = {node.name: node.body for node in tree.body if isinstance(node, ast.ClassDef)}
    body = bodies[name] if name else tree.body
    pairs = itertools.pairwise(body)
    return {
        str(ast.literal_eval(constant.value)): str(ast.literal_eval(said.value)).removesuffix(".")
        for constant, said in pairs
        if isinstance(constant, ast.Assign) and isinstance(said, ast.Expr)
    }


def _with_table(text: str, head: str, rows: dict[str, str]) -> str:
    """`text` with the rows of the table under `head` replaced."""
    assert f"{head}\n|---|---|\n" in text
    before, _, rest = text.partition(f"{head}\n|---|---|\n")
    after = rest[re.match(r"(?:\|.*\n)*", rest).end() :]  # pyright: ignore[reportOptionalMemberAccess] - matches ''
    return f"{before}{head}\n|---|---|\n" + "".join(f"| `{name}` | {said} |\n" for name, said in rows.items()) + after


def _current_operations() -> str:
    text = OPERATIONS.read_text()
    text = _with_table(text, "| condition | true when |", _sentences(conditions, "ConditionType"))
    ours = {name: said for name, said in _sentences(metrics).items() if name.startswith("flotilla_")}
    return _with_table(text, "| metric | what it is |", ours)


def test_operations_lists_every_condition_and_metric_as_the_code_says() -> None:
    """The tables are the constants with the sentences under them; UPDATE_GOLDEN=1 writes them."""
    if os.environ.get("UPDATE_GOLDEN"):
        OPERATIONS.write_text(_current_operations())

    assert OPERATIONS.read_text() == _current_operations()


def _current_autoscaling() -> str:
    return _with_table(AUTOSCALING.read_text(), "| rule | what bound the number |", _sentences(types, "Rule"))


def test_autoscaling_lists_every_rule_as_the_code_says() -> None:
    """As above."""
    if os.environ.get("UPDATE_GOLDEN"):
        AUTOSCALING.write_text(_current_autoscaling())

    assert set(_sentences(types, "Rule")) == set(types.Rule)
    assert AUTOSCALING.read_text() == _current_autoscaling()


@pytest.mark.parametrize("path", [AUTOSCALING, CONCEPTS], ids=lambda path: path.name)
def test_documents_say_how_often_routers_wake(path: Path) -> None:
    """As the router does."""
    (said,) = re.findall(r"every ([\d.]+) s while", " ".join(path.read_text().split()))

    assert float(said) == REPEAT_SECONDS


def test_autoscaling_shows_every_field() -> None:
    """The YAML at its top is a spec that the models take, and leaves nothing out."""
    (shown,) = re.findall(r"```yaml\n(scaling:.*?)```", AUTOSCALING.read_text(), re.DOTALL)

    scaling = Scaling.model_validate(yaml.safe_load(shown)["scaling"])

    assert scaling.model_fields_set == set(Scaling.model_fields)


def test_every_constant_has_a_sentence() -> None:
    """A table would lack one that has none."""
    own = {value for name, value in vars(metrics).items() if name.startswith(("ROUTER_", "OPERATOR_"))}

    assert own <= set(_sentences(metrics))
    assert set(_sentences(conditions, "ConditionType")) == set(ConditionType)


def test_operations_says_what_to_do_about_every_reason() -> None:
    """Each reason stands in one table, or among those about which nothing is to be done."""
    text = OPERATIONS.read_text()
    cells = re.findall(
        r"^\| ((?:`[A-Z][A-Za-z]+`(?:, )?)+) \|", _with_table(text, "| condition | true when |", {}), re.M
    )
    told = [reason for cell in cells for reason in re.findall(r"`([A-Za-z]+)`", cell)]
    (rest,) = re.findall(r"^Nothing is to be done about ((?:`[A-Za-z]+`,?\s)*`[A-Za-z]+`)\.$", text, re.M)
    quiet = re.findall(r"`([A-Za-z]+)`", rest)

    assert sorted([*told, *quiet]) == sorted(Reason)


def test_operations_alerts_on_metrics_that_exist() -> None:
    """Also where one is named in a sentence."""
    named = set(re.findall(r"flotilla_(?:router|operator)_[a-z_]+", OPERATIONS.read_text()))

    assert named <= set(_sentences(metrics))


def test_concepts_lists_every_cause_with_its_group() -> None:
    """The table of causes is the enum."""
    text = CONCEPTS.read_text()
    listed = dict(re.findall(r"^\| `([A-Za-z]+)` \| (capacity|quality|limit|fault|policy) \|", text, re.MULTILINE))

    assert listed == {cause.value: group.value for cause, group in CAUSE_GROUPS.items()}


def test_concepts_lists_every_header() -> None:
    """The headers that the router sends and reads, each one in the text."""
    sources = (ROOT / "router-sidecar" / "flotilla_router").rglob("*.py")
    used = {name for path in sources for name in re.findall(r"x-flotilla-[a-z-]+", path.read_text())}

    assert set(re.findall(r"x-flotilla-[a-z-]+", CONCEPTS.read_text())) == used
