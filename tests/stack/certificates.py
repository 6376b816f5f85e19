"""A private certificate authority, as a company in front of its own provider would run one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_VALID = timedelta(days=2)


@dataclass(frozen=True, slots=True)
class ServingCertificate:
    """PEM texts: a serving certificate, its key, and the authority that signed it."""

    certificate: str
    key: str
    authority: str


def make_serving_certificate(*names: str) -> ServingCertificate:
    """A certificate for the DNS `names`, signed by an authority of its own."""
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = _sign("simulated authority", authority_key, authority_key, issuer="simulated authority", names=())
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _sign(names[0][:64], key, authority_key, issuer="simulated authority", names=names)
    return ServingCertificate(_pem(certificate), _key_pem(key), _pem(authority))


def _sign(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    *,
    issuer: str,
    names: tuple[str, ...],
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + _VALID)
        .add_extension(x509.BasicConstraints(ca=not names, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False
        )
    else:
        builder = builder.add_extension(_signing_usage(), critical=True)
    return builder.sign(signer, hashes.SHA256())


def _signing_usage() -> x509.KeyUsage:
    return x509.KeyUsage(
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


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
