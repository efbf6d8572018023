"""Before and after of the page: two pictures over each other at 100 %, with a divider between them, as HTML.

The divider is a range input, for fingers, mice and keyboards; the pictures scroll below it. No script but what stands
in the attributes.
"""

import html

CSS = """
.compare { position: relative; container-type: inline-size; border-radius: 6px; overflow: hidden; }
.compare-scroll { overflow: auto; max-height: min(70vh, 960px); --x: 0px; }
.compare-pair { position: relative; margin: 0 auto; }
.compare-pair img { position: absolute; inset: 0; width: 100%; height: 100%; max-width: none; margin: 0; }
.compare-pair img + img { clip-path: inset(0 0 0
  calc(var(--x) + var(--at) * 1cqw - max(0px, (100cqw - var(--width)) / 2))); }
.compare-line { position: absolute; top: 0; bottom: 0; left: calc(var(--at) * 1%); width: 44px; margin-left: -22px;
  touch-action: none; cursor: ew-resize; background: linear-gradient(#fff, #fff) center / 2px 100% no-repeat;
  filter: drop-shadow(0 0 1px #000); }
.compare-line::after { content: "◂ ▸"; position: absolute; top: 50%; left: 2px; width: 40px; line-height: 28px;
  text-align: center; border-radius: 14px; background: #fff; color: #111; font-size: 14px; }
.compare-line span { position: absolute; top: 8px; padding: 1px 8px; border-radius: 4px; background: #000a; color: #fff;
  font-size: 13px; white-space: nowrap; }
.compare-line span:first-child { right: 30px; }
.compare-line span:last-child { left: 30px; }
.compare-range { display: block; width: 100%; margin: 8px 0 0; height: 28px; accent-color: var(--color-accent); }
.first { max-width: 40em; margin: 3em auto; text-align: center; opacity: 0.75; }
.compare-scroll:focus-visible, .compare-range:focus-visible { outline: 2px solid var(--color-accent); }
"""

_SCROLLED = "this.style.setProperty('--x', this.scrollLeft + 'px')"
_MOVED = "this.closest('.compare-all').style.setProperty('--at', this.value)"
_TAKEN = "this.setPointerCapture(event.pointerId)"
_DRAGGED = (
    "if (this.hasPointerCapture(event.pointerId)) {"
    " const box = this.parentElement.getBoundingClientRect();"
    " const range = this.closest('.compare-all').querySelector('input');"
    " range.value = 100 * (event.clientX - box.left) / box.width; range.oninput(); }"
)
_LOADED = (
    "const view = this.closest('.compare-scroll');"
    " view.scrollLeft = (view.scrollWidth - view.clientWidth) / 2;"
    " view.scrollTop = (view.scrollHeight - view.clientHeight) / 2;"
    " if (innerWidth <= 640) view.scrollIntoView({behavior: 'smooth', block: 'nearest'});"
)


EMPTY = """<p class="first">Drop a photograph: it appears here four times as wide and high, beside what any
viewer would show. Nothing leaves this machine.</p>"""


def before_and_after(before: str, after: str, size: tuple[int, int], words: tuple[str, str]) -> str:
    """HTML of two pictures with a divider.

    Args:
        before: address of the picture on the left.
        after: address of the picture on the right.
        size: width and height of both, in pixels.
        words: what they are.
    """
    width, height = size
    left, right = (html.escape(word) for word in words)
    source, result = (html.escape(address) for address in (before, after))
    return (
        f'<div class="compare-all" style="--at: 50; --width: {width}px"><div class="compare">'
        f'<div class="compare-scroll" tabindex="0" role="group" aria-label="{left} and {right}" onscroll="{_SCROLLED}">'
        f'<div class="compare-pair" style="width: {width}px; height: {height}px">'
        f'<img src="{source}" alt="{left}"><img src="{result}" alt="{right}" onload="{_LOADED}"></div></div>'
        f'<div class="compare-line" onpointerdown="{_TAKEN}" onpointermove="{_DRAGGED}">'
        f"<span>{left}</span><span>{right}</span></div></div>"
        '<input class="compare-range" type="range" min="0" max="100" value="50" step="1"'
        f' aria-label="Divider between {left} and {right}" oninput="{_MOVED}"></div>'
    )
