"""Fallback: a large model that answers when a small one is not enough, behind an API or served in the cluster."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from pydantic.config import JsonDict

from .expert import ServedModel, TokenCost
from .meta import AS_SET, PRESERVED, Cel, Model, SecretKeyRef, Url, checked, keys_at_most

ExternalApi = Literal["chat", "completions"]
Location = Literal["External", "Local"]

DEFAULT_EXTERNAL_APIS: tuple[ExternalApi, ...] = ("chat", "completions")

FieldName = Annotated[str, Field(min_length=1, max_length=64)]


_ROUTER_FIELDS = "['model', 'messages', 'prompt', 'stream']"
"""Fields that the router itself reads or writes, or without which there is no request."""

_UNTYPED: JsonDict = {"type": "array", "items": {"type": "object", **PRESERVED}}
# CEL cannot see the keys of a map of untyped values, only properties that the schema names: so it names what is refused.
_SET_SCHEMA: JsonDict = {
    **PRESERVED,
    "properties": {
        "model": {"type": "string", "description": "Refused: see external.model."},
        "messages": {**_UNTYPED, "description": "Refused."},
        "prompt": {"type": "string", "description": "Refused."},
        "stream": {"type": "boolean", "description": "Refused."},
    },
    "x-kubernetes-validations": [
        {
            "rule": "!has(self.model) && !has(self.messages) && !has(self.prompt) && !has(self.stream)",
            "message": "must not set model, messages, prompt or stream: use external.model for the model",
        }
    ],
}


class ExternalTls(Model):
    """How the provider's certificate is verified."""

    caSecretRef: SecretKeyRef = Field(
        description="PEM bundle of the certificate authorities that are trusted instead of the system's."
    )


class RequestShape(Model):
    """Changes to the top level of a request that the provider would otherwise refuse; applied in the order drop, rename, set."""

    drop: list[FieldName] | None = checked(
        Cel(f"!self.exists(name, name in {_ROUTER_FIELDS})", "must not drop model, messages, prompt or stream"),
        default=None,
        description="Fields that are left out.",
        max_length=32,
        extra=AS_SET,
    )
    rename: dict[str, FieldName] | None = checked(
        keys_at_most(64),
        Cel(
            f"!self.exists(old, old in {_ROUTER_FIELDS} || self[old] in {_ROUTER_FIELDS})",
            "must rename neither model, messages, prompt nor stream, and nothing to them",
        ),
        Cel(
            "self.all(old, !self.exists(other, other != old && self[other] == self[old]))",
            "must not give two fields the same name",
        ),
        default=None,
        description="Old name to new name, such as max_tokens: max_completion_tokens.",
        max_length=32,
    )
    set: dict[str, Any] | None = Field(
        None,
        description="Fields that are set to this JSON value, replacing the client's.",
        max_length=32,
        json_schema_extra=_SET_SCHEMA,
    )


class External(Model):
    """An OpenAI-compatible API."""

    url: Url = Field(
        description="Base URL, the part before /chat/completions, such as https://api.example.com/v1.",
    )
    model: str = Field(description="The provider's name of the model.", min_length=1, max_length=256)
    boundary: Location | None = Field(
        None,
        description="External: data leaves the organisation. Local: it does not, for instance an on-premises API. Default: External.",
    )
    credentialsSecretRef: SecretKeyRef | None = Field(
        None, description="API key, sent as a bearer token. Default: none is sent."
    )
    tls: ExternalTls | None = Field(None, description="Default: the system's certificate authorities.")
    apis: list[ExternalApi] | None = Field(
        None,
        description="APIs that it speaks; others are not sent there. Default: [chat, completions].",
        min_length=1,
        max_length=2,
        json_schema_extra=AS_SET,
    )
    request: RequestShape | None = Field(None, description="Changes to the request that this provider needs.")

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel(
            "self.url.startsWith('https://') || (has(self.boundary) && self.boundary == 'Local')",
            "url must be https:// unless boundary is Local",
        ),
        Cel("self.url.startsWith('https://') || !has(self.tls)", "tls belongs to https:// only"),
    )


class FallbackSpec(Model):
    """Exactly one of `external` and `served`."""

    external: External | None = Field(None, description="A model behind an OpenAI-compatible API.")
    served: ServedModel | None = Field(None, description="A model that Flotilla serves in the cluster.")
    cost: TokenCost | None = Field(
        None,
        description="Token prices. Default: for a served model the price of its GPU time; for an external one unknown.",
    )

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel("has(self.external) != has(self.served)", "set exactly one of external and served"),
    )
