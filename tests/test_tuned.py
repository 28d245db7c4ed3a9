"""Whose values an editor runs with: told, refused where a school has none, guessed by depth where nobody has any."""

import json
import logging

import pytest
from omegaconf import OmegaConf

from edit_sweeps.launcher import tuned
from edit_sweeps.launcher.freezing import Refusal, freeze, frozen
from edit_sweeps.launcher.plan import make_plan
from tests.test_conf import CONF, composed

EDITORS = {f.stem: OmegaConf.load(f) for f in sorted((CONF / "editor").glob("*.yaml"))}


@pytest.fixture
def folder(tmp_path):
    """A model of 32 blocks, as far as its config.json goes."""
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "llama", "num_hidden_layers": 32})
    )
    return tmp_path


def custom(folder, *overrides):
    return composed("model=custom", f"model.pretrained={folder}", *overrides)


def test_every_editor_whose_layer_is_open_has_a_rule_of_depth():
    opened = {
        name
        for name, tree in EDITORS.items()
        if "???" in (OmegaConf.to_container(tree).get(key) for key in ("layer", "layers"))
    }
    assert len(opened) > 10
    assert opened == set(tuned.DEPTH_RULES)


@pytest.mark.parametrize("name", tuned.DEPTH_RULES)
@pytest.mark.parametrize("n_layers", [1, 2, 4, 24, 48])
def test_a_guess_lies_inside_the_model(name, n_layers):
    layers = tuned.DEPTH_RULES[name].layers(n_layers)
    assert layers == list(range(layers[0], layers[-1] + 1))
    assert layers[0] >= 0
    assert layers[-1] < n_layers
    assert len(layers) <= tuned.DEPTH_RULES[name].count


@pytest.mark.parametrize(
    ("name", "n_layers", "published"),
    [("rome", 24, 8), ("rome", 36, 12), ("rome", 44, 15), ("ft_l", 48, 0), ("ft", 32, 21)],
)
def test_the_rules_meet_published_layers(name, n_layers, published):
    assert tuned.DEPTH_RULES[name].layers(n_layers) == [published]


def test_the_rule_of_mend_is_the_last_three():
    assert tuned.DEPTH_RULES["mend"].layers(48) == [45, 46, 47]


def test_an_unknown_pair_gets_guesses_that_the_log_and_the_record_call_guesses(folder, caplog):
    tree = freeze(custom(folder, "editor=memit"))
    assert tree["editor"]["layers"] == [7, 8, 9, 10, 11]
    assert tree["tuned_source"].startswith("none, editor.layers=[7,8,9,10,11] by depth ratio")
    with caplog.at_level(logging.INFO):
        make_plan(
            [frozen(custom(folder, "editor=memit"), []), frozen(custom(folder, "editor=kn"), [])]
        )
        make_plan([frozen(composed("editor=rome"), [])])
    told = [r for r in caplog.records if "values of editor=" in r.getMessage()]
    assert [r.levelname for r in told] == ["WARNING", "WARNING", "INFO"]
    assert "model=custom: none" in told[0].getMessage()
    assert "our own trials" in told[2].getMessage()


def test_a_layer_on_the_command_line_is_no_guess(folder):
    tree = freeze(custom(folder, "editor=rome", "editor.layer=3"))
    assert tree["editor"]["layer"] == 3
    assert tree["tuned_source"] == "none: the editor's defaults, not chosen for this model"


def test_what_no_rule_can_guess_is_named(folder):
    with pytest.raises(Refusal, match=r"no value for editor\.max_change: .*ft_l-custom\.yaml"):
        freeze(custom(folder, "editor=ft_l"))


@pytest.mark.parametrize("school", ["authors", "easyedit"])
def test_a_school_without_values_for_a_pair_is_refused(school, folder):
    """Never another school's values in silence."""
    with pytest.raises(ValueError, match=rf"tuned={school}: .* has 'our own trials.*tuned=default"):
        freeze(composed("editor=rome", f"tuned={school}"))
    with pytest.raises(ValueError, match=rf"tuned={school}: .* there is no conf/tuned/rome-custom"):
        freeze(custom(folder, "editor=rome", f"tuned={school}"))
    freeze(composed("editor=none", f"tuned={school}"))


def test_values_of_one_school_alone_serve_that_school_only():
    tree = freeze(composed("editor=kn", "model=gpt2-xl", "tuned=easyedit"))
    assert tree["tuned_source"].startswith("EasyEdit, hparams/KN")
    with pytest.raises(ValueError, match="tuned=authors"):
        freeze(composed("editor=kn", "model=gpt2-xl", "tuned=authors"))
    tree = freeze(composed("editor=rome", "model=gpt2-xl", "tuned=authors"))
    assert tree["tuned_source"].startswith("kmeng01/rome")


def test_the_source_is_no_part_of_a_cells_key_and_two_schools_are_two_lines():
    composing = [
        frozen(composed("editor=rome", "model=miniature"), []),
        frozen(composed("editor=rome", "model=miniature", "tuned=default"), ["tuned=default"]),
    ]
    first, second = (make_plan([one]).entries[-1].cell for one in composing)
    assert first.key == second.key
    assert second.overrides == {"tuned": "default"}


@pytest.mark.parametrize(
    ("overrides", "warned"),
    [
        (("editor=memit",), "second moments of model=custom are taken over the miniature's"),
        (("editor=memit", "moments=quick"), None),
        (("editor=rome_identity",), None),
        (
            ("editor=mend",),
            "MEND's network for model=custom is trained on facts of the miniature's",
        ),
    ],
)
def test_a_model_from_elsewhere_does_not_get_the_miniatures_text_in_silence(
    folder, caplog, overrides, warned
):
    make_plan([frozen(custom(folder, *overrides), [])])
    told = [r.getMessage() for r in caplog.records if "miniature's synthetic" in r.getMessage()]
    assert len(told) == (warned is not None)
    assert all(
        message.startswith("the " * (not warned.startswith("MEND")) + warned) for message in told
    )
    caplog.clear()
    make_plan([frozen(composed("editor=memit"), []), frozen(composed("editor=mend"), [])])
    assert "synthetic" not in caplog.text
