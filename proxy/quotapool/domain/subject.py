"""What a state or an event is about: a key, an account with all its keys, or an organisation with all its accounts."""

from __future__ import annotations

from enum import StrEnum


class SubjectKind(StrEnum):
    KEY = "key"
    ACCOUNT = "account"
    ORGANIZATION = "organization"


_KINDS = {"k": SubjectKind.KEY, "a": SubjectKind.ACCOUNT, "o": SubjectKind.ORGANIZATION}


class Subject(str):
    """`k/<key>`, `a/<account>` or `o/<organization>`: the same text under which the store keeps it."""

    __slots__ = ()

    @classmethod
    def of_key(cls, key: str) -> Subject:
        return cls(f"k/{key}")

    @classmethod
    def of_account(cls, account: str) -> Subject:
        return cls(f"a/{account}")

    @classmethod
    def of_organization(cls, organization: str) -> Subject:
        return cls(f"o/{organization}")

    @property
    def kind(self) -> SubjectKind | None:
        """None: the text has none of the three forms, as with events about the whole pool."""
        return _KINDS.get(self[0]) if self[1:2] == "/" else None

    @property
    def id(self) -> str:
        """The id of the key, account or organisation; the whole text if it is of no known kind."""
        return self[2:] if self.kind is not None else str(self)
