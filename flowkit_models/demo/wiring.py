"""Wiring of the page: widgets by name, and callbacks that are told who calls."""

from collections.abc import Callable, Iterable
from typing import Any


class Wiring:
    """Connects widgets with callbacks. Nothing queues here: the workers' pool says who waits.

    Args:
        gr: gradio.
        widgets: by name.
    """

    def __init__(self, gr: Any, widgets: dict[str, Any]) -> None:
        self.gr, self.widgets = gr, widgets

    def bound(
        self, function: Callable[..., Any], spread: bool = False, event: bool = False, progress: bool = False
    ) -> Callable[..., Any]:
        """A callback that is told its session first.

        Args:
            function: the callback.
            spread: its results are a mapping, by names of widgets.
            event: its last argument is the place of the event.
            progress: its second argument is called with (done, total).
        """
        gr, widgets = self.gr, self.widgets

        def by_session(request: Any, *values: Any) -> Any:
            made = function(request.session_hash or "", *values)
            return {widgets[name]: value for name, value in made.items()} if spread else made

        def selected(request: Any, selection: Any, *values: Any) -> Any:
            return by_session(request, *values, selection.index)

        def followed(request: Any, bar: Any, *values: Any) -> Any:
            return by_session(request, lambda done, total: bar((done, total), unit="tiles"), *values)

        called: Any = selected if event else followed if progress else by_session
        if progress:
            called.__defaults__ = (gr.Progress(),)  # by which gradio passes it
        called.__annotations__.update(request=gr.Request, selection=gr.SelectData)  # and these
        return called

    def on(self, trigger: Any, function: Any, given: Iterable[str], made: Iterable[str], **options: Any) -> Any:
        """Has a trigger call a callback with values of widgets, for values of widgets."""
        inputs, outputs = ([self.widgets[name] for name in names] for names in (given, made))
        return trigger(function, inputs, outputs, concurrency_limit=None, api_visibility="private", **options)
