"""A session of the demo that speaks HTTP with its page, as the page's script does."""

import json


class Browser:
    """A session that speaks with the page as its script does."""

    def __init__(self, web, session):
        self.web, self.session = web, session
        config = self.web.get("/config").json()
        self.events = config["dependencies"]
        self.widgets = {part["id"]: part["props"] for part in config["components"]}

    def event(self, widget, kind):
        """Number of the event of a widget, by its elem_id."""
        return next(
            event["id"]
            for event in self.events
            for target, what in event["targets"]
            if what == kind and self.widgets[target].get("elem_id") == widget
        )

    def join(self, widget, kind, data):
        event = self.event(widget, kind)
        sent = {"fn_index": event, "trigger_id": None, "data": data, "session_hash": self.session}
        return self.web.post("/gradio_api/queue/join", json=sent)

    def listen(self):
        """Result of the call, the data or the error."""
        with self.web.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.session}) as stream:
            for line in stream.iter_lines():
                message = json.loads(line.removeprefix("data:")) if line else {}
                if message.get("msg") == "process_completed":
                    return message["output"].get("data") or message["output"]["error"]
        raise AssertionError("no result")

    def upload(self, path):
        with open(path, "rb") as file:  # noqa: PTH123
            return self.web.post("/gradio_api/upload", files={"files": file})

    def draw(self, photo, tau=0.1, seed=0):
        return self.draw_uploaded(self.upload(photo).json()[0], tau, seed)

    def draw_uploaded(self, path, tau=0.1, seed=0):
        data = [{"path": path, "meta": {"_type": "gradio.FileData"}}, None, "bicubic", "cut", 50, 50, tau, seed, 2]
        assert self.join("draw", "click", data).status_code == 200
        return self.listen()

    def open(self, checkpoint):
        assert self.join("checkpoint", "submit", [checkpoint, "bicubic"]).status_code == 200
        return self.listen()
