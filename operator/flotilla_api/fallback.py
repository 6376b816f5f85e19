"""Fallback: a large model that answers when a small one is not enough, behind an API or served in the cluster."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from .expert import ServedModel, TokenCost
from .meta import Cel, Model, SecretKeyRef, checked

ExternalApi = Literal["chat", "completions"]
Location = Literal["External", "Local"]

DEFAULT_EXTERNAL_APIS: tuple[ExternalApi, ...] = ("chat", "completions")

FieldName = Annotated[str, Field(min_length=1, max_length=64)]


class ExternalTls(Model):
    """How the provider's certificate is verified."""

    caSecretRef: SecretKeyRef = Field(
        description="PEM bundle of the certificate authorities that are trusted instead of the system's."
    )


class RequestShape(Model):
    """Changes to the top level of a request that the provider would otherwise refuse; applied in the order drop, rename, set."""

    drop: list[FieldName] | None = Field(
        None,
        description="Fields that are left out.",
        max_length=32,
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    rename: dict[FieldName, FieldName] | None = Field(
        None, description="Old name to new name, such as max_tokens: max_completion_tokens.", max_length=32
    )
    set: dict[FieldName, Any] | None = Field(
        None,
        description="Fields that are set to this JSON value, replacing the client's.",
        max_length=32,
        json_schema_extra={"additionalProperties": {"x-kubernetes-preserve-unknown-fields": True}},
    )

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel(
            "!has(self.drop) || !('model' in self.drop || 'messages' in self.drop || 'stream' in self.drop)",
            "drop must not name model, messages or stream",
        ),
        Cel(
            "!has(self.set) || !('model' in self.set || 'messages' in self.set || 'stream' in self.set)",
            "set must not name model, messages or stream: use external.model for the model",
        ),
        Cel(
            "!has(self.rename) || !('model' in self.rename || 'messages' in self.rename || 'stream' in self.rename)",
            "rename must not name model, messages or stream",
        ),
    )


class External(Model):
    """An OpenAI-compatible API."""

    url: str = checked(
        Cel(
            "self.matches('^https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?$')",
            "must be an http(s) URL with a host and an optional path, such as https://api.example.com/v1",
        ),
        description="Base URL, the part before /chat/completions, such as https://api.example.com/v1.",
        max_length=512,
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
        json_schema_extra={"x-kubernetes-list-type": "set"},
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
