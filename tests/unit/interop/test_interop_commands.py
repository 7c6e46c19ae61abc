"""`deepseemoe export` and `import` on the command line."""

import pytest
import torch
from made_dictionaries import made
from peer_folders import learned

from deepseemoe.cli import main
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.interop.command import EXPORTS, IMPORTS
from deepseemoe.interop.exporting import RUN_WRITERS, WRITERS
from deepseemoe.interop.importing import READERS


def test_the_commands_name_every_format():
    assert set(EXPORTS) == {*WRITERS, *RUN_WRITERS}
    assert set(IMPORTS) == set(READERS)


def test_export_and_import_on_the_command_line(tmp_path, capsys):
    made("sae").save(tmp_path / "ours")
    call = ["export", str(tmp_path / "ours"), "--to", "saelens", "--out", str(tmp_path / "sae")]
    assert main(call) == 0
    assert "wrote 3 files" in capsys.readouterr().out
    call = ["import", str(tmp_path / "sae"), "--from", "saelens", "--window", "L02-L02"]
    assert main([*call, "--out", str(tmp_path / "back")]) == 0
    assert "50 features of d_model 12 on L02-L02, jumprelu, k 6" in capsys.readouterr().out
    again, first = Dictionary.load(tmp_path / "back"), Dictionary.load(tmp_path / "ours")
    torch.testing.assert_close(again.decoder_FLD, first.decoder_FLD)


def test_places_in_a_source_stand_for_the_layer_and_the_window(tmp_path):
    learned(tmp_path / "resid_post_layer_5" / "L05-L05")
    source = str(tmp_path / "resid_post_layer_{layer}" / "{window}")
    call = ["import", source, "--from", "dictionary_learning", "--window", "L05-L05"]
    assert main([*call, "--out", str(tmp_path / "ours")]) == 0
    assert Dictionary.load(tmp_path / "ours").k == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["import", "nowhere", "--from", "saelens", "--window", "L02-L02"], "no such folder"),
        (["import", "nowhere", "--from", "saelens", "--window", "2"], "a window is written L08"),
        (["export", "nowhere", "--to", "saelens"], "nowhere: no dictionary, it has no config.json"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_left(arguments, message, tmp_path, capsys):
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 1
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert [*tmp_path.iterdir()] == []
