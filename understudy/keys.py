"""What an API key looks like, and what is kept of it. It knows neither the catalog nor HTTP.

A key is ``us_<id>_<secret>``. The id is public: lists, logs and revocation name a key by it. The secret
is shown once; only its SHA-256 is kept. A slow hash protects words that people choose, which can be tried
one after another; 256 random bits cannot, and a fast hash lets every request be checked in microseconds.
"""

import hashlib
import secrets
from dataclasses import dataclass, field

PREFIX = "us"
#: Enough that two keys of one catalog never meet; short enough to type after ``keys revoke``.
ID_BYTES = 6
#: 256 bits: nobody finds one by trying.
SECRET_BYTES = 32


@dataclass(frozen=True)
class Credential:
    """A key taken apart. Both parts are whatever was sent: a client may send anything."""

    id: str
    secret: bytes = field(repr=False)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the secret: (32,) bytes, all that is ever stored of it."""
        return hashlib.sha256(self.secret).digest()


def generate() -> Credential:
    """A new key. Hexadecimal, so that neither part holds the underscore between them."""
    return Credential(secrets.token_hex(ID_BYTES), secrets.token_hex(SECRET_BYTES).encode())


def write(credential: Credential) -> str:
    """The key as its owner keeps it."""
    return f"{PREFIX}_{credential.id}_{credential.secret.decode()}"


def read(key: bytes) -> Credential:
    """Take a key apart. What is no key at all has an id that no key has, so that it is checked like any other."""
    prefix, _, rest = key.partition(b"_")
    key_id, _, secret = rest.partition(b"_")
    if prefix != PREFIX.encode():
        return Credential("", key)
    return Credential(key_id.decode("latin-1"), secret)
