"""What compiled training is made of: a register tile, and three words that NumPy doesn't have.

A matrix product of the size of local training (ten rows through sixty inputs) is over before a BLAS
has looked at its arguments, and a compiler does not find the vectors in plain loops. So the inner
loop is written in LLVM's own vector type: `tile` keeps 4 x 16 sums in registers. LLVM maps the
vectors to what the machine has (AVX, SSE, NEON).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

#: Rows of a tile, and numbers in each.
ROWS = 4
LANES = 16
_VECTOR = 8

_INT32 = ir.IntType(32)


@intrinsic  # type: ignore[untyped-decorator]
def tile(
    _: Any,
    u: Any,
    u_at: Any,
    u_row: Any,
    u_step: Any,
    v: Any,
    v_at: Any,
    v_step: Any,
    steps: Any,
    first: Any,
    first_at: Any,
    first_row: Any,
    out: Any,
    out_at: Any,
    out_row: Any,
) -> Any:
    """Add outer products to a 4 x 16 block: out[r, l] = first[r, l] + sum_t u[r, t] v[t, l].

    There are `steps` of them. All arrays are flat. Element (r, t) of u stands at
    u_at + r u_row + t u_step; v's row t is 16 numbers from v_at + t v_step; row r of first and of
    out is 16 numbers from its start.
    """
    signature = types.void(
        *(u, u_at, u_row, u_step, v, v_at, v_step, steps),
        *(first, first_at, first_row, out, out_at, out_row),
    )

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def data(place: int) -> Any:
            array = context.make_array(signature.args[place])
            return array(context, builder, args[place]).data

        u, v, first, out = (data(place) for place in (0, 4, 8, 11))
        u_at, u_row, u_step = args[1:4]
        v_at, v_step, steps = args[5:8]
        kind = signature.args[0].dtype
        vector = ir.VectorType(context.get_data_type(kind), _VECTOR)
        size = kind.bitwidth // 8

        def element(base: Any, start: Any, stride: Any, times: int, beyond: int = 0) -> Any:
            place = builder.add(start, builder.mul(stride, ir.Constant(stride.type, times)))
            return builder.gep(base, [builder.add(place, ir.Constant(place.type, beyond))])

        def load(address: Any) -> Any:
            return builder.load(builder.bitcast(address, vector.as_pointer()), align=size)

        def everywhere(number: Any) -> Any:
            empty = ir.Constant(vector, ir.Undefined)
            one = builder.insert_element(empty, number, ir.Constant(_INT32, 0))
            zeros = ir.Constant(ir.VectorType(_INT32, _VECTOR), [0] * _VECTOR)
            return builder.shuffle_vector(one, empty, zeros)

        halves = range(0, LANES, _VECTOR)
        sums = {
            (row, half): cgutils.alloca_once_value(
                builder, load(element(first, args[9], args[10], row, half))
            )
            for row in range(ROWS)
            for half in halves
        }
        with cgutils.for_range(builder, steps) as loop:
            place = builder.add(v_at, builder.mul(loop.index, v_step))
            across = {half: load(element(v, place, v_step, 0, half)) for half in halves}
            start = builder.add(u_at, builder.mul(loop.index, u_step))
            for row in range(ROWS):
                down = everywhere(builder.load(element(u, start, u_row, row)))
                for half in halves:
                    # "contract" lets LLVM fuse the two where the machine can, and only there.
                    product = builder.fmul(down, across[half], flags=["contract"])
                    total = sums[row, half]
                    added = builder.fadd(builder.load(total), product, flags=["contract"])
                    builder.store(added, total)
        for (row, half), total in sums.items():
            address = element(out, args[12], args[13], row, half)
            address = builder.bitcast(address, vector.as_pointer())
            builder.store(builder.load(total), address, align=size)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic  # type: ignore[untyped-decorator]
def high_product(_: Any, a: Any, b: Any) -> Any:
    """Return the upper 64 bits of the product of two uint64."""
    wide = ir.IntType(128)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        a, b = (builder.zext(number, wide) for number in args)
        high = builder.lshr(builder.mul(a, b), ir.Constant(wide, 64))
        return builder.trunc(high, ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def as_float32(_: Any, bits: Any) -> Any:
    """Return the float32 whose bits are those of an int32."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), codegen


@intrinsic  # type: ignore[untyped-decorator]
def pointer(_: Any, address: Any) -> Any:
    """Return an address, a uint64, as a pointer that `numba.carray` takes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(types.uint64), codegen
