"""How the page looks: on a phone and on a wide screen, in light and in dark."""

STYLE = """
:root { --paper: #fbfbf9; --ink: #1d1f24; --faint: #6a6f7b; --line: #dcdcd6; --card: #ffffff;
  --accent: #b35c12; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16181d; --ink: #e6e7ea; --faint: #9ba0ac; --line: #33363f; --card: #1e2027;
    --accent: #e8954a; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
header, main { max-width: 76rem; margin: 0 auto; padding: 0 1rem; }
header { padding-top: 1.5rem; }
main { padding-bottom: 3rem; }
h1 { margin: 0; font-size: 1.8rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 3rem 0 0.8rem; padding-bottom: 0.3rem; border-bottom: 1px solid var(--line);
  font-size: 1.3rem; }
h3 { margin: 1.6rem 0 0.5rem; font-size: 1rem; }
p { max-width: 46rem; margin: 0.5rem 0; }
header p, section > p, figcaption { color: var(--faint); }
.lead { margin-top: 1.2rem; padding: 0.4rem 1.2rem 1rem; border: 1px solid var(--line);
  border-left: 4px solid var(--accent); border-radius: 6px; background: var(--card); }
.lead .headline { max-width: 60rem; color: var(--ink); font-size: 1.25rem; line-height: 1.4; }
.panels { display: grid; gap: 1.2rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }
figure { margin: 0; min-width: 0; }
figcaption { margin-bottom: 0.3rem; font-size: 0.9rem; }
svg { display: block; width: 100%; height: auto; }
img { display: block; max-width: 100%; height: auto; }
.pixels { width: 100%; image-rendering: pixelated; border-radius: 4px; }
.film { border-radius: 6px; }
blockquote { margin: 0 0 0.4rem; padding: 0.4rem 0.6rem; border: 1px solid var(--line);
  border-radius: 4px; background: var(--card); max-height: 14rem; overflow: auto;
  font: 0.85rem/1.45 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 1.2rem 0.3rem 0; border-bottom: 1px solid var(--line); text-align: left;
  white-space: nowrap; vertical-align: top; font-weight: 400; }
thead th { color: var(--faint); font-weight: 600; }
.numbers th:not(:first-child), .numbers td { text-align: right; }
.words td:last-child { white-space: normal; overflow-wrap: anywhere; }
details { margin: 0.8rem 0; }
summary { cursor: pointer; }
@media print { section { break-inside: avoid; } }
"""
