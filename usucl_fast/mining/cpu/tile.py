"""The innermost loop of a search on a CPU: products of eight rows' codes with sixteen queries' codes.

It is written in LLVM's own terms because no compiler finds the instruction that most x86 processors since 2019 have
for it (VNNI: 64 products of bytes and their sums at once); elsewhere the same is done by ordinary instructions.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic

ROWS = 8
"""Rows of a tile."""
LANES = 16
"""Queries of a tile."""


def make_tile(vnni: bool) -> Callable[..., Any]:
    """The compiled function `tile(codes, row, packed, group, least, masks, place)`.

    codes: uint8 `[N, D]`, D a multiple of 4; the rows from `row` on are taken.
    packed: int8 `[G, D / 4, 16, 4]`, codes of queries, sixteen at a time; those of `group` are taken.
    least: int32 `[16]`.
    masks: uint16, written to from `place` on, one a row: bit b says that the row's product with query b is `least[b]`
        or more.

    It returns whether any bit is set.
    """

    @intrinsic
    def tile(typing_context, codes, row, packed, group, least, masks, place):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            return _Tile(context, builder, signature, arguments, vnni).generate()

        return types.boolean(codes, row, packed, group, least, masks, place), generate

    return tile


class _Tile:
    """Writes the function's instructions."""

    byte, mask, word, place = (ir.IntType(bits) for bits in (8, 16, 32, 64))
    vector = ir.VectorType(word, LANES)

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any, vnni: bool) -> None:
        self.builder, self.vnni = builder, vnni
        codes, self.row, packed, self.group, least, masks, self.at = arguments
        arrays = [
            context.make_array(signature.args[n])(context, builder, array)
            for n, array in ((0, codes), (2, packed), (4, least), (5, masks))
        ]
        self.codes, self.packed, self.least, self.masks = (array.data for array in arrays)
        self.dim = builder.extract_value(arrays[0].shape, 1)

    def generate(self) -> Any:
        builder, place = self.builder, self.place
        first_row = builder.mul(self.row, self.dim)
        first_query = builder.mul(self.group, builder.mul(self.dim, place(LANES)))
        before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
        builder.branch(loop)

        builder.position_at_end(loop)
        d = builder.phi(place)
        d.add_incoming(place(0), before)
        sums = [builder.phi(self.vector) for _ in range(ROWS)]
        queries = self.load(self.packed, builder.add(first_query, builder.mul(d, place(LANES))), self.vector)
        following = builder.add(d, place(4))
        for number, total in enumerate(sums):
            total.add_incoming(self.same(0), before)
            offset = builder.add(builder.add(first_row, builder.mul(self.dim, place(number))), d)
            total.add_incoming(self.add_products(total, self.spread(offset), queries), loop)
        d.add_incoming(following, loop)
        builder.cbranch(builder.icmp_unsigned("<", following, self.dim), loop, after)

        builder.position_at_end(after)
        least = self.load(self.least, place(0), self.vector)
        found = self.mask(0)
        for number, total in enumerate(sums):
            above = builder.bitcast(builder.icmp_signed(">=", total.incomings[1][0], least), self.mask)
            at = builder.mul(builder.add(self.at, place(number)), place(2))
            builder.store(above, self.address(self.masks, at, self.mask), align=2)
            found = builder.or_(found, above)
        return builder.icmp_unsigned("!=", found, self.mask(0))

    def add_products(self, sums: Any, codes: Any, queries: Any) -> Any:
        """To each sum the products of four unsigned bytes with four signed ones."""
        builder = self.builder
        if self.vnni:
            kind = ir.FunctionType(self.vector, [self.vector] * 3)
            name = "llvm.x86.avx512.vpdpbusd.512"
            known = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
            return builder.call(known, [sums, codes, queries])
        for number in range(4):
            code = builder.and_(builder.lshr(codes, self.same(8 * number)), self.same(255))
            query = builder.ashr(builder.shl(queries, self.same(24 - 8 * number)), self.same(24))
            sums = builder.add(sums, builder.mul(code, query))
        return sums

    def spread(self, offset: Any) -> Any:
        """Four codes, in every lane."""
        nothing = ir.Constant(self.vector, ir.Undefined)
        one = self.builder.insert_element(nothing, self.load(self.codes, offset, self.word), self.word(0))
        return self.builder.shuffle_vector(one, nothing, self.same(0))

    def load(self, start: Any, offset: Any, kind: Any) -> Any:
        return self.builder.load(self.address(start, offset, kind), align=1)

    def address(self, start: Any, offset: Any, kind: Any) -> Any:
        builder = self.builder
        at = builder.gep(builder.bitcast(start, self.byte.as_pointer()), [offset])
        return builder.bitcast(at, kind.as_pointer())

    def same(self, number: int) -> Any:
        return ir.Constant(self.vector, [number] * LANES)


def has_vnni() -> bool:
    """Whether this processor has the instruction."""
    return bool(binding.get_host_cpu_features().get("avx512vnni", False))


tile = make_tile(has_vnni())
