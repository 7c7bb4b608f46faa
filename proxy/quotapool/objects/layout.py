"""The layout of owners in the store: which key, which field, which bytes. No I/O here.

Stored, with NN one of 64 hash tags, so that a cluster spreads them and one request costs each of them little:

    qp:{pool:obj:NN}:<retention>:<period>:<bucket>   hash: the id, or a digest of it -> its owner

`recent` and `long` store 7 bytes of the id's digest and 4 or 10 of the owner: 16,384 buckets of few fields each, which
Redis packs (listpack). `kept` stores the id itself, the names, and the time: operators can list and search it.

Time is divided into periods. A record is written into the present one, whose key expires when the last record in it has
reached its age; so nothing needs a cleanup, and a look-up reads the few periods that may have the record.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Final

from quotapool.openai.ids import Kind, Retention

_TAGS: Final = 64
_DAY_S: Final = 86_400.0
_KEPT_S: Final = 400 * _DAY_S
_LEAST_S: Final = 60.0  # a retention of no time at all lasts for up to a minute
_CREATED: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Owner:
    """Which account has an object and whose it is, by short digests of both names. `client` b"": any client's."""

    account: bytes
    client: bytes

    def packed(self) -> bytes:
        return self.account + self.client


@dataclass(frozen=True, slots=True)
class RecordKey:
    """One field of one hash. `expires`: Unix seconds."""

    key: str
    field: bytes
    expires: int


@dataclass(frozen=True, slots=True)
class ListedObject:
    """A record that can be listed. `created`: Unix seconds."""

    id: str
    account: str
    client: str
    created: int


class RecordLayout:
    """The records of one retention. `life_s`: how long a record lasts at least; at most `life_s / periods` longer."""

    def __init__(self, pool: str, retention: Retention, life_s: float, *, periods: int, buckets: int) -> None:
        self._pool = pool
        self._letter = retention[0]
        self._life_s = max(life_s, _LEAST_S)
        self._period_s = self._life_s / periods
        self._periods = periods
        self._buckets = buckets
        self._named = retention == "kept"

    def _key(self, bucket: int, period: int) -> str:
        return f"qp:{{{self._pool}:obj:{bucket % _TAGS:02d}}}:{self._letter}:{period:x}:{bucket:x}"

    def _bucket_and_field(self, object_id: str) -> tuple[int, bytes]:
        encoded = object_id.encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(encoded, digest_size=9).digest()
        return int.from_bytes(digest[:2], "big") % self._buckets, encoded if self._named else digest[2:]

    def write_key(self, object_id: str, now: float) -> RecordKey:
        """Where to write a record now."""
        period = int(now // self._period_s)
        bucket, field = self._bucket_and_field(object_id)
        return RecordKey(self._key(bucket, period), field, int((period + 1) * self._period_s + self._life_s) + 1)

    def read_keys(self, object_id: str, now: float) -> list[RecordKey]:
        """Where a record may be, the latest first."""
        period = int(now // self._period_s)
        bucket, field = self._bucket_and_field(object_id)
        return [RecordKey(self._key(bucket, period - back), field, 0) for back in range(self._periods + 1)]

    def all_keys(self, now: float) -> list[str]:
        """All keys that may have records."""
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

    def listed(self, field: bytes, value: bytes) -> ListedObject:
        """A record with its names. Only of the retention `kept`, which has them."""
        end = 5 + value[0]
        (created,) = _CREATED.unpack_from(value, end)
        account, _, client = value[end + 4 :].decode().partition("\n")
        return ListedObject(field.decode("utf-8", "replace"), account, client, created)


class OwnerLayout:
    """The layouts of all retentions. `retention_s`: how long a stored response is remembered."""

    def __init__(self, pool: str, retention_s: float) -> None:
        self.kept = RecordLayout(pool, "kept", _KEPT_S, periods=2, buckets=256)
        self._by_retention = {
            "kept": self.kept,
            "long": RecordLayout(pool, "long", _KEPT_S, periods=2, buckets=16_384),
            "recent": RecordLayout(pool, "recent", retention_s, periods=8, buckets=16_384),
        }

    def of(self, kind: Kind) -> RecordLayout:
        return self._by_retention[kind.retention]


def owner_of(account: str, client: str) -> Owner:
    """4 bytes of the account's name and 6 of the client's: enough to distinguish those of one pool, and independent of
    any numbering, which a store that lost its data would lose."""
    return Owner(account_mark(account), hashlib.blake2b(client.encode(), digest_size=6).digest() if client else b"")


def account_mark(account: str) -> bytes:
    return hashlib.blake2b(account.encode(), digest_size=4).digest()
