"""The frame and the looks of an HTML report; light or dark as the reader's system is."""

from __future__ import annotations

FRAME = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

STYLE = """
:root {
  --page: #ffffff; --ink: #1b1f24; --quiet: #5d6672; --rule: #dfe3e8; --panel: #f5f7f9;
  --good: #17713a; --good-panel: #e4f4ea; --bad: #a8201a; --bad-panel: #fbe9e7;
  --bar: #3c6fb0; --ghost: #c9d3df; --line-1: #3c6fb0; --line-2: #b3591d; --line-3: #4d7f32;
  --line-4: #8a4aa8; --line-5: #1f8585; --line-6: #6b6f76;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --ink: #e3e6ea; --quiet: #98a2af; --rule: #2d333b; --panel: #1d2127;
    --good: #6cc98d; --good-panel: #16291d; --bad: #f08a80; --bad-panel: #331a18;
    --bar: #6c9fe0; --ghost: #3a434e; --line-1: #6c9fe0; --line-2: #e09a63; --line-3: #93c572;
    --line-4: #c795e2; --line-5: #63c7c7; --line-6: #a9afb8;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
}
main { max-width: 1120px; margin: 0 auto; padding: 28px 24px 64px; }
h1 { font-size: 20px; line-height: 1.3; margin: 0 0 14px; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 36px 0 8px; padding-top: 14px; border-top: 1px solid var(--rule); }
p { margin: 8px 0; overflow-wrap: anywhere; max-width: 85ch; }
.good { color: var(--good); } .bad { color: var(--bad); } .quiet { color: var(--quiet); }
.verdict {
  padding: 12px 16px; border-radius: 8px; background: var(--panel); border-left: 4px solid
  var(--quiet); font-size: 17px; font-weight: 600; max-width: none;
}
.verdict.good { background: var(--good-panel); border-color: var(--good); }
.verdict.bad { background: var(--bad-panel); border-color: var(--bad); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px;
  margin: 16px 0 0; }
.figures div { background: var(--panel); border-radius: 8px; padding: 10px 14px; }
.figures dt { color: var(--quiet); font-size: 13px; }
.figures dd { margin: 0; font-size: 20px; font-weight: 600; }
.figures small { display: block; font-size: 13px; font-weight: 400; color: var(--quiet); }
.scroll { overflow: auto; max-height: 620px; margin: 12px 0; border: 1px solid var(--rule);
  border-radius: 8px; width: fit-content; max-width: 100%; }
.scroll:has(.bars) { width: auto; max-height: none; }
table { border-collapse: collapse; font-size: 14px; }
th, td { padding: 5px 12px; text-align: left; vertical-align: top; }
th { position: sticky; top: 0; background: var(--panel); color: var(--quiet); font-weight: 500;
  white-space: nowrap; z-index: 1; }
td { border-top: 1px solid var(--rule); }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.short { white-space: nowrap; }
td.wide { min-width: 15em; max-width: 34em; overflow-wrap: anywhere; }
.bars { width: 100%; }
.bars .name { overflow-wrap: anywhere; }
.bars td { padding-top: 3px; padding-bottom: 3px; border: 0; vertical-align: middle; }
.bars .name { width: 34%; min-width: 9em; }
.bars .drawn { width: 48%; min-width: 120px; }
.bars svg { display: block; width: 100%; height: 14px; }
rect.now { fill: var(--bar); } rect.now.good { fill: var(--good); }
rect.now.bad { fill: var(--bad); } rect.now.quiet { fill: var(--quiet); }
rect.was { fill: var(--ghost); }
figure { margin: 12px 0; max-width: 900px; }
figure svg { display: block; width: 100%; height: auto; }
figcaption { color: var(--quiet); font-size: 14px; margin-bottom: 6px; }
figure text { fill: var(--quiet); font-size: 13px; }
.grid { stroke: var(--rule); } .limit { stroke: var(--bad); stroke-dasharray: 5 4; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.n0 { --line: var(--line-1); } .n1 { --line: var(--line-2); } .n2 { --line: var(--line-3); }
.n3 { --line: var(--line-4); } .n4 { --line: var(--line-5); } .n5 { --line: var(--line-6); }
.line { stroke: var(--line); } .dot { fill: var(--line); }
@media (max-width: 700px) {
  main { padding: 18px 14px 48px; }
  th, td { padding: 4px 8px; }
  table { font-size: 13px; }
  figure text { font-size: 17px; }
}
@media print { .scroll { max-height: none; overflow: visible; } }
"""
