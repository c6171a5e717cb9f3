"""The step compiled for devices that are not here; the compilers of GPUs and TPUs are not part of the requirements."""

import json

import jax
import jax.numpy as jnp
import pytest

from detr_jax.benchmarks import elsewhere
from tests.programs import Programs, assert_one_sentence, of_session

TINY = [
    "--config=configs/shapes.py:smoke", "--config.model.backbone_width=8", "--config.model.hidden_dim=32",
    "--config.model.num_queries=100", "--config.data.buckets=((96,128,100),(64,96,100))", "--config.train.batch_size=2",
]  # fmt: skip

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


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> Programs:
    return of_session(tmp_path_factory)


def test_what_a_program_does():
    """Distinct operands and results of the entry count; tuples, inner computations and work space do not."""
    product = 16 * 8 * 2 + 8 * 4 * 2 + 16 * 4 * 4
    fusion = 16 * 4 * 4 + 16 * 4 * (4 + 1)
    assert elsewhere.count_work(PROGRAM) == (2, product + fusion)


def test_what_a_compiled_product_moves():
    a, b = jax.ShapeDtypeStruct((64, 32), jnp.float32), jax.ShapeDtypeStruct((32, 16), jnp.float32)
    program = jax.jit(jnp.matmul).lower(a, b).compile().as_text()
    assert elsewhere.count_work(program).moved_bytes == 4 * (64 * 32 + 32 * 16 + 64 * 16)


def test_here(programs, tmp_path):
    said = programs.run("benchmark", "fits", *TINY, "--canvases=1", f"--output={tmp_path}")
    assert said.returncode == 0, said.stderr
    (row,) = json.loads((tmp_path / "benchmark.json").read_text())["fits"]
    assert row["canvas"] == "96x128" and row["images_per_device"] == 2  # the largest
    assert row["gigabytes"] > row["kept_gigabytes"] > 0 and row["moved_gigabytes"] > row["gigabytes"]
    assert row["operations"] > 500


@pytest.mark.parametrize(
    ("device", "says"),
    [("h100", "jax[cuda12]"), ("h100:none", "jax[cuda12]"), ("v5e:2x2", "jax[tpu]"), ("abacus", "here, a100, h100")],
)
def test_what_cannot_be_compiled_for(programs, device, says):
    said = programs.run("benchmark", "fits", *TINY, f"--device={device}")
    assert_one_sentence(said, says)
