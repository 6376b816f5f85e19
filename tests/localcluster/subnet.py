"""Every cluster has a loopback network of its own, so that no two clusters ever meet on an address or a port."""

from __future__ import annotations

import random
import socket
from dataclasses import dataclass
from typing import Self

FIRST, LAST = 96, 223  # second byte of 127.N.0.0/16; below and above are left to others


@dataclass(frozen=True, slots=True)
class Subnet:
    """127.N.0.0/16: the lower half holds ClusterIPs, the upper half pods."""

    number: int

    @property
    def service_cidr(self) -> str:
        """ClusterIPs."""
        return f"127.{self.number}.0.0/17"

    @property
    def pod_cidr(self) -> str:
        """Pod IPs."""
        return f"127.{self.number}.128.0/17"

    @property
    def kubernetes_service(self) -> str:
        """The ClusterIP of `kubernetes.default`: the first that the API server hands out."""
        return f"127.{self.number}.0.1"

    @property
    def host(self) -> str:
        """Where the control plane and the nodes' kubelet endpoint listen: in neither range's assignable addresses."""
        return f"127.{self.number}.127.255"


class SubnetLock:
    """A subnet that belongs to the living processes that hold this lock's descriptor, and to no other cluster.

    The lock is a bound socket: its scope is exactly that of the addresses it guards (this network namespace, all
    users), and the kernel frees it with the last process that holds it, however that ends.
    """

    def __init__(self, subnet: Subnet, holder: socket.socket) -> None:
        self.subnet = subnet
        self._holder = holder

    @classmethod
    def acquire(cls) -> Self:
        """A free subnet, now locked. The search starts anywhere, so that a subnet rests after its cluster's end.

        Raises:
            RuntimeError: all of them are taken.
        """
        start = random.randrange(LAST - FIRST + 1)
        for step in range(LAST - FIRST + 1):
            subnet = Subnet(FIRST + (start + step) % (LAST - FIRST + 1))
            holder = _bind(subnet)
            if holder is not None:
                return cls(subnet, holder)
        raise RuntimeError(f"all local cluster networks, 127.{FIRST}.0.0/16 to 127.{LAST}.0.0/16, are in use")

    @staticmethod
    def is_free(number: int) -> bool:
        """True when no process holds the subnet 127.`number`.0.0/16."""
        holder = _bind(Subnet(number))
        if holder is not None:
            holder.close()
        return holder is not None

    def fileno(self) -> int:
        """The descriptor; a process that inherits it shares the lock."""
        return self._holder.fileno()

    def release(self) -> None:
        """Let go; the subnet is free once the processes that inherited the descriptor are gone too."""
        self._holder.close()


def _bind(subnet: Subnet) -> socket.socket | None:
    holder = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        holder.bind((subnet.host, 6443))
    except OSError:
        holder.close()
        return None
    return holder
