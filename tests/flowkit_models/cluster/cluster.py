"""Ray clusters of this machine's processes: runs one function, and prints what it saw as a line of JSON."""

import collections
import contextlib
import json
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import ray
import ray.data
from PIL import Image
from ray.cluster_utils import Cluster

from flowkit_models import ray as work
from flowkit_models.cli import main
from flowkit_models.data.prepare import SubImages
from flowkit_models.metrics.registry import Rules

MEMORY = 80 * 2**20


def states(rows: list[dict]) -> dict[str, int]:
    return dict(collections.Counter(row["state"] for row in rows))


def one_node(folder: Path) -> dict:
    ray.init(address="local", num_cpus=2, object_store_memory=MEMORY, include_dashboard=False)
    os.chdir(folder)  # and the cluster's processes are elsewhere
    model, photos, out = "tiny.safetensors", "in", "out"
    told = {}
    first = work.upscale(photos, out, model).take_all()
    told["first"], told["again"] = states(first), states(work.upscale(photos, out, model).take_all())
    told["error"] = next(row["error"] for row in first if row["state"] == "failed")
    with contextlib.redirect_stdout(sys.stderr):
        main(["upscale", photos, "-o", "line", "-m", model])
    pairs = [(path, Path("line") / path.relative_to(out)) for path in Path(out).rglob("*.png")]
    told["results"] = len(pairs)
    told["same as the command"] = all(np.array_equal(*(np.asarray(Image.open(p)) for p in pair)) for pair in pairs)

    rules = Rules(4, ("psnr",), draws=1)
    scores = [work.score(photos, "scores", model, rules=rules).take_all() for _ in range(2)]
    told["scores"], told["scores again"] = map(states, scores)
    told["values"] = len(list((folder / "scores").rglob("*.json")))
    told["psnr"], told["psnr again"] = (
        float(np.mean([row["psnr"] for row in rows if row["state"] != "failed"])) for rows in scores
    )
    (folder / "in" / "bad.png").rename(folder / "bad.png")
    flat = folder / "flat"
    flat.mkdir()
    for path in (folder / "in").rglob("*.png"):
        (flat / path.name).write_bytes(path.read_bytes())
    with contextlib.redirect_stdout(sys.stderr):
        main(["evaluate", "--set", str(flat), "--systems", model, "--temperatures", "0", "--metrics", "psnr",
              "--draws", "1", "--pictures", "0", "--out", str(folder / "table")])  # fmt: skip
    found = json.loads((folder / "table" / "results.json").read_text())
    told["psnr of flowkit evaluate"] = _mean(found)

    (folder / "bad.png").rename(flat / "bad.png")
    reports = [work.prepare("flat", "sub", SubImages, size=12, count=1) for _ in range(2)]
    ray.shutdown()
    told["crops"] = len(list((folder / "sub").rglob("*.png")))
    told["prepared"], told["prepared again"] = ([r.written, r.existing, len(r.failed)] for r in reports)
    return told


def _mean(found):
    """The mean of PSNR, wherever it is in the results."""
    if isinstance(found, dict):
        if "psnr" in found and isinstance(found["psnr"], dict) and "mean" in found["psnr"]:
            return found["psnr"]["mean"]
        found = list(found.values())
    if isinstance(found, list):
        return next((mean for part in found if (mean := _mean(part)) is not None), None)
    return None


def killed_node(folder: Path) -> dict:
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "object_store_memory": MEMORY, "include_dashboard": False},
    )
    node = cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
    ray.init(address=cluster.address)
    told = {}

    def kill() -> None:
        working = set()
        while len(list((folder / "out").rglob("*.png"))) < 6 or len(working) < 2:
            working |= {name for name, one in (("head", cluster.head_node), ("other", node)) if _works(one)}
            time.sleep(0.1)
        told["nodes that worked"] = len(working)
        told["done before the kill"] = len(list((folder / "out").rglob("*.png")))
        cluster.remove_node(node, allow_graceful=False)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    rows = work.upscale(str(folder / "in"), str(folder / "out"), str(folder / "tiny.safetensors")).take_all()
    killer.join(60)
    ray.shutdown()
    cluster.shutdown()
    told["rows"], told["failed"] = len(rows), [row["error"] for row in rows if row["state"] == "failed"]
    return told


def _works(node) -> bool:
    """Tells by their titles whether a process of a node is at a picture."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    titles = []
    for process in raylet.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            titles.append(" ".join(process.cmdline()))
    return any("upscale_row" in title for title in titles)


if __name__ == "__main__":
    what, where = sys.argv[1:]
    with contextlib.redirect_stdout(sys.stderr):
        result = {"one_node": one_node, "killed_node": killed_node}[what](Path(where))
    print(json.dumps(result), flush=True)
