"""CSV files: what they may name, and what is said of damaged ones."""

import pytest

from fastmaml.tasks import DatasetError, image_tables
from fastmaml.tasks.image_tables import read_table


@pytest.fixture
def table(tmp_path):
    """The function that writes a table beside the images a.png and deep/b.png, and reads it."""
    for name in ("images/a.png", "images/deep/b.png", "outside.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def read(content):
        (tmp_path / "train.csv").write_bytes(content)
        return read_table(tmp_path / "train.csv", tmp_path / "images")

    return read


def test_classes_and_images_come_in_the_order_of_their_names(table, tmp_path):
    images = tmp_path / "images"
    read = table(b"filename,label\r\ndeep/b.png,n2\r\na.png,n2\r\na.png,n1\r\n")
    assert list(read.items()) == [("n1", [images / "a.png"]), ("n2", [images / "a.png", images / "deep/b.png"])]


@pytest.mark.parametrize(
    "name", ["../outside.png", "deep/../../outside.png", "{root}/outside.png", "{root}/images/a.png"]
)
def test_a_name_that_leads_elsewhere(table, tmp_path, name):
    name = name.format(root=tmp_path)
    with pytest.raises(DatasetError, match=r"data: .*train\.csv names '.*; give names of files within .*images"):
        table(f"filename,label\n{name},a\n".encode())


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"filename,label\n\xff\xfe.png,a\n", r"is not text in UTF-8 \(.*position 15.*\); save it as UTF-8"),
        (b"filename,label\n" + b"x" * 200_000 + b",a\n", r"is no CSV file after line 1 \(field larger than.*\); fetch"),
        (b'filename,label\na.png,"a\n', r"is no CSV file after line 1 \(unexpected end of data\); fetch"),
        (b"filename,label\n" + b"x" * 5000 + b",a\n", r"names 'x+…, which is no name of a file \(File name too long\)"),
        (b"filename,label\nx\0y.png,a\n", r"(names 'x\\x00y\.png'; give names|is no CSV file)"),
        (b"filename,label\na.png\n", r"has a row \{'filename': 'a\.png', 'label': None\}; expected columns"),
        (b"filename,label\n," + b"x" * 5000 + b"\n", r"has a row .{0,85}…; expected columns"),
        (b"name,class\na.png,a\n", "has a row .*; expected columns filename, label"),
        (b"filename,label\n", "names no images; expected columns filename, label"),
        (b"", "names no images; expected columns filename, label"),
    ],
)
def test_a_damaged_table(table, content, told):
    with pytest.raises(DatasetError, match=rf"^data: .*train\.csv {told}"):
        table(content)


def test_a_table_that_is_too_large(table, monkeypatch):
    monkeypatch.setattr(image_tables, "MAX_TABLE_BYTES", 20)
    with pytest.raises(DatasetError, match=r"train\.csv has 23 bytes, allowed are 20"):
        table(b"filename,label\na.png,a\n")


def test_an_absent_image(table):
    with pytest.raises(FileNotFoundError, match=r"images/c\.png is absent, but .*train\.csv names it; extract"):
        table(b"filename,label\nc.png,a\n")
