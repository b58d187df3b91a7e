"""An explanation -> one HTML page that needs nothing else: the live page's own files, put into it.

Its policy lets run only these scripts and styles, by hash, and asks no other host for anything.
"""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape
from pathlib import Path
from typing import Any

from .page import head

PAGE = Path(__file__).parent / "web"
SCRIPTS = ("words.js", "view.js", "heads.js", "frame.js", "shared.js")


def render(found: dict[str, Any], bundle: str) -> str:
    """The whole page. ``found``: of ``explain``; ``bundle``: the name of what scored it."""
    style = (PAGE / "page.css").read_text(encoding="utf-8")
    script = "\n".join((PAGE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    data = json.dumps(found, ensure_ascii=False).replace("<", "\\u003c")  # no text can end the script that holds it
    live = (PAGE / "index.html").read_text(encoding="utf-8")
    header = live[live.index("<header>") : live.index("</header>")].replace(
        '<a class="mark" href="./">жиргээ</a>', MARK
    )
    rules = f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}"
    return f"""{head("жиргээ", style, rules, "mn")}
<body class="shared">
{header}</header>
<main>
<div id="explanation"></div>
<noscript><p class="card">{escape(found["label"])}: {escape(found["text"])}</p></noscript>
</main>
<footer>{escape(bundle)}</footer>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""


MARK = '<span class="mark">жиргээ</span>'


def _hash(block: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()}'"
