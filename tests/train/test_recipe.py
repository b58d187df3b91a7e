"""The recipe: TOML and flags in, one checked dataclass out."""

import dataclasses
import zipfile
from pathlib import Path

import pytest

from jirgee.errors import InputError
from jirgee_train.recipe import TYPES, Recipe, read_recipe, shipped

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "recipe.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_flags_go_over_the_file_and_the_file_over_the_defaults(write):
    path = write('base = "өөрийн/загвар"\nepochs = 2\nseed = 7\n')
    recipe = read_recipe(path, epochs=3.5, batch_size=None)
    assert recipe == dataclasses.replace(Recipe(), base="өөрийн/загвар", epochs=3.5, seed=7)


def test_without_a_file_flags_go_over_the_defaults():
    assert read_recipe(None) == Recipe()
    assert read_recipe(None, patience=0, dev_share=0.1) == Recipe(patience=0, dev_share=0.1)


def test_to_toml_reads_back_as_the_same_recipe(write):
    recipe = Recipe(base='C:\\models\\"mine" өө', epochs=1.5, learning_rate=2.5e-05, seed=0, warmup=0.0)
    assert read_recipe(write(recipe.to_toml())) == recipe
    assert len(recipe.to_toml().splitlines()) == len(TYPES)


def test_a_whole_number_is_a_float_but_not_the_reverse(write):
    assert read_recipe(write("weight_decay = 0\n")).weight_decay == 0
    with pytest.raises(InputError, match=r"batch_size = 16\.0: a int is wanted"):
        read_recipe(write("batch_size = 16.0\n"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("epoch = 3", "unknown key 'epoch'; a recipe has base, epochs"),
        ("[train]\nepochs = 3", "unknown key 'train'"),
        ('epochs = "3"', "epochs = '3': a float is wanted"),
        ("seed = true", "seed = True: a int is wanted"),
        ("base = 1", "base = 1: a str is wanted"),
        ("epochs = ", "cannot be read as a recipe"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(write, line, message):
    path = write(line + "\n")
    with pytest.raises(InputError) as caught:
        read_recipe(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_or_undecodable_file_is_an_input_error(tmp_path, write):
    with pytest.raises(InputError, match="cannot be read as a recipe"):
        read_recipe(tmp_path / "nowhere.toml")
    path = write("")
    path.write_bytes(b'base = "\xff"')
    with pytest.raises(InputError, match="cannot be read as a recipe"):
        read_recipe(path)


BEYOND = {
    "epochs": (0, -1.0, float("nan"), float("inf")),
    "batch_size": (0,),
    "learning_rate": (0.0, 1.0, float("nan")),
    "warmup": (-0.1, 1.1),
    "weight_decay": (-0.01, float("nan"), float("inf")),
    "accumulate": (0,),
    "max_tokens": (3,),
    "patience": (-1,),
    "dev_share": (0.0, 1.0),
    "seed": (-1, 2**32),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BEYOND.items() for value in values])
def test_a_value_out_of_its_range_is_refused_from_flags(name, value):
    with pytest.raises(InputError, match=f"{name} = .* out of its range"):
        read_recipe(None, **{name: value})


def test_a_value_out_of_its_range_is_refused_from_a_file(write):
    path = write("epochs = 0\n")
    with pytest.raises(InputError) as caught:
        read_recipe(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_the_shipped_recipes_go_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tweets").mkdir()  # somebody's data
    assert {"hybrid", "registers", "tweets"} <= shipped().keys()
    for name, path in shipped().items():
        assert read_recipe(Path(name), seed=3) == read_recipe(path, seed=3)
    assert read_recipe(Path("hybrid")).ngrams
    with pytest.raises(InputError, match=r"no recipe 'hybird': give a TOML file or one of hybrid, registers, tweets$"):
        read_recipe(Path("hybird"))


def test_the_wheel_has_the_recipes(tmp_path):
    builder = pytest.importorskip("hatchling.builders.wheel").WheelBuilder(str(ROOT))
    (wheel,) = builder.build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {f"jirgee_train/recipes/{path.name}" for path in shipped().values()} <= names
