"""Write sessions as one self-contained HTML page: no script, no font, no request, light and dark.

Every text is escaped, and a content security policy in the page is the second line of defence.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from sessions.formats.json_lines import Output
from sessions.formats.rendering import Entry, entries, summary, visible
from sessions.records import SessionArchive

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1b1a; --paper: #fbfaf8; --soft: #6b6863; --user: #e9eef6; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e3de; --paper: #191817; --soft: #99958e; --user: #26303f; }
}
body { margin: 0 auto; max-width: 44rem; padding: 2rem 1rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: 2rem 0 .5rem; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; margin: 0 0 1.5rem; }
dl, .facts, .speaker { color: var(--soft); font-size: .8rem; }
dd { margin: 0; overflow-wrap: anywhere; }
article { margin: 1rem 0; }
.speaker { margin: 0 0 .1rem; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; }
.user .text { background: var(--user); border-radius: .6rem; padding: .5rem .8rem; }
.system .text { color: var(--soft); font-style: italic; }
.facts { margin: .2rem 0 0; }
"""

_HEAD = """\
<!DOCTYPE html>
<html lang="und">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
"""


def write(archives: Sequence[SessionArchive], file: Output) -> None:
    """Write the sessions as one page."""
    title = archives[0].session.name if len(archives) == 1 else f"{len(archives)} sessions"
    file.write(_HEAD.format(title=_safe(title), style=_STYLE))
    for archive in archives:
        file.write(f'<section>\n<h1 dir="auto">{_safe(archive.session.name)}</h1>\n<dl>\n')
        for name, value in summary(archive):
            file.write(f"<dt>{_safe(name)}</dt><dd>{_safe(value)}</dd>\n")
        file.write("</dl>\n")
        for entry in entries(archive):
            _article(entry, file)
        file.write("</section>\n")
    file.write("</body>\n</html>\n")


def _article(entry: Entry, file: Output) -> None:
    file.write(f'<article class="{entry.message.role}">\n<p class="speaker">{entry.speaker}</p>\n')
    file.write(f'<div class="text" dir="auto">{_safe(entry.text)}</div>\n')
    if entry.facts:
        file.write(f'<p class="facts">{_safe(entry.facts)}</p>\n')
    file.write("</article>\n")


def _safe(text: str) -> str:
    return escape(visible(text), quote=True)
