"""Self-contained HTML pages: nothing is fetched, and every text is escaped."""

import base64
import html
import io
import json
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from usucl_fast.errors import DataError, first_line, printable
from usucl_fast.files import read_small, write_whole

if TYPE_CHECKING:
    from PIL import Image

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""The browser itself refuses whatever a page would fetch."""
ASSETS = "assets"
"""The folder of this package with the styles and scripts of pages."""
QUALITY = 85
"""Of JPEG."""
READ_BYTES = 1 << 26
"""A larger page is not read again."""
_DATA, _END = '<script type="application/json" id="data">', "</script>"


def escape(text: str) -> str:
    """Escapes a text for HTML, including characters that would change the direction of writing."""
    return html.escape(printable(text))


def paragraph(text: str) -> str:
    """A paragraph of a text, which is escaped."""
    return f"<p>{escape(text)}</p>"


def table_html(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts, which are escaped; the first cell of a row is its title."""
    lines = ["".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)]
    for title, *cells in rows:
        line = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        lines.append(f'<th scope="row">{escape(title)}</th>{line}')
    return '<div class="wide"><table>\n' + "\n".join(f"<tr>{line}</tr>" for line in lines) + "\n</table></div>"


def image_url(data: bytes, kind: str) -> str:
    """An encoded picture as a URL that holds all of it; `kind` is png, jpeg, …"""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def jpeg_url(image: "Image.Image") -> str:
    """A picture, encoded as JPEG, as a URL that holds all of it."""
    encoded = io.BytesIO()
    image.save(encoded, "jpeg", quality=QUALITY)
    return image_url(encoded.getvalue(), "jpeg")


def figure_html(url: str, caption: str) -> str:
    """A picture with its caption, which is escaped."""
    text = escape(caption)
    return f'<figure><img src="{url}" alt="{text}">\n<figcaption>{text}</figcaption></figure>'


def write_html(path: Path, title: str, parts: Iterable[str], script: str = "", data: Any = None) -> None:
    """Writes a self-contained page, whole or not at all.

    Args:
        path: of the page.
        title: a text, which is escaped; the heading as well.
        parts: HTML, below the heading.
        script: name of the script in `assets` that the page runs, after `common.js`.
        data: what the script finds as `DATA`, of what JSON has.
    """
    name, style = escape(title), _asset("page.css")
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">\n'
    head += f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
    head += f"<title>{name}</title><style>\n{style}</style>"
    body = [f"<h1>{name}</h1>", *parts]
    if script:
        body.append(f"{_DATA}{_json(data)}{_END}")
        body.append(f"<script>\n{_asset('common.js')}\n{_asset(script)}</script>")
    text = "\n".join(body)
    with write_whole(path) as file:
        file.write(f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n{text}\n</body></html>\n'.encode())


def read_html_data(path: Path) -> Any:
    """Reads what `write_html` was given as `data`.

    Raises:
        DataError: the page cannot be read, or holds no data.
    """
    text = read_small(path, READ_BYTES).partition(_DATA.encode())[2].partition(_END.encode())[0]
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({first_line(error)})") from error


def _asset(name: str) -> str:
    return (files("usucl_fast") / ASSETS / name).read_text(encoding="utf-8")


def _json(data: Any) -> str:
    """JSON that ends no script element, whatever texts it holds."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
