from ipaddress import ip_address

import pytest

from understudy.addresses import Allowance, judge, judge_all, parse
from understudy.errors import SourceRefused

NOBODY = Allowance()

PRIVATE = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.0.1", "169.254.169.254", "169.254.170.2",
    "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.192", "192.168.1.1", "198.18.0.1", "192.0.2.1", "203.0.113.9", "224.0.0.1", "240.0.0.1",
    "255.255.255.255", "168.63.129.16",
    "::", "::1", "fe80::1", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1", "100::1", "64:ff9b:1::a00:1", "3fff::1", "5f00::1", "4000::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "::a9fe:a9fe",
    "2002:7f00:1::", "2002:a00:1::1", "2002:a9fe:a9fe::", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b::100.64.0.1",
    "2001:0:a00:1:8000:63bf:3fff:fdd2",
]  # fmt: skip
PUBLIC = [
    "1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1", "192.167.0.1", "169.253.0.1", "93.184.215.14",
    "2606:4700:4700::1111", "2a00:1450:4001::1", "::ffff:1.1.1.1", "2002:101:101::1", "64:ff9b::808:808",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_refused_however_they_are_wrapped(address):
    """Loopback, link-local, metadata, CGNAT, reserved, and those inside of IPv6."""
    assert str(ip_address(address)) in judge(ip_address(address), NOBODY)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_taken(address):
    """Also those beside a private network."""
    assert judge(ip_address(address), NOBODY) is None


def test_a_setting_allows_hosts_and_networks():
    """By name: then whatever it resolves to; by network: its addresses, and no others."""
    allowed = Allowance.read("minio.internal, 10.1.0.0/16 ,::1/128,")
    assert judge(ip_address("10.1.2.3"), allowed) is None
    assert judge(ip_address("::1"), allowed) is None
    assert judge(ip_address("10.2.0.1"), allowed) is not None
    assert judge_all("minio.internal", ["10.9.9.9"], allowed) == ["10.9.9.9"]
    assert parse("https://minio.internal:9000/a.tar", allowed).port == 9000
    assert Allowance.read("") == NOBODY
    for wrong in ("10.0.0.0/99", "a b", "http://x", "10.1.2.3/16"):
        with pytest.raises(ValueError, match="neither a host's name nor a network"):
            Allowance.read(wrong)


def test_one_private_address_among_public_ones_refuses_the_host():
    """Whoever mixes them hopes that the other is connected to."""
    assert judge_all("x.org", ["1.1.1.1", "2606:4700:4700::1111"], NOBODY) == ["1.1.1.1", "2606:4700:4700::1111"]
    with pytest.raises(SourceRefused, match=r"x\.org .* 10\.0\.0\.1") as refused:
        judge_all("x.org", ["1.1.1.1", "10.0.0.1"], NOBODY)
    assert refused.value.code == "address_refused"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://bucket/some/prefix", "s3://bucket/some/prefix"),
        ("s3://bucket", "s3://bucket/"),
        ("gs://bucket/ü/x", "gs://bucket/ü/x"),
        ("https://Example.ORG:443/a.zip?part=1", "https://example.org/a.zip?part=1"),
        ("https://example.org", "https://example.org/"),
        ("https://bücher.example/a", "https://xn--bcher-kva.example/a"),
        ("https://[2606:4700:4700::1111]:8443/a", "https://[2606:4700:4700::1111]:8443/a"),
        ("HTTPS://example.org./a", "https://example.org/a"),
    ],
)
def test_a_source_has_one_way_to_be_written(url, shown):
    """So that the same source named twice is one."""
    assert parse(url).url == shown
    assert parse(shown) == parse(url)


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("/etc/passwd", "scheme_refused"),
        ("file:///etc/passwd", "scheme_refused"),
        ("http://example.org/a.zip", "scheme_refused"),
        ("ftp://example.org/a.zip", "scheme_refused"),
        ("bucket/prefix", "scheme_refused"),
        ("", "scheme_refused"),
        ("https://user:secret-word@example.org/", "credentials_in_url"),
        ("https://secret-word@example.org/", "credentials_in_url"),
        ("s3://key:secret-word@bucket/", "credentials_in_url"),
        ("https://example.org/a?X-Amz-Signature=secret-word", "credentials_in_url"),
        ("https://example.org/a?access_token=secret-word", "credentials_in_url"),
        ("https://example.org/a?b=c&sig=secret-word", "credentials_in_url"),
        ("https:///a", "source_refused"),
        ("https://example.org:99999/", "source_refused"),
        ("https://" + "a" * 64 + ".org/", "source_refused"),
        ("https://example.org/a b", "source_refused"),
        ("https://example.org\\@evil.org/", "source_refused"),
        ("https://example.org/\n", "source_refused"),
        ("https://example.org/#x", "source_refused"),
        ("https://[::1/", "source_refused"),
        ("s3://Bucket_!/x", "source_refused"),
        ("s3://bucket:9000/x", "source_refused"),
        ("s3://bucket/../x", "source_refused"),
        ("s3://bucket/x?versionId=1", "source_refused"),
        ("https://" + "a" * 3000, "source_refused"),
        ("https://127.0.0.1/", "address_refused"),
        ("https://[::ffff:169.254.169.254]/latest", "address_refused"),
        ("https://localhost/", "address_refused"),
        ("https://metadata.google.internal/", "address_refused"),
        ("https://127.1/", "address_refused"),
        ("https://2130706433/", "address_refused"),
        ("https://0x7f000001/", "address_refused"),
        ("https://①②⑦.0.0.1/", "address_refused"),
    ],
)
def test_what_is_no_source_is_refused_with_a_code(url, code):
    """And no message repeats what may be a secret."""
    with pytest.raises(SourceRefused) as refused:
        parse(url)
    assert refused.value.code == code
    assert "secret-word" not in str(refused.value)
