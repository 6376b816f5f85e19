"""An engine restarts when what it runs with changes, and for no other reason: not for a default that is written out."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import pytest

from builders import SETTINGS, Manifest, a_profile, an_expert
from crdcases.objects import SERVED
from flotilla_operator.resources.engine_template import make_engine_template, restart_hash
from flotilla_operator.resources.specs import Served, parse_model, parse_profile

EXPERT = an_expert(**SERVED)
PROFILE = a_profile(runtimeClassName="nvidia")
OPERATOR = replace(SETTINGS, engine_image="registry.example.com/another:1")
Path = tuple[str, ...]


def paths(manifest: Manifest, path: Path = ()) -> Iterator[Path]:
    """Every field of an object, those of its objects included; lists count as one."""
    for name, value in manifest.items():
        yield (*path, name)
        if isinstance(value, dict):
            yield from paths(cast("Manifest", value), (*path, name))


def changed(manifest: Manifest, path: Path) -> Manifest | None:
    """Another valid value in the place of one; None: the field is a map of others."""
    *parents, last = path
    found = copy.deepcopy(manifest)
    node = found["spec"]
    for parent in parents:
        node = node[parent]
    before = node[last]
    if isinstance(before, dict):
        return None
    if isinstance(before, bool):
        node[last] = not before
    elif isinstance(before, list):
        node[last] = before[1:]
    elif last in ("timeout", "startupTimeout"):
        node[last] = "7m"
    elif last in ("cpu", "memory"):
        node[last] = "3"
    else:
        node[last] = before + ("x" if isinstance(before, str) else 1)
    return found


def without(manifest: Manifest, path: Path) -> Manifest:
    *parents, last = path
    found = copy.deepcopy(manifest)
    node = found["spec"]
    for parent in parents:
        node = node[parent]
    del node[last]
    return found


def judged(expert: Manifest, profile: Manifest) -> tuple[Manifest, str]:
    """The pod template that is rendered, and the hash that decides whether it is."""
    served, spec = parse_model(expert), parse_profile(profile)
    assert isinstance(served, Served)
    return make_engine_template(served, spec, OPERATOR), restart_hash(served, spec)


TEMPLATE, HASH = judged(EXPERT, PROFILE)
REQUIRED = {
    ("model",),
    ("model", "uri"),
    ("model", "tokenSecretRef", "name"),
    ("model", "tokenSecretRef", "key"),
    ("accelerator",),
    ("accelerator", "profile"),
}
EXPERTS = [
    *((path, changed(EXPERT, path)) for path in paths(SERVED)),
    *((("no", *path), without(EXPERT, path)) for path in paths(SERVED) if path not in REQUIRED),
]
PROFILES = [(path, changed(PROFILE, path)) for path in paths(PROFILE["spec"])]


def as_params(cases: list[tuple[Path, Manifest | None]]) -> list[Any]:
    return [pytest.param(each, id=".".join(path)) for path, each in cases if each]


@pytest.mark.parametrize("expert", as_params(EXPERTS))
def test_a_field_of_the_spec_is_hashed_when_it_changes_the_pod(expert: Manifest) -> None:
    """A pod that would be another is made anew; one that would be the same is left alone."""
    template, digest = judged(expert, PROFILE)

    assert (digest != HASH) is (template != TEMPLATE)


@pytest.mark.parametrize("profile", as_params(PROFILES))
def test_a_field_of_the_profile_is_hashed_when_it_changes_the_pod(profile: Manifest) -> None:
    """Prices and sizes of a pool are not in a pod."""
    template, digest = judged(EXPERT, profile)

    assert (digest != HASH) is (template != TEMPLATE)


def test_writing_out_the_defaults_restarts_nothing() -> None:
    """Neither does an empty list or the same time in another unit."""
    said = an_expert(
        accelerator={"profile": "l4", "count": 1},
        engine={"maxNumSeqs": 64, "startupTimeout": "900s", "args": [], "env": []},
        capabilities={"apis": ["chat", "completions"]},
        drain={"timeout": "1m"},
        podOverrides={"labels": {}, "tolerations": [], "resources": {"limits": {}}, "affinity": {}},
    )

    assert judged(said, PROFILE) == judged(an_expert(), PROFILE)


def test_no_drain_is_not_the_default_drain() -> None:
    """A zero is said."""
    _, digest = judged(an_expert(drain={"timeout": "0s"}), PROFILE)

    assert digest != judged(an_expert(), PROFILE)[1]


def test_only_experts_that_may_sleep_run_with_sleep_mode() -> None:
    """Asking for sleep makes their pods anew, and nobody else's; how they are scaled restarts nothing."""
    scaled = an_expert(scaling={"min": 0, "max": 4})
    sleepy = an_expert(scaling={"min": 0, "max": 4, "sleep": {"after": "5m"}})

    template, digest = judged(sleepy, PROFILE)

    engine = template["spec"]["containers"][0]
    assert "--enable-sleep-mode" in engine["args"]
    assert {"name": "VLLM_SERVER_DEV_MODE", "value": "1"} in engine["env"]
    assert digest != judged(scaled, PROFILE)[1]
    assert judged(scaled, PROFILE) == judged(an_expert(), PROFILE)


@pytest.mark.parametrize("mode", ["Recommend", "Off"])
def test_experts_that_nothing_puts_to_sleep_run_without_sleep_mode(mode: str) -> None:
    """A spec that was stored before the rule against it opens no development paths."""
    scaling = {"min": 0, "max": 4, "mode": mode}

    assert judged(an_expert(scaling=scaling | {"sleep": {"after": "5m"}}), PROFILE) == judged(
        an_expert(scaling=scaling), PROFILE
    )
