"""The authority that all replicas share, what it signs, and the Secret that holds it. PURE, but for making keys."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from flotilla_api.names import MANAGED_BY, MANAGED_BY_LABEL
from flotilla_operator.reconcile.types import Manifest

SECRET_NAME = "flotilla-control-tls"  # noqa: S105 - the name of an object
AUTHORITY_LIFETIME = timedelta(days=3650)
AUTHORITY_RENEW_BEFORE = timedelta(days=365)
SERVING_LIFETIME = timedelta(days=90)
SPREAD = timedelta(days=1)
"""How long a successor is trusted before it signs. Routers and the API server know it within minutes."""
CLOCK_SKEW = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Signer:
    """A certificate that signs others, with its key."""

    certificate: x509.Certificate
    private_key: ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class Authority:
    """Who signs, and whom to trust."""

    signer: Signer
    successor: Signer | None = None
    """Trusted already; signs once everybody knows it."""
    predecessors: tuple[x509.Certificate, ...] = ()
    """Still trusted, for what they signed."""

    @property
    def trusted(self) -> tuple[x509.Certificate, ...]:
        """The signing one first."""
        successor = (self.successor.certificate,) if self.successor else ()
        return (self.signer.certificate, *successor, *self.predecessors)

    @property
    def bundle(self) -> str:
        """PEM of `trusted`."""
        return b"".join(map(_pem, self.trusted)).decode()


@dataclass(frozen=True, slots=True)
class Serving:
    """A serving certificate with its key, both PEM."""

    chain: bytes
    private_key: bytes
    not_after: datetime
    issuer: x509.Certificate


def make_signer(now: datetime) -> Signer:
    """A new self-signed authority."""
    private_key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "flotilla control API authority")])
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _builder(name, private_key.public_key(), now, AUTHORITY_LIFETIME)
        .issuer_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private_key.public_key()), critical=False)
        .sign(private_key, hashes.SHA256())
    )
    return Signer(certificate, private_key)


def make_authority(now: datetime) -> Authority:
    """A new authority without a past."""
    return Authority(make_signer(now))


def renew(authority: Authority, now: datetime) -> Authority | None:
    """What `authority` is to become now; None: it stays as it is.

    | the signer's time left | successor          | then                                                    |
    |------------------------|--------------------|---------------------------------------------------------|
    | over a year            | any                | stays                                                   |
    | over 90 days           | none               | gets a successor, which is trusted and does not sign yet |
    | over 90 days           | younger than a day | stays                                                   |
    | over 90 days           | a day old          | the successor signs, the signer stays trusted           |
    | less                   | any                | the same at once: what it signs now would end with it   |
    """
    left = authority.signer.certificate.not_valid_after_utc - now
    successor = authority.successor
    if left > AUTHORITY_RENEW_BEFORE:
        return None
    if left <= SERVING_LIFETIME:
        return _succeed(authority, successor or make_signer(now))
    if successor is None:
        return replace(authority, successor=make_signer(now))
    known = now - successor.certificate.not_valid_before_utc >= SPREAD
    return _succeed(authority, successor) if known else None


def _succeed(authority: Authority, successor: Signer) -> Authority:
    return Authority(successor, predecessors=(authority.signer.certificate,))


def make_serving(authority: Authority, now: datetime, *, names: Sequence[str], address: str) -> Serving:
    """A certificate for the DNS `names` and the IP `address`, signed by `authority`."""
    signer = authority.signer
    private_key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    alternatives = [*(x509.DNSName(name) for name in names), x509.IPAddress(ipaddress.ip_address(address))]
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.private_key.public_key())
    certificate = (
        _builder(subject, private_key.public_key(), now, SERVING_LIFETIME)
        .issuer_name(signer.certificate.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(issuer_key, critical=False)
        .sign(signer.private_key, hashes.SHA256())
    )
    chain = _pem(certificate) + _pem(signer.certificate)
    return Serving(chain, _private_pem(private_key), certificate.not_valid_after_utc, signer.certificate)


def authority_secret(authority: Authority, namespace: str) -> Manifest:
    """The Secret that holds `authority`."""
    entries = {"ca.crt": authority.bundle.encode(), "ca.key": _private_pem(authority.signer.private_key)}
    if authority.successor:
        entries["next.key"] = _private_pem(authority.successor.private_key)
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET_NAME, "namespace": namespace, "labels": {MANAGED_BY_LABEL: MANAGED_BY}},
        "type": "Opaque",
        "data": {name: base64.b64encode(value).decode() for name, value in entries.items()},
    }


def read_authority(secret: Manifest) -> Authority:
    """The authority in a Secret.

    Raises:
        ValueError: it holds none.
    """
    data: dict[str, str] = secret.get("data") or {}
    entries = {name: base64.b64decode(text, validate=True) for name, text in data.items()}
    for name in ("ca.crt", "ca.key"):
        if name not in entries:
            raise ValueError(f"no entry {name}")
    first, *others = x509.load_pem_x509_certificates(entries["ca.crt"])
    signer = _read_signer(first, entries["ca.key"], "ca.key")
    if "next.key" not in entries:
        return Authority(signer, predecessors=tuple(others))
    if not others:
        raise ValueError("next.key is the key of no certificate in ca.crt")
    return Authority(signer, _read_signer(others[0], entries["next.key"], "next.key"), tuple(others[1:]))


def _read_signer(certificate: x509.Certificate, key_pem: bytes, entry: str) -> Signer:
    try:
        private_key = serialization.load_pem_private_key(key_pem, password=None)
    except TypeError as error:
        raise ValueError(f"{entry} is encrypted") from error
    if not isinstance(private_key, ec.EllipticCurvePrivateKey) or private_key.public_key() != certificate.public_key():
        raise ValueError(f"{entry} is not the key of its certificate in ca.crt")
    return Signer(certificate, private_key)


def _builder(
    subject: x509.Name, public_key: ec.EllipticCurvePublicKey, now: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + lifetime)
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private_pem(private_key: ec.EllipticCurvePrivateKey) -> bytes:
    return private_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
