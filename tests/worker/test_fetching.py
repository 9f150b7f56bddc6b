"""Files by https from a real server: redirects, names that change their mind, and answers that are none."""

import ssl

import pytest

from understudy import addresses
from understudy.addresses import Allowance
from understudy.errors import SourceAway, SourceRefused
from worker.fetching import MAX_REDIRECTS, Fetcher, resolve

HERE = Allowance.read("127.0.0.1/32")


@pytest.fixture
def fetcher(files):
    """Finds every name on this machine, at the one address that is allowed."""
    return fetcher_of(files, lambda host, port: ["127.0.0.1"])


def fetcher_of(files, resolve, allowed=HERE):
    return Fetcher(allowed, resolve=resolve, ssl_context=ssl.create_default_context(cafile=files.authority))


def fetched(fetcher, url, allowed=HERE):
    with fetcher.open(addresses.parse(url, allowed)) as answer:
        return answer.listed, b"".join(answer.pieces)


def refused(fetcher, url, kind=SourceRefused):
    with pytest.raises(kind) as error:
        fetched(fetcher, url)
    return error.value


def test_a_file_arrives_with_what_tells_whether_it_has_changed(files, fetcher):
    """The connection goes to the address, and the server hears the name, in TLS and in the Host header."""
    headers = {"ETag": '"abc"', "Last-Modified": "Sat, 21 Nov 2026 10:00:00 GMT"}
    files.answers["/a.tar?part=1"] = (200, headers, b"bytes" * 500_000)
    listed, data = fetched(fetcher, f"{files.url}/a.tar?part=1")
    assert data == b"bytes" * 500_000
    assert (listed.key, listed.num_bytes) == (f"{files.url}/a.tar?part=1", len(data))
    assert (listed.etag, listed.modified_at) == ('"abc"', 1795255200.0)
    assert files.asked == [("/a.tar?part=1", f"files.example:{files.port}", "files.example")]


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("http://files.example/a", "scheme_refused"),
        ("file:///etc/passwd", "scheme_refused"),
        ("s3://bucket/a", "scheme_refused"),
        ("https://169.254.169.254/latest/meta-data", "address_refused"),
        ("https://[::ffff:10.0.0.1]/", "address_refused"),
        ("https://127.0.0.2/", "address_refused"),
        ("https://localhost/", "address_refused"),
        ("https://user:secret-word@files.example/", "credentials_in_url"),
        ("https://inside.example/", "address_refused"),
        ("/again", "too_many_redirects"),
        ("", "too_many_redirects"),
    ],
)
def test_a_redirect_is_judged_as_the_first_url_was(files, target, code):
    """By its scheme, its host, what that resolves to, and how many there were."""
    addresses_of = {"inside.example": ["10.0.0.1"]}
    fetcher = fetcher_of(files, lambda host, port: addresses_of.get(host, ["127.0.0.1"]))
    files.answers["/a"] = files.answers["/again"] = (302, {"Location": target}, b"")
    error = refused(fetcher, f"{files.url}/a")
    assert error.code == code
    assert "secret-word" not in str(error)
    assert len(files.asked) == (MAX_REDIRECTS + 1 if code == "too_many_redirects" else 1)


def test_a_redirect_may_lead_on_and_carry_its_own_right(files, fetcher):
    """As release pages do: the target is signed, and neither kept nor shown."""
    files.answers["/a"] = (307, {"Location": "/b?X-Amz-Signature=1"}, b"")
    files.answers["/b?X-Amz-Signature=1"] = (200, {}, b"here")
    listed, data = fetched(fetcher, f"{files.url}/a")
    assert (data, listed.key) == (b"here", f"{files.url}/a")


def test_a_name_that_changes_its_address_is_judged_at_every_connection(files):
    """It is resolved once a connection, and connected to where it was judged."""
    answers = [["127.0.0.1"], ["127.0.0.2"]]
    asked = []

    def rebinding(host, port):
        asked.append(host)
        return answers[min(len(asked), len(answers)) - 1]

    files.answers["/a"] = (200, {}, b"first")
    assert fetched(fetcher_of(files, rebinding), f"{files.url}/a")[1] == b"first"
    assert asked == ["files.example"]
    error = refused(fetcher_of(files, rebinding), f"{files.url}/a")
    assert error.code == "address_refused"
    assert "127.0.0.2" in str(error)
    assert len(files.asked) == 1

    asked.clear()
    files.answers["/to"] = (302, {"Location": "/a"}, b"")
    assert refused(fetcher_of(files, rebinding), f"{files.url}/to").code == "address_refused"


def test_one_private_address_of_several_refuses_the_host(files):
    """Nothing is connected to, not even the good one."""
    error = refused(fetcher_of(files, lambda host, port: ["127.0.0.1", "10.0.0.1"]), f"{files.url}/a")
    assert error.code == "address_refused"
    assert files.asked == []


def test_an_address_that_does_not_answer_is_followed_by_the_next(files):
    """As browsers do."""
    files.answers["/a"] = (200, {}, b"here")
    allowed = Allowance.read("127.0.0.0/8")
    fetcher = fetcher_of(files, lambda host, port: ["127.0.0.9", "127.0.0.1"], allowed)
    assert fetched(fetcher, f"{files.url}/a")[1] == b"here"


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (401, SourceRefused, "http_401"),
        (404, SourceRefused, "http_404"),
        (206, SourceRefused, "http_206"),
        (429, SourceAway, "source_away"),
        (503, SourceAway, "source_away"),
    ],
)
def test_what_is_no_file_is_refused_or_tried_again(files, fetcher, status, kind, code):
    """By its status."""
    files.answers["/a"] = (status, {}, b"")
    assert refused(fetcher, f"{files.url}/a", kind).code == code


def test_a_body_that_breaks_off_is_no_file(files, fetcher):
    """Half of one is worth another attempt."""
    files.answers["/a"] = (200, {"Content-Length": "1000"}, b"x" * 999)
    assert "files.example" in str(refused(fetcher, f"{files.url}/a", SourceAway))


def test_a_certificate_of_another_name_is_not_trusted(files, fetcher):
    """Whatever address it came from."""
    refused(fetcher, f"https://other.example:{files.port}/a", SourceAway)
    assert files.asked == []


def test_an_unknown_name_and_a_closed_port_are_away(files):
    """That may pass."""
    with pytest.raises(SourceAway, match="cannot be resolved"):
        resolve("a" * 64 + ".example", 443)
    refused(fetcher_of(files, lambda host, port: ["127.0.0.1"]), "https://files.example:1/", SourceAway)
