"""Finds the operators of a model's graph that ONNX might lack.

A conversion to ONNX takes several seconds of processor time, which is too long to try it before every run. This module
therefore lists common operators that are known to convert, and only models that use other operators are converted. The
list need not be complete: a missing operator only costs time.
"""

import re

import torch
from torch import Tensor, fx

from deepseek.trainjob.tracing import is_in_torch, place

_FLOATS = """
_assert_tensor_metadata.default abs.default adaptive_avg_pool1d.default adaptive_avg_pool2d.default add.Tensor
add_.Tensor amax.default amin.default arange.default arange.start_step avg_pool1d.default avg_pool2d.default
batch_norm.default bmm.default cat.default chunk.default clamp.default clone.default contiguous.default conv1d.default
conv2d.default cos.default cumsum.default detach.default detach_.default div.Tensor div_.Tensor dropout.default
elu.default erf.default exp.default expand.default feature_dropout.default flatten.using_ints full_like.default
gelu.default glu.default group_norm.default hardsigmoid.default hardswish.default hardswish_.default hardtanh.default
layer_norm.default leaky_relu.default leaky_relu_.default lift_fresh_copy.default linalg_vector_norm.default
linear.default log.default log_softmax.int logsumexp.default matmul.default max.default max_pool1d.default
max_pool2d.default maximum.default mean.default mean.dim min.default minimum.default mish.default mul.Tensor
mul_.Tensor neg.default new_zeros.default ones.default ones_like.default pad.default permute.default pow.Scalar
pow.Tensor_Scalar prelu.default reciprocal.default relu.default relu6.default relu_.default repeat.default
reshape.default rms_norm.default rsqrt.default rsub.Scalar scaled_dot_product_attention.default select.int selu.default
sigmoid.default silu.default silu_.default sin.default slice.Tensor softmax.int softplus.default split.Tensor
sqrt.default square.default squeeze.dim stack.default std.dim sub.Tensor sub_.Tensor sum.default sum.dim_IntList
t.default tanh.default to.dtype transpose.int tril.default triu.default unbind.int unflatten.int unsqueeze.default
var.dim view.default zeros.default zeros_like.default
"""
_MIXED = """
add.Tensor argmax.default argmin.default div.Tensor embedding.default eq.Scalar gather.default ge.Tensor gt.Scalar
le.Scalar le.Tensor lt.Scalar masked_fill.Scalar max.dim maximum.default min.dim mul.Tensor ne.Scalar sub.Tensor
to.dtype where.ScalarOther where.ScalarSelf where.self
"""
_INTEGERS = """
_assert_tensor_metadata.default abs.default add.Tensor amax.default amin.default arange.default arange.start_step
argmax.default cat.default clone.default contiguous.default cumsum.default detach_.default eq.Scalar expand.default
flatten.using_ints gather.default ge.Tensor gt.Scalar le.Scalar le.Tensor lift_fresh_copy.default lt.Scalar
masked_fill.Scalar max.default max.dim min.default min.dim mul.Tensor ne.Scalar neg.default one_hot.default
permute.default repeat.default reshape.default rsub.Scalar select.int slice.Tensor squeeze.dim stack.default sub.Tensor
sum.default sum.dim_IntList to.dtype transpose.int tril.default triu.default unflatten.int unsqueeze.default
view.default where.ScalarOther where.ScalarSelf where.self zeros_like.default
"""
_BYTES = """
_assert_tensor_metadata.default cat.default contiguous.default expand.default flatten.using_ints permute.default
repeat.default reshape.default select.int slice.Tensor squeeze.dim to.dtype transpose.int unflatten.int
unsqueeze.default view.default
"""
_BOOLS = """
__and__.Tensor __or__.Tensor __xor__.Tensor _assert_tensor_metadata.default bitwise_not.default cat.default
contiguous.default expand.default flatten.using_ints logical_and.default logical_not.default permute.default
repeat.default reshape.default select.int slice.Tensor squeeze.dim transpose.int tril.default triu.default
unflatten.int unsqueeze.default view.default
"""
CONVERTIBLE = {
    "floats": frozenset(_FLOATS.split()),
    "mixed": frozenset(_MIXED.split()),
    "integers": frozenset(_INTEGERS.split()),
    "bytes": frozenset(_BYTES.split()),
    "bools": frozenset(_BOOLS.split()),
}
"""Operators of torch.ops.aten that ONNX expresses and that ONNX Runtime has, by the kind of their tensors: see `kind`.

ONNX Runtime has an operator for some types only, e.g. no `Where` that chooses between booleans.
"""
_INTEGER_TYPES = {torch.int64, torch.int32, torch.bool}
_OPERATOR = re.compile(r"OpOverload\(op='(\w+\.\w+)', overload='(\w+)'")
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)\n +(.+)')


def doubtful(program: torch.export.ExportedProgram) -> list[fx.Node]:
    """Returns the operations of a graph that are not known to be convertible to ONNX."""
    return [node for node in program.graph.nodes if not _is_convertible(node)]


def kind(node: fx.Node) -> str:
    """Returns the kind of the tensors that an operation takes and returns.

    Returns:
        `floats` if all are float32, or there are none; `bools` if all are bool; `bytes` if any is uint8; `integers` if
        all are int64, int32 or bool; `mixed` for float32 together with int64, int32 or bool; empty for other types.
    """
    found = [value for one in (node, *node.all_input_nodes) for value in _values(one)]
    types = {value.dtype for value in found if isinstance(value, Tensor)}
    if not types <= {*_INTEGER_TYPES, torch.float32, torch.uint8}:
        return ""
    if torch.uint8 in types:
        return "bytes"
    if types <= {torch.float32}:
        return "floats"
    if types == {torch.bool}:
        return "bools"
    return "integers" if types <= _INTEGER_TYPES else "mixed"


def _values(node: fx.Node) -> list[object]:
    found = node.meta.get("val")
    return list(found) if isinstance(found, (tuple, list)) else [found]


def explanation(error: BaseException, program: torch.export.ExportedProgram) -> str:
    """Returns why a graph cannot be converted to ONNX, with the responsible line of the model's code if it is known.

    Args:
        error: Error of the conversion.
        program: The graph.
    """
    if not (missing := _OPERATOR.search(str(error))):
        return str(error)
    node = _responsible(f"{missing[1]}.{missing[2]}", program)
    operator = missing[1] if node is None else str(node.target).removesuffix(".default")
    return f"ONNX lacks the operator {operator}{_place(node)}. Compute its result with other operators"


def _responsible(operator: str, program: torch.export.ExportedProgram) -> fx.Node | None:
    """Returns the operation of a graph that becomes an operator that ONNX lacks; None if it is not certain."""
    nodes = {node.name: node for node in doubtful(program)}
    # Before the conversion, the exporter replaces operators by others, so the missing one need not occur in the graph.
    table = {**torch.export.default_decompositions(), **torch._decomp.decomposition_table}
    for node in (*nodes.values(), *program.run_decompositions(table).graph.nodes):
        if str(node.target) == operator and (origin := nodes.get(_origin(node))):
            return origin
    return next(iter(nodes.values())) if len(nodes) == 1 else None


def _origin(node: fx.Node) -> str:
    """Returns the name of the operation from which an operation of a decomposed graph comes."""
    name, sources = node.name, node.meta.get("from_node")
    while sources:
        name, sources = sources[-1].name, sources[-1].from_node
    return name


def _is_convertible(node: fx.Node) -> bool:
    if node.op == "output" or isinstance(node.meta.get("val"), torch.SymInt):
        return True  # sizes and their arithmetic can always be converted
    if node.op == "placeholder":
        return kind(node) != ""
    target = node.target
    if target is torch.ops.aten.clamp.default:
        # The exporter gives the bounds of two clamps of one tensor the same name, which makes the graph invalid.
        num_clamps = sum(user.target is target for user in node.all_input_nodes[0].users)
        return num_clamps == 1 and kind(node) == "floats"
    if isinstance(target, torch._ops.OpOverload):
        names = CONVERTIBLE.get(kind(node), ())
        return target.namespace == "aten" and str(target).removeprefix("aten.") in names
    return getattr(target, "__module__", "") == "_operator"  # arithmetic of sizes


def _place(node: fx.Node | None) -> str:
    frames = _FRAME.findall(node.meta.get("stack_trace") or "") if node else []
    own = [place(file, number, function, line) for file, number, function, line in frames if not is_in_torch(file)]
    return f"; {own[-1]}" if own else ""
