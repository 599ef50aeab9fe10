import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainables.data.errors import DataError
from trainables.datasets.lgg import lgg

REAL = Path(__file__).parents[4] / "shared" / "data" / "lgg-mri"
# In the order of `printf TCGA_CS_00 | sha256sum`: 03, 01, 04, 00, 02. The first validates, the next tests.
SPLIT = {
    "train": ("TCGA_CS_00", "TCGA_CS_02", "TCGA_CS_04"),
    "validation": ("TCGA_CS_03",),
    "test": ("TCGA_CS_01",),
}
NUMBERS = (9, 10, 2)
SIZE = 32


def tiff(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="TIFF")
    return file.getvalue()


def name(patient, number, mask=False):
    folder = f"TCGA_CS_{patient:02}_19960909"
    return f"{folder}/{folder}_{number}{'_mask' if mask else ''}.tif"


@pytest.fixture
def pixels():
    """Images (5, 3, 32, 32, 3) by patient and position in NUMBERS, and their masks; the second slice has no lesion."""
    rng = np.random.default_rng(0)
    masks = (rng.random((5, 3, SIZE, SIZE)) < 0.2).astype(np.uint8) * 255
    masks[:, 1] = 0
    return rng.integers(0, 256, (5, 3, SIZE, SIZE, 3), dtype=np.uint8), masks


@pytest.fixture
def files(pixels):
    """The contents of kaggle_3m, by name."""
    made = {"data.csv": b"Patient", "README.md": b"about"}
    for patient in range(5):
        for i, number in enumerate(NUMBERS):
            made[name(patient, number)] = tiff(pixels[0][patient, i])
            made[name(patient, number, mask=True)] = tiff(pixels[1][patient, i])
    return made


def write_folder(root, files, top="kaggle_3m"):
    for path, content in files.items():
        (root / top / path).parent.mkdir(parents=True, exist_ok=True)
        (root / top / path).write_bytes(content)
    return root


def write_tar(file, files):
    with tarfile.open(file, "w:xz") as tar:
        for path, content in files.items():
            info = tarfile.TarInfo(f"kaggle_3m/{path}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file


def write_zip(file, files, tops=("kaggle_3m",)):
    with zipfile.ZipFile(file, "w") as made:
        for top in tops:
            for path, content in files.items():
                made.writestr(f"{top}/{path}", content)
    return file


def check_same(one, other):
    for field in ("images", "masks", "patients", "numbers"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
    assert one.split == other.split


# ---- what is read ------------------------------------------------------------------------------------------------


def test_pixels_patients_and_order(files, pixels, tmp_path):
    data = lgg(write_folder(tmp_path, files), image_size=SIZE)
    order = [2, 0, 1]  # NUMBERS sorted as numbers, not as text
    expected = pixels[0][:, order].reshape(15, SIZE, SIZE, 3).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(data.images, expected)
    np.testing.assert_array_equal(data.masks, pixels[1][:, order].reshape(15, SIZE, SIZE) == 255)
    assert data.patients.tolist() == [f"TCGA_CS_{patient:02}" for patient in range(5) for _ in NUMBERS]
    assert data.numbers.tolist() == [2, 9, 10] * 5
    assert data.images.dtype == data.masks.dtype == np.uint8
    assert data.images.flags.c_contiguous
    assert data.masks.flags.c_contiguous
    assert data.channels[data.shown] == "FLAIR"
    assert data.max_value == 255


def test_statistics_are_those_of_the_examination(files, pixels, tmp_path):
    for path in list(files):  # the second examination of patient 1 is half as bright
        if "_01_19960909" in path:
            image = np.asarray(Image.open(io.BytesIO(files[path])))
            files[path.replace("19960909", "20010101")] = tiff(image if "_mask" in path else image // 2)
    data = lgg(write_folder(tmp_path, files), image_size=SIZE)
    first, second = pixels[0][1] / 255, (pixels[0][1] // 2) / 255
    for rows, expected in ((slice(3, 6), first), (slice(6, 9), second)):
        assert set(data.patients[rows]) == {"TCGA_CS_01"}
        for row in range(rows.start, rows.stop):
            np.testing.assert_allclose(data.mean[row], expected.mean(axis=(0, 1, 2)), rtol=1e-9)
            np.testing.assert_allclose(data.std[row], expected.std(axis=(0, 1, 2)), rtol=1e-9)


def test_reads_folders_and_archives_in_all_layouts(files, tmp_path):
    roots = [write_folder(tmp_path / "a", files), tmp_path / "a" / "kaggle_3m"]
    roots.append(write_folder(tmp_path / "b", files, "lgg-mri-segmentation/kaggle_3m"))
    for kind in "cde":
        (tmp_path / kind).mkdir()
    roots += [write_tar(tmp_path / "c" / "some.tar.xz", files), tmp_path / "c"]
    roots += [write_zip(tmp_path / "d" / "some.zip", files), tmp_path / "d"]
    # Kaggle's own archive holds every file twice.
    roots.append(write_zip(tmp_path / "e" / "archive.zip", files, ("kaggle_3m", "lgg-mri-segmentation/kaggle_3m")))
    for root in roots[1:]:
        check_same(lgg(str(root), image_size=SIZE), lgg(roots[0], image_size=SIZE))


def test_ignores_the_metadata_files_of_macos(files, tmp_path):
    """They are named like the images."""
    with zipfile.ZipFile(tmp_path / "mac.zip", "w") as made:
        for path, content in files.items():
            made.writestr(f"__MACOSX/kaggle_3m/{path.replace('/', '/._')}", b"Mac OS X")
            made.writestr(f"kaggle_3m/{path}", content)
    check_same(lgg(tmp_path, image_size=SIZE), lgg(write_folder(tmp_path / "a", files), image_size=SIZE))


def test_resizing(files, tmp_path):
    """Blocks of 2x2 equal pixels become one pixel each. A mask has values 0 and 1 at any size."""
    blocks = np.random.default_rng(1).integers(0, 2, (32, 32), dtype=np.uint8)
    for path in files:
        if path.endswith("_mask.tif"):
            files[path] = tiff(255 * blocks.repeat(2, 0).repeat(2, 1))
        elif path.endswith(".tif"):
            files[path] = tiff(np.full((64, 64, 3), (10, 120, 250), np.uint8))
    root = write_folder(tmp_path, files)
    data = lgg(root, image_size=32)
    assert data.images.shape == (15, 3, 32, 32)
    assert (data.images == np.array([10, 120, 250]).reshape(3, 1, 1)).all()
    assert (data.masks == blocks).all()
    assert set(np.unique(lgg(root, image_size=50).masks)) == {0, 1}
    assert lgg(root, image_size=96).images.shape == (15, 3, 96, 96)


def test_a_smaller_image_averages_the_pixels_it_covers(files, tmp_path):
    """A ramp keeps its slope: a pixel of a quarter of the size is the mean of four."""
    ramp = np.broadcast_to(np.arange(128, dtype=np.uint8)[None, :, None], (128, 128, 3))
    for path in files:
        if path.endswith(".tif"):
            files[path] = tiff(np.full((128, 128), 255, np.uint8) if "_mask" in path else ramp)
    row = lgg(write_folder(tmp_path, files), image_size=32).images[0, 0, 16]
    np.testing.assert_allclose(row[1:-1], 4 * np.arange(1, 31) + 1.5, atol=0.51)


# ---- the split ---------------------------------------------------------------------------------------------------


def test_the_split_is_by_patient_and_fixed(files, tmp_path):
    data = lgg(write_folder(tmp_path, files), image_size=SIZE)
    assert data.split == SPLIT
    for part, patients in SPLIT.items():
        assert set(data.patients[data.rows(part)]) == set(patients)
    assert sorted(np.concatenate([data.rows(part) for part in SPLIT]).tolist()) == list(range(15))


def test_all_examinations_of_a_patient_are_in_one_split(files, tmp_path):
    for path in list(files):
        files[path.replace("19960909", "20010101")] = files[path]
    data = lgg(write_folder(tmp_path, files), image_size=SIZE)
    assert data.split == SPLIT
    assert len(data.images) == 30
    assert (data.patients == "TCGA_CS_03").sum() == len(data.rows("validation")) == 6


def test_a_patient_without_a_lesion_is_kept(files, tmp_path):
    for number in NUMBERS:
        files[name(0, number, mask=True)] = tiff(np.zeros((SIZE, SIZE), np.uint8))
    data = lgg(write_folder(tmp_path, files), image_size=SIZE)
    assert data.split == SPLIT
    assert not data.masks[data.patients == "TCGA_CS_00"].any()


# ---- what is wrong with it ---------------------------------------------------------------------------------------


def broken(files, how):
    """Add one fault to the files."""
    first, mask = name(1, 9), name(1, 9, mask=True)
    match how:
        case "no mask":
            del files[mask]
        case "no image":
            del files[first]
        case "cut image":
            files[first] = files[first][:500]
        case "no image at all":
            files[first] = b"GIF89a, or so it says"
        case "empty file":
            files[mask] = b""
        case "another format":
            file = io.BytesIO()
            Image.new("RGB", (SIZE, SIZE)).save(file, format="PNG")
            files[first] = file.getvalue()
        case "grey image":
            files[first] = files[mask]
        case "coloured mask":
            files[mask] = files[first]
        case "grey mask":
            files[mask] = tiff(np.full((SIZE, SIZE), 77, np.uint8))
        case "another size":
            files[first] = tiff(np.zeros((SIZE, 2 * SIZE, 3), np.uint8))
        case "no square":
            for path in files:
                if path.endswith(".tif"):
                    files[path] = tiff(np.zeros((SIZE, 2 * SIZE, *([] if "_mask" in path else [3])), np.uint8))
        case "no number":
            files["TCGA_CS_01_19960909/overview_mask.tif"] = files[mask]
        case "no lesion to validate on":
            for number in NUMBERS:
                files[name(3, number, mask=True)] = tiff(np.zeros((SIZE, SIZE), np.uint8))
        case "two patients":
            for path in [path for path in files if path[8:10] in ("02", "03", "04")]:
                del files[path]
        case "nothing":
            files.clear()
            files["data.csv"] = b"Patient"
    return files


FAULTS = {
    "no mask": r"for each mask, got no TCGA_CS_01_19960909/TCGA_CS_01_19960909_9_mask.tif$",
    "no image": r"for each mask, got no TCGA_CS_01_19960909/TCGA_CS_01_19960909_9.tif$",
    "cut image": r"TCGA_CS_01_19960909_9.tif: must be a readable TIFF image, got \w+: ",
    "no image at all": r"_9.tif: must be a readable TIFF image, got UnidentifiedImageError",
    "empty file": r"_9_mask.tif: must be a readable TIFF image, got UnidentifiedImageError",
    "another format": r"_9.tif: must be a readable TIFF image, got UnidentifiedImageError",
    "grey image": r"_9.tif: must be of mode RGB \(an image\), got L$",
    "coloured mask": r"_9_mask.tif: must be of mode L \(a mask\), got RGB$",
    "grey mask": r"_9_mask.tif: a mask must hold 0 and 255 only, got 77$",
    "another size": r"_9.tif: must be square and of the size of the first slice, \(32, 32\), got \(64, 32\)$",
    "no square": r"must be square and of the size of the first slice, \(64, 32\), got \(64, 32\)$",
    "no number": (
        r"overview_mask.tif: must be named PATIENT_NUMBER.tif or PATIENT_NUMBER_mask.tif, got overview_mask.tif$"
    ),
    "no lesion to validate on": r"^lgg: the validation split .* got none for its patients TCGA_CS_03$",
    "two patients": r"^split: there must be at least 3 patients .*TCGA_CS_0",
    "nothing": r"must hold kaggle_3m/ or its archive, from https://\S+, got none$",
}


@pytest.mark.parametrize("how", FAULTS)
@pytest.mark.parametrize("place", ["folder", "tar", "zip"])
def test_bad_data_is_refused_in_one_line(files, tmp_path, how, place, recwarn):
    files = broken(files, how)
    if place == "folder":
        root = write_folder(tmp_path, files)
    else:
        root = {"tar": write_tar, "zip": write_zip}[place](tmp_path / f"data.{place.replace('tar', 'tar.xz')}", files)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=FAULTS[how]) as error:
        lgg(root, image_size=SIZE)
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value) or how in ("no lesion to validate on", "two patients")
    assert sorted(tmp_path.rglob("*")) == before
    assert not recwarn.list


def test_no_data(tmp_path):
    with pytest.raises(DataError, match=r"^lgg: --data-root must name a folder .* from https://www.kaggle.com/"):
        lgg()
    with pytest.raises(DataError, match=r"^lgg: \S+/none must hold kaggle_3m/ .*, got no such folder$"):
        lgg(tmp_path / "none")


def test_refuses_a_folder_with_two_archives(files, tmp_path):
    write_tar(tmp_path / "one.tar.xz", files)
    write_zip(tmp_path / "two.zip", files)
    with pytest.raises(DataError, match=r"one archive \(name one as --data-root\), got one.tar.xz, two.zip$"):
        lgg(tmp_path)
    assert len(lgg(tmp_path / "two.zip", image_size=SIZE).images) == 15


def test_refuses_an_archive_with_a_file_twice(files, tmp_path):
    with tarfile.open(tmp_path / "data.tar", "w") as tar:
        for _ in range(2):
            info = tarfile.TarInfo(f"kaggle_3m/{name(1, 9)}")
            info.size = len(files[name(1, 9)])
            tar.addfile(info, io.BytesIO(files[name(1, 9)]))
    with pytest.raises(DataError, match=r"TCGA_CS_01_19960909_9.tif: must exist once, got it twice$"):
        lgg(tmp_path, image_size=SIZE)


def test_refuses_a_hostile_archive(files, tmp_path):
    write_tar(tmp_path / "data.tar.xz", {**files, "../../evil.tif": b""})
    with pytest.raises(DataError, match=r"members must have paths below its top, got 'kaggle_3m/../../evil.tif'$"):
        lgg(tmp_path)


@pytest.mark.parametrize("size", [31, 0, -64, 64.0, "64"])
def test_image_size_is_checked(tmp_path, size):
    with pytest.raises(ValueError, match=r"^lgg: image_size must be a whole number >= 32 .*, got "):
        lgg(tmp_path, image_size=size)


# ---- the real thing ----------------------------------------------------------------------------------------------


@pytest.mark.skipif(not REAL.exists(), reason=f"needs the copy of the data in {REAL}")
@pytest.mark.slow
def test_real_slices():
    data = lgg(REAL, image_size=64)
    assert data.images.shape == (562, 3, 64, 64)
    assert len(set(data.patients)) == 16
    assert {part: len(patients) for part, patients in data.split.items()} == {"train": 10, "validation": 3, "test": 3}
    assert data.masks.any(axis=(1, 2)).sum() == 198  # the number of masks that are not empty
    lesion, brain = data.images[:, 1][data.masks > 0].mean(), data.images[:, 1][data.images[:, 1] > 20].mean()
    assert lesion > 1.3 * brain  # the lesion is the bright part of FLAIR
