"""Every sentence that a user can be shown is on the troubleshooting page, and nothing else is."""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from helpers.pages import ROOT, text_of

PACKAGE = ROOT / 'stprune_ros'
# Rooms whose sentences a user can meet; the others raise for wrong calls.
ROOMS = ('calibrate', 'core', 'driving', 'fleet', 'inference', 'io', 'replay', 'ros', 'settings', 'view', 'vlm')
DATASETS = ('evaluation', 'datasets')  # of the evaluation the part that reads what users bring
ERRORS = {'StpruneError', 'SettingsError', 'BagError', 'ModelError', 'Interrupted'}
LOGGING = {'warn', '_warn', '_note', 'warning', 'error', 'fatal', 'again'}
VARIABLE = '<>'


def sentence(node: ast.AST) -> str | None:
    """A string or f-string as it stands in the source, every variable part as VARIABLE; None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return normal(node.value.replace('%s', VARIABLE))
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else VARIABLE for part in node.values]
        return normal(''.join(map(str, parts)))
    return None


def normal(text: str) -> str:
    """Variable parts that touch count as one."""
    return re.sub(f'(?:{VARIABLE})+', VARIABLE, text)


@cache
def trees() -> tuple[tuple[Path, ast.AST], ...]:
    generated = [PACKAGE / kind for kind in ('action', 'msg', 'srv')]
    files = sorted(path for path in PACKAGE.rglob('*.py') if not {*generated} & {*path.parents})
    return tuple((path, ast.parse(text_of(path))) for path in files)


def in_source() -> set[str]:
    """Every string of the package, those of scripts in pages included."""
    code = [text_of(file) for file in PACKAGE.glob('*/pages/*.js')]
    scripts = {text for one in code for text in re.findall(r"'([^'\n]+)'", one)}
    scripts |= {
        normal(re.sub(r'\$\{[^}]*\}', VARIABLE, text)) for one in code for text in re.findall(r'`([^`\n]+)`', one)
    }
    return scripts | {found for _, tree in trees() for node in ast.walk(tree) if (found := sentence(node)) is not None}


def shown_to_users() -> Iterator[tuple[str, str]]:
    """File and sentence of every error, note and warning of the rooms that users meet."""
    for file, said in what_is_said():
        found = sentence(said)
        if found is not None and found.replace(VARIABLE, '').strip():
            yield file, found


def what_is_said() -> Iterator[tuple[str, ast.expr]]:
    """File and first argument of every call that raises, notes or logs in the rooms that users meet."""
    for path, tree in trees():
        inside = path.relative_to(PACKAGE)
        if len(inside.parts) > 1 and inside.parts[0] not in ROOMS and inside.parts[:2] != DATASETS:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and node.args and is_said(node.func):
                yield str(inside), node.args[0]


def is_said(function: ast.expr) -> bool:
    """Whether what a call is given first is raised, noted or logged."""
    if isinstance(function, ast.Name):
        return function.id in ERRORS
    if not isinstance(function, ast.Attribute):
        return False
    kept = {'append': 'notes', 'add': 'faults'}.get(function.attr)
    return function.attr in LOGGING or (kept is not None and ast.unparse(function.value).endswith(kept))


def headings() -> list[str]:
    """The sentences that the troubleshooting page is keyed by."""
    lines = re.findall(r'^### (`+) ?(.*?) ?\1$', text_of(ROOT / 'docs' / 'troubleshooting.md'), re.MULTILINE)
    return [text for _, text in lines]


def test_sentences_of_the_troubleshooting_page_are_those_of_the_source():
    known = in_source()
    keys = headings()
    assert len(keys) > 100 and len(set(keys)) == len(keys)
    assert [key for key in keys if normal(re.sub(r'<[^<>]*>', VARIABLE, key)) not in known] == []


def test_every_sentence_for_users_is_on_the_troubleshooting_page():
    keys = {normal(re.sub(r'<[^<>]*>', VARIABLE, key)) for key in headings()}
    said = set(shown_to_users())
    assert len(said) > 80
    assert sorted((file, text) for file, text in said if text not in keys) == []


def branches(node: ast.expr) -> Iterator[ast.expr]:
    """The parts of which an expression is one, or which it joins."""
    if isinstance(node, ast.IfExp):
        parts = [node.body, node.orelse]
    elif isinstance(node, ast.BinOp):
        parts = [node.left, node.right]
    elif isinstance(node, ast.List | ast.Tuple):
        parts = node.elts
    else:
        yield node
        return
    for part in parts:
        yield from branches(part)


def sentences_in(node: ast.expr) -> set[str]:
    return {found for part in branches(node) if (found := sentence(part)) is not None and ' ' in found}


@cache
def brought_by_name() -> dict[str, set[str]]:
    """The sentences that a function returns or yields, or that a constant is, by its name where only one has that."""
    found: dict[str, set[str]] = defaultdict(set)
    holders: Counter[str] = Counter()
    for _, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                holders[node.name] += 1
                for inner in ast.walk(node):
                    if isinstance(inner, ast.Return | ast.Yield) and inner.value is not None:
                        found[node.name] |= sentences_in(inner.value)
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    if isinstance(target, ast.Name) and target.id.isupper():
                        holders[target.id] += 1
                        found[target.id] |= sentences_in(node.value)
    return {name: sentences for name, sentences in found.items() if holders[name] == 1}


def test_sentences_that_functions_and_constants_bring_are_on_the_troubleshooting_page():
    """What is raised, noted or logged need not stand where that is done."""
    keys = {normal(re.sub(r'<[^<>]*>', VARIABLE, key)) for key in headings()}
    said = set()
    for file, given in what_is_said():
        for part in branches(given):
            function = part.func if isinstance(part, ast.Call) else part
            name = getattr(function, 'id', getattr(function, 'attr', ''))
            said |= {(file, text) for text in brought_by_name().get(name, ())}
    assert len(said) > 10
    assert sorted((file, text) for file, text in said if text not in keys) == []
