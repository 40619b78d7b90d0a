"""Looks of the report: one style sheet, light and dark, and one colour for each behavior."""

from __future__ import annotations

BEHAVIOR_COLOURS = {
    'NONE': '#3f9c78',
    'SLOW_DOWN': '#e0a526',
    'STOP': '#d64545',
    'SHIFT_LEFT': '#3b82c4',
    'SHIFT_RIGHT': '#6aa8dc',
    'TURN_LEFT': '#7a5cc7',
    'TURN_RIGHT': '#a68be0',
    'YIELD': '#e0762f',
    'INCREASE_GAP': '#2aa5a5',
    'UNKNOWN': '#8b93a1',
}

STYLE = """
:root { color-scheme: light dark; --page: #f4f5f7; --card: #ffffff; --ink: #1c2330; --soft: #5d6778; --line: #dfe3ea;
  --track: #e9ecf1; --good: #23805a; --bad: #c23434; --warn-bg: #fdecec; --warn-ink: #8d1f1f; --accent: #b07d0c; }
@media (prefers-color-scheme: dark) { :root { --page: #12151b; --card: #1b2029; --ink: #e7eaf0; --soft: #97a1b3;
  --line: #2c3340; --track: #2a313d; --good: #58c596; --bad: #f07474; --warn-bg: #43191b; --warn-ink: #ffc9c9;
  --accent: #ffd666; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, Roboto, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 26px; margin: 0 0 2px; letter-spacing: -0.01em; }
h2 { font-size: 17px; margin: 34px 0 10px; }
.soft { color: var(--soft); } .small { font-size: 13px; }
.mono { font-family: ui-monospace, Menlo, Consolas, monospace; }
.good { color: var(--good); } .bad { color: var(--bad); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 16px 18px; }
.warning { background: var(--warn-bg); color: var(--warn-ink); border-radius: 12px; padding: 12px 18px; }
.warning { margin: 16px 0; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 18px 0; }
.figures b { display: block; font-size: 25px; line-height: 1.2; font-weight: 650; font-variant-numeric: tabular-nums; }
.split { display: grid; grid-template-columns: minmax(0, 1fr) 250px; gap: 12px; }
@media (max-width: 900px) { .split, .tick { grid-template-columns: 1fr !important; } }
svg { display: block; width: 100%; height: auto; } svg text { fill: var(--ink); font: 12px system-ui, sans-serif; }
svg .soft { fill: var(--soft); } svg .line { stroke: var(--line); }
svg .car { fill: var(--card); stroke: var(--soft); stroke-width: 1.5; }
.dot { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 6px; }
.tick { display: grid; grid-template-columns: minmax(0, 1fr) 330px; gap: 20px; margin-bottom: 14px; }
.ring { display: grid; gap: 8px; align-content: start; }
.view { background: #0d0f13; border-radius: 8px; overflow: hidden; color: #f2f4f8; font-size: 12px; }
.view > img { display: block; width: 100%; }
.view .none { aspect-ratio: 16 / 9; display: grid; place-items: center; color: #aab2c0; }
.view footer { display: flex; align-items: center; gap: 8px; padding: 5px 8px; }
.view footer img { height: 18px; margin-left: auto; image-rendering: pixelated; max-width: 45%; }
.hint { display: flex; align-items: baseline; gap: 8px; font-size: 22px; font-weight: 650; margin: 10px 0 6px; }
.stage { white-space: nowrap; margin-right: 8px; } .stage i { font-style: normal; }
.hint .small { font-weight: 400; }
.bars { display: grid; grid-template-columns: auto 1fr auto; gap: 3px 10px; align-items: center; font-size: 13px; }
.bars { margin: 8px 0; } .track { background: var(--track); border-radius: 4px; height: 10px; overflow: hidden; }
.track i { display: block; height: 10px; }
.text { border-left: 3px solid var(--accent); padding-left: 12px; margin: 10px 0; }
.stages { display: flex; height: 10px; border-radius: 4px; overflow: hidden; background: var(--track); margin: 4px 0; }
.badge { border: 1px solid var(--line); border-radius: 20px; padding: 1px 9px; font-size: 12px; white-space: nowrap; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 5px 10px; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; } th { color: var(--soft); font-weight: 500; }
ul { margin: 4px 0; padding-left: 20px; }
"""
