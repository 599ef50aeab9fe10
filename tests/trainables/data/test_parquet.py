import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainables.data.errors import DataError
from trainables.data.parquet import read_parquet

RGB = {"shape": (3, 32, 32), "num_classes": 10}


@pytest.mark.parametrize("column", ["img", "image"])
def test_reads_the_pixels_that_were_written(tmp_path, pixels, encode, write_parquet, column):
    file = tmp_path / "train.parquet"
    write_parquet(file, [encode(image) for image in pixels], [*range(10), 0, 9], column=column)
    images, labels = read_parquet([file], **RGB)
    np.testing.assert_array_equal(images, pixels.transpose(0, 3, 1, 2))
    assert labels.tolist() == [*range(10), 0, 9]


def test_reads_grey_images_with_one_channel(tmp_path, pixels, encode, write_parquet):
    grey = pixels[..., 0]
    write_parquet(tmp_path / "train.parquet", [encode(image) for image in grey], [0] * 12)
    images, _ = read_parquet([tmp_path / "train.parquet"], shape=(1, 32, 32), num_classes=1)
    np.testing.assert_array_equal(images, grey[:, np.newaxis])


@pytest.mark.parametrize("suffix", ["", "-1359597a978bc4fa"])
def test_reads_parts_in_order_and_misses_none(tmp_path, pixels, encode, write_parquet, suffix):
    files = [tmp_path / f"train-0000{part}-of-00002{suffix}.parquet" for part in (0, 1)]
    for part, file in enumerate(files):
        write_parquet(file, [encode(pixels[part])], [part])
    images, labels = read_parquet(files, **RGB)
    np.testing.assert_array_equal(images, pixels[:2].transpose(0, 3, 1, 2))
    assert labels.tolist() == [0, 1]
    message = rf"must hold all 2 parts that train-00001-of-00002{suffix}\.parquet belongs to, got 1"
    with pytest.raises(DataError, match=message):
        read_parquet(files[1:], **RGB)


@pytest.mark.parametrize("label", [-1, 10, None])
def test_label_out_of_range(tmp_path, pixels, encode, write_parquet, label):
    write_parquet(tmp_path / "x.parquet", [encode(image) for image in pixels[:3]], [0, 9, label])
    with pytest.raises(DataError, match=rf"x.parquet, row 2: label must be from 0 to 9, got {label}"):
        read_parquet([tmp_path / "x.parquet"], **RGB)


def test_bad_images_name_file_and_row(tmp_path, pixels, encode, write_parquet):
    whole, jpeg = encode(pixels[0]), encode(pixels[0], "JPEG")
    wide, alpha = np.zeros((32, 33, 3), np.uint8), np.zeros((32, 32, 4), np.uint8)
    for bad, message in [
        (b"", "must be a readable JPEG or PNG, got UnidentifiedImageError"),
        (b"no image", "must be a readable JPEG or PNG, got UnidentifiedImageError"),
        (whole[: len(whole) // 2], "must be a readable JPEG or PNG, got OSError"),
        (jpeg[: len(jpeg) // 2], "must be a readable JPEG or PNG, got OSError"),
        (encode(pixels[0], "BMP"), "must be a readable JPEG or PNG, got UnidentifiedImageError"),
        (encode(wide), "must have shape (3, 32, 32) (channels, height, width), got (3, 32, 33) RGB"),
        (encode(alpha), "must have shape (3, 32, 32) (channels, height, width), got (4, 32, 32) RGBA"),
        (encode(pixels[0, ..., 0]), "must have shape (3, 32, 32) (channels, height, width), got (1, 32, 32) L"),
        (None, "must be bytes (a path to an image is not followed), got null"),
    ]:
        write_parquet(tmp_path / "x.parquet", [whole, bad], [0, 1])
        with pytest.raises(DataError, match=re.escape(f"x.parquet, row 1: image {message}")) as caught:
            read_parquet([tmp_path / "x.parquet"], **RGB)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"label": [0]}, "must have the columns img (or image) and label, got ['label']"),
        ({"img": [{"bytes": b""}]}, "must have the columns img (or image) and label, got ['img']"),
        ({"img": [b""], "label": [0]}, "column img must be a struct with the field bytes, got binary"),
        ({"img": [{"path": "a.png"}], "label": [0]}, "column img must be a struct with the field bytes, got struct"),
        ({"img": [{"bytes": b""}], "label": ["cat"]}, "column label must be of an integer type, got string"),
        ({"img": [{"bytes": 1}], "label": [0]}, "column img's field bytes must be of a binary type, got int64"),
    ],
)
def test_wrong_columns(tmp_path, table, message):
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=re.escape(f"x.parquet: {message}")):
        read_parquet([tmp_path / "x.parquet"], **RGB)


def test_unreadable_files(tmp_path, pixels, encode, write_parquet):
    file = tmp_path / "x.parquet"
    write_parquet(file, [], [])
    with pytest.raises(DataError, match=r"x\.parquet: must have at least one row, got none"):
        read_parquet([file], **RGB)
    write_parquet(file, [encode(image) for image in pixels], range(12))
    whole = file.read_bytes()
    for bad in (b"", b"PAR1", b"not parquet at all", whole[: len(whole) // 2]):
        file.write_bytes(bad)
        with pytest.raises(DataError, match=r"x\.parquet: must be a readable parquet file, got") as caught:
            read_parquet([file], **RGB)
        assert "\n" not in str(caught.value)
