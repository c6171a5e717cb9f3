"""The ablation: every variant can be trained, and the table is sorted by AP."""

import importlib.util

import pytest

from configs import finetune, shapes
from detr_jax.config_check import check
from detr_jax.config_forms import from_config_dict
from tests.programs import REPOSITORY

SPEC = importlib.util.spec_from_file_location("ablation", REPOSITORY / "scripts" / "ablation.py")
ablation = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(ablation)
VARIANTS = [(name, variant) for name, (_, variants) in ablation.SETS.items() for variant in variants]


@pytest.mark.parametrize(("name", "variant"), VARIANTS, ids=lambda word: word.replace(" ", "_"))
def test_every_variant_is_possible(name, variant):
    path, variants = ablation.SETS[name]
    words = path.partition(":")[2]
    config = {"shapes": shapes, "bccd": finetune}[name].get_config(words)
    config.update_from_flattened_dict(variants[variant])
    check(from_config_dict(config))


def test_the_table_has_the_best_first():
    good = [ablation.Run([(5, 0.1, 0.2), (10, 0.5, 0.7)], 0.5), ablation.Run([(10, 0.7, 0.9)], 0.4)]
    bad = [ablation.Run([(10, 0.1, 0.2)], 1.0)]
    assert ablation.make_table({"bad": bad, "good": good}).splitlines()[2:] == [
        "| good | 10 | 0.600 (0.500 to 0.700) | 0.800 | 4 |",
        "| bad | 10 | 0.100 (0.100 to 0.100) | 0.200 | 10 |",
    ]
