"""A sidecar's way to external fallbacks: through the policy's gateway, which holds the providers' credentials."""

from __future__ import annotations

from pathlib import Path

from flotilla_api import names
from flotilla_api.control import Problem, ProblemKind
from flotilla_api.snapshot import ExternalTarget, RoutingSnapshot

from .addresses import split_url
from .credentials import Missing, Stamp, client_context, read_secret, stamp_of
from .openai import Api
from .reach import Reached, reach_all
from .upstream import Origin


class Relay:
    """Every external target, reached at the gateway with the pod's own token. Implements reach.Outside."""

    def __init__(self, policy: str, token_folder: Path, ca_folder: Path) -> None:
        self._policy = policy
        self._token = token_folder / names.GATEWAY_TOKEN_FILE
        self._ca = ca_folder / names.CA_FILE
        self._wanted = False
        """Whether there is an external target at all."""
        self._gateway: str | None = None
        self._origin: Origin | None = None
        self._seen: tuple[str | None, Stamp, Stamp] | None = None
        """What `_found` was made from: the gateway, its authority and the token."""
        self._found: dict[Api, Reached] | Missing = Missing("no snapshot has been loaded yet")

    def want(self, snapshot: RoutingSnapshot) -> None:
        """From now on external targets are reached at this snapshot's gateway."""
        self._wanted = any(target.external is not None for target in snapshot.targets)
        self._gateway = snapshot.gateway
        self.refresh()

    def refresh(self) -> None:
        """Token and authority are those of the files now; connections stay where only the token has changed."""
        seen = (self._gateway, stamp_of((self._ca,)), stamp_of((self._token,)))
        if seen == self._seen:
            return
        if self._seen is None or seen[:2] != self._seen[:2]:
            self._origin = None
        self._seen = seen
        self._found = self._make()

    def problems(self) -> list[Problem]:
        """One where an external target is wanted and the gateway cannot be called, or will not be known."""
        if not self._wanted:
            return []
        text = self._found.problem if isinstance(self._found, Missing) else self._missing_mount()
        return [Problem(ProblemKind.GATEWAY, "", text)] if text else []

    def of(self, name: str, external: ExternalTarget, api: Api) -> Reached | Missing:  # noqa: ARG002 - all go one way
        """How to reach any Fallback now."""
        return self._found if isinstance(self._found, Missing) else self._found[api]

    def can_reach(self, name: str, external: ExternalTarget) -> bool:  # noqa: ARG002
        """Whether the gateway can be called."""
        return not isinstance(self._found, Missing)

    def _missing_mount(self) -> str:
        """What a pod says that was made when the gateway had no certificate: a volume cannot be added to it.

        Calls are tried all the same, by the system's roots: the certificate may be one of a public authority.
        """
        if self._origin is None or self._origin.tls is None or self._ca.parent.is_dir():
            return ""
        return "the gateway has a certificate since after this pod was made: make the pod anew, so that it is trusted"

    def _make(self) -> dict[Api, Reached] | Missing:
        if self._gateway is None:
            return Missing("the snapshot names no gateway: no external fallback is called")
        token = read_secret(self._token)
        if not token:
            return Missing(f"the gateway's token is missing or not one line of ASCII: {self._token}")
        try:
            self._origin = self._origin or self._make_origin(self._gateway)
        except (OSError, ValueError):
            return Missing(f"the gateway's CA certificate is not in PEM format: {self._ca}")
        lines = b"authorization: Bearer %b\r\n%b: %b\r\n" % (
            token,
            names.RELAY_HEADER.encode(),
            self._policy.encode(),
        )
        return reach_all(self._origin, self._gateway, lines, relayed=True)

    def _make_origin(self, gateway: str) -> Origin:
        url = split_url(gateway)
        tls = client_context(self._ca if self._ca.exists() else None) if url.secure else None
        return Origin(url.host, url.port, tls)
