"""Layout of the page, and the callback of each widget. Needs gradio; nothing on it comes from the network."""

import os
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from flowkit_models.data.sample_photos import test_photos
from flowkit_models.demo.callbacks import Callbacks
from flowkit_models.demo.scene import COLOURS

_GRADIENT = ", ".join(f"rgb({', '.join(str(int(part)) for part in colour)})" for colour in COLOURS)

CSS = f"""
.gradio-container {{ max-width: 1400px !important; margin: 0 auto; }}
#title p {{ margin: 0; opacity: 0.75; }}
.legend {{ display: flex; gap: 8px; align-items: center; font-size: 13px; }}
.legend i {{ flex: 1; height: 12px; border-radius: 3px; background: linear-gradient(to right, {_GRADIENT}); }}
.legend + p {{ font-size: 13px; margin: 4px 0 0; }}
.small p {{ font-size: 13px; opacity: 0.8; margin: 0; }}
.images .grid-wrap {{ min-height: 0 !important; max-height: none !important; overflow-y: visible !important; }}
.images .grid-container {{ grid-template-columns: repeat(var(--grid-cols), minmax(0, 1fr)) !important; }}
.images .grid-container {{ grid-auto-rows: auto !important; grid-template-rows: none !important; }}
.images .caption-label {{ white-space: normal !important; max-width: 100% !important; font-size: 12px !important; }}
#scores table {{ font-size: 13px; width: 100%; }}
#scores th, #scores td {{ padding: 3px 8px; overflow-wrap: normal; word-break: normal; }}
#scores td:not(:first-child), #scores th:not(:first-child) {{ text-align: right; }}
@media (max-width: 640px) {{ .gradio-container {{ padding: 8px !important; }} }}
"""

ABOUT = """# flowkit: play with an image flow
A normalizing flow draws many HR images for one LR image. τ says how far it dares to go; latents can be edited.
"""

POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; worker-src 'self' blob:"
"""Content-Security-Policy: the browser asks nobody but this server for anything."""


class Offline:
    """ASGI middleware that sends `POLICY` with every response."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Passes everything on, with one header more."""

        async def with_policy(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
            await send(message)

        await self.app(scope, receive, with_policy)


def launch(checkpoint: Path, host: str, port: int, side: int, device: str, folder: Path) -> None:
    """Serves the page until it is interrupted.

    Args:
        checkpoint: that is open at first.
        host: address to listen on.
        port: to listen on.
        side: longest side of HR images, in pixels.
        device: of the models.
        folder: for all files that the page keeps; the caller deletes it.

    Raises:
        ImportError: without gradio; the message says how to install it.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "cache")
    try:
        import gradio as gr  # noqa: PLC0415 - an extra, and the variables come first
        from starlette.middleware import Middleware  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(f'the demo needs gradio ({error}): pip install "flowkit-torch[demo]"') from None
    page = build(gr, checkpoint, Callbacks(folder, side, device), example_files(folder))
    theme = gr.themes.Default(
        primary_hue="teal", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        show_error=True,
        ssr_mode=False,
        footer_links=[],
        theme=theme,
        css=CSS,
        app_kwargs={"middleware": [Middleware(Offline)]},
        prevent_thread_lock=True,
    )
    print(f"http://{host}:{port} (Ctrl+C ends it)", flush=True)
    page.block_thread()


def example_files(folder: Path) -> dict[str, str]:
    """The test photographs as files, by name; none without scikit-image."""
    from flowkit_models.images.image_file import write_image  # noqa: PLC0415

    try:
        photos = test_photos()
    except ImportError:
        return {}
    for name, photo in photos.items():
        write_image(folder / f"{name}.png", photo)
    return {name: str(folder / f"{name}.png") for name in photos}


def build(gr: Any, checkpoint: Path, calls: Callbacks, examples: dict[str, str]) -> Any:
    """The page, a gr.Blocks.

    Args:
        gr: gradio.
        checkpoint: that is open at first.
        calls: what its widgets call.
        examples: photographs to choose from, files by name.
    """
    w: dict[str, Any] = {}
    with gr.Blocks(title="flowkit demo", analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        gr.Markdown(ABOUT, elem_id="title")
        w["state"] = gr.State()
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                _inputs(gr, w, checkpoint, examples)
            with gr.Column(scale=3, min_width=320), gr.Tabs():
                with gr.Tab("Draws"):
                    _draws(gr, w)
                with gr.Tab("Edit"):
                    w["possible"] = gr.Markdown(elem_classes="small")
                    with gr.Tabs():
                        with gr.Tab("Brush"):
                            _brush(gr, w, calls)
                        with gr.Tab("Paste"):
                            _paste(gr, w, calls)
                        with gr.Tab("Interpolate"):
                            _way(gr, w, calls)
        _wire(gr, page, w, calls, examples)
    return page


def _inputs(gr: Any, w: dict[str, Any], checkpoint: Path, examples: dict[str, str]) -> None:
    w["photo"] = gr.Image(
        label="Photograph",
        type="filepath",
        image_mode=None,
        sources=["upload", "clipboard"],
        height=220,
        elem_id="photo",
    )
    w["example"] = gr.Radio(list(examples), label="or an example", visible=bool(examples), elem_id="example")
    w["kind"] = gr.Radio([("HR; LR made by bicubic", "bicubic")], value="bicubic", label="The photograph is")
    w["temperature"] = gr.Slider(0, 1.2, 0.8, step=0.05, label="Temperature τ (std of the latents)", elem_id="tau")
    w["seed"] = gr.Slider(0, 999, 0, step=1, label="Seed", elem_id="seed")
    w["n"] = gr.Slider(1, 8, 4, step=1, label="Number of draws", elem_id="n")
    w["draw"] = gr.Button("Draw", variant="primary", elem_id="draw")
    with gr.Accordion("Large photographs", open=False):
        w["fit"] = gr.Radio([("cut a window out", "cut"), ("shrink", "shrink")], value="cut", label="If too large")
        w["row"] = gr.Slider(0, 100, 50, step=1, label="Window centre, % from the top")
        w["column"] = gr.Slider(0, 100, 50, step=1, label="Window centre, % from the left")
    with gr.Accordion("Checkpoint", open=False):
        w["checkpoint"] = gr.Textbox(str(checkpoint), label="Path (.safetensors or .pth)", elem_id="checkpoint")
        w["upload"] = gr.UploadButton("Upload a checkpoint", file_types=[".safetensors", ".pth"], size="sm")
    w["model"] = gr.Markdown(elem_classes="small", elem_id="model")
    w["notes"] = gr.Markdown(elem_classes="small", elem_id="notes")


def _draws(gr: Any, w: dict[str, Any]) -> None:
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            w["draws"] = _gallery(gr, "Draws and their consistency with the LR image", 2, "draws")
            w["download"] = gr.DownloadButton("Download", visible=False, size="sm", elem_id="download")
        with gr.Column(scale=1, min_width=240):
            w["heat"] = _result(gr, "Diversity: where draws differ", "heat")
            w["legend"] = gr.HTML()
            w["scores"] = gr.Markdown(elem_id="scores")
    w["references"] = _gallery(gr, "To compare with", 3, "references")


def _brush(gr: Any, w: dict[str, Any], calls: Callbacks) -> None:
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
        with gr.Column(min_width=300):
            w["brush_result"] = _result(gr, "Result", "brush_result")
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
        w["brush_temperature"] = gr.Slider(0, 1.5, 0.8, step=0.05, label="τ of the region")
        w["brush_seed"] = gr.Slider(0, 999, 1, step=1, label="Seed of another draw")
        w["factor"] = gr.Slider(0, 2, 0.5, step=0.05, label="Factor")
    w["levels"] = gr.CheckboxGroup([], label="Levels of latents, coarsest first")
    w["brush"] = gr.Button("Change the region", variant="primary", elem_id="brush")


def _paste(gr: Any, w: dict[str, Any], calls: Callbacks) -> None:
    with gr.Row():
        with gr.Column(min_width=260):
            w["source"] = gr.Image(
                label="Take from (click there)",
                type="filepath",
                image_mode=None,
                sources=["upload", "clipboard"],
                height=260,
                elem_id="source",
            )
            w["paste_base"] = gr.Dropdown([], label="Lay it into")
        with gr.Column(min_width=260):
            w["pasted"] = _result(gr, "Pasted (click where)", "pasted")
        with gr.Column(min_width=260):
            w["paste_result"] = _result(gr, "Harmonised by the flow", "paste_result")
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
        w["paste_temperature"] = gr.Slider(0, 1.2, 0.8, step=0.05, label="τ to normalise to", min_width=180)
    collections = [
        ("at each position", "position"),
        ("of each channel", "channel"),
        ("all together", "all"),
        ("no", "none"),
    ]
    w["over"] = gr.Radio(collections, value="position", label="Normalise the patch's latents")
    w["paste"] = gr.Button("Paste and harmonise", variant="primary", elem_id="paste")


def _way(gr: Any, w: dict[str, Any], calls: Callbacks) -> None:
    with gr.Row():
        with gr.Column(min_width=260):
            w["first"] = gr.Dropdown([], label="From (t = 0)")
            w["second"] = gr.Dropdown([], label="To (t = 1)")
            ways = [("spherical (variance 1)", "spherical"), ("linear", "linear")]
            w["way"] = gr.Radio(ways, value="spherical", label="Way of the latents")
            w["t"] = gr.Slider(0, 1, 0.5, step=0.05, label="t")
            w["go"] = gr.Button("Interpolate", variant="primary", elem_id="interpolate")
        with gr.Column(min_width=300, scale=2):
            w["way_result"] = _result(gr, "Result", "way_result")
            w["way_caption"] = gr.Markdown(elem_classes="small")
            w["way_download"] = gr.DownloadButton("Download", visible=False, size="sm")
    w["strip"] = _gallery(gr, "The way", 5, "strip")


def _result(gr: Any, label: str, name: str) -> Any:
    return gr.Image(
        label=label,
        type="filepath",
        image_mode=None,
        format="png",
        interactive=False,
        buttons=["download", "fullscreen"],
        elem_id=name,
    )


def _gallery(gr: Any, label: str, columns: int, name: str) -> Any:
    return gr.Gallery(
        label=label,
        columns=columns,
        format="png",
        object_fit="contain",
        height="auto",
        elem_id=name,
        elem_classes="images",
    )


def _wire(gr: Any, page: Any, w: dict[str, Any], calls: Callbacks, examples: dict[str, str]) -> None:
    """Connects widgets with callbacks."""
    options = ["photo", "checkpoint", "kind", "fit", "row", "column", "temperature", "seed", "n"]
    inputs = [w[name] for name in options]

    def by_widget(function: Callable[..., dict[str, Any]]) -> Callable[..., dict[Any, Any]]:
        return lambda *values: {w[name]: value for name, value in function(*values).items()}

    shown = [w[name] for name in DRAWN]
    quick = {
        "trigger_mode": "always_last",
        "concurrency_id": "draw",  # one after the other, whatever asks for it
        "show_progress_on": w["draws"],
        "api_visibility": "private",
    }
    w["draw"].click(by_widget(calls.draw), inputs, shown, **quick)
    gr.on([w[name].change for name in options if name != "checkpoint"], by_widget(calls.redraw), inputs, shown, **quick)
    w["example"].input(examples.get, w["example"], w["photo"], api_visibility="private")

    def reopen(trigger: Any) -> Any:
        return trigger(calls.open, [w["checkpoint"], w["kind"]], [w["model"], w["kind"]], api_visibility="private")

    reopen(page.load)
    reopen(w["checkpoint"].submit).success(by_widget(calls.redraw), inputs, shown, **quick)
    uploaded = w["upload"].upload(lambda path: path, w["upload"], w["checkpoint"], api_visibility="private")
    reopen(uploaded.then).success(by_widget(calls.redraw), inputs, shown, **quick)

    def on_select(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        def selected(value: Any, event: Any) -> Any:
            return function(value, event.index)

        selected.__annotations__["event"] = gr.SelectData  # by which gradio knows what to pass
        return selected

    w["draws"].select(on_select(calls.pick), w["state"], w["download"], api_visibility="private")
    for image, name in (("source", "take"), ("pasted", "put")):
        place = [w[f"{name}_row"], w[f"{name}_column"]]
        w[image].select(on_select(calls.place), w[image], place, api_visibility="private")
    w["brush_base"].input(calls.show_base, [w["state"], w["brush_base"]], w["editor"], api_visibility="private")

    def call(trigger: Any, function: Any, given: list[str], made: list[str]) -> Any:
        names = ["state", *given]
        return trigger(
            function,
            [w[name] for name in names],
            [w[name] for name in made],
            trigger_mode="always_last",
            api_visibility="private",
        )

    brushed = ["brush_base", "editor", "change", "brush_temperature", "brush_seed", "factor", "levels"]
    call(w["brush"].click, calls.brush, brushed, ["brush_result", "brush_caption", "brush_download"])

    where = ["side", "take_row", "take_column", "put_row", "put_column"]
    pasted = ["paste_base", "source", *where, "paste_temperature", "over", "toward", "seed"]
    call(w["paste"].click, calls.paste, pasted, ["pasted", "paste_result", "paste_caption", "paste_download"])

    ends = ["way_result", "way_caption", "way_download"]
    call(w["go"].click, calls.way, ["first", "second", "t", "way"], ends)
    call(w["go"].click, calls.strip, ["first", "second", "way"], ["strip"])
    call(w["t"].change, calls.move_way, ["first", "second", "t", "way"], ends)


DRAWN = (
    *("state", "draws", "references", "heat", "legend", "scores", "notes", "download", "possible"),
    *("paste_base", "brush_base", "first", "second", "levels", "editor"),
    *("pasted", "paste_result", "brush_result", "way_result", "strip"),
    *("paste_caption", "brush_caption", "way_caption", "paste_download", "brush_download", "way_download"),
)
"""The widgets that new draws change, by name."""
