"""Too little memory: one sentence with what is asked for, what is there, and settings that fit."""

from types import SimpleNamespace

import jax
import pytest

from detr_jax import devices
from detr_jax.batches.inputs import PixelReader
from detr_jax.config_check import check
from detr_jax.errors import UserError
from detr_jax.structures import Bucket
from detr_jax.training import memory
from detr_jax.training.memory import TooLittleMemory, explain_out_of_memory
from tests.training.small import make_config, make_small_recipe

BUCKET = Bucket(640, 480, 8)


@pytest.fixture
def four_gigabytes(monkeypatch):
    monkeypatch.setattr(memory, "available_gigabytes", lambda device: 4.0)


def test_too_little_memory_is_one_sentence(four_gigabytes):
    with pytest.raises(UserError) as caught, explain_out_of_memory():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes\nmore")
    assert str(caught.value) == f"out of memory (9 bytes were asked for): each device has 4.00 GB; {memory.GENERAL}"


def test_of_the_host_too():
    advice = "memory of this machine is exhausted; lower data.threads"
    with pytest.raises(UserError, match=advice), explain_out_of_memory():
        raise MemoryError


def test_another_failure_of_the_device_stays_what_it_is():
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), explain_out_of_memory():
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")


def test_what_does_not_fit_is_refused_before_it_runs(four_gigabytes, monkeypatch):
    program = jax.jit(lambda x: x).lower(1.0).compile()
    memory.check_fits(program, BUCKET)
    monkeypatch.setattr(memory, "needed_gigabytes", lambda program: 4.1)
    with pytest.raises(TooLittleMemory, match="canvas 640x480 needs 4.10 GB on each device, and 4.00 GB are there"):
        memory.check_fits(program, BUCKET)
    with pytest.raises(UserError, match="4.00 GB are there; buy more"), explain_out_of_memory(lambda: "buy more"):
        memory.check_fits(program, BUCKET)


def test_settings_with_less_memory_can_be_used_and_train_the_same_batch():
    config = make_config({"train.batch_size": 8, "train.accum_steps": 2})
    typed = []
    for flags, other in memory.smaller_configs(config, device_count=2):
        check(other)
        assert other.train.batch_size == 8 and (other.model, other.optim) == (config.model, config.optim)
        typed.append(flags)
    assert typed == ["train.accum_steps=4", "train.remat=True", "train.accum_steps=4 train.remat=True"]


@pytest.mark.parametrize(
    ("needs", "said"),
    [
        ({1: 9.0, 2: 5.0, 4: 3.0, 8: 2.0}, "train.accum_steps=4 needs 3.00 GB and would fit"),
        ({1: 90.0, 2: 50.0, 4: 30.0, 8: 20.0}, f"no other batch of this model fits: {memory.GENERAL}"),
    ],
)
def test_the_cheapest_settings_that_fit_are_named(needs, said, four_gigabytes, monkeypatch):
    """The compiler is asked for each in turn."""

    def lowering(recipe, reader):
        traced = SimpleNamespace(compile=lambda: needs[recipe.config.train.accum_steps])
        return lambda state, bucket: traced

    monkeypatch.setattr(memory, "StepLowering", lowering)
    monkeypatch.setattr(memory, "needed_gigabytes", lambda program: program)
    heard = []
    recipe = make_small_recipe({"train.batch_size": 8}, devices.make_mesh(devices=jax.devices()[:1]))
    assert memory.suggest(recipe, PixelReader(), BUCKET, heard.append).startswith(said) and len(heard) == 1


def test_the_memory_of_this_machine_is_known():
    there = memory.available_gigabytes(jax.devices()[0])
    assert there is None or 0.1 < there < 1e5
