"""The folder of data: given, or named by the environment."""

import pytest

from fastmaml.tasks.data_folder import data_folder


def test_what_is_given_goes_before_the_environment(tmp_path, monkeypatch):
    (tmp_path / "given").mkdir()
    monkeypatch.setenv("FASTMAML_DATA", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_folder(None, "x") == tmp_path
    assert data_folder("~/given", "x") == data_folder(tmp_path / "given", "x") == tmp_path / "given"


def test_none(monkeypatch):
    monkeypatch.delenv("FASTMAML_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="data: no folder given; name the one that holds cats by --data FOLDER"):
        data_folder(None, "cats")


@pytest.mark.parametrize("data", ["nowhere", "~no-such-user/data", "a\0b"])
def test_one_that_is_absent(tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"data: .* is not a folder; give one that holds cats"):
        data_folder(data, "cats")
