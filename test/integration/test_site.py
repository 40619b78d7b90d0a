"""What the site of the documentation adds to its theme, in a real browser."""

from __future__ import annotations

from pathlib import Path

import yaml
from helpers.browser import OpenPage, chromium

ROOT = Path(__file__).resolve().parents[2]
THEME = '.md-typeset code { word-break: break-word; } table { width: 100%; } td { min-width: 60px; }'  # as Material's
LINES = 'document.querySelector("code").getClientRects().length'


def test_names_of_parameters_stay_whole_on_a_phone(tmp_path: Path):
    class Loader(yaml.SafeLoader):
        """Takes what only mkdocs can build for nothing."""

    Loader.add_multi_constructor('', lambda *_: None)
    [sheet] = yaml.load((ROOT / 'mkdocs.yml').read_text(), Loader)['extra_css']
    row = '<tr><td><code>lifecycle.autostart</code></td>' + '<td>what is said of it, in words</td>' * 4 + '</tr>'
    lines = []
    with chromium() as browser:
        for name, style in (('theme', THEME), ('ours', THEME + (ROOT / 'docs' / sheet).read_text())):
            file = tmp_path / f'{name}.html'
            table = f'<div class="md-typeset" style="overflow-x: auto"><table>{row}</table></div>'
            file.write_text(f'<meta charset="utf-8"><style>{style}</style>{table}', encoding='utf-8')
            opened = OpenPage(browser, file, 390)
            lines.append(opened.page.evaluate(LINES))
            wide, window = opened.widths()
            assert wide <= window, 'the table scrolls, and not the page'
    assert lines[0] > 1 == lines[1]
