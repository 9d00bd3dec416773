"""Where a webhook may go: a corpus of URLs and addresses that attackers try."""

from __future__ import annotations

import pytest

from workers.domain.destination import Refused, check_address, destination_of

BAD_URLS = [
    "",
    "hooks.example.com",
    "http://hooks.example.com/",
    "ftp://hooks.example.com/",
    "file:///etc/passwd",
    "gopher://hooks.example.com/",
    "//hooks.example.com/",
    "https://",
    "https:///path",
    "https://user@hooks.example.com/",
    "https://user:word@hooks.example.com/",
    "https://@hooks.example.com/",
    "https://good.example.com@127.0.0.1/",
    "https://hooks.example.com#@127.0.0.1/",
    "https://hooks.example.com/#part",
    "https://hooks.example.com\\@127.0.0.1/",
    "https://hooks.example.com:22/",
    "https://hooks.example.com:80/",
    "https://hooks.example.com:2379/",
    "https://hooks.example.com:6443/",
    "https://hooks.example.com:0/",
    "https://hooks.example.com:99999/",
    "https://hooks.example.com:x/",
    "https://hooks.example.com/a b",
    "https://hooks.example.com/\r\nX-Injected: 1",
    "https://hooks.example.com/\x00",
    "https://hooks.exämple.com/",
    "https://①②⑦.⓪.⓪.①/",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0177.0.0.1/",
    "https://127.1/",
    "https://127.0.0.1.",
    "https://[::1",
    "https://[fe80::1%25eth0]/",
    "https://hooks..example.com/",
    "https://-hooks.example.com/",
    "https://hooks.example.com/" + "a" * 2_048,
]

BAD_ADDRESSES = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "not-an-address",
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_url_that_may_not_be_called_is_refused_before_any_name_is_resolved(url: str) -> None:
    """With a reason, and no other exception."""
    with pytest.raises(Refused):
        destination_of(url)


@pytest.mark.parametrize("text", BAD_ADDRESSES)
def test_an_address_that_is_not_of_the_public_internet_is_refused(text: str) -> None:
    """However it is dressed."""
    with pytest.raises(Refused):
        check_address(text)


@pytest.mark.parametrize(
    ("text", "called"),
    [
        ("8.8.8.8", "8.8.8.8"),
        ("100.63.255.255", "100.63.255.255"),
        ("172.32.0.1", "172.32.0.1"),
        ("2606:4700::1111", "2606:4700::1111"),
        ("::ffff:8.8.8.8", "8.8.8.8"),
        ("64:ff9b::808:808", "64:ff9b::808:808"),
    ],
)
def test_a_public_address_is_called_as_what_it_is(text: str, called: str) -> None:
    """A translated one is judged as what it carries, and called as its network knows it."""
    assert str(check_address(text)) == called


@pytest.mark.parametrize(
    ("url", "host", "port", "target", "authority"),
    [
        ("https://a.example", "a.example", 443, "/", "a.example"),
        ("https://A.Example:443/x?y=1", "a.example", 443, "/x?y=1", "a.example"),
        ("https://a.example:8443/?q", "a.example", 8443, "/?q", "a.example:8443"),
        ("https://xn--exmple-cua.example/", "xn--exmple-cua.example", 443, "/", None),
        ("https://a_b.example./", "a_b.example.", 443, "/", None),
        ("https://8.8.8.8/", "8.8.8.8", 443, "/", "8.8.8.8"),
        ("https://[2606:4700::1]:8443/", "2606:4700::1", 8443, "/", "[2606:4700::1]:8443"),
    ],
)
def test_a_url_is_taken_apart(
    url: str, host: str, port: int, target: str, authority: str | None
) -> None:
    """The Host header names what was registered."""
    found = destination_of(url)
    assert (found.tls, found.host, found.port, found.target) == (True, host, port, target)
    assert authority in (None, found.authority)


def test_a_developers_machine_is_reached_only_where_it_is_allowed() -> None:
    """Plain HTTP, any port, private addresses."""
    found = destination_of("http://localhost:9000/hook", allow_private=True)
    assert (found.tls, found.authority) == (False, "localhost:9000")
    for text in ("127.0.0.1", "10.1.2.3", "::1", "fd00::1"):
        check_address(text, allow_private=True)


@pytest.mark.parametrize(
    "text",
    [
        *("169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "100.100.100.200"),
        *("fd00:ec2::254", "fe80::1", "64:ff9b:1::a9fe:a9fe", "2002:a9fe:a9fe::"),
    ],
)
def test_what_hands_out_credentials_is_refused_even_there(text: str) -> None:
    """No receiver has such an address."""
    with pytest.raises(Refused):
        check_address(text, allow_private=True)
