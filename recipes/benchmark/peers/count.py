"""Lines and tokens of the sources beside this file, as the table of docs/peers.md.

    python recipes/benchmark/peers/count.py            # prints the table
    python recipes/benchmark/peers/count.py --write    # puts it, and the sources, into the page

What counts: no blank line, no comment, no docstring, no import, nothing under `if __name__ == "__main__":`. Tokens are
those of Python's tokenizer; they don't depend on where a line is broken.
"""

import ast
import io
import re
import sys
import tokenize
from pathlib import Path

FOLDER = Path(__file__).parent
PAGE = FOLDER.parents[2] / "docs" / "peers.md"
FLOWS = {
    "realnvp": "RealNVP",
    "glow": "Glow",
    "hcflow": "HCFlow",
    "design": "y\\* at every level, beyond HCFlow's lines",
}
LIBRARIES = {"flowkit": "flowkit", "nflows": "nflows", "normflows": "normflows", "freia": "FrEIA"}
LAYOUT = {
    tokenize.NEWLINE,
    tokenize.NL,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.COMMENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def count(source: str) -> tuple[int, int]:
    """Lines and tokens that count."""
    ignored: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        demo = isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
        if isinstance(node, ast.stmt) and (docstring or demo or isinstance(node, ast.Import | ast.ImportFrom)):
            ignored.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    tokens = [
        token
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in LAYOUT and token.start[0] not in ignored
    ]
    lines = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
    return len(lines), len(tokens)


def table() -> str:
    """The table in Markdown: a row for each flow, a column for each library, lines (tokens)."""
    rows = ["| | " + " | ".join(LIBRARIES.values()) + " |", "|---|" + "---:|" * len(LIBRARIES)]
    for flow, title in FLOWS.items():
        cells = []
        for library in LIBRARIES:
            path = FOLDER / f"{flow}_{library}.py"
            cells.append("{} ({})".format(*count(path.read_text())) if path.is_file() else "–")
        rows.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def refreshed(page: str) -> str:
    """The page with today's table and sources: what stands between its markers is replaced."""

    def block(match: re.Match[str]) -> str:
        name = match[1]
        text = table() if name == "table" else f"```python\n{(FOLDER / name).read_text()}```"
        return f"<!-- {name} -->\n\n{text}\n\n<!-- end -->"

    return re.sub(r"<!-- (table|\w+\.py) -->.*?<!-- end -->", block, page, flags=re.DOTALL)


if __name__ == "__main__":
    print(table())
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(refreshed(PAGE.read_text()))
