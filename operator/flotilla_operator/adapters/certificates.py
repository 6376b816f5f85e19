"""The control API's authority and serving certificates.

One Secret holds the authority that all replicas share; it is created once, and whoever comes second reads the first's.
Each replica issues its own serving certificate from it, for the Service and for its own address, and renews it while it
serves; that key never leaves the process's memory and a file that only its user may read.
"""

from __future__ import annotations

import base64
import ipaddress
import logging
import ssl
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from flotilla_api.names import MANAGED_BY, MANAGED_BY_LABEL
from flotilla_operator.ports import Clock, NotFoundError, OperatorError, OutdatedError
from flotilla_operator.reconcile.types import Manifest
from flotilla_operator.telemetry import LOGGER, fields

from .client import Client
from .kinds import SECRET

SECRET_NAME = "flotilla-control-tls"  # noqa: S105 - the name of an object
AUTHORITY_LIFETIME = timedelta(days=3650)
AUTHORITY_RENEW_BEFORE = timedelta(days=365)
SERVING_LIFETIME = timedelta(days=90)
SERVING_RENEW_BEFORE = timedelta(days=30)
CLOCK_SKEW = timedelta(minutes=5)
CHECK_SECONDS = 300.0
RETRY_SECONDS = 2.0

logger = logging.getLogger(LOGGER)


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority, and all that it trusts: after a renewal, its predecessor too."""

    certificate: x509.Certificate
    private_key: ec.EllipticCurvePrivateKey
    bundle: str
    """PEM of the authorities to trust, the signing one first."""

    def private_pem(self) -> bytes:
        """The private key, unencrypted."""
        return _private_pem(self.private_key)


@dataclass(frozen=True, slots=True)
class Serving:
    """A serving certificate with its key, both PEM."""

    chain: bytes
    private_key: bytes
    not_after: datetime


def make_authority(now: datetime, predecessor: Authority | None = None) -> Authority:
    """A new authority; what `predecessor` signed stays trusted until it runs out."""
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
    older = _pem(predecessor.certificate).decode() if predecessor else ""
    return Authority(certificate, private_key, _pem(certificate).decode() + older)


def make_serving(authority: Authority, now: datetime, *, names: Sequence[str], address: str) -> Serving:
    """A certificate for the DNS `names` and the IP `address`, signed by `authority`."""
    private_key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    alternatives = [*(x509.DNSName(name) for name in names), x509.IPAddress(ipaddress.ip_address(address))]
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.private_key.public_key())
    certificate = (
        _builder(subject, private_key.public_key(), now, SERVING_LIFETIME)
        .issuer_name(authority.certificate.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(issuer_key, critical=False)
        .sign(authority.private_key, hashes.SHA256())
    )
    chain = _pem(certificate) + _pem(authority.certificate)
    return Serving(chain, _private_pem(private_key), certificate.not_valid_after_utc)


def authority_secret(authority: Authority, namespace: str) -> Manifest:
    """The Secret that holds `authority`."""
    entries = {"ca.crt": authority.bundle.encode(), "ca.key": authority.private_pem()}
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
    try:
        bundle, key_pem = (base64.b64decode(data[name], validate=True) for name in ("ca.crt", "ca.key"))
        certificate = x509.load_pem_x509_certificates(bundle)[0]
        private_key = serialization.load_pem_private_key(key_pem, password=None)
    except KeyError as error:
        raise ValueError(f"no entry {error}") from error
    except TypeError as error:
        raise ValueError("ca.key is encrypted") from error
    if not isinstance(private_key, ec.EllipticCurvePrivateKey) or private_key.public_key() != certificate.public_key():
        raise ValueError("ca.key is not the key of the first certificate in ca.crt")
    return Authority(certificate, private_key, bundle.decode())


class Certificates:
    """What the control API serves with and what its callers trust. Loaded by `load`, kept valid by `run`.

    `changed` is called whenever `bundle` became another.
    """

    def __init__(
        self,
        client: Client,
        clock: Clock,
        *,
        namespace: str,
        names: Sequence[str],
        address: str,
        changed: Callable[[], None],
    ) -> None:
        self._client = client
        self._changed = changed
        self._clock = clock
        self._namespace = namespace
        self._names = tuple(names)
        self._address = address
        self._authority: Authority | None = None
        self._serving: Serving | None = None
        self.server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        """For the listener; new handshakes use the newest certificate."""
        self.server_context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        """For dialling another replica; replaced when the authority is."""

    @property
    def loaded(self) -> bool:
        """Whether the listener can serve."""
        return self._serving is not None

    @property
    def bundle(self) -> str:
        """PEM of the authorities that callers are to trust; '' before the first load."""
        return self._authority.bundle if self._authority else ""

    async def load(self) -> None:
        """The certificates are loaded; waits, saying so, for an API server that does not answer."""
        while not self.loaded:
            try:
                await self.refresh()
            except OperatorError as error:
                logger.warning("waiting for certificates", extra=fields(reason=str(error)))
                await self._clock.sleep(RETRY_SECONDS)

    async def run(self) -> None:
        """Renews for ever, well before anything runs out."""
        while True:
            await self._clock.sleep(CHECK_SECONDS)
            try:
                await self.refresh()
            except OperatorError as error:
                logger.warning("certificates not checked", extra=fields(reason=str(error)))

    async def refresh(self) -> None:
        """The authority is the Secret's, made or renewed where need be; the serving certificate is valid under it."""
        authority = await self._shared_authority()
        now = self._clock.now()
        trusted = self._authority is not None and self._authority.bundle == authority.bundle
        if trusted and self._serving and self._serving.not_after - now > SERVING_RENEW_BEFORE:
            return
        self._serving = make_serving(authority, now, names=self._names, address=self._address)
        _load_chain(self.server_context, self._serving)
        self._authority = authority
        self.client_context = ssl.create_default_context(cadata=authority.bundle)
        logger.info("serving certificate issued", extra=fields(not_after=self._serving.not_after.isoformat()))
        if not trusted:
            self._changed()

    async def _shared_authority(self) -> Authority:
        secret = await self._secret()
        if secret is None:
            made = authority_secret(make_authority(self._clock.now()), self._namespace)
            return read_authority(await self._store_first(made))
        try:
            authority = read_authority(secret)
        except ValueError as error:
            logger.warning("certificate Secret is broken, it is replaced", extra=fields(reason=str(error)))
            return read_authority(await self._replace(secret, make_authority(self._clock.now())))
        if authority.certificate.not_valid_after_utc - self._clock.now() > AUTHORITY_RENEW_BEFORE:
            return authority
        return read_authority(await self._replace(secret, make_authority(self._clock.now(), authority)))

    async def _secret(self) -> Manifest | None:
        try:
            return await self._client.get(SECRET.path(self._namespace, SECRET_NAME))
        except NotFoundError:
            return None

    async def _store_first(self, secret: Manifest) -> Manifest:
        """`secret`, or the one that another replica stored meanwhile."""
        try:
            return await self._client.create(SECRET, self._namespace, secret)
        except OutdatedError:
            return await self._client.get(SECRET.path(self._namespace, SECRET_NAME))

    async def _replace(self, before: Manifest, authority: Authority) -> Manifest:
        """The Secret with `authority`, or the one that another replica stored meanwhile."""
        version = before["metadata"]["resourceVersion"]
        secret = authority_secret(authority, self._namespace)
        secret["metadata"]["resourceVersion"] = version
        try:
            return await self._client.update(SECRET, secret)
        except OutdatedError:
            return await self._client.get(SECRET.path(self._namespace, SECRET_NAME))


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


def _load_chain(context: ssl.SSLContext, serving: Serving) -> None:
    """`context` serves with `serving`. The ssl module reads files only: one that only we may read, for a moment."""
    with tempfile.TemporaryDirectory(prefix="flotilla-tls-") as directory:
        path = Path(directory, "serving.pem")
        path.touch(mode=0o600)
        path.write_bytes(serving.private_key + serving.chain)
        context.load_cert_chain(path)
