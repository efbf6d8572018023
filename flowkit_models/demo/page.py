"""Layout of the page, and the callback of each widget. Needs gradio; nothing on it comes from the network."""

import functools
from typing import Any

from flowkit_models.demo.callbacks import Callbacks, bundled_files
from flowkit_models.demo.enlarge_tab import enlarge_widgets, wire_enlarge
from flowkit_models.demo.scene import COLOURS
from flowkit_models.demo.viewer import CSS as VIEWER
from flowkit_models.demo.widgets import gallery, photograph, result, tau
from flowkit_models.demo.wiring import Wiring

_GRADIENT = ", ".join(f"rgb({', '.join(str(int(part)) for part in colour)})" for colour in COLOURS)

CSS = f"""
.gradio-container {{ width: 100% !important; max-width: 1400px !important; margin: 0 auto; }}
/* outside of what gradio lets a media query reach */
.gradio-container > .main {{ padding: 16px clamp(8px, 5vw - 10px, 32px) !important; }}
#title p {{ margin: 0; opacity: 0.75; }}
.legend {{ display: flex; gap: 8px; align-items: center; font-size: 13px; }}
.legend i {{ flex: 1; height: 12px; border-radius: 3px; background: linear-gradient(to right, {_GRADIENT}); }}
.legend + p {{ font-size: 13px; margin: 4px 0 0; }}
.small p {{ font-size: 13px; opacity: 0.8; margin: 0; }}
.images .grid-wrap {{ min-height: 0 !important; max-height: none !important; overflow-y: visible !important; }}
.images .grid-container {{ grid-template-columns: repeat(var(--grid-cols), minmax(0, 1fr)) !important; }}
.images .grid-container {{ grid-auto-rows: auto !important; grid-template-rows: none !important; }}
.images .caption-label {{ white-space: normal !important; max-width: 100% !important; font-size: 12px !important; }}
#bundled input {{ text-overflow: ellipsis; padding-right: 24px; }}
#scores table {{ font-size: 13px; width: 100%; }}
#scores th, #scores td {{ padding: 3px 8px; overflow-wrap: normal; word-break: normal; }}
#scores td:not(:first-child), #scores th:not(:first-child) {{ text-align: right; }}
.text {{ max-width: 50em; }}
@media (max-width: 640px) {{
  .images .grid-container {{ grid-template-columns: repeat(2, minmax(0, 1fr)) !important; }}
  /* with the hidden copies by which gradio measures whether all tabs fit */
  .tab-container button {{ padding: 0 7px !important; font-size: 13px !important; }}
}}
{VIEWER}"""

ABOUT = """# flowkit: enlarge a photograph
The models behind it are normalizing flows: they know what a small picture leaves open, and draw it.
"""

COMPARE = """Load a photograph that is large enough: a small one is made of it, enlarged again, and compared with the
original. The draws are also what the tabs *Edit* and *Latents* work on."""

EDIT = "Edits change the latents of the draws in the tab *Compare*, or of the photograph there: load one there first."

LATENT = """**What a latent is.** The flow maps an image to its small version and to *latents*, and back: numbers with a
standard normal distribution that hold what the small version lacks. All latents together with a small version make an
image that it could have come from. At τ = 0 they are zero, and the image is the likeliest; a draw at a higher τ takes
them at random. Between the latents of two draws, every step is such an image as well: draw at τ > 0 in the tab
*Compare*, then walk from one to the other here."""


def build(gr: Any, calls: Callbacks, opened: dict[str, Any], examples: dict[str, str], limits: str) -> Any:
    """The page, a gr.Blocks.

    Args:
        gr: gradio.
        calls: what its widgets call.
        opened: what `Tasks.open` says of the checkpoint that is open at first.
        examples: photographs to choose from, files by name.
        limits: of what a user may do, a sentence.
    """
    w: dict[str, Any] = {}
    with gr.Blocks(title="flowkit demo", analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        gr.Markdown(ABOUT, elem_id="title")
        w["state"] = gr.State()
        w["opened"] = gr.State(calls.runner.first)
        with gr.Tabs():
            with gr.Tab("Enlarge my photo"):
                enlarge_widgets(gr, w, calls, opened, examples, limits)
            with gr.Tab("Compare"), gr.Row():
                with gr.Column(scale=1, min_width=300):
                    _inputs(gr, w, calls.runner.first, opened, examples)
                with gr.Column(scale=3, min_width=300):
                    _draws(gr, w)
            with gr.Tab("Edit"):
                w["possible"] = gr.Markdown(EDIT, elem_classes="small")
                with gr.Tabs():
                    with gr.Tab("Brush"):
                        _brush(gr, w, calls, opened)
                    with gr.Tab("Paste"):
                        _paste(gr, w, calls, opened)
            with gr.Tab("Latents"):
                gr.Markdown(LATENT, elem_classes="text")
                _way(gr, w)
        _wire(gr, w, calls, examples)
    return page


def _inputs(gr: Any, w: dict[str, Any], checkpoint: str, opened: dict[str, Any], examples: dict[str, str]) -> None:
    gr.Markdown(COMPARE, elem_classes="small")
    w["photo"] = photograph(gr, "Photograph", 220, "photo")
    w["example"] = gr.Radio(list(examples), label="or an example", visible=bool(examples), elem_id="example")
    files = bundled_files()
    choices = [(words, file) for file, words in files.items()]
    first = checkpoint if checkpoint in files else None
    w["bundled"] = gr.Dropdown(choices, value=first, label="Model", elem_id="bundled")
    kinds = [tuple(choice) for choice in opened["kinds"]]
    w["kind"] = gr.Radio(kinds, value=opened["kind"], label="The photograph is")
    w["temperature"] = tau(gr, opened, "Temperature τ (std of the latents)", elem_id="tau")
    w["seed"] = gr.Slider(0, 999, 0, step=1, label="Seed", elem_id="seed")
    w["n"] = gr.Slider(1, 8, 4, step=1, label="Number of draws", elem_id="n")
    w["draw"] = gr.Button("Draw", variant="primary", elem_id="draw")
    with gr.Accordion("Large photographs", open=False):
        w["fit"] = gr.Radio([("cut a window out", "cut"), ("shrink", "shrink")], value="cut", label="If too large")
        w["row"] = gr.Slider(0, 100, 50, step=1, label="Window centre, % from the top")
        w["column"] = gr.Slider(0, 100, 50, step=1, label="Window centre, % from the left")
    with gr.Accordion("Another checkpoint", open=False):
        label = "Path (.safetensors or .pth), and Enter"
        w["checkpoint"] = gr.Textbox(checkpoint, label=label, elem_id="checkpoint")
        w["upload"] = gr.UploadButton("Upload a checkpoint", file_types=[".safetensors", ".pth"], size="sm")
    w["model"] = gr.Markdown(opened["about"], elem_classes="small", elem_id="model")
    w["notes"] = gr.Markdown(elem_classes="small", elem_id="notes")


def _draws(gr: Any, w: dict[str, Any]) -> None:
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            w["draws"] = gallery(gr, "Draws and their consistency with the LR image", 2, "draws")
            w["download"] = gr.DownloadButton("Download", visible=False, size="sm", elem_id="download")
        with gr.Column(scale=1, min_width=240):
            w["heat"] = result(gr, "Diversity: where draws differ", "heat")
            w["legend"] = gr.HTML()
            w["scores"] = gr.Markdown(elem_id="scores")
    w["references"] = gallery(gr, "To compare with", 3, "references")


def _brush(gr: Any, w: dict[str, Any], calls: Callbacks, opened: dict[str, Any]) -> None:
    with gr.Row():
        with gr.Column(min_width=300):
            w["brush_base"] = gr.Dropdown([], label="Image")
            w["editor"] = gr.ImageEditor(
                label="Paint the region",
                type="numpy",
                sources=(),
                transforms=(),
                layers=False,
                format="png",
                brush=gr.Brush(max(8, calls.side // 12), colors=["rgba(0, 200, 180, 0.6)"], color_mode="fixed"),
                canvas_size=(calls.side, calls.side),
                height=460,
                elem_id="editor",
            )
            w["editor"].preprocess = functools.partial(_layers, w["editor"])
        with gr.Column(min_width=300):
            w["brush_result"] = result(gr, "Result", "brush_result")
            w["brush_caption"] = gr.Markdown(elem_classes="small")
            w["brush_download"] = gr.DownloadButton("Download", visible=False, size="sm")
    changes = [
        ("another draw", "redraw"),
        ("another τ", "temperature"),
        ("zero", "zero"),
        ("a factor", "scale"),
    ]
    w["change"] = gr.Radio(changes, value="redraw", label="Latents of the region become")
    with gr.Row():
        w["brush_temperature"] = tau(gr, opened, "τ of the region")
        w["brush_seed"] = gr.Slider(0, 999, 1, step=1, label="Seed of another draw")
        w["factor"] = gr.Slider(0, 2, 0.5, step=0.05, label="Factor")
    w["levels"] = gr.CheckboxGroup([], label="Levels of latents, coarsest first")
    w["brush"] = gr.Button("Change the region", variant="primary", elem_id="brush")


def _layers(editor: Any, payload: Any) -> list[str | bytes]:
    """The painted layers of an editor, as `flowkit_models.demo.tasks.painted_mask` takes them; not decoded here."""
    held = editor.blob_storage.pop(payload.id, None) if payload and payload.id is not None else payload
    layers = (held.layers if held else None) or []
    return [layer if isinstance(layer, bytes) else layer.path for layer in layers if layer]


def _paste(gr: Any, w: dict[str, Any], calls: Callbacks, opened: dict[str, Any]) -> None:
    with gr.Row():
        with gr.Column(min_width=260):
            w["source"] = photograph(gr, "Take from (click there)", 260, "source")
            w["paste_base"] = gr.Dropdown([], label="Lay it into")
        with gr.Column(min_width=260):
            w["pasted"] = result(gr, "Pasted (click where)", "pasted")
        with gr.Column(min_width=260):
            w["paste_result"] = result(gr, "Harmonised by the flow", "paste_result")
            w["paste_caption"] = gr.Markdown(elem_classes="small")
            w["paste_download"] = gr.DownloadButton("Download", visible=False, size="sm")
    with gr.Row():
        for name, label in (("take", "Taken at"), ("put", "Laid at")):
            for part, edge in (("row", "top"), ("column", "left")):
                w[f"{name}_{part}"] = gr.Slider(0, 100, 50, step=1, label=f"{label}, % from {edge}", min_width=180)
    side = min(128, calls.side)
    with gr.Row():
        w["side"] = gr.Slider(16, calls.side, side, step=8, label="Side of the patch, HR pixels", min_width=240)
        w["toward"] = gr.Slider(0, 1, 0, step=0.05, label="LR image: old (0) … patch's (1)", min_width=240)
        w["paste_temperature"] = tau(gr, opened, "τ to normalise to", min_width=180)
    collections = [
        ("at each position", "position"),
        ("of each channel", "channel"),
        ("all together", "all"),
        ("no", "none"),
    ]
    w["over"] = gr.Radio(collections, value="position", label="Normalise the patch's latents")
    w["paste"] = gr.Button("Paste and harmonise", variant="primary", elem_id="paste")


def _way(gr: Any, w: dict[str, Any]) -> None:
    with gr.Row():
        with gr.Column(min_width=260):
            w["first"] = gr.Dropdown([], label="From (t = 0)")
            w["second"] = gr.Dropdown([], label="To (t = 1)")
            ways = [("spherical (variance 1)", "spherical"), ("linear", "linear")]
            w["way"] = gr.Radio(ways, value="spherical", label="Way of the latents")
            w["t"] = gr.Slider(0, 1, 0.5, step=0.05, label="t")
            w["go"] = gr.Button("Interpolate", variant="primary", elem_id="interpolate")
        with gr.Column(min_width=300, scale=2):
            w["way_result"] = result(gr, "Result", "way_result")
            w["way_caption"] = gr.Markdown(elem_classes="small")
            w["way_download"] = gr.DownloadButton("Download", visible=False, size="sm")
    w["strip"] = gallery(gr, "The way", 5, "strip")


def _wire(gr: Any, w: dict[str, Any], calls: Callbacks, examples: dict[str, str]) -> None:
    """Connects widgets with callbacks."""
    wiring = Wiring(gr, w)
    on, bound = wiring.on, wiring.bound
    wire_enlarge(wiring, calls, examples)

    options = ["photo", "opened", "kind", "fit", "row", "column", "temperature", "seed", "n"]
    quick = {"trigger_mode": "always_last", "show_progress_on": w["draws"]}
    redraw = bound(calls.redraw, spread=True)
    on(w["draw"].click, bound(calls.draw, spread=True), options, DRAWN, **quick)
    moved = [w["photo"].change, *(w[name].input for name in options[2:])]  # by a user: what opening sets draws once
    on(functools.partial(gr.on, moved), redraw, options, DRAWN, **quick)
    on(w["example"].input, examples.get, ["example"], ["photo"])

    uploaded = on(w["upload"].upload, lambda path: path, ["upload"], ["checkpoint"])
    chosen = on(w["bundled"].input, lambda path: path, ["bundled"], ["checkpoint"])
    for trigger in (w["checkpoint"].submit, uploaded.then, chosen.then):
        opening = bound(calls.open, spread=True)  # what fails is said in one place, and covers no widget
        reopened = on(trigger, opening, ["checkpoint", "kind"], OPENED, show_progress_on=w["model"])
        on(reopened.success, redraw, options, DRAWN, **quick)

    on(w["draws"].select, bound(calls.pick, event=True), ["state"], ["download"])
    for image, name in (("source", "take"), ("pasted", "put")):
        on(w[image].select, bound(calls.place, event=True), [image], [f"{name}_row", f"{name}_column"])
    on(w["brush_base"].input, bound(calls.show_base), ["state", "brush_base"], ["editor"])

    def edit(trigger: Any, function: Any, given: list[str], made: list[str]) -> None:
        on(trigger, bound(function), ["state", *given], made, trigger_mode="always_last")

    brushed = ["brush_base", "editor", "change", "brush_temperature", "brush_seed", "factor", "levels"]
    edit(w["brush"].click, calls.brush, brushed, ["brush_result", "brush_caption", "brush_download"])

    where = ["side", "take_row", "take_column", "put_row", "put_column"]
    pasted = ["paste_base", "source", *where, "paste_temperature", "over", "toward", "seed"]
    edit(w["paste"].click, calls.paste, pasted, ["pasted", "paste_result", "paste_caption", "paste_download"])

    ends = ["way_result", "way_caption", "way_download"]
    edit(w["go"].click, calls.way, ["first", "second", "t", "way"], ends)
    edit(w["go"].click, calls.strip, ["first", "second", "way"], ["strip"])
    edit(w["t"].change, calls.move_way, ["first", "second", "t", "way"], ends)


OPENED = ("opened", "bundled", "model", "kind", "temperature", "brush_temperature", "paste_temperature")
"""The widgets that another checkpoint changes, by name."""

DRAWN = (
    *("state", "draws", "references", "heat", "legend", "scores", "notes", "download", "possible"),
    *("paste_base", "brush_base", "first", "second", "levels", "editor"),
    *("pasted", "paste_result", "brush_result", "way_result", "strip"),
    *("paste_caption", "brush_caption", "way_caption", "paste_download", "brush_download", "way_download"),
)
"""The widgets that new draws change, by name."""
