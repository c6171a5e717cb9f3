"""What the text of a compiled program says, on programs written down here and on programs that XLA compiles."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from detr_jax import devices
from detr_jax.benchmarks import compiled_program

PROGRAM = """\
HloModule jit_step

%inside (p: f32[100,100]) -> f32[100,100] {
  %p = f32[100,100]{1,0} parameter(0)
  ROOT %squared = f32[100,100]{1,0} multiply(%p, %p)
}

ENTRY %main (a: bf16[16,8], b: bf16[8,4]) -> (f32[16,4], pred[16,4]) {
  %a = bf16[16,8]{1,0} parameter(0)
  %b = bf16[8,4]{1,0} parameter(1)
  %product = (f32[16,4]{1,0}, s8[33554432]{0}) custom-call(%a, %b), custom_call_target="__cublas$lt$matmul"
  %first = f32[16,4]{1,0} get-tuple-element(%product), index=0
  ROOT %two = (f32[16,4]{1,0}, pred[16,4]{1,0}) fusion(%first, %first), kind=kLoop, calls=%inside
}
"""


def test_what_a_program_does():
    """Distinct operands and results of the entry count; tuples, inner computations and work space do not."""
    product = 16 * 8 * 2 + 8 * 4 * 2 + 16 * 4 * 4
    fusion = 16 * 4 * 4 + 16 * 4 * (4 + 1)
    assert compiled_program.count_work(PROGRAM) == (2, product + fusion)


def test_what_a_compiled_product_moves():
    a, b = jax.ShapeDtypeStruct((64, 32), jnp.float32), jax.ShapeDtypeStruct((32, 16), jnp.float32)
    program = jax.jit(jnp.matmul).lower(a, b).compile().as_text()
    assert compiled_program.count_work(program).moved_bytes == 4 * (64 * 32 + 32 * 16 + 64 * 16)


ASYNCHRONOUS = """\
HloModule jit_step

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%inner (i: f32[4]) -> f32[4] {
  %i = f32[4]{0} parameter(0)
  ROOT %permuted = f32[4]{0} collective-permute(%i), source_target_pairs={{0,1}}
}

%turn (t: f32[4]) -> f32[4] {
  %t = f32[4]{0} parameter(0)
  ROOT %called = f32[4]{0} call(%t), to_apply=%inner
}

%again (s: f32[4]) -> pred[] {
  %s = f32[4]{0} parameter(0)
  ROOT %yes = pred[] constant(true)
}

ENTRY %main (a: f32[4], b: bf16[8,4]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  %b = bf16[8,4]{1,0} parameter(1)
  %start = (f32[4]{0}, /*index=1*/bf16[8,4]{1,0}) all-reduce-start(%a, %b), to_apply=%add
  %done = (f32[4]{0}, bf16[8,4]{1,0}) all-reduce-done(%start)
  %first = f32[4]{0} get-tuple-element(%done), index=0
  ROOT %loop = f32[4]{0} while(%first), condition=%again, body=%turn
}
"""


def test_collectives_of_a_written_program():
    """A pair of start and done is one; what a loop's body calls is in the loop."""
    assert sorted(compiled_program.find_collectives(ASYNCHRONOUS)) == [
        ("all-reduce", 4 * 4 + 8 * 4 * 2, False),
        ("collective-permute", 4 * 4, True),
    ]


def test_collectives_of_a_compiled_program():
    """A sum over two devices before a loop and one in each turn."""
    mesh = devices.make_mesh(devices=jax.devices()[:2])
    rows = devices.batch_sharding(mesh)

    def run(x):
        def turn(carry):
            count, total = carry
            return count + 1, total + jnp.sum(jnp.sin(x * total[0]), axis=0)

        return lax.while_loop(lambda carry: carry[0] < 5, turn, (0, jnp.sum(x, axis=0)))

    x = jax.device_put(np.ones((4, 8), np.float32), rows)
    program = jax.jit(run).lower(x).compile().as_text()
    assert sorted(compiled_program.find_collectives(program)) == [("all-reduce", 32, False), ("all-reduce", 32, True)]
    alone = jax.jit(run).lower(np.ones((4, 8), np.float32)).compile().as_text()
    assert list(compiled_program.find_collectives(alone)) == []
