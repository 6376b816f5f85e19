"""A cluster's keys: one certificate authority, a certificate for every party, service account keys, kubeconfigs."""

from __future__ import annotations

import datetime as dt
import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from localcluster.subnet import Subnet

VALIDITY = dt.timedelta(days=3650)
SUPERUSERS = "system:masters"
ADMIN_KUBECONFIG = "admin.kubeconfig"


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A PEM certificate and its private key, readable by their owner only."""

    cert: Path
    key: Path


class Authority:
    """A certificate authority whose key never leaves this process."""

    def __init__(self, directory: Path, common_name: str) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        certificate = (
            _builder(self._name, self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_CA_USAGE, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self._identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        self.path = directory / "ca.crt"
        self.path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        file_name: str,
        common_name: str,
        *,
        group: str = "",
        addresses: Sequence[str] = (),
        names: Sequence[str] = (),
    ) -> KeyPair:
        """A new certificate for client and server use, valid for `addresses` and DNS `names`, in `group` if given."""
        key = ec.generate_private_key(ec.SECP256R1())
        parts = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
        if group:
            parts.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, group))
        alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
        alternatives += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = _builder(x509.Name(parts), self._name, key)
        builder = builder.add_extension(usage, critical=False).add_extension(self._identifier, critical=False)
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        cert_path = self._directory / f"{file_name}.crt"
        cert_path.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return KeyPair(cert_path, write_private_key(self._directory / f"{file_name}.key", key))


_CA_USAGE = x509.KeyUsage(
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


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + VALIDITY)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def write_private_key(path: Path, key: ec.EllipticCurvePrivateKey) -> Path:
    """Write the key as PEM, readable by its owner only; `path`."""
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


@dataclass(frozen=True, slots=True)
class Administrator:
    """How to reach a cluster's API server and be allowed everything."""

    url: str
    ca: Path
    token: str
    kubeconfig: Path

    @classmethod
    def read(cls, directory: Path) -> Self:
        """The administrator of the cluster whose credentials are in `directory`."""
        kubeconfig = directory / ADMIN_KUBECONFIG
        content = yaml.safe_load(kubeconfig.read_text())
        cluster, user = content["clusters"][0]["cluster"], content["users"][0]["user"]
        return cls(cluster["server"], Path(cluster["certificate-authority"]), user["token"], kubeconfig)


@dataclass(frozen=True, slots=True)
class Credentials:
    """All the files that the parties of one cluster identify themselves and each other with."""

    ca: Path
    apiserver: KeyPair
    kubelet_client: KeyPair  # the API server's, towards the kubelet endpoint
    kubelet: KeyPair
    components: KeyPair  # the health endpoints of the controller manager and the scheduler
    service_account_key: Path
    service_account_public_key: Path
    tokens: Path  # the API server's static token file: holds the administrator's token
    administrator: Administrator
    agent_kubeconfig: Path
    controller_manager_kubeconfig: Path
    scheduler_kubeconfig: Path

    @classmethod
    def create(cls, directory: Path, subnet: Subnet, *, url: str, cluster: str) -> Self:
        """New credentials under `directory`, for an API server at `url` on the subnet's host address."""
        directory.mkdir(mode=0o700)
        authority = Authority(directory, f"{cluster} local cluster CA")
        account_key = ec.generate_private_key(ec.SECP256R1())
        admin_token = secrets.token_urlsafe(24)
        tokens = directory / "tokens.csv"
        tokens.touch(mode=0o600)
        tokens.write_text(f'{admin_token},admin,admin,"{SUPERUSERS}"\n')

        admin = {"token": admin_token}
        write_kubeconfig(directory / ADMIN_KUBECONFIG, cluster, url=url, ca=authority.path, user=admin)

        def kubeconfig(user: str, common_name: str, group: str = "") -> Path:
            pair = authority.issue(user, common_name, group=group)
            identity = {"client-certificate": str(pair.cert), "client-key": str(pair.key)}
            return write_kubeconfig(
                directory / f"{user}.kubeconfig", cluster, url=url, ca=authority.path, user=identity
            )

        return cls(
            ca=authority.path,
            apiserver=authority.issue(
                "apiserver", "kube-apiserver", addresses=_apiserver_addresses(subnet), names=_APISERVER_NAMES
            ),
            kubelet_client=authority.issue("kubelet-client", "kube-apiserver-kubelet-client", group=SUPERUSERS),
            kubelet=authority.issue("kubelet", "kubelet", addresses=[subnet.host]),
            components=authority.issue("components", "components", addresses=[subnet.host]),
            service_account_key=write_private_key(directory / "service-accounts.key", account_key),
            service_account_public_key=_write_public_key(directory / "service-accounts.pub", account_key),
            tokens=tokens,
            administrator=Administrator.read(directory),
            agent_kubeconfig=kubeconfig("node-agent", "local-node-agent", SUPERUSERS),
            controller_manager_kubeconfig=kubeconfig("controller-manager", "system:kube-controller-manager"),
            scheduler_kubeconfig=kubeconfig("scheduler", "system:kube-scheduler"),
        )


_APISERVER_NAMES = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)


def _apiserver_addresses(subnet: Subnet) -> list[str]:
    return [subnet.host, subnet.kubernetes_service, "127.0.0.1"]


def _write_public_key(path: Path, key: ec.EllipticCurvePrivateKey) -> Path:
    path.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return path


def write_kubeconfig(path: Path, cluster: str, *, url: str, ca: Path, user: dict[str, str]) -> Path:
    """Write a kubeconfig with one context, readable by its owner only; `path`. `user` is its way to authenticate."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": cluster, "cluster": {"server": url, "certificate-authority": str(ca)}}],
        "users": [{"name": path.stem, "user": user}],
        "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": path.stem}}],
        "current-context": cluster,
    }
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path
