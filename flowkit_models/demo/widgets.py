"""Widgets of the page that occur more than once. Need gradio."""

from typing import Any

from flowkit_models.demo.callbacks import HOTTEST


def tau(gr: Any, opened: dict[str, Any], label: str, **options: Any) -> Any:
    """A slider of τ that starts where the checkpoint recommends."""
    tau = opened["temperature"]
    return gr.Slider(0, max(HOTTEST, tau), tau, step=0.05, label=label, **options)


def photograph(gr: Any, label: str, height: int, name: str) -> Any:
    """A photograph that is uploaded; nobody but a worker opens it."""
    photo = gr.Image(
        label=label,
        type="filepath",
        image_mode=None,
        sources=["upload", "clipboard"],
        height=height,
        elem_id=name,
    )
    photo.preprocess = path
    return photo


def path(payload: Any) -> str | None:
    """The file of an image widget; gradio's own way decodes it in this process, with any decoder that there is."""
    return payload.path if payload else None


def result(gr: Any, label: str, name: str) -> Any:
    """A picture that the page made."""
    image = gr.Image(
        label=label,
        type="filepath",
        image_mode=None,
        format="png",
        interactive=False,
        buttons=["download", "fullscreen"],
        elem_id=name,
    )
    image.preprocess = path
    return image


def gallery(gr: Any, label: str, columns: int, name: str) -> Any:
    """Pictures that the page made, with captions."""
    return gr.Gallery(
        label=label,
        columns=columns,
        format="png",
        object_fit="contain",
        height="auto",
        elem_id=name,
        elem_classes="images",
    )
