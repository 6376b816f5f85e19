"""Pod addresses out of the cluster's range."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network


class AddressPool:
    """Hands out addresses in turn, so that one that was given back is not used again soon."""

    def __init__(self, cidr: str) -> None:
        network = IPv4Network(cidr)
        self._first = int(network.network_address) + 1
        self._size = network.num_addresses - 2
        self._used: set[str] = set()
        self._next = 0

    def take(self) -> str:
        """An address that nobody has.

        Raises:
            RuntimeError: there is none left.
        """
        for _ in range(self._size):
            address = str(IPv4Address(self._first + self._next))
            self._next = (self._next + 1) % self._size
            if address not in self._used:
                self._used.add(address)
                return address
        raise RuntimeError("every pod address is in use")

    def reserve(self, address: str) -> None:
        """The address is in use."""
        self._used.add(address)

    def give_back(self, address: str) -> None:
        """The address is free again."""
        self._used.discard(address)
