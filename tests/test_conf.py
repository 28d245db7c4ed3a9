"""Every option of conf/ composes, names itself, and fits the schema."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from edit_sweeps import config as schema
from edit_sweeps.launcher.freezing import Refusal, freeze

CONF = Path(__file__).parent.parent / "conf"
GROUPS = ["model", "editor", "edits", "regularizer", "dataset", "moments", "wandb", "cluster"]
OPTIONS = [(group, file.stem) for group in GROUPS for file in sorted((CONF / group).glob("*.yaml"))]
SCHOOLS = {"default", "authors", "easyedit"}
TUNED = [f.stem for f in sorted((CONF / "tuned").glob("*.yaml")) if f.stem not in SCHOOLS]
OF_SCHOOLS = sorted((CONF / "tuned" / "school").glob("*/*.yaml"))


def composed(*overrides):
    schema.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def test_there_are_options_to_look_at():
    assert len(OPTIONS) > 25
    assert len(TUNED) > 100
    assert len(OF_SCHOOLS) > 15


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_each_option_composes_and_says_its_own_name(group, option):
    config = composed(f"{group}={option}")
    assert OmegaConf.select(config, f"{group}.name") == option


def pair_of(option):
    """Editor and model that a file of values is for."""
    editors = sorted((f.stem for f in (CONF / "editor").glob("*.yaml")), key=len, reverse=True)
    editor = next(name for name in editors if option.startswith(f"{name}-"))
    model = option.removeprefix(f"{editor}-")
    assert (CONF / "model" / f"{model}.yaml").exists(), f"no model for {option}"
    return editor, model


def holds(tree, part):
    """Whether all that `part` says stands in `tree`."""
    if isinstance(part, dict):
        return all(key in tree and holds(tree[key], value) for key, value in part.items())
    return tree == part


@pytest.mark.parametrize("option", TUNED)
def test_each_tuned_file_is_found_by_its_editor_and_model(option):
    editor, model = pair_of(option)
    file = CONF / "tuned" / f"{option}.yaml"
    tree = freeze(composed(f"editor={editor}", f"model={model}"))
    assert "???" not in str(tree["editor"])
    assert holds(tree["editor"], OmegaConf.to_container(OmegaConf.load(file)))
    first = file.read_text().splitlines()[0]
    assert first == f"# Source: {tree['tuned_source']}", "the first line says where they are from"


@pytest.mark.parametrize("file", OF_SCHOOLS, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_the_values_of_a_school_leave_nothing_of_the_others(file):
    editor, model = pair_of(file.stem)
    school = file.parent.name
    plain = freeze(composed(f"editor={editor}", f"model={model}"))
    tree = freeze(composed(f"editor={editor}", f"model={model}", f"tuned={school}"))
    values = OmegaConf.to_container(OmegaConf.load(file))
    assert holds(tree["editor"], values)
    assert file.read_text().startswith(f"# Source: {tree['tuned_source']}\n")
    others = OmegaConf.to_container(OmegaConf.load(CONF / "tuned" / file.name))
    assert others.keys() <= values.keys()
    assert others.get("value", {}).keys() <= values.get("value", {}).keys()
    assert tree["tuned_source"] != plain["tuned_source"]


def test_both_schools_of_seven_billion_parameters():
    """The issue's two: clamp 4 and decay 1e-3, clamp 0.75 and decay 0.5."""
    for model in ("llama-2-7b", "mistral-7b", "qwen2.5-7b"):
        found = {}
        for school in ("authors", "easyedit"):
            value = freeze(composed("editor=memit", f"model={model}", f"tuned={school}"))
            value = value["editor"]["value"]
            found[school] = value["clamp"], value["weight_decay"]
        assert found == {"authors": (0.75, 0.5), "easyedit": (4.0, 0.001)}, model


def test_no_option_is_named_like_a_boolean_or_a_number():
    for group, option in OPTIONS:
        assert option not in {"on", "off", "yes", "no", "true", "false", "null"}, group
        assert not option.isdigit()


def test_the_defaults_are_those_of_the_documentation():
    tree = freeze(composed())
    names = {group: tree[group]["name"] for group in GROUPS}
    assert names == {
        "model": "miniature", "editor": "rome", "edits": "sequential", "regularizer": "none",
        "dataset": "miniature", "moments": "miniature", "wandb": "auto", "cluster": "local",
    }  # fmt: skip
    assert (tree["num_edits"], tree["seed"], tree["study"], tree["save"]) == (1, 0, "main", "none")
    assert len(tree["task"]) == 8


def test_batch_size_of_edits_batch_is_num_edits():
    assert (
        freeze(composed("edits=batch", "editor=memit", "num_edits=7"))["edits"]["batch_size"] == 7
    )


def test_a_missing_value_is_named_with_the_file_that_would_give_it():
    with pytest.raises(Refusal, match=r"editor\.layer.*conf/tuned/rome-custom\.yaml"):
        freeze(composed("model=custom", "model.pretrained=no/such", "editor=rome"))


def test_a_key_smuggled_in_with_plus_is_refused_with_the_near_one():
    with pytest.raises(Refusal, match=r"num_edit'.*Did you mean num_edits"):
        freeze(composed("+num_edit=1"))


@pytest.mark.parametrize("study", ["../x", "a/b", "", ".hidden", "x" * 101])
def test_a_study_that_leaves_outputs_is_refused(study):
    with pytest.raises(ValueError, match="not a name for a folder below outputs"):
        schema.study_folder(study)


def test_the_groups_of_help_are_what_a_user_chooses_between():
    told = dict(line.split(": ") for line in schema.describe_groups().splitlines())
    assert told["tuned"] == "default, authors, easyedit"
    assert set(told) == {p.name for p in CONF.iterdir() if p.is_dir()} - {"local"}
    assert "wise" in told["editor"].split(", ")
