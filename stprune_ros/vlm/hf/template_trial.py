"""Tries a chat template in a process of its own before it is rendered here: one that loops or swells ends there.

The sandbox of Jinja keeps a template from Python's objects, not from taking time and memory.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

COMPUTING_S = 0.5  # processor time of rendering; a template takes a few ms
MEMORY = 2**26  # bytes beyond what the interpreter has
WAIT_S = 60.0  # on a machine that has no time for the trial
CHILD = """\
import json, sys
given = json.load(sys.stdin)
sys.path[:] = given['path']
from stprune_ros.vlm.hf.template_trial import try_out
print(try_out(given['templates'], given['tokens']))
"""
FINE, SWELLS = 'fine', 'swells'


def template_fault(template: str | Mapping[str, str], tokens: Mapping[str, str]) -> str:
    """What is wrong with a chat template, or one of several by name, '' where it may be rendered.

    ``tokens`` are the special tokens that the tokenizer gives its template. A template that merely fails is fine here:
    it says so where it is rendered.
    """
    templates = (template,) if isinstance(template, str) else tuple(template.values())
    return _tried(templates, tuple(sorted(tokens.items())))


@cache
def _tried(templates: tuple[str, ...], tokens: tuple[tuple[str, str], ...]) -> str:
    path = [place for place in sys.path if Path(place).is_absolute()]
    given = json.dumps({'path': path, 'templates': templates, 'tokens': dict(tokens)})
    command = [sys.executable, '-I', '-c', CHILD]  # isolated: no folder but those of this process is searched
    try:
        ended = subprocess.run(command, input=given, capture_output=True, text=True, timeout=WAIT_S, check=False)
    except subprocess.TimeoutExpired:
        return f'does not end within {WAIT_S:g} s'
    said = ended.stdout.strip()
    if said == SWELLS:
        return f'takes more than {MEMORY >> 20} MB of memory'
    if ended.returncode == -signal.SIGPROF:
        return f'does not end within {COMPUTING_S:g} s of computing'
    if said != FINE:
        lines = ended.stderr.strip().splitlines()
        return f'cannot be tried: {lines[-1] if lines else f"exit code {ended.returncode}"}'
    return ''


def try_out(templates: list[str], tokens: Mapping[str, str]) -> str:
    """In the child: render each template as the backend will, within the bounds; FINE or SWELLS, or no return."""
    environment = _environment()
    _limit()
    for template in templates:
        try:
            compiled = environment.from_string(template)
        except MemoryError:
            return SWELLS
        except Exception:
            continue
        for turns, invites in _conversations():
            try:
                compiled.render(**tokens, messages=turns, tools=None, documents=None, add_generation_prompt=invites)
            except MemoryError:
                return SWELLS
            except Exception:  # said where it is rendered
                pass
    return FINE


def _limit() -> None:
    """Bound what this process may still take; beyond its time it is ended by a signal, also inside native code."""
    import resource

    pages = int(Path('/proc/self/statm').read_text(encoding='ascii').split()[0])
    allowed = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, COMPUTING_S)


def _environment() -> Any:
    """Jinja as transformers sets it up."""
    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """The tag around what the model writes: here its body only."""

        tags = {'generation'}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(['name:endgeneration'], drop_needle=True)

    def fail(message: str) -> None:
        raise jinja2.exceptions.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters['tojson'] = lambda value, **options: json.dumps(value, **options)
    environment.globals['raise_exception'] = fail
    environment.globals['strftime_now'] = lambda form: ''
    return environment


def _conversations() -> list[tuple[list[dict[str, Any]], bool]]:
    """The turns that a backend renders, with parts as in most templates and with texts alone, and the invitation."""
    views = [{'type': 'text', 'text': 'view'}, *[{'type': 'image'}] * 4] * 6
    system, user = [{'type': 'text', 'text': 'You drive.'}], [*views, {'type': 'text', 'text': 'What now?'}]
    answer = {'role': 'assistant', 'content': [{'type': 'text', 'text': 'stop'}]}
    asked = [{'role': 'system', 'content': system}, {'role': 'user', 'content': user}]
    plain = [{'role': 'system', 'content': 'You drive.'}, {'role': 'user', 'content': 'What now?'}]
    return [(asked, True), (asked[1:], True), ([*asked[1:], answer], False), (plain, True)]
