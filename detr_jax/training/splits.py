"""The splits that a run trains and evaluates on."""

import dataclasses
import os

import jax

from detr_jax import hosts
from detr_jax.config import DataConfig
from detr_jax.config_forms import as_flags
from detr_jax.datasets import shapes
from detr_jax.datasets.defects import DefectiveData
from detr_jax.datasets.split import Split, open_split
from detr_jax.datasets.user_folder import choose_name, prepare_folder
from detr_jax.errors import UserError

EMBEDDED = "shapes"  # the dataset that is made on the spot


def open_data(data: DataConfig) -> tuple[Split, Split]:
    """The training and the validation split.

    Raises UserError when they do not exist, do not go together, or hold nothing to learn.
    """
    if data.name == EMBEDDED and jax.process_index() == 0:
        shapes.prepare(data.dir)
    hosts.wait_for_hosts("data is there")
    train_split = open_split(data.dir, data.name, data.train_split)
    val_split = open_split(data.dir, data.name, data.val_split)
    if train_split.categories != val_split.categories:
        raise UserError(f"the splits {train_split.name} and {val_split.name} of {data.name} have different classes")
    if not train_split.target_counts.any():
        raise UserError(
            f"no image of {data.name} {train_split.name} has an object to learn; "
            f"look at it with python -m detr_jax.dataset stats --name={data.name} --data_dir={data.dir}"
        )
    return train_split, val_split


def prepare_data(folder: str | os.PathLike, data: DataConfig) -> DataConfig:
    """The settings of the dataset that a folder of photos and annotations holds; it is prepared unless it is already.

    Raises UserError like ``prepare_folder``, and when the folder has changed since it was prepared.
    """

    def prepare() -> str:
        name = choose_name(folder, data.dir)
        try:
            prepared = prepare_folder(folder, name, data.dir)
        except DefectiveData as error:
            print(*error.describe(), sep="\n")
            raise
        print(*prepared.describe(), sep="\n")
        return name

    name = hosts.from_first_host(prepare)
    print(as_flags(f"--data is the dataset data.name={name} data.dir={data.dir}"), flush=True)
    return dataclasses.replace(data, name=name)
