"""The traffic of a compiled program, read from its text: collectives, loops, slices."""

import jax
import jax.numpy as jnp
import pytest

from core_jax.hlo import group_size, read_program, shape_bytes
from core_jax.traffic import Collective, moved_bytes, read_traffic

PROGRAM = """HloModule jit_step

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %p = (s32[], f32[8,4]) parameter(0)
  %x = f32[8,4]{1,0:T(8,128)} get-tuple-element(%p), index=1
  %reduced = f32[8,4]{1,0:T(8,128)} all-reduce(%x), replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %t = (s32[], f32[8,4]) tuple(%x, %reduced)
}

%cond (p: (s32[], f32[8,4])) -> pred[] {
  %p = (s32[], f32[8,4]) parameter(0)
  ROOT %less = pred[] constant(true)
}

ENTRY %main (x: f32[8,4]) -> f32[8,4] {
  %x = f32[8,4]{1,0} parameter(0)
  %start = (s32[], f32[8,4]) tuple(%x)
  %loop = (s32[], f32[8,4]) while(%start), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %y = f32[8,4]{1,0} get-tuple-element(%loop), index=1
  ROOT %gathered = f32[16,4]{1,0} all-gather(%y), replica_groups={{0,1},{2,3}}, dimensions={0}
}
"""


def test_loops_in_a_program_count_for_every_turn():
    traffic = read_traffic(PROGRAM)
    array = 8 * 4 * 4
    assert traffic.collectives == {
        "all-reduce": Collective(5, 5 * int(2 * array * 3 / 4)),
        "all-gather": Collective(1, array),
    }
    body, entry = 2 * array, array + 2 * array
    assert traffic.loop_factor == pytest.approx((5 * body + entry) / (body + entry), rel=0.1)


def test_what_two_places_call_counts_once_for_each():
    """Also where it calls something else itself."""
    call = "  %{0} = f32[8,4]{{1,0}} call(%x), to_apply=%{1}\n"
    reduced = "  ROOT %r = f32[8,4]{1,0} all-reduce(%x), replica_groups={{0,1}}, to_apply=%add\n"
    head, foot = "(x: f32[8,4]) -> f32[8,4] {\n  %x = f32[8,4]{1,0} parameter(0)\n", "}\n\n"
    text = f"%inner {head}{reduced}{foot}%outer {head}{call.format('a', 'inner')}{foot}"
    text += f"ENTRY %main {head}{call.format('a', 'outer')}{call.format('b', 'outer')}{foot}"
    assert read_traffic(text).collectives["all-reduce"].count == 2


def test_attributes_of_a_program():
    assert shape_bytes("(bf16[2,3]{1,0:T(8,128)(2,1)}, s32[], f32[0])") == 12 + 4
    assert group_size("replica_groups=[4,64]<=[256]") == 64
    assert group_size("replica_groups=mesh['axis_0'=8,'axis_1'=4] {'axis_1'}, use_global_device_ids=true") == 4
    assert group_size("replica_groups={{0,2,4},{1,3,5}}") == 3


UNSAID = PROGRAM.replace(', backend_config={"known_trip_count":{"n":"5"}}', "").replace(
    "ROOT %less = pred[] constant(true)",
    """%limit = s32[] constant(7)
  %turn = s32[] get-tuple-element(%p), index=0
  ROOT %less = pred[] compare(%turn, %limit), direction=LT""",
)


@pytest.mark.parametrize(("start", "turns"), [("0", 7), ("2", 5)])
def test_where_the_compiler_does_not_say_how_often_a_loop_turns_its_condition_does(start, turns):
    """The compiler for TPU leaves it out."""
    text = UNSAID.replace("tuple(%x)", "tuple(%zero, %x)").replace(
        "  %start =", f"  %zero = s32[] constant({start})\n  %start ="
    )
    assert read_traffic(text).collectives["all-reduce"].count == turns


CUT = """HloModule jit_cut

%fused (a: f32[6,8], b: f32[6,8], i: s32[], u: f32[1,8]) -> (f32[1,8], f32[6,8]) {
  %a = f32[6,8]{1,0} parameter(0)
  %b = f32[6,8]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %u = f32[1,8]{1,0} parameter(3)
  %zero = s32[] constant(0)
  %part = f32[1,8]{1,0} dynamic-slice(%a, %i, %zero), dynamic_slice_sizes={1,8}
  %sum = f32[1,8]{1,0} add(%part, %u)
  %put = f32[6,8]{1,0} dynamic-update-slice(%b, %sum, %i, %zero)
  ROOT %both = (f32[1,8], f32[6,8]) tuple(%sum, %put)
}

ENTRY %main (a: f32[6,8], b: f32[6,8], i: s32[], u: f32[1,8]) -> (f32[1,8], f32[6,8]) {
  %a = f32[6,8]{1,0} parameter(0)
  %b = f32[6,8]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %u = f32[1,8]{1,0} parameter(3)
  %whole = f32[6,8]{1,0} negate(%a)
  %room = f32[6,8]{1,0} custom-call(), custom_call_target="AllocateBuffer"
  %ahead = ((f32[6,8]), f32[2,8], s32[]) slice-start(%a), slice={[0:2], [0:8]}
  ROOT %fusion = (f32[1,8], f32[6,8]) fusion(%a, %b, %i, %u), kind=kLoop, calls=%fused
}
"""


def test_a_slice_moves_as_much_as_it_cuts_out_or_puts_in():
    program = read_program(CUT)
    main, row, number = program.computations["main"], 8 * 4, 4
    shapes = {instruction.name: instruction.shape for instruction in main}
    moved = {instruction.name: moved_bytes(program, instruction, shapes) for instruction in main}
    read = row + number + row  # of a, the index, of u
    assert moved == dict.fromkeys("abiu", 0) | {
        "whole": 2 * 6 * row,
        "room": 0,
        "ahead": 2 * (2 * row) + 2 * number,
        "fusion": read + 2 * row,
    }


def test_a_loop_multiplies_the_bytes_of_its_body_alone():
    """By the compiler for CPU, whose loops cut out of arrays over all turns as those of a scanned stack do."""

    def layers(x, kernels):
        return jax.lax.scan(lambda x, kernel: (jnp.tanh(x @ kernel), None), x, kernels)

    def factor(turns):
        shapes = jax.ShapeDtypeStruct((256, 256), jnp.float32), jax.ShapeDtypeStruct((turns, 256, 256), jnp.float32)
        return read_traffic(jax.jit(layers).lower(*shapes).compile().as_text() or "").loop_factor

    few, many = factor(4), factor(40)
    assert 3 < few <= 4
    assert 30 < many <= 40


KERNEL = """HloModule jit_kernels

%body (p: (s32[], bf16[8,4])) -> (s32[], bf16[8,4]) {
  %p = (s32[], bf16[8,4]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = bf16[8,4]{1,0} get-tuple-element(%p), index=1
  %y = bf16[8,4]{1,0} custom-call(%x, %x), custom_call_target="tpu_custom_call", backend_config={ESTIMATE}
  ROOT %t = (s32[], bf16[8,4]) tuple(%i, %y)
}

%cond (p: (s32[], bf16[8,4])) -> pred[] {
  %p = (s32[], bf16[8,4]) parameter(0)
  ROOT %less = pred[] constant(true)
}

ENTRY %main (x: bf16[8,4]) -> bf16[8,4] {
  %x = bf16[8,4]{1,0} parameter(0)
  %copied = bf16[8,4]{1,0} copy(%x)
  %zero = s32[] constant(0)
  %start = (s32[], bf16[8,4]) tuple(%zero, %copied)
  %loop = (s32[], bf16[8,4]) while(%start), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %z = bf16[8,4]{1,0} get-tuple-element(%loop), index=1
}
"""


def test_a_kernel_moves_its_operands_and_results_in_every_turn():
    """The compiler's own count has nothing for it, unless its author gave an estimate, which the count then has."""
    traffic = read_traffic(KERNEL.replace("ESTIMATE", ""))
    assert (traffic.kernel_bytes, traffic.loop_factor) == (5 * 3 * 8 * 4 * 2, 1)
    known = read_traffic(KERNEL.replace("ESTIMATE", '"custom_call_config":{"cost_estimate":{"bytes_accessed":192}}'))
    assert known.kernel_bytes == 0
    assert known.loop_factor > 1
