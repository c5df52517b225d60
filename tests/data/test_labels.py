"""Labels in ``labels.csv``: each dialect is read as it is meant, or refused by its line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from advlab import data
from advlab.errors import UserError

Load = Callable[[str | bytes], data.Dataset]


@pytest.fixture
def labelled(tmp_path: Path) -> Load:
    """Load the images a.png, b.png and c.png with a ``labels.csv`` of this content."""

    def load(content: str | bytes) -> data.Dataset:
        for name in "abc":
            Image.new("L", (4, 4)).save(tmp_path / f"{name}.png")
        table = content.encode() if isinstance(content, str) else content
        (tmp_path / "labels.csv").write_bytes(table)
        return data.load(f"folder:{tmp_path}", "test")

    return load


@pytest.mark.parametrize(
    "content",
    [
        "a.png,1\nb.png,0\nc.png,10\n",
        "file,label\na.png,1\nb.png,0\nc.png,10",
        "\n\nfile,label\n\na.png,1\nb.png,0\n,\nc.png,10\n\n",
        "\ufefffile,label\r\na.png,1\r\nb.png,0\r\nc.png,10\r\n",
        "\ufeffa.png,1\rb.png,0\rc.png,10\r",
        "file;label\na.png;1\nb.png;0\nc.png;10\n",
        "a.png\t1\nb.png\t0\nc.png\t10\n",
        '"a.png", "1"\n"b.png", "0"\n"c.png", "10"\n',
        "a.png,'1'\nb.png,'0'\nc.png,'10'\n",
        " a.png , 1 \n b.png , 0 \n c.png , 10 \n",
        "a.png,1.0\nb.png,0.0\nc.png,10.0\n",
        "a.png,001\nb.png,+0\nc.png,1e+01\n",
        "a.png,1,,\nb.png,0,,\nc.png,10,,\n",
        "./a.png,1\n.\\b.png,0\nc.png,10\n",
        "c.png,10\nb.png,0\na.png,1\na.png,1.0\n",
        "a.png,1\nb.png,0\nc.png,10\ngone.png,4\n",
        "a.png,１\nb.png,٠\nc.png,10\n",
    ],
)
def test_numbers_are_those_numbers(labelled: Load, content: str) -> None:
    loaded = labelled(content)
    assert loaded.labels.tolist() == [1, 0, 10]
    assert loaded.num_classes == 11


@pytest.mark.parametrize(
    "content",
    [
        "a.png,bee\nb.png,ant\nc.png,cat\n",
        "file;label\na.png;bee\nb.png;ant\nc.png;cat\n",
        'a.png, bee \nb.png,"ant"\nc.png, "cat"\n',
    ],
)
def test_names_are_classes_in_alphabetical_order(labelled: Load, content: str) -> None:
    loaded = labelled(content)
    assert loaded.class_names == ("ant", "bee", "cat")
    assert loaded.labels.tolist() == [1, 0, 2]


def test_a_name_keeps_its_number_where_only_some_files_are_there(labelled: Load) -> None:
    assert labelled("a.png,cat\nb.png,ant\nc.png,cat\nd.png,bee\n").labels.tolist() == [2, 0, 2]


def test_names_of_files_may_be_composed_in_two_ways(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "caf\u0065\u0301.png")
    (tmp_path / "labels.csv").write_text("caf\u00e9.png,3\n")
    assert data.load(f"folder:{tmp_path}").labels.tolist() == [3]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("a.png,-1\nb.png,0\nc.png,2\n", r"line 1 of .* has the label -1; number classes by whole numbers from 0"),
        ("a.png,0\nb.png,1.5\nc.png,2\n", r"line 2 of .* has the label 1.5"),
        ("a.png,0\nb.png,nan\nc.png,2\n", r"line 2 of .* has the label nan"),
        ("a.png,0\nb.png,1\nc.png,1e+99\n", r"line 3 of .* has the label 1e\+99"),
        ("a.png,0\nb.png,4006381333931\nc.png,2\n", r"line 2 of .* has the label 4006381333931"),
        (f"a.png,0\nb.png,{'9' * 5000}\nc.png,2\n", r"line 2 of .* has the label 9{20};"),
        ("a.png,\nb.png,0\nc.png,2\n", r"line 1 of .* has the label ''; give numbers or names"),
        ("f,l\na.png,0\nb.png,\nc.png,2\n", r"line 3 of .* has the label ''; give numbers"),
        ("a.png,3\nb.png,x\nc.png,2\n", r"line 2 of .* has the label 'x'; give numbers"),
        ("a.png,x\nb.png,2\nc.png,y\n", r"line 2 of .* has the label '2'; give names"),
        ("a.png,0\nb.png,1\nc.png,2\na.png,1\n", r"line 4 of .* names 'a.png' again, with another label"),
        ("a.png,0\nb.png,1\n", r"labels.csv has no label for 'c.png'; add a line for it"),
        ("", r"labels.csv has no label for 'a.png'"),
        ("file,label\n", r"labels.csv has no label for 'a.png'"),
        (",file,label\n0,a.png,3\n1,b.png,2\n2,c.png,1\n", r"line 1 of .* has 3 columns; give two, file and label"),
        ("file,width,class\na.png,4,0\nb.png,4,1\nc.png,4,2\n", r"line 1 of .* has 3 columns"),
        ("a.png 0\nb.png 1\nc.png 2\n", r"line 1 of .* has 1 columns; give two, file and label"),
        ("a.png;0,5\nb.png;1\nc.png;2\n", "line 2 of .* has 1 columns"),
        ("a.png,0\nb.png,1\nc.png,2\n".encode("utf-16"), r"labels.csv cannot be read .*; save it as CSV in UTF-8"),
        ("a.png,Kröte\nb.png,x\nc.png,y\n".encode("latin-1"), r"labels.csv cannot be read .*; save it as CSV in UTF-8"),
    ],
)
def test_labels_in_doubt_are_refused_by_their_line(labelled: Load, content: str | bytes, told: str) -> None:
    with pytest.raises(UserError, match=told):
        labelled(content)
