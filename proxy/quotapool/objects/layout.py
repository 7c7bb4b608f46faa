"""How owners are laid out in the store: which key, which field, which bytes. No I/O here.

Stored, with NN one of 64 hash tags, so that a cluster spreads them and one request costs each of them little:

    qp:{pool:obj:NN}:<shelf>:<period>:<bucket>   hash: what the id is remembered by -> its owner

`recent` and `long` keep 7 bytes of the id's digest and 4 or 10 of the owner: 16,384 buckets of few fields each, which
Redis packs (listpack). `kept` keeps the id itself, the names, and the day: operators can list and search it.

Time is cut into periods. A record is written into the present one, whose key ends by itself when the last record in it
has reached its age; so nothing is ever swept, and a look-up asks the few periods that may hold it.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Final

from quotapool.openai.ids import Kind

_TAGS: Final = 64
_DAY_S: Final = 86_400.0
_KEPT_S: Final = 400 * _DAY_S
_NEVER_S: Final = 60.0  # what is kept for no time at all is forgotten within a minute
_CREATED: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Owner:
    """Where an object lives and whose it is, by short digests of both names. `client` b"": nobody's in particular."""

    account: bytes
    client: bytes

    def packed(self) -> bytes:
        return self.account + self.client


@dataclass(frozen=True, slots=True)
class Place:
    """One field of one hash. `expires`: Unix seconds."""

    key: str
    field: bytes
    expires: int


@dataclass(frozen=True, slots=True)
class Listed:
    """A record that can be listed. `created`: Unix seconds."""

    id: str
    account: str
    client: str
    created: int


class Shelf:
    """One way of keeping. `life_s`: how long a record lives at least; it lives up to `life_s / periods` longer."""

    def __init__(self, pool: str, name: str, life_s: float, *, periods: int, buckets: int, named: bool) -> None:
        self._pool = pool
        self._name = name[0]
        self._life_s = max(life_s, _NEVER_S)
        self._period_s = self._life_s / periods
        self._periods = periods
        self._buckets = buckets
        self._named = named

    def _key(self, bucket: int, period: int) -> str:
        return f"qp:{{{self._pool}:obj:{bucket % _TAGS:02d}}}:{self._name}:{period:x}:{bucket:x}"

    def _where(self, object_id: str) -> tuple[int, bytes]:
        digest = hashlib.blake2b(object_id.encode("utf-8", "surrogatepass"), digest_size=9).digest()
        bucket = int.from_bytes(digest[:2], "big") % self._buckets
        return bucket, object_id.encode("utf-8", "surrogatepass") if self._named else digest[2:]

    def place(self, object_id: str, now: float) -> Place:
        """Where a record is written now."""
        period = int(now // self._period_s)
        bucket, field = self._where(object_id)
        return Place(self._key(bucket, period), field, int((period + 1) * self._period_s + self._life_s) + 1)

    def places(self, object_id: str, now: float) -> list[Place]:
        """Where a record may stand, the latest first."""
        period = int(now // self._period_s)
        bucket, field = self._where(object_id)
        return [Place(self._key(bucket, period - back), field, 0) for back in range(self._periods + 1)]

    def keys(self, now: float) -> list[str]:
        """All keys that may hold records."""
        period = int(now // self._period_s)
        return [
            self._key(bucket, period - back) for bucket in range(self._buckets) for back in range(self._periods + 1)
        ]

    def value(self, owner: Owner, account: str, client: str, now: float) -> bytes:
        if not self._named:
            return owner.packed()
        return b"%c%s%s%s" % (
            len(owner.client),
            owner.packed(),
            _CREATED.pack(int(now)),
            f"{account}\n{client}".encode(),
        )

    def owner(self, value: bytes) -> Owner:
        if not self._named:
            return Owner(value[:4], value[4:])
        end = 5 + value[0]
        return Owner(value[1:5], value[5:end])

    def listed(self, field: bytes, value: bytes) -> Listed:
        """A record with its names. Only for the shelf that keeps them."""
        end = 5 + value[0]
        (created,) = _CREATED.unpack_from(value, end)
        account, _, client = value[end + 4 :].decode().partition("\n")
        return Listed(field.decode("utf-8", "replace"), account, client, created)


class OwnerLayout:
    """The three of them. `retention_s`: how long a stored response is remembered."""

    def __init__(self, pool: str, retention_s: float) -> None:
        self.kept = Shelf(pool, "kept", _KEPT_S, periods=2, buckets=256, named=True)
        self._long = Shelf(pool, "long", _KEPT_S, periods=2, buckets=16_384, named=False)
        self._recent = Shelf(pool, "recent", retention_s, periods=8, buckets=16_384, named=False)

    def of(self, kind: Kind) -> Shelf:
        return {"kept": self.kept, "long": self._long, "recent": self._recent}[kind.retention]


def owner_of(account: str, client: str) -> Owner:
    """4 bytes of the account's name and 6 of the client's: enough to tell those of one pool apart, and independent of
    any numbering that a lost store could lose."""
    return Owner(account_mark(account), hashlib.blake2b(client.encode(), digest_size=6).digest() if client else b"")


def account_mark(account: str) -> bytes:
    return hashlib.blake2b(account.encode(), digest_size=4).digest()
