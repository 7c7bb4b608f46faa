"""How `quotapool top` is looked at: which list, in which order, from which row; what each key does to that. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal, TypeVar

from quotapool.reports.top import CLIENT_ORDERS, KEY_ORDERS, Order
from quotapool.shapes.now import RoomRow

ListName = Literal["room", "keys", "clients", "errors"]
LISTS: Final[tuple[ListName, ...]] = ("room", "keys", "clients", "errors")
_PAGE: Final = 10
_MOST_TYPED: Final = 60
Value = TypeVar("Value")

ORDERS: Final[dict[ListName, dict[str, Order]]] = {
    "room": {
        "dry first": lambda row: (row.dry is None, row.dry.minutes if row.dry else 0.0, _share(row), row.model),
        "least left": lambda row: (_share(row), row.model),
        "most used": lambda row: (-row.used_per_minute / row.limit if row.limit else 0.0, row.model),
        "name": lambda row: (row.model, row.dimension),
    },
    "keys": KEY_ORDERS,
    "clients": CLIENT_ORDERS,
    "errors": {"newest first": lambda row: -row.at},
}

HELP: Final = (
    ("q, Ctrl-C", "quit"),
    ("Tab, ← →, 1-4", "the next list, the one before, or that of this number"),
    ("↑ ↓, j k", "a row up or down; Page Up, Page Down: ten; Home, End: all"),
    ("s, r", "sort the list by something else; the other way round"),
    ("Enter, z", "only this list, on the whole screen; and back"),
    ("/", "only rows that have a text in them; Enter keeps it, Esc ends it"),
    ("Space, p", "pause: nothing is read until it is pressed again"),
    ("?, h", "this help"),
)


def _share(row: RoomRow) -> float:
    return row.remaining / row.limit if row.limit else 0.0


@dataclass(frozen=True, slots=True)
class View:
    """`focus`: the list that keys are about; `first`, `order` and `is_reversed` are of each list; `only`: the text that
    rows must have in them; `typing`: that text is being typed; `is_whole`: one list has the whole screen."""

    focus: int = 0
    first: tuple[int, ...] = (0,) * len(LISTS)
    order: tuple[int, ...] = (0,) * len(LISTS)
    is_reversed: tuple[bool, ...] = (False,) * len(LISTS)
    only: str = ""
    typing: bool = False
    is_whole: bool = False
    is_paused: bool = False
    shows_help: bool = False

    def order_of(self, name: ListName) -> str:
        """The name of its order."""
        n = LISTS.index(name)
        return list(ORDERS[name])[self.order[n] % len(ORDERS[name])]


def pressed(view: View, key: str, rows: int) -> View | None:
    """The view after this key; None: it quits. `key`: a character, or a name such as `up`; `rows`: how many the list
    in focus has."""
    if view.typing:
        return _typed(view, key)
    if key in {"q", "Q"}:
        return None
    if view.shows_help:
        return replace(view, shows_help=False)
    if key in _TURNS:
        return replace(view, focus=(view.focus + _TURNS[key]) % len(LISTS))
    if key.isascii() and key.isdigit() and 1 <= int(key) <= len(LISTS):
        return replace(view, focus=int(key) - 1)
    if key in _STEPS:
        return replace(view, first=_set(view.first, view.focus, _moved(view.first[view.focus], _STEPS[key], rows)))
    if key in {"s", "S"}:
        step = 1 if key == "s" else -1
        changed = replace(view, order=_set(view.order, view.focus, view.order[view.focus] + step))
        return replace(changed, first=_set(view.first, view.focus, 0))
    if key == "r":
        return replace(
            view,
            is_reversed=_set(view.is_reversed, view.focus, not view.is_reversed[view.focus]),
            first=_set(view.first, view.focus, 0),
        )
    if key == "escape":
        return replace(view, only="", is_whole=view.is_whole and bool(view.only))
    return _switched(view, key)


def _switched(view: View, key: str) -> View:
    if key in {"enter", "z"}:
        return replace(view, is_whole=not view.is_whole)
    if key in {" ", "p"}:
        return replace(view, is_paused=not view.is_paused)
    if key in {"?", "h"}:
        return replace(view, shows_help=True)
    if key == "/":
        return replace(view, typing=True, only="", first=(0,) * len(LISTS))
    return view


def _typed(view: View, key: str) -> View | None:
    if key == "enter":
        return replace(view, typing=False)
    if key == "escape":
        return replace(view, typing=False, only="")
    if key == "backspace":
        return replace(view, only=view.only[:-1])
    if len(key) == 1 and key.isprintable() and len(view.only) < _MOST_TYPED:
        return replace(view, only=view.only + key, first=(0,) * len(LISTS))
    return view


def _moved(first: int, step: int, rows: int) -> int:
    return max(0, min(first + step, rows - 1))


def _set(values: tuple[Value, ...], n: int, value: Value) -> tuple[Value, ...]:
    return (*values[:n], value, *values[n + 1 :])


_FAR: Final = 1_000_000
_TURNS: Final = {"tab": 1, "right": 1, "back tab": -1, "left": -1}
_STEPS: Final = {
    "up": -1,
    "k": -1,
    "down": 1,
    "j": 1,
    "page up": -_PAGE,
    "page down": _PAGE,
    "home": -_FAR,
    "g": -_FAR,
    "end": _FAR,
    "G": _FAR,
}
