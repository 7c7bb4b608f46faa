"""What is compiled is written so that it compiles to what it says (docs/decisions/0022-a-compiled-build.md).

mypyc drops some things without a word and translates two wrongly, which tests of the source cannot see. So these rules
are about the text of the modules in `tool.quotapool.compiled`, and hold in both builds.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "proxy" / "quotapool"
COMPILED: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["quotapool"]["compiled"]

Function = ast.FunctionDef | ast.AsyncFunctionDef
INNER = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


def within(*roots: ast.AST) -> Iterator[ast.AST]:
    """All nodes of these, without those of functions and classes inside of them."""
    for root in roots:
        yield root
        if not isinstance(root, INNER):
            yield from within(*ast.iter_child_nodes(root))


def place(node: ast.AST) -> str:
    """`x` or `self.x.y`; "" for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (owner := place(node.value)):
        return f"{owner}.{node.attr}"
    return ""


# ---- `finally` ----
#
# mypy checks a `finally` twice, for an exception and for the usual way, and mypyc is told the types of the second time
# only: what `try` has made not None is cast to that after an exception too, and the cast raises TypeError.


def may_be_none(function: Function) -> set[str]:
    """Parameters and variables that are declared with None, or begin with it."""
    names: set[str] = set()
    parameters = function.args
    for parameter in (*parameters.posonlyargs, *parameters.args, *parameters.kwonlyargs):
        if parameter.annotation is not None and is_optional(parameter.annotation):
            names.add(parameter.arg)
    for node in within(*function.body):
        match node:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation) if is_optional(annotation):
                names.add(name)
            case ast.Assign(targets=targets, value=ast.Constant(value=None)):
                names.update(place(target) for target in targets)
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)):
                pairs = zip(targets, values, strict=False)
                names.update(
                    place(to) for to, value in pairs if isinstance(value, ast.Constant) and value.value is None
                )
    return names


def is_optional(annotation: ast.expr) -> bool:
    return any(
        (isinstance(node, ast.Constant) and node.value is None) or place(node).endswith("Optional")
        for node in ast.walk(annotation)
    )


def narrowed(function: Function, attempt: ast.Try) -> set[str]:
    """What the `try` assigns or compares with None. Of attributes the declaration is elsewhere: each of them counts."""
    optional = may_be_none(function)
    names: set[str] = set()
    for node in within(*attempt.body, *attempt.handlers, *attempt.orelse):
        match node:
            case ast.Name(ctx=ast.Store()) | ast.Attribute(ctx=ast.Store()):
                names.add(place(node))
            case ast.Compare(left=left, comparators=[ast.Constant(value=None)]):
                names.add(place(left))
    return {name for name in names if name in optional or "." in name}


def misread(source: str) -> list[str]:
    """`function: name` for each that a `finally` reads although its `try` narrows it."""
    found = []
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, Function):
            for attempt in within(*function.body):
                if isinstance(attempt, ast.Try):
                    banned = narrowed(function, attempt)
                    reads = (
                        place(node)
                        for node in within(*attempt.finalbody)
                        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load)
                    )
                    found += [f"{function.name}: {name}" for name in dict.fromkeys(reads) if name in banned]
    return found


@pytest.mark.parametrize("module", COMPILED)
def test_no_finally_reads_what_its_try_narrows(module):
    assert misread((PACKAGE / module).read_text()) == []


MISREAD = """
class Queue:
    async def wait(self, future: Future[Grant]) -> Grant:
        granted: Grant | None = None
        try:
            async with timeout(1):
                granted = await future
        except TimeoutError:
            raise NoRoom from None
        finally:
            if granted is None:
                self.leave()
        return granted

def on_the_way(seconds: float | None, log: list[float | None]) -> None:
    try:
        seconds = 1.5
    finally:
        log.append(seconds)

def without_a_declaration(log: list[Grant | None]) -> None:
    granted = None
    try:
        granted = reserve()
    finally:
        log.append(granted)

def several_at_once(log: list[Grant | None]) -> None:
    reader, hold = Reader(), None
    try:
        hold = reserve()
    finally:
        log.append(hold)

def attributes(this: Grant) -> None:
    try:
        if this.account is None:
            raise NoRoom
        this.key = Key()
    finally:
        log(this.account, this.key)
"""

READ_WELL = """
class Queue:
    async def wait(self, future: Future[Grant]) -> Grant:
        granted = False
        waited: float = 0.0
        earlier: Grant | None = self.earlier
        try:
            answer = await future
            granted, waited = True, 1.0
            self.task = None
        finally:
            self.waited += waited
            self.task = None
            if not granted:
                self.leave(earlier)
        return answer
"""


def test_the_forms_that_were_seen_to_be_miscompiled_are_found():
    assert set(misread(MISREAD)) == {
        "wait: granted",
        "on_the_way: seconds",
        "without_a_declaration: granted",
        "several_at_once: hold",
        "attributes: this.account",
        "attributes: this.key",
    }


def test_what_cannot_be_none_may_be_read():
    assert misread(READ_WELL) == []


# ---- `raise` ----
#
# A bare `raise` behind an `await`: what was caught may be lost meanwhile, and then the interpreter is told to raise
# nothing, and crashes. Seen where a cancelled task waits for another one, which fails.


def forgetful(source: str) -> list[str]:
    """Lines of each `raise` without a name, in an `except` that waits."""
    found = []
    for handler in ast.walk(ast.parse(source)):
        if isinstance(handler, ast.ExceptHandler):
            nodes = list(within(*handler.body))
            if any(isinstance(node, ast.Await | ast.AsyncWith | ast.AsyncFor) for node in nodes):
                found += [f"line {node.lineno}" for node in nodes if isinstance(node, ast.Raise) and node.exc is None]
    return found


@pytest.mark.parametrize("module", COMPILED)
def test_nothing_is_raised_again_after_it_has_waited(module):
    assert forgetful((PACKAGE / module).read_text()) == []


def test_what_was_seen_to_crash_is_found():
    crashes = """
async def wait(task: Task[None]) -> None:
    try:
        await task
    except CancelledError:
        task.cancel()
        await gather(task, return_exceptions=True)
        raise
"""
    assert forgetful(crashes) == ["line 8"]
    assert forgetful(crashes.replace("        await gather(task, return_exceptions=True)\n", "")) == []


# ---- what does not compile, or compiles to something else ----


def foreign(source: str) -> list[str]:
    """msgspec's shapes (mypyc drops `frozen=True` and all other keywords), subclasses of asyncio's protocols (one
    crashed: compiled objects have no weak references), async generators (they do not compile) and properties that keep
    what they gave (`functools.cached_property`: compiled, it is computed each time)."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            keeping = [place(mark) for mark in node.decorator_list if place(mark).endswith("cached_property")]
            found += [f"{node.name}: {mark}" for mark in keeping]
        if isinstance(node, ast.ClassDef):
            bases = map(place, node.bases)
            foreigners = [base for base in bases if base.split(".")[0] in {"asyncio", "msgspec", "Struct"}]
            found += [f"{node.name}: {base}" for base in foreigners]
        elif isinstance(node, ast.AsyncFunctionDef) and any(isinstance(part, ast.Yield) for part in within(*node.body)):
            found.append(f"{node.name}: async generator")
    return found


@pytest.mark.parametrize("module", COMPILED)
def test_what_is_compiled_is_there_and_holds_nothing_that_must_stay_plain(module):
    assert foreign((PACKAGE / module).read_text()) == []


def test_no_module_is_listed_twice_and_all_are_in_order():
    assert sorted(set(COMPILED)) == COMPILED


FOREIGN = """
class Shape(msgspec.Struct, frozen=True):
    name: str

class Other(Struct):
    name: str

class Server(asyncio.BufferedProtocol):
    pass

async def chunks() -> AsyncIterator[bytes]:
    while True:
        yield b""

class Client:
    @functools.cached_property
    def loop(self) -> Loop:
        return get_running_loop()
"""

OURS = """
class Answer(Protocol):
    def chunks(self) -> AsyncIterator[bytes]: ...

def parts() -> Iterator[bytes]:
    yield b""

async def waits() -> None:
    def inner() -> Iterator[int]:
        yield 1
    await sleep(sum(inner()))
"""


def test_what_must_stay_plain_is_found():
    assert foreign(FOREIGN) == [
        "Shape: msgspec.Struct",
        "Other: Struct",
        "Server: asyncio.BufferedProtocol",
        "chunks: async generator",
        "loop: functools.cached_property",
    ]
    assert foreign(OURS) == []
