"""Matrix products of cuBLASLt that PyTorch does not offer, called through ctypes.

They are fused with GELU (keeping its input for the backward pass), with the gradient of GELU, or with an addition whose
result is written to another tensor. Each fusion saves one pass over all tokens. On Hopper, mixste.accel.hopper_gelu
computes those with GELU.

For each kind of product, cuBLASLt proposes several algorithms. They are timed at the first call, and the fastest is
used. All of them add in the same order (none splits a sum), so the choice does not change the result. Matrices are in
bfloat16, with contiguous rows or columns; results are (rows of a, columns of b).
"""

import ctypes
import functools
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

try:
    from mixste.accel import kernels
except ImportError:  # no Triton
    kernels = None
try:
    from mixste.accel import hopper_gelu
except ImportError:  # no Gluon, or no Triton at all
    hopper_gelu = None

WORKSPACE = 32 << 20  # bytes
CANDIDATES = 8
# From cublasLt.h: names of attributes and their values.
COMPUTE_FLOAT32, FLOAT32, BFLOAT16 = 68, 0, 14
TRANSPOSE_A, TRANSPOSE_B, EPILOGUE, BIAS, AUX, AUX_STRIDE = 3, 4, 7, 8, 11, 12
MOST_WORKSPACE, SPLITS = 1, 2
PLAIN, ADD_BIAS, GELU_BIAS, GELU_AUX_BIAS, GELU_BACKWARD = 1, 4, 36, 164, 192


class Program(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = (
        ("algorithm", ctypes.c_uint64 * 8),
        ("workspace", ctypes.c_size_t),
        ("status", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    )


@functools.cache
def loaded() -> ctypes.CDLL | None:
    """The library that PyTorch has loaded, or None."""
    try:
        return ctypes.CDLL(f"libcublasLt.so.{(torch.version.cuda or '').split('.')[0]}")
    except OSError:
        return None


def _call(name: str, *arguments) -> None:
    status = getattr(loaded(), name)(*arguments)
    if status != 0:
        raise RuntimeError(f"cuBLASLt refused {name} with status {status}")


@functools.cache
def _handle(device: torch.device) -> tuple[ctypes.c_void_p, Tensor]:
    """The handle of cuBLASLt on a device, and its workspace."""
    handle = ctypes.c_void_p()
    _call("cublasLtCreate", ctypes.byref(handle))
    return handle, torch.empty(WORKSPACE, dtype=torch.uint8, device=device)


def product(a, b) -> Float[Tensor, "rows out"]:
    """a @ b, by the fastest algorithm."""
    return _product(a, b, torch.empty(len(a), b.shape[1], dtype=a.dtype, device=a.device))


def add(x: Float[Tensor, "rows out"], a, b, factor: float = 1.0, bias=None, in_place: bool = False):
    """x + factor · a @ b + bias, rounded once."""
    out = x if in_place else torch.empty_like(x)
    return _product(a, b, out, PLAIN if bias is None else ADD_BIAS, bias, added=x, factor=factor)


def on_hopper(a, b) -> bool:
    """Whether mixste.accel.hopper_gelu computes GELU along with a @ b; `gelu` then takes an inverse too."""
    return hopper_gelu is not None and hopper_gelu.covers(a, b)


def gelu(a, b, bias: Float[Tensor, " out"], before: Float[Tensor, "rows out"] | None = None, inverse=None):
    """GELU(inverse · a @ b + bias), with tanh; inverse is per row. `before`, if given, receives the input of GELU.

    Raises ValueError for an inverse that is not `on_hopper`: cuBLASLt cannot multiply rows.
    """
    if on_hopper(a, b):
        return hopper_gelu.gelu(a, b, bias, before, inverse)
    if inverse is not None:
        raise ValueError(f"expected no inverse for a product of {tuple(a.shape)} and {tuple(b.shape)}, found one")
    out = torch.empty(len(a), b.shape[1], dtype=a.dtype, device=a.device)
    return _product(a, b, out, GELU_BIAS if before is None else GELU_AUX_BIAS, bias, before)


def gelu_backward(
    d, b, before: Float[Tensor, "rows out"], factor: float = 1.0
) -> tuple[Float[Tensor, "rows out"], Float[Tensor, " out"]]:
    """factor · d @ b times the derivative of GELU at `before`, and its column sums, the gradient of the bias."""
    if on_hopper(d, b):
        return hopper_gelu.gelu_backward(d, b, before, factor)
    out = _product(d, b, torch.empty_like(before), GELU_BACKWARD, aux=before, factor=factor)
    return out, out.sum(0, dtype=torch.float32) if kernels is None else kernels.column_sums(out)


def _product(a, b, out, epilogue=PLAIN, bias=None, aux=None, added=None, factor=1.0) -> Tensor:
    """out = epilogue(factor · a @ b + added + bias).

    a: (rows, in). b: (in, out). out, added, and aux, which GELU's epilogues write or read: (rows, out). bias: (out,).
    """
    # cuBLASLt is column-major, so it sees all our matrices transposed: outᵀ = bᵀ aᵀ.
    handle, workspace = _handle(out.device)
    operation, layouts = ctypes.c_void_p(), []
    _call("cublasLtMatmulDescCreate", ctypes.byref(operation), COMPUTE_FLOAT32, FLOAT32)

    def set_to(attribute: int, value) -> None:
        _call("cublasLtMatmulDescSetAttribute", operation, attribute, ctypes.byref(value), ctypes.sizeof(value))

    def layout(x: Tensor) -> ctypes.c_void_p:
        columns, rows = x.shape if x.stride(1) == 1 else x.shape[::-1]
        created, stride = ctypes.c_void_p(), max(x.stride())
        sizes = ctypes.c_uint64(rows), ctypes.c_uint64(columns), ctypes.c_int64(stride)
        _call("cublasLtMatrixLayoutCreate", ctypes.byref(created), BFLOAT16, *sizes)
        layouts.append(created)
        return created

    set_to(TRANSPOSE_A, ctypes.c_int32(b.stride(1) != 1))
    set_to(TRANSPOSE_B, ctypes.c_int32(a.stride(1) != 1))
    set_to(EPILOGUE, ctypes.c_int32(epilogue))
    if bias is not None:
        set_to(BIAS, ctypes.c_void_p(bias.data_ptr()))
    if aux is not None:
        set_to(AUX, ctypes.c_void_p(aux.data_ptr()))
        set_to(AUX_STRIDE, ctypes.c_int64(aux.stride(0)))
    shapes = [layout(x) for x in (b, a, out)]

    def run(program: Program, out: Tensor, added: Tensor | None) -> None:
        scales = ctypes.c_float(factor), ctypes.c_float(added is not None)
        first, second, third, result = (
            ctypes.c_void_p(x.data_ptr()) for x in (b, a, out if added is None else added, out)
        )
        _call(
            "cublasLtMatmul", handle, operation, ctypes.byref(scales[0]), first, shapes[0], second, shapes[1],
            ctypes.byref(scales[1]), third, shapes[2], result, shapes[2], ctypes.byref(program.algorithm),
            ctypes.c_void_p(workspace.data_ptr()), ctypes.c_size_t(program.workspace),
            ctypes.c_void_p(torch.cuda.current_stream().cuda_stream),
        )  # fmt: skip

    kind = (epilogue, out is added, added is not None, out.device)
    kind += tuple((x.shape, x.stride()) for x in (a, b, out))
    if kind not in _fastest:
        scratch = out.clone()  # so that timing does not change the result of an in-place sum
        programs = _programs(handle, operation, shapes)
        other = scratch if added is out else added
        _fastest[kind] = min(programs, key=lambda program: _seconds(lambda: run(program, scratch, other)))
    run(_fastest[kind], out, added)
    for created in layouts:
        _call("cublasLtMatrixLayoutDestroy", created)
    _call("cublasLtMatmulDescDestroy", operation)
    return out


_fastest: dict[tuple, Program] = {}


def _programs(handle, operation, shapes) -> list[Program]:
    """The algorithms that cuBLASLt proposes, in its order of preference."""
    preference, count = ctypes.c_void_p(), ctypes.c_int()
    programs = (Program * CANDIDATES)()
    _call("cublasLtMatmulPreferenceCreate", ctypes.byref(preference))
    most = ctypes.c_size_t(WORKSPACE)
    _call("cublasLtMatmulPreferenceSetAttribute", preference, MOST_WORKSPACE, ctypes.byref(most), ctypes.sizeof(most))
    _call(
        "cublasLtMatmulAlgoGetHeuristic", handle, operation, *shapes, shapes[2], preference, CANDIDATES, programs,
        ctypes.byref(count),
    )  # fmt: skip
    _call("cublasLtMatmulPreferenceDestroy", preference)
    whole = [program for program in programs[: count.value] if _splits(program) <= 1]
    return whole or programs[:1]


def _splits(program: Program) -> int:
    """The number of parts into which an algorithm splits each sum."""
    splits, size = ctypes.c_int32(), ctypes.c_size_t()
    _call(
        "cublasLtMatmulAlgoConfigGetAttribute", ctypes.byref(program.algorithm), SPLITS, ctypes.byref(splits),
        ctypes.sizeof(splits), ctypes.byref(size),
    )  # fmt: skip
    return splits.value


def _seconds(run: Callable[[], None], repeats: int = 20) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    run()
    # About a millisecond, in which all calls are queued: short ones would otherwise end before the next is launched.
    torch.cuda._sleep(2_000_000)
    begin.record()
    for _ in range(repeats):
        run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)
