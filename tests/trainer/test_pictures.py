import io
import sys

import numpy as np
import pytest
from PIL import Image

from trainer import pictures
from understudy.testing import picture


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    assert image.format == "JPEG"
    return image


def test_a_sheet_shows_every_picture_in_its_place():
    """Row after row, small ones enlarged, with room for captions and titles only where there are some."""
    pixels = [np.full((8, 8, 3), level, dtype=np.uint8) for level in (0, 60, 120, 180, 240)]

    plain = opened(pictures.sheet(pixels, 3))
    told = opened(pictures.sheet(pixels, 3, captions=list("abcde"), titles=["one", "two"]))

    assert plain.size == (3 * 66, 2 * 66)
    assert told.width > plain.width
    assert told.height > plain.height
    centres = [plain.getpixel((66 * (i % 3) + 32, 66 * (i // 3) + 34)) for i in range(5)]
    assert np.allclose(np.array(centres)[:, 0], [0, 60, 120, 180, 240], atol=6)


@pytest.mark.parametrize(("scale", "num_operations"), [("increasing", 15), ("official", 16)])
def test_the_program_makes_a_sheet_of_every_operation(tmp_path, monkeypatch, capsys, scale, num_operations):
    """A row for each, a column for each picture as it is and at each magnitude; it says which pictures it took."""
    (tmp_path / "red").mkdir()
    for i in range(4):
        (tmp_path / "red" / f"{i}.png").write_bytes(picture(0, 3, seed=i))
    out = tmp_path / "sheets" / "noise.jpg"
    asked = [
        str(tmp_path),
        "--scale",
        scale,
        "--images",
        "2",
        "--magnitudes",
        "3",
        "9",
        "--size",
        "32",
        "--out",
        str(out),
    ]
    monkeypatch.setattr(sys, "argv", ["pictures", *asked])

    pictures.main()

    image = opened(out.read_bytes())
    assert image.height == num_operations * (64 + pictures.LINE)
    assert image.width > 6 * 66
    assert "0.png, 2.png" in capsys.readouterr().out


def test_a_folder_without_images_is_refused(tmp_path, monkeypatch, capsys):
    """With what it looked for."""
    monkeypatch.setattr(sys, "argv", ["pictures", str(tmp_path), "--out", str(tmp_path / "x.jpg")])

    with pytest.raises(SystemExit):
        pictures.main()

    assert "holds no image" in capsys.readouterr().err
