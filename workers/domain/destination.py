"""Where a webhook may go: which URLs, which ports, which addresses.

A URL comes from outside and is called from inside, where addresses are reachable that no stranger
should reach. So only TLS, only ports where it is usual, only addresses of the public Internet, and
the address that was checked is the one that is connected to. The lists are those of the IANA
special-purpose registries, written out: what `ipaddress` calls global differs between versions of
Python.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

URL_CHARS_MAX: Final = 2_048
# 443, and 8443 where a proxy in front of it is another's. With more, a POST of ours could be aimed
# at whatever listens with TLS: etcd, the Kubernetes API, a database's console.
PORTS: Final = (443, 8443)

Address = IPv4Address | IPv6Address

_HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\.?")
_PRINTABLE = re.compile(r"[\x21-\x7e]+")

Network = IPv4Network | IPv6Network

_NOT_PUBLIC_4: Final[list[Network]] = [
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
]
_GLOBAL_UNICAST_6: Final = IPv6Network("2000::/3")
_NOT_PUBLIC_6: Final[list[Network]] = [
    IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
]
_NAT64: Final = IPv6Network("64:ff9b::/96")
# Never, not even where private addresses are allowed: nobody's receiver, but where clouds hand out
# credentials (link-local; Alibaba's and AWS's own), nobody's own address, everybody's address, and
# what a translator or relay of whoever's network makes an IPv4 address of (local-use NAT64, 6to4).
_NEVER: Final[list[Network]] = [
    *map(IPv4Network, ("0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4")),
    IPv4Network("100.100.100.200/32"),
    *map(IPv6Network, ("::/128", "fe80::/10", "ff00::/8", "fd00:ec2::254/128")),
    *map(IPv6Network, ("64:ff9b:1::/48", "2002::/16")),
]


class Refused(Exception):
    """Nothing of ours is sent there; the message says why."""


class Destination(Struct, frozen=True):
    """A URL taken apart. `host` is a name or an address without brackets; `target` path and query."""

    tls: bool
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """What stands in the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


def destination_of(url: str, *, allow_private: bool = False) -> Destination:
    """Take a URL apart. Raises Refused for one that may not be called, whatever it resolves to.

    `allow_private` admits plain HTTP and any port, as on a developer's machine.
    """
    if len(url) > URL_CHARS_MAX or not _PRINTABLE.fullmatch(url) or "\\" in url:
        raise Refused(f"expected a URL of up to {URL_CHARS_MAX} ASCII characters, without spaces")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise Refused(f"not a URL: {error}") from None
    if parts.scheme != "https" and not (allow_private and parts.scheme == "http"):
        raise Refused("expected an https:// URL")
    if "@" in parts.netloc:
        raise Refused("a URL with a user or a password in it: both would end up in logs")
    if "#" in url:
        raise Refused("a URL with a fragment, which is never sent")
    tls = parts.scheme == "https"
    port = port if port is not None else 443 if tls else 80
    if not allow_private and port not in PORTS:
        raise Refused(f"port {port}: expected one of {', '.join(map(str, PORTS))}")
    target = parts.path or "/"
    if parts.query:
        target += f"?{parts.query}"
    return Destination(tls=tls, host=_host(parts.hostname or ""), port=port, target=target)


def check_address(text: str, *, allow_private: bool = False) -> Address:
    """Read a resolved address. Raises Refused for one that is not of the public Internet.

    What an IPv6 address carries inside it (mapped, translated) is judged as what it carries; but a
    translated one is called as it is: where it was found, IPv4 may lead nowhere.
    """
    try:
        address = _unmapped(ip_address(text.partition("%")[0]))
    except ValueError:
        raise Refused(f"{text} is no address") from None
    if allow_private:
        if _within(_carried(address), _NEVER):
            raise Refused(f"{text} is nobody's receiver")
    elif not _is_public(_carried(address)):
        raise Refused(f"{text} is not an address of the public Internet")
    return address


def _host(host: str) -> str:
    if "%" in host:
        raise Refused("an address of one link only")
    try:
        return str(ip_address(host))
    except ValueError:
        pass
    last = host.rstrip(".").rpartition(".")[2]
    # `127.1`, `0x7f000001`, `2130706433`: addresses to some resolvers, names to others.
    if len(host) > 253 or not _HOST.fullmatch(host) or last[:1].isdigit():
        raise Refused(f"{host!r} is no host name; write an international one in its xn-- form")
    return host


def _unmapped(address: Address) -> Address:
    """Take an IPv4 address out of the form in which it never travels."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _carried(address: Address) -> Address:
    """Return the IPv4 address that a translator makes of it, or the address itself."""
    if _within(address, [_NAT64]):
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return not _within(address, _NOT_PUBLIC_4)
    return address in _GLOBAL_UNICAST_6 and not _within(address, _NOT_PUBLIC_6)


def _within(address: Address, networks: list[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)
