"""A file that is added, changed or removed changes the fingerprint; one beside it does not."""

import os

from deepseemoe.runtime.fingerprint import fingerprint


def test_files_folders_and_globs_are_seen(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "beside.txt").touch()
    for paths in ([str(tmp_path / "text")], [str(tmp_path / "text/*.txt")]):
        seen = [fingerprint(paths)]
        (tmp_path / "text/a.txt").write_text("one")
        seen.append(fingerprint(paths))
        (tmp_path / "text/a.txt").write_text("other")
        seen.append(fingerprint(paths))
        os.utime(tmp_path / "text/a.txt", (1, 1))
        seen.append(fingerprint(paths))
        (tmp_path / "beside.txt").write_text("more")
        assert fingerprint(paths) == seen[-1]
        assert len(set(seen)) == 4
        (tmp_path / "text/a.txt").unlink()
        assert fingerprint(paths) == seen[0]


def test_an_address_stands_for_itself():
    assert fingerprint(["s3://a/b"]) != fingerprint(["s3://a/c"])
