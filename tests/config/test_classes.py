"""`classes=`: names first, whatever they look like, then numbers."""

import logging
from types import SimpleNamespace

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from diffusion.config.classes import class_numbers, quote_classes
from diffusion.system.errors import UserError


def model(*names):
    return SimpleNamespace(class_names=list(names), guidance=SimpleNamespace(conditional=True))


def typed(text):
    """What the scripts get of classes=TEXT on the command line."""
    override = OverridesParser.create().parse_override(quote_classes(f"classes={text}"))
    assert not override.is_sweep_override()
    return OmegaConf.to_container(OmegaConf.create({"classes": override.value()}), resolve=True)["classes"]


ODD = ["3.5", "1e3", "true", "False", "null", "nan", "007", "2", "a,b", "a b", "x=1", "it's", "q[1]", "f(1, 2)", "50%"]
ODD += [
    "{x}",
    "a:b",
    "${x}",
    "\\",
    'say "hi"',
    "日本",
    "🐈",
    "-1",
    "0x10",
    "1_000",
    "T-shirt",
    "@home",
    "~",
    "+1",
    "#1",
]
NUMBERED = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11"]


@pytest.mark.parametrize("name", ODD)
def test_every_name_can_be_asked_for_as_it_is(name):
    names = ["first", *ODD]
    if name != "null":  # which stands for all classes, and in a list for the one
        assert class_numbers(typed(name), model(*names)) == [names.index(name)]
    if "," not in name or "(" in name:
        assert class_numbers(typed(f"[{name}, first]"), model(*names)) == [names.index(name), 0]
    if "'" not in name and name not in ("\\", "${x}"):  # quotes of one's own are read by Hydra's rules
        assert class_numbers(typed(f"['{name}']"), model(*names)) == [names.index(name)]


def test_no_classes_mean_all():
    assert typed("null") is None and class_numbers(None, model("null")) is None
    assert class_numbers(typed("[null]"), model("a", "null")) == [1]
    with pytest.raises(UserError, match=r"classes=\[\] names no class"):
        class_numbers(typed("[]"), model("a"))


@pytest.mark.parametrize("order", [NUMBERED, sorted(NUMBERED)])  # of runs from before, too
def test_a_number_is_a_name_first(order):
    for name in NUMBERED:
        assert class_numbers(typed(name), model(*order)) == [order.index(name)]
    assert class_numbers(typed("[10,2]"), model(*order)) == [order.index("10"), order.index("2")]


def test_then_its_value_and_then_a_number(caplog):
    assert class_numbers(typed("[7,07,3.0]"), model("007", "3", "9")) == [0, 0, 1]
    assert class_numbers(typed("[1,bag]"), model("Bag", "Sneaker")) == [1, 0] and not caplog.messages
    with caplog.at_level(logging.INFO, "diffusion"):
        assert class_numbers(typed("2"), model("10", "20", "30")) == [2]
    assert "classes=2: no class has this name, so it is taken for class number 2, 30." in caplog.messages
    with pytest.raises(UserError, match=r"classes=7 may be each of 7.0, 007"):
        class_numbers(typed("7"), model("7.0", "007"))


def test_capital_letters_count_where_they_must():
    assert class_numbers(typed("[a,A]"), model("A", "a")) == [1, 0]
    assert class_numbers(typed("SNEAKER"), model("Bag", "sneaker")) == [1]
    assert class_numbers("Cafe\u0301", model("x", "caf\u00e9")) == [1]  # as macOS stores it, and as it is typed
    with pytest.raises(UserError, match=r"classes=CAT may be each of Cat, cat: write the one that you mean"):
        class_numbers(typed("CAT"), model("Cat", "cat"))


def test_in_python_numbers_are_numbers():
    names = ["2", "1", "0"]
    assert class_numbers([0, 2], model(*names), "labels", names_first=False) == [0, 2]
    assert class_numbers(["0", "2"], model(*names), "labels", names_first=False) == [2, 0]
    with pytest.raises(UserError, match="labels=3: the labels go from 0 to 2"):
        class_numbers(3, model(*names), "labels", names_first=False)


def test_what_a_config_file_made_of_a_name():
    names = ["3.5", "1000", "True", "null"]
    assert class_numbers([3.5, 1000.0, True, None], model(*names)) == [0, 1, 2, 3]


def test_misspelt_names_get_the_near_ones():
    many = [f"class{i}" for i in range(1000)] + ["sneaker"]
    with pytest.raises(UserError, match=r"classes=sneeker: there is no such class; did you mean sneaker\?"):
        class_numbers(typed("sneeker"), model(*many))
    for wrong in ("hat", "5000"):
        with pytest.raises(UserError) as told:
            class_numbers(typed(wrong), model(*many))
        assert "class9, … (1,001 in all)" in str(told.value) and len(str(told.value)) < 200
    with pytest.raises(UserError, match=r"for these classes write classes=\[hat,coat\]"):
        class_numbers(typed("hat,coat"), model("hat", "coat"))


@pytest.mark.parametrize("text", ["bag", "[bag,3]", "Ankle-boot", "2", "[0,1]", "T-shirt", "a_b", "null", "[]", ""])
def test_ordinary_commands_stay_as_they_are(text):
    assert quote_classes(f"classes={text}") == f"classes={text}"


def test_other_arguments_stay_as_they_are():
    for argument in ("n=1e3", "task.between=classes", "-m", "task.classes=1e3", "checkpoint=classes=1e3"):
        assert quote_classes(argument) == argument


@pytest.mark.parametrize(
    ("text", "jobs"),
    [
        ("bag,1e3,2", [["bag"], ["1e3"], ["2"]]),
        ("[bag,true],[2]", [["bag", "true"], ["2"]]),
        ("'a,b',c", [["a,b"], ["c"]]),
        ("null,bag", [None, ["bag"]]),
        ("range(0,2)", [["0"], ["1"]]),
        ("choice(a,b)", [["a"], ["b"]]),
    ],
)
def test_a_sweep_has_a_job_for_each(text, jobs):
    parser = OverridesParser.create()
    sweep = parser.parse_override(quote_classes(f"classes={text}", sweep=True))
    assert sweep.is_sweep_override()
    values = [parser.parse_override(f"classes={value}").value() for value in sweep.sweep_string_iterator()]
    lists = [value if value is None or isinstance(value, list) else [value] for value in values]
    assert [value if value is None else [str(item) for item in value] for value in lists] == jobs


def test_the_number_that_a_picture_shows_is_no_name():
    few = model("30", "数", "5")
    assert class_numbers(typed("#1"), few) == [1]
    with pytest.raises(UserError, match="from 0 to 2"):
        class_numbers("#3", few)
    assert class_numbers("#1", model("a", "b", "#1")) == [2]
