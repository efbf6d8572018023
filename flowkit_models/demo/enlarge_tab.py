"""Tab of the page that enlarges a photograph: widgets and wiring. Needs gradio."""

from pathlib import Path
from typing import Any

from flowkit_models.demo.callbacks import HOTTEST, Callbacks, bundled_files
from flowkit_models.demo.viewer import EMPTY
from flowkit_models.demo.widgets import gallery, photograph
from flowkit_models.demo.wiring import Wiring
from flowkit_models.models.bundled import list_bundled

LIVELY = 0.2
"""Least τ that variations start at: at 0 they are all the same."""

TO_RESULT = """(...given) => {
  const narrow = innerWidth <= 640 && given[0];
  if (narrow) document.querySelector("#viewer").scrollIntoView({behavior: "smooth"});
  return given;
}"""
"""Where the result stands below the choices, on a phone, the page goes there once there is a photograph."""


def styles(checkpoint: str) -> list[tuple[str, str]]:
    """The models to choose from, (words, file): those of the package for super-resolution, and the page's own."""
    models = [model for model in list_bundled().values() if model.purpose == "sr"]
    here = {True: f"; here ×{models[0].scale}", False: ""}  # the page asks for no factor
    found = [(f"{model.use[:1].upper()}{model.use[1:]}{here[model.any_scale]}", str(model.path)) for model in models]
    known = {file for _, file in found}
    own = [] if checkpoint in known else [(bundled_files().get(checkpoint, Path(checkpoint).name), checkpoint)]
    return [*own, *found]


def enlarge_widgets(
    gr: Any, w: dict[str, Any], calls: Callbacks, opened: dict[str, Any], examples: dict[str, str], limits: str
) -> None:
    """Makes the widgets; arguments as for `flowkit_models.demo.page.build`, and the widgets by name."""
    checkpoint = calls.runner.first
    w["sample"], w["varied"], w["seconds"] = gr.State(), gr.State([0.0, 0]), gr.State(0.0)
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            w["own_photo"] = photograph(gr, "Your photograph", 240, "own_photo")
            w["own_example"] = gr.Radio(list(examples), label="or an example", visible=bool(examples))
            w["own_example"].elem_id = "own_example"
            choices = styles(checkpoint)
            w["style"] = gr.Radio(choices, value=checkpoint, label="Style", elem_id="style")
            gr.Markdown(limits, elem_classes="small", elem_id="limits")
        with gr.Column(scale=3, min_width=300):
            w["viewer"] = gr.HTML(EMPTY, min_height=160, elem_id="viewer")
            w["about"] = gr.Markdown(elem_classes="small", elem_id="about")
            w["whole_download"] = gr.DownloadButton("Download", visible=False, variant="primary", elem_id="get")
            w["whole"] = gr.Button("Enlarge all of it", visible=False, variant="primary", elem_id="whole")
            with gr.Accordion("Look elsewhere", open=False):
                gr.Markdown("Click on your photograph, or:", elem_classes="small")
                with gr.Row():
                    w["look_row"] = gr.Slider(0, 100, 50, step=1, label="% from the top", min_width=180)
                    w["look_column"] = gr.Slider(0, 100, 50, step=1, label="% from the left", min_width=180)
            with gr.Accordion("Variations", open=False, elem_id="more"):
                gr.Markdown(
                    "A picture this small fits many large ones. τ says how far a draw may go from the likeliest; "
                    "choose one to compare it above, and to download it.",
                    elem_classes="small",
                )
                tau = max(LIVELY, opened["temperature"])
                with gr.Row():
                    w["vary_temperature"] = gr.Slider(
                        0, max(HOTTEST, tau), tau, step=0.05, label="Temperature τ", min_width=180
                    )
                    w["vary_seed"] = gr.Slider(0, 999, 0, step=1, label="Seed", min_width=180)
                w["vary"] = gr.Button("Draw four", elem_id="vary")
                w["variations"] = gallery(gr, "Four draws of what is shown above", 2, "variations")


def wire_enlarge(wiring: Wiring, calls: Callbacks, examples: dict[str, str]) -> None:
    """Connects the widgets of `enlarge_widgets`."""
    w, on, bound = wiring.widgets, wiring.on, wiring.bound
    quick = {"trigger_mode": "always_last", "show_progress_on": w["viewer"]}
    sampled = ["own_photo", "style", "sample"]

    def whole_after(event: Any) -> None:
        enlarge = bound(calls.enlarge_quick, spread=True, progress=True)
        on(event.success, enlarge, [*sampled, "seconds"], ENLARGED, show_progress_on=w["about"])

    on(w["own_example"].input, examples.get, ["own_example"], ["own_photo"])
    for trigger in (w["own_photo"].change, w["style"].input):
        begin = bound(calls.begin, spread=True, progress=True)
        begun = on(trigger, begin, ["own_photo", "style"], BEGUN, js=TO_RESULT, **quick)
        whole_after(begun)
        on(begun.failure, bound(calls.clear, spread=True), [], BEGUN)

    place = bound(calls.place, event=True)
    moved = on(w["own_photo"].select, place, ["own_photo"], ["look_row", "look_column"], show_progress="hidden")
    look = bound(calls.look, spread=True, progress=True)
    looked = [*sampled, "look_row", "look_column"]
    for trigger in (moved.success, w["look_row"].release, w["look_column"].release):
        on(trigger, look, looked, LOOKED, show_progress_on=w["viewer"])

    varied = ["own_photo", "style", "vary_temperature", "vary_seed", "look_row", "look_column"]
    on(w["vary"].click, bound(calls.vary, spread=True, progress=True), varied, ["variations", "varied"])
    chosen = on(
        w["variations"].select,
        bound(calls.choose, spread=True, event=True),
        ["varied"],
        ["sample", "whole_download", "whole"],
    )
    whole_after(on(chosen.success, look, looked, LOOKED, show_progress_on=w["viewer"]))

    whole = bound(calls.enlarge, spread=True, progress=True)
    on(w["whole"].click, whole, sampled, ENLARGED, show_progress_on=w["about"])


LOOKED = ("viewer", "about", "seconds")
"""The widgets that another window changes, by name."""

BEGUN = (*LOOKED, "sample", "variations", "look_row", "look_column", "whole_download", "whole")
"""The widgets that another photograph or model changes, by name."""

ENLARGED = ("whole_download", "whole", "about")
"""The widgets that the whole photograph changes, by name."""
