"""Which remote sources may be named, and which addresses may be connected to for them.

Pure: it resolves nothing and connects to nothing. A name is judged by what it resolves to, every address
of it, at the moment of connecting and not before (``worker/fetching.py``).
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Literal
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from understudy.errors import SourceRefused

Address = IPv4Address | IPv6Address

MAX_URL_CHARACTERS = 2000
SCHEMES = ("s3", "gs", "https")

#: A bucket's name of S3 and of Google: letters of a host name, so that it can lead to no other host.
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_LABEL = "[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?")
#: Spaces, controls and backslashes, which two readers of a URL read differently.
_UNSAFE = re.compile(r"[\x00-\x20\x7f-\x9f\\\ud800-\udfff]")
#: Parameters by which a URL carries the right to read it: it would be kept and shown.
_SECRET = re.compile(
    r"(x-amz-|x-goog-).*|(aws)?accesskeyid|googleaccessid|signature|sig|.*token|.*(secret|password|passwd|api_?key)|key",
    re.IGNORECASE,
)
#: Not global, whatever the version of Python's own table says.
_NEVER = tuple(
    map(
        ipaddress.ip_network,
        (
            "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
            "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24",
            "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
            # Clouds' own services at addresses that look public: Azure's, Alibaba's is within 100.64/10.
            "168.63.129.16/32",
            "::/128", "::1/128", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "3fff::/20", "5f00::/16",
            "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
        ),
    )
)  # fmt: skip
_GLOBAL_V6 = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_COMPATIBLE = ipaddress.ip_network("::/96")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address. A name other than localhost is not looked up: it is not."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Source:
    """A URL that may be asked for: a prefix of a bucket, or one file by https."""

    scheme: Literal["s3", "gs", "https", "http"]  #: http: a webhook only
    host: str  #: the host by https or http, else the store's bucket
    port: int  #: 0 for stores
    path: str  #: as https sends it; for a store, the prefix of keys without a slash at its head
    url: str  #: the whole, in its one way to be written

    @property
    def netloc(self) -> str:
        """Host and port as the Host header has them."""
        return self.url.split("/")[2]

    @property
    def is_store(self) -> bool:
        return self.scheme in ("s3", "gs")


@dataclass(frozen=True)
class Allowance:
    """The private hosts and networks that whoever runs the system has allowed by name."""

    hosts: frozenset[str] = frozenset()
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()
    setting: str = "UNDERSTUDY_ALLOWED_SOURCES"  #: where more are allowed, for messages

    @classmethod
    def read(cls, text: str, *, setting: str = setting) -> "Allowance":
        """Hosts and networks, separated by commas. Raises ValueError for what is neither."""
        hosts, networks = set(), []
        for word in filter(None, (part.strip().lower() for part in text.split(","))):
            try:
                networks.append(ipaddress.ip_network(word))
            except ValueError:
                if not _HOST.fullmatch(word) or "/" in word:
                    raise ValueError(f"{word!r} is neither a host's name nor a network as 10.0.0.0/8") from None
                hosts.add(word.rstrip("."))
        return cls(frozenset(hosts), tuple(networks), setting)


_NOBODY = Allowance()


def parse(url: str, allowed: Allowance = _NOBODY, *, is_kept: bool = True) -> Source:
    """A URL as people write it. Raises SourceRefused; no message repeats what may be a secret.

    ``is_kept``: it will be kept and shown, so it must not carry the right to read it. A redirect may.
    """
    parts, host, port = _split(url, "s3://bucket/prefix or https://host/file")
    if parts.scheme not in SCHEMES:
        what = f"a source by {parts.scheme!r}" if parts.scheme else "a path without a scheme"
        raise SourceRefused(f"{what[:40]} is not taken; name one by s3://, gs:// or https://", code="scheme_refused")
    if parts.scheme == "https":
        if is_kept:
            _refuse_secrets(parts.query)
        return _file("https", host, port, parts.path, parts.query, allowed)
    if port is not None or parts.query or "?" in url:
        raise SourceRefused("a store's URL is s3://bucket/prefix or gs://bucket/prefix, without port or parameters")
    return _store("s3" if parts.scheme == "s3" else "gs", parts.netloc, parts.path)


def hook(url: str, allowed: Allowance = _NOBODY) -> Source:
    """The address of a webhook: by https or http, maybe with a token in it. Raises SourceRefused."""
    parts, host, port = _split(url, "https://host/path")
    if parts.scheme not in ("https", "http"):
        raise SourceRefused("a webhook is told by https:// or http:// only", code="scheme_refused")
    return _file("https" if parts.scheme == "https" else "http", host, port, parts.path, parts.query, allowed)


def _split(url: str, written_as: str) -> tuple[SplitResult, str, int | None]:
    """The parts of a URL, its host and its port."""
    if len(url) > MAX_URL_CHARACTERS:
        raise SourceRefused(f"the URL has {len(url):,} characters; at most {MAX_URL_CHARACTERS:,} are taken")
    if _UNSAFE.search(url):
        raise SourceRefused("the URL has spaces, control characters or backslashes; write them as %xx")
    try:
        parts = urlsplit(url)
        port = parts.port
        host = (parts.hostname or "").lower()
    except ValueError as error:
        raise SourceRefused("the URL cannot be read; write it as " + written_as) from error
    if "@" in parts.netloc:
        raise SourceRefused(
            "the URL has a user or password in it; credentials come from the worker's environment only",
            code="credentials_in_url",
        )
    if parts.fragment or "#" in url:
        raise SourceRefused("the URL has a '#'; write it as %23 if it is part of a name")
    return parts, host, port


def _refuse_secrets(query: str) -> None:
    if any(_SECRET.fullmatch(name) for name, _ in parse_qsl(query, keep_blank_values=True)):
        raise SourceRefused(
            "the URL's parameters look like a signature, token or key, which would be kept and shown; "
            "name the file as s3:// or gs://, with credentials in the worker's environment",
            code="credentials_in_url",
        )


def _file(
    scheme: Literal["https", "http"], host: str, port: int | None, path: str, query: str, allowed: Allowance
) -> Source:
    if not host or port == 0:
        raise SourceRefused(f"the URL names no host; write it as {scheme}://host/file")
    literal = _literal(host)
    if literal is None:
        host = _ascii(host)
        judge_name(host, allowed)
    elif (reason := judge(literal, allowed)) is not None:
        raise SourceRefused(reason, code="address_refused")
    shown = f"[{literal}]" if isinstance(literal, IPv6Address) else host
    usual = 443 if scheme == "https" else 80
    port = port or usual
    path = (path or "/") + (f"?{query}" if query else "")
    url = f"{scheme}://{shown}{'' if port == usual else f':{port}'}{path}"
    if not url.isascii():
        raise SourceRefused("the URL's path has characters beyond ASCII; write them as %xx")
    return Source(scheme, host, port, path, url)


def _store(scheme: Literal["s3", "gs"], bucket: str, path: str) -> Source:
    if not _BUCKET.fullmatch(bucket):
        raise SourceRefused(f"{bucket[:80]!r} is no name of a bucket; write the source as {scheme}://bucket/prefix")
    prefix = path.lstrip("/")
    if any(part in (".", "..") for part in unquote(prefix).split("/")):
        raise SourceRefused("the prefix has a part '.' or '..', which no key is found under")
    return Source(scheme, bucket, 0, prefix, f"{scheme}://{bucket}/{prefix}")


def _ascii(host: str) -> str:
    try:
        name = host if host.isascii() else host.encode("idna").decode()
    except UnicodeError as error:
        raise SourceRefused("the host's name cannot be written as a name of the DNS") from error
    if not _HOST.fullmatch(name) or len(name) > 253:
        raise SourceRefused("the host's name has characters that no name has")
    return name.rstrip(".")


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def judge_name(host: str, allowed: Allowance) -> None:
    """Refuse names that mean this machine or its network. Raises SourceRefused."""
    if host in allowed.hosts:
        return
    last = host.rpartition(".")[2]
    if host == "localhost" or last in ("localhost", "local", "internal", "localdomain", "arpa"):
        raise SourceRefused(
            f"{host} is a name of a private network; {allowed.setting} allows what is meant",
            code="address_refused",
        )
    if last.isdigit() or re.fullmatch("0x[0-9a-f]*", last):  # 127.1, 2130706433, 0x7f000001: addresses to some
        raise SourceRefused(f"{host} is an address written in an unusual way", code="address_refused")


def judge(address: Address, allowed: Allowance) -> str | None:
    """Why an address is not connected to. None: it is public, or allowed.

    An IPv6 address that only wraps an IPv4 one (mapped, compatible, 6to4, Teredo, NAT64) is judged as both.
    """
    if any(address in network for network in allowed.networks if network.version == address.version):
        return None
    for each in (address, *_inner(address)):
        if _is_private(each):
            said = str(address) if each is address else f"{address} (which is {each})"
            return f"{said} is a private, local or reserved address; {allowed.setting} allows what is meant"
    return None


def judge_all(host: str, addresses: Iterable[str], allowed: Allowance) -> list[str]:
    """The addresses of a host, all of them judged. Raises SourceRefused if one of them is private.

    One is enough: who mixes them hopes that the other is connected to.
    """
    if host in allowed.hosts:
        return list(addresses)
    good = []
    for text in addresses:
        if (reason := judge(ipaddress.ip_address(text.partition("%")[0]), allowed)) is not None:
            raise SourceRefused(f"{host} resolves to an address that is refused: {reason}", code="address_refused")
        good.append(text)
    return good


def _is_private(address: Address) -> bool:
    if any(address in network for network in _NEVER if network.version == address.version):
        return True
    if isinstance(address, IPv6Address):
        # What wraps an IPv4 address is outside of what is global by its own number; its inside decides.
        wraps = bool(_inner(address))
        return not wraps and (address not in _GLOBAL_V6 or not address.is_global)
    return not address.is_global


def _inner(address: Address) -> tuple[IPv4Address, ...]:
    if not isinstance(address, IPv6Address):
        return ()
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    if address.teredo is not None:
        return address.teredo
    is_wrapping = _in(address, _NAT64) or _in(address, _COMPATIBLE)
    return (IPv4Address(int(address) & 0xFFFFFFFF),) if is_wrapping else ()


def _in(address: IPv6Address, network: "ipaddress.IPv4Network | IPv6Network") -> bool:
    return address in network
