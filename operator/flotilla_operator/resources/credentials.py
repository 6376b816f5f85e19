"""Credentials of external fallbacks in a gateway's pods: one folder for each url and the Secrets that belong to it.

A router hears of an edited Fallback before its own mounts change. The folder's name binds the key to its url, so that a
router that is behind finds no key at all, never the one of the url before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from flotilla_api import names
from flotilla_api.fallback import External

from .manifest import Manifest

_DIGEST_LENGTH = 16

Externals = Mapping[str, External]
"""External fallbacks by name."""


def credentials_folder(name: str, external: External) -> str:
    """Below CREDENTIALS_DIR: the fallback's name and a digest of its url and references to Secrets."""
    key, ca = external.credentialsSecretRef, external.tls and external.tls.caSecretRef
    bound = [external.url, key and [key.name, key.key], ca and [ca.name, ca.key]]
    return f"{name}-{hashlib.sha256(json.dumps(bound).encode()).hexdigest()[:_DIGEST_LENGTH]}"


def credential_mounts(externals: Externals) -> dict[str, str]:
    """Where each volume is mounted, by the volume's name."""
    return {
        _volume_of(name): f"{names.CREDENTIALS_DIR}/{credentials_folder(name, external)}"
        for name, external in _with_secrets(externals)
    }


def credential_volumes(externals: Externals) -> list[Manifest]:
    """The Secrets' keys, under the names that a router knows; a missing Secret leaves a gap that the router reports."""
    return [
        {"name": _volume_of(name), "projected": {"sources": _secret_sources(external)}}
        for name, external in _with_secrets(externals)
    ]


def _with_secrets(externals: Externals) -> list[tuple[str, External]]:
    return [(name, each) for name, each in sorted(externals.items()) if each.credentialsSecretRef or each.tls]


def _volume_of(fallback: str) -> str:
    return f"cred-{fallback}"


def _secret_sources(external: External) -> list[Manifest]:
    wanted = [(external.credentialsSecretRef, names.CREDENTIAL_FILE)]
    wanted += [(external.tls.caSecretRef, names.CA_FILE)] if external.tls else []
    return [
        {"secret": {"name": ref.name, "items": [{"key": ref.key, "path": path}], "optional": True}}
        for ref, path in wanted
        if ref
    ]
