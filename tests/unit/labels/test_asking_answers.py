"""Answers survive kills and half-written lines, are shared by names, and take little memory."""

import json
import sys

import pytest

from deepseemoe.labels.asking import answers
from deepseemoe.labels.asking.answers import Answers, content_hash
from deepseemoe.labels.asking.courier import take_late

KEYS = [content_hash(n) for n in range(20)]


def fill(folder, name, keys, value="x"):
    with Answers(folder, name) as book:
        for key in keys:
            book.add(key, {"text": f"{value}é\n{key}"})


def test_what_was_added_is_found_by_this_run_and_the_next(tmp_path):
    with Answers(tmp_path, "a") as book:
        book.add(KEYS[0], {"text": "é\n" * 20_000})
        book.add(KEYS[1], [1, 2])
        assert book.get(KEYS[0]) == {"text": "é\n" * 20_000}
        assert book.get(KEYS[2]) is None
    with Answers(tmp_path, "a") as book:
        assert len(book) == 2
        assert book.get(KEYS[0]) == {"text": "é\n" * 20_000}
        assert book.get(KEYS[1]) == [1, 2]


@pytest.mark.parametrize("n_lost", [1, 2, 30])
def test_a_half_written_last_line_is_cut_off_and_written_again(tmp_path, n_lost):
    fill(tmp_path, "a", KEYS[:3])
    path = tmp_path / "a.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-n_lost])
    with Answers(tmp_path, "a") as book:
        assert [book.get(key) is not None for key in KEYS[:3]] == [True, True, False]
        book.add(KEYS[2], {"text": f"xé\n{KEYS[2]}"})
    assert path.read_bytes() == whole


def test_writers_of_two_names_share_a_folder_and_each_changes_its_own_file(tmp_path):
    fill(tmp_path, "a", KEYS[:3])
    with Answers(tmp_path, "a") as one, Answers(tmp_path, "b") as two:
        assert two.get(KEYS[0])["text"].startswith("x")
        two.add(KEYS[3], "of b")
        one.add(KEYS[4], "of a")
    with (tmp_path / "a.jsonl").open("ab") as torn:
        torn.write(b'{"asked": "0123')
    before = (tmp_path / "a.jsonl").read_bytes()
    with Answers(tmp_path, "b") as book:
        assert [book.get(key) for key in KEYS[3:5]] == ["of b", "of a"]
        assert len(book) == 5
    assert (tmp_path / "a.jsonl").read_bytes() == before, "the line may still be growing"


def test_two_writers_of_one_name_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(answers, "LOCK_SECONDS", 0.1)
    with (
        Answers(tmp_path, "a"),
        pytest.raises(ValueError, match="another run writes its answers here"),
    ):
        Answers(tmp_path, "a")
    with Answers(tmp_path, "a"):
        pass


def test_the_last_of_two_answers_to_the_same_counts(tmp_path):
    fill(tmp_path, "a", KEYS[:2], "first ")
    fill(tmp_path, "a", KEYS[:1], "second ")
    with Answers(tmp_path, "a") as book:
        assert book.get(KEYS[0])["text"].startswith("second")
        assert book.get(KEYS[1])["text"].startswith("first")


def test_lines_of_something_else_are_passed_over(tmp_path):
    (tmp_path / "a.jsonl").write_text('garbage\n{"asked": "zz\n' + json.dumps({"a": 1}) + "\n")
    fill(tmp_path, "a", KEYS[:1])
    with Answers(tmp_path, "a") as book:
        assert len(book) == 1


def test_memory_holds_places_and_no_texts(tmp_path):
    fill(tmp_path, "a", KEYS, "x" * 100_000)
    with Answers(tmp_path, "a") as book:
        places = book._places
        held = sys.getsizeof(places) + sum(map(sys.getsizeof, [*places, *places.values()]))
        assert held < 200 * len(KEYS)


def test_a_flipped_bit_anywhere_in_an_answer_is_noticed_and_asked_again(tmp_path):
    fill(tmp_path, "a", KEYS[:3])
    path = tmp_path / "a.jsonl"
    whole = path.read_bytes()
    first, second, _ = whole.splitlines(keepends=True)
    for place in range(len(first) * 8, (len(first) + len(second)) * 8, 7):
        spoilt = bytearray(whole)
        spoilt[place // 8] ^= 1 << place % 8
        path.write_bytes(spoilt)
        with Answers(tmp_path, "b") as book:
            assert book.holds(KEYS[0])
            for key in KEYS[:3]:
                assert book.get(key) in (None, {"text": f"xé\n{key}"}), place


def test_answers_of_runs_before_the_checksums_are_read_but_not_damaged_ones(tmp_path):
    lines = [json.dumps({"asked": KEYS[0], "answer": 1}), f'{{"asked": "{KEYS[1]}", "ans}}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    with Answers(tmp_path, "a") as book:
        assert book.get(KEYS[0]) == 1
        assert not book.holds(KEYS[1])


def test_lines_whose_key_is_none_are_passed_over(tmp_path):
    (tmp_path / "other.jsonl").write_text('{"asked": "zzzzzzzzzzzzzzzz", "answer": 1}\n')
    with Answers(tmp_path, "a") as book:
        assert len(book) == 0


def test_a_file_where_the_folder_belongs_and_folders_where_files_do_are_replaced(tmp_path):
    folder = tmp_path / "answers"
    folder.write_text("no folder")
    fill(folder, "a", KEYS[:1])
    (folder / "a.jsonl").unlink()
    (folder / "a.jsonl").mkdir()
    (folder / "claims.lock").unlink()
    (folder / "claims.lock").mkdir()
    fill(folder, "a", KEYS[:1])
    assert (folder / "a.jsonl").is_file()


def test_a_link_to_a_disk_that_is_away_is_told_and_kept(tmp_path):
    (tmp_path / "answers").symlink_to(tmp_path / "away")
    with pytest.raises(ValueError, match="answers: a link that leads nowhere; mount its disk"):
        Answers(tmp_path / "answers", "a")
    assert (tmp_path / "answers").is_symlink()


@pytest.mark.parametrize("text", [b"\xe5\x00{", b"[]", b'{"key": 1}', b'{"key": "1", "reply": 5}'])
def test_late_answers_that_are_damaged_are_passed_over(tmp_path, text):
    (tmp_path / "a.late").write_bytes(text + b"\n")
    assert take_late(tmp_path / "a.late") == {}
