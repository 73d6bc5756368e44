"""Triton kernels of VideoPose3D's training: batch norm, ReLU and dropout in one pass, and their gradient in two.

Tensors are (rows, WIDTH) in the network's precision (bfloat16), rows being frames of a batch and columns channels;
arithmetic is in float32. A kernel that adds over rows leaves one row of sums for each program in `partial`, and
another adds those up, in the same order every time.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, UInt8
from torch import Tensor, nn

# Parameters that the kernels share.
#   X, D_X                  input of the norm and its gradient, (rows, WIDTH)
#   STATISTICS              (2, WIDTH) float32: mean and 1 / deviation of each channel
#   W, B                    (WIDTH,) float32, of the norm
#   KEEP                    (rows, WIDTH) uint8, if KEPT: 0 for what dropout drops; the rest is multiplied by factor
#   PARTIAL                 (programs, 2, WIDTH) float32, see above
#   CHUNK, ROWS, COLUMNS    rows of a program; rows and columns that it takes at a time


@triton.jit
def _moments(X, PARTIAL, rows, WIDTH: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """PARTIAL: sums of X less its first row, and of its squares; the first row keeps the digits of a large mean."""
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    shift = tl.load(X + column, column < WIDTH, 0.0).to(tl.float32)
    total, squares = tl.zeros([ROWS, COLUMNS], tl.float32), tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in tl.range(0, CHUNK, ROWS, num_stages=3):
        row = tl.program_id(0) * CHUNK + start + tl.arange(0, ROWS)[:, None]
        x = tl.load(X + row.to(tl.int64) * WIDTH + column, (row < rows) & (column < WIDTH), 0.0).to(tl.float32)
        x = tl.where(row < rows, x - shift, 0.0)
        total += x
        squares += x * x
    _store_sums(PARTIAL, total, squares, column, WIDTH)


@triton.jit
def _store_sums(PARTIAL, first, second, column, WIDTH: tl.constexpr):
    PARTIAL += tl.program_id(0) * 2 * WIDTH + column
    tl.store(PARTIAL, tl.sum(first, 0)[None, :], column < WIDTH)
    tl.store(PARTIAL + WIDTH, tl.sum(second, 0)[None, :], column < WIDTH)


@triton.jit
def _added(PARTIAL, programs, column, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The two sums over programs, each (COLUMNS,)."""
    first, second = tl.zeros([ROWS, COLUMNS], tl.float32), tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in tl.range(0, programs, ROWS, num_stages=3):
        row = start + tl.arange(0, ROWS)[:, None]
        inside = (row < programs) & (column < WIDTH)[None, :]
        first += tl.load(PARTIAL + row * 2 * WIDTH + column[None, :], inside, 0.0)
        second += tl.load(PARTIAL + row * 2 * WIDTH + WIDTH + column[None, :], inside, 0.0)
    return tl.sum(first, 0), tl.sum(second, 0)


@triton.jit
def _statistics(
    X, PARTIAL, STATISTICS, MEAN, VARIANCE, rows, programs, momentum, eps,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """STATISTICS from the sums of `_moments`. MEAN, VARIANCE: (WIDTH,) float32, running ones, which are updated."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < WIDTH
    total, squares = _added(PARTIAL, programs, column, WIDTH, ROWS, COLUMNS)
    offset = total / rows
    mean = tl.load(X + column, inside, 0.0).to(tl.float32) + offset
    variance = tl.maximum(squares / rows - offset * offset, 0.0)
    tl.store(STATISTICS + column, mean, inside)
    tl.store(STATISTICS + WIDTH + column, 1 / tl.sqrt(variance + eps), inside)
    running = tl.load(MEAN + column, inside, 0.0)
    tl.store(MEAN + column, running + momentum * (mean - running), inside)
    running = tl.load(VARIANCE + column, inside, 0.0)
    tl.store(VARIANCE + column, running + momentum * (variance * (rows / (rows - 1)) - running), inside)


@triton.jit
def _sums(PARTIAL, SUMS, programs, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """SUMS: (2, WIDTH) float32, those of PARTIAL over programs."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    first, second = _added(PARTIAL, programs, column, WIDTH, ROWS, COLUMNS)
    tl.store(SUMS + column, first, column < WIDTH)
    tl.store(SUMS + WIDTH + column, second, column < WIDTH)


@triton.jit
def _norm(STATISTICS, W, B, column, WIDTH: tl.constexpr):
    """Mean, 1 / deviation, weight and bias of the columns."""
    inside = column < WIDTH
    mean, inverse = tl.load(STATISTICS + column, inside, 0.0), tl.load(STATISTICS + WIDTH + column, inside, 0.0)
    return mean, inverse, tl.load(W + column, inside, 0.0), tl.load(B + column, inside, 0.0)


@triton.jit
def _activate(
    X, STATISTICS, W, B, KEEP, SKIPPED, OUT, rows, factor,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, KEPT: tl.constexpr, STRIDE: tl.constexpr,
):  # fmt: skip
    """OUT: dropout of ReLU of the norm of X, plus the central one of each STRIDE rows of SKIPPED, if STRIDE > 0."""
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    inside, place = (row < rows) & (column < WIDTH), row.to(tl.int64) * WIDTH + column
    mean, inverse, weight, bias = _norm(STATISTICS, W, B, column, WIDTH)
    x = (tl.load(X + place, inside, 0.0).to(tl.float32) - mean) * inverse
    out = tl.maximum(x * weight + bias, 0.0)
    if KEPT:
        out *= tl.load(KEEP + place, inside, 0).to(tl.float32) * factor
    if STRIDE > 0:
        other = (row.to(tl.int64) * STRIDE + STRIDE // 2) * WIDTH + column
        out += tl.load(SKIPPED + other, inside, 0.0).to(tl.float32)
    tl.store(OUT + place, out, inside)


@triton.jit
def _gradient(
    X, D_OUT, KEEP, mean, inverse, weight, bias, row, column, rows, factor, WIDTH: tl.constexpr, KEPT: tl.constexpr
):
    """The normalised X, and the gradient of the norm's output, 0 outside."""
    inside, place = (row < rows) & (column < WIDTH), row.to(tl.int64) * WIDTH + column
    x = (tl.load(X + place, inside, 0.0).to(tl.float32) - mean) * inverse
    d = tl.where(x * weight + bias > 0, tl.load(D_OUT + place, inside, 0.0).to(tl.float32), 0.0)
    if KEPT:
        d *= tl.load(KEEP + place, inside, 0).to(tl.float32) * factor
    return x, d


@triton.jit
def _activate_sums(
    X, D_OUT, STATISTICS, W, B, KEEP, PARTIAL, rows, factor,
    WIDTH: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, KEPT: tl.constexpr,
):  # fmt: skip
    """PARTIAL: sums of the gradient of the norm's output, and of that times the normalised X."""
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    mean, inverse, weight, bias = _norm(STATISTICS, W, B, column, WIDTH)
    total, products = tl.zeros([ROWS, COLUMNS], tl.float32), tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in tl.range(0, CHUNK, ROWS, num_stages=3):
        row = tl.program_id(0) * CHUNK + start + tl.arange(0, ROWS)[:, None]
        x, d = _gradient(X, D_OUT, KEEP, mean, inverse, weight, bias, row, column, rows, factor, WIDTH, KEPT)
        total += d
        products += d * x
    _store_sums(PARTIAL, total, products, column, WIDTH)


@triton.jit
def _activate_backward(
    X, D_OUT, STATISTICS, W, B, KEEP, SUMS, D_X, rows, factor,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, KEPT: tl.constexpr,
):  # fmt: skip
    """SUMS: (2, WIDTH), of `_activate_sums`."""
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    mean, inverse, weight, bias = _norm(STATISTICS, W, B, column, WIDTH)
    d_bias = tl.load(SUMS + column, column < WIDTH, 0.0)
    d_weight = tl.load(SUMS + WIDTH + column, column < WIDTH, 0.0)
    x, d = _gradient(X, D_OUT, KEEP, mean, inverse, weight, bias, row, column, rows, factor, WIDTH, KEPT)
    d_x = (d - (d_bias + x * d_weight) / rows) * (inverse * weight)
    tl.store(D_X + row.to(tl.int64) * WIDTH + column, d_x, (row < rows) & (column < WIDTH))


# Launching. A program covers COLUMNS channels, so that the loads of a warp are 128 bytes wide or more.

COLUMNS, ROWS = 128, 32


def _chunked(rows: int, width: int) -> tuple[int, tuple[int, int]]:
    """Rows per program, few enough to fill the GPU, and the grid."""
    columns = triton.cdiv(width, COLUMNS)
    chunk = max(2 * ROWS, min(512, triton.next_power_of_2(rows * columns // 1024)))
    return chunk, (triton.cdiv(rows, chunk), columns)


def statistics(x: Float[Tensor, "rows channels"], norm: nn.BatchNorm1d) -> Float[Tensor, "2 channels"]:
    """Mean and 1 / deviation of each channel. Updates the norm's running ones, but not its count of batches."""
    rows, width = x.shape
    chunk, grid = _chunked(rows, width)
    partial = torch.empty(grid[0], 2, width, dtype=torch.float32, device=x.device)
    out = torch.empty(2, width, dtype=torch.float32, device=x.device)
    _moments[grid](x, partial, rows, WIDTH=width, CHUNK=chunk, ROWS=ROWS, COLUMNS=COLUMNS, num_warps=4)
    _statistics[(triton.cdiv(width, 32),)](
        x, partial, out, norm.running_mean, norm.running_var, rows, len(partial), norm.momentum, norm.eps,
        WIDTH=width, ROWS=64, COLUMNS=32, num_warps=4,
    )  # fmt: skip
    return out


def activate(
    x: Float[Tensor, "rows channels"],
    statistics: Float[Tensor, "2 channels"],
    norm: nn.BatchNorm1d,
    keep: UInt8[Tensor, "rows channels"] | None,
    factor: float,
    skipped: Float[Tensor, "more_rows channels"] | None = None,
) -> Float[Tensor, "rows channels"]:
    """Dropout of ReLU of the norm of x, by its `statistics`; plus the central of each few rows of `skipped`."""
    out, (rows, width) = torch.empty_like(x), x.shape
    _activate[(triton.cdiv(rows, ROWS), triton.cdiv(width, COLUMNS))](
        x, statistics, norm.weight, norm.bias, keep, skipped, out, rows, factor, WIDTH=width, ROWS=ROWS,
        COLUMNS=COLUMNS, KEPT=keep is not None, STRIDE=0 if skipped is None else len(skipped) // rows, num_warps=4,
    )  # fmt: skip
    return out


def activate_backward(
    x: Float[Tensor, "rows channels"],
    statistics: Float[Tensor, "2 channels"],
    norm: nn.BatchNorm1d,
    keep: UInt8[Tensor, "rows channels"] | None,
    factor: float,
    d_out: Float[Tensor, "rows channels"],
) -> tuple[Float[Tensor, "rows channels"], Float[Tensor, "2 channels"]]:
    """Gradients of activate's x; and of the norm's bias and weight."""
    d_x, (rows, width) = torch.empty_like(x), x.shape
    chunk, grid = _chunked(rows, width)
    partial = torch.empty(grid[0], 2, width, dtype=torch.float32, device=x.device)
    sums = torch.empty(2, width, dtype=torch.float32, device=x.device)
    given = (x, d_out, statistics, norm.weight, norm.bias, keep)
    sizes = {"WIDTH": width, "ROWS": ROWS, "COLUMNS": COLUMNS, "KEPT": keep is not None}
    _activate_sums[grid](*given, partial, rows, factor, CHUNK=chunk, **sizes, num_warps=4)
    _sums[(triton.cdiv(width, 32),)](partial, sums, len(partial), WIDTH=width, ROWS=64, COLUMNS=32, num_warps=4)
    _activate_backward[(triton.cdiv(rows, ROWS), grid[1])](*given, sums, d_x, rows, factor, **sizes, num_warps=4)
    return d_x, sums
