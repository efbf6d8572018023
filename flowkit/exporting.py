"""Export: programs of `torch.export`, and ONNX files, in which whatever follows from weights alone is a constant."""

import contextlib
import logging
import operator
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from flowkit.flow import Flow


def program(module: nn.Module, inputs: tuple[Any, ...], shapes: Any = None, half: bool = False) -> ExportedProgram:
    """Program of a module's forward pass with its matrices, inverses and log-dets evaluated once and for all.

    An exported flow would invert its 1×1 convolutions whenever it is called, and ONNX has neither solve nor inverse
    nor determinant. Nothing that the program computes depends on random numbers: latents are inputs.

    Args:
        module: in eval mode, e.g. `LogProb(flow)` or `FromLatents(flow)`. Its weights become constants.
        inputs: an example of its arguments.
        shapes: `dynamic_shapes` of `torch.export.export`: for each argument, {dimension: `torch.export.Dim`}.
        half: matrices and kernels are stored in 16 bits, for half the space, and widened where they are used: numbers
            are computed in float32, and differ by the weights' rounding, 2⁻¹¹ of each.

    Raises:
        ValueError: if a part can't be exported, such as an inverse that iterates until it has converged.
    """
    try:
        with torch.no_grad(), _torch_to_itself():
            traced = torch.export.export(module, inputs, dynamic_shapes=shapes).run_decompositions({})
            graph = _frozen(traced, half)
            return torch.export.export(graph, inputs, dynamic_shapes=shapes)
    except Exception as error:  # torch has a dozen types of its own for this
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if "data-dependent" in reason:
            reason = "what it does next depends on values, as where it iterates until it has converged; " + reason
        raise ValueError(f"{type(module).__name__} can't be exported: {_place(error, module)}{reason}") from error


def onnx(program: ExportedProgram, path: str | Path, inputs: Sequence[str], output: str, opset: int = 20) -> None:
    """Writes a program as an ONNX file, weights included (extra `export`).

    Args:
        program: of `program`.
        path: of the file.
        inputs: names of its inputs; a tuple's tensors have a name each.
        output: name of the output.
        opset: version of ONNX's operators.

    Raises:
        ModuleNotFoundError: without the packages of the extra.
        ValueError: if ONNX has no word for something in it, or two of the names are one.
    """
    if output in inputs:
        raise ValueError(f"{path}: the output can't be called {output}, as an input is")
    check_packages()
    try:
        with _torch_to_itself():
            written = torch.onnx.export(
                program,
                input_names=list(inputs),
                output_names=[output],
                opset_version=opset,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = [line for line in str(error).splitlines() if "No ONNX function" in line] or [str(error)[:200]]
        raise ValueError(f"{path}: can't be written as ONNX: {reason[0]}") from error
    assert written is not None
    written.save(str(path))


def check_packages() -> None:
    """Raises a ModuleNotFoundError that tells what to install, if `onnx` lacks a package."""
    for package in ("onnx", "onnxscript"):
        try:
            __import__(package)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f'ONNX files need {package}: pip install "flowkit-torch[export]"', name=package
            ) from error


@contextlib.contextmanager
def _torch_to_itself() -> Iterator[None]:
    """Without what exporters say of torch itself: of its parts that are deprecated, and of torchvision's absence."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)


def batch_of_any_size(*inputs: Tensor) -> tuple[dict[int, Any], ...]:
    """`shapes` of `program` for tensors whose first dimension is one batch of any size."""
    batch = Dim("batch")
    return tuple({0: batch} for _ in inputs)


class LogProb(nn.Module):
    """Log-density of a flow as a module to export: x (B, …), and the context if the flow takes one, to (B,)."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """`flow.log_prob(x, context)`."""
        return self.flow.log_prob(x, context)


class FromLatents(nn.Module):
    """Samples of a flow as a module to export, made of latents (B, …) that the caller draws: `flow.decode`."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, latents: Tensor, context: Tensor | None = None) -> Tensor:
        """`flow.decode(latents, context)`."""
        return self.flow.decode(latents, context)


def _place(error: BaseException, module: nn.Module) -> str:
    """The innermost part of the module that was at work when the error came, as "its.name (Class): ", or nothing."""
    names = {id(part): name for name, part in module.named_modules()}
    parts = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((f"{names[id(p)]} ({type(p).__name__}): " for p in reversed(parts) if names.get(id(p))), "")


def _frozen(traced: ExportedProgram, half: bool) -> fx.GraphModule:
    """The program's graph with each value that follows from weights alone as a buffer."""
    graph_module: Any = traced.module(check_guards=False)
    graph = graph_module.graph
    known: dict[fx.Node, Any] = {}
    for node in list(graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            graph.erase_node(node)  # or what it looks at would have to be computed
        elif node.op == "get_attr":
            known[node] = operator.attrgetter(node.target)(graph_module)
        elif node.op == "call_function" and _repeats(node) and known.keys() >= set(node.all_input_nodes):
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
            known[node] = node.target(*args, **kwargs)
    for node, value in known.items():
        if node.op == "call_function" and isinstance(value, Tensor) and any(user not in known for user in node.users):
            name = f"constant_{node.name}"
            graph_module.register_buffer(name, value.contiguous())
            with graph.inserting_before(node):
                constant = graph.get_attr(name)
            node.replace_all_uses_with(constant)
    graph.eliminate_dead_code()
    if half:
        _halve(graph_module)
    return fx.GraphModule(graph_module, graph)  # with what the graph still uses, and nothing else


def _repeats(node: fx.Node) -> bool:
    """Tells if a call's result is the same whenever its inputs are, so that without any, as of arange, it is known."""
    return bool(node.all_input_nodes) or (
        isinstance(node.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded not in node.target.tags
    )


def _halve(graph_module: Any) -> None:
    """Stores matrices and kernels in 16 bits, and widens them where they are used."""
    graph = graph_module.graph
    for node in [node for node in graph.nodes if node.op == "get_attr"]:
        weight = operator.attrgetter(node.target)(graph_module)
        if weight.dtype != torch.float32 or weight.ndim < 2:
            continue
        name = f"half_{node.name}"
        graph_module.register_buffer(name, weight.detach().half())
        with graph.inserting_before(node):
            stored = graph.get_attr(name)
            wide = graph.call_function(torch.ops.aten._to_copy.default, (stored,), {"dtype": torch.float32})
        node.replace_all_uses_with(wide)
        graph.erase_node(node)
