"""What `--json` prints, held to its schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema

SCHEMA = json.loads((Path(__file__).resolve().parents[2] / 'config' / 'schema' / 'command.schema.json').read_text())


def report_in(out: str, command: str) -> dict[str, Any]:
    """The one object that ``command`` printed on stdout."""
    [line] = out.splitlines()
    report = json.loads(line)
    jsonschema.validate(report, SCHEMA)
    assert report['command'] == command
    return report
