"""A trained artifact in a ConfigMap: its files and the digest that pins them."""

from __future__ import annotations

import base64

from flotilla_api.artifact import FILES, MANIFEST_FILE, digest_of

from .manifest import Manifest


def map_files(config_map: Manifest) -> dict[str, bytes]:
    """Those of an artifact's files that the ConfigMap holds; whatever else it holds is none of a router's business."""
    texts: dict[str, str] = config_map.get("data") or {}
    binaries: dict[str, str] = config_map.get("binaryData") or {}
    files = {name: text.encode() for name, text in texts.items() if name in FILES}
    return files | {name: base64.b64decode(encoded) for name, encoded in binaries.items() if name in FILES}


def map_digest(config_map: Manifest) -> str:
    """The artifact's digest; '' where there is no manifest.json."""
    manifest = map_files(config_map).get(MANIFEST_FILE)
    return "" if manifest is None else digest_of(manifest)
