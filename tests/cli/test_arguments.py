import argparse
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from hwattn.cli.arguments import (
    accelerator_config,
    add_config,
    add_images,
    add_model,
    load_arrays,
    load_images,
    parse_task,
)
from hwattn.spec.config import load_preset
from hwattn.spec.errors import RefusedError

SHAPE = (1, 8, 8)
GOOD = np.linspace(-1, 1, 3 * 64, dtype=np.float32).reshape(3, *SHAPE)


def parse(*words):
    parser = argparse.ArgumentParser()
    add_model(parser)
    add_config(parser)
    add_images(parser)
    return parser.parse_args(words)


def test_defaults():
    args = parse()
    assert (args.model, args.config, args.set, args.input, args.images) == ("digits", None, [], None, None)
    assert accelerator_config(args, "digits") == load_preset("digits")


def test_preset_then_set():
    args = parse("--config", "tiny", "--set", "rows=3", "--set", "post_lanes = 2", "--set", "rows=5")
    assert accelerator_config(args, "digits") == load_preset("tiny").replace(rows=5, post_lanes=2)


def test_fields_are_checked_together():
    preset = load_preset("digits")
    rows, lanes = preset.rows + 40, preset.rows + 30
    args = parse("--set", f"softmax_lanes={lanes}", "--set", f"rows={rows}")
    assert accelerator_config(args, "digits").softmax_lanes == lanes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--config", "huge"],
            "no preset named huge; expected one of deit-small, .*, tiny; name a preset after --config",
        ),
        (["--set", "rows"], "--set rows without a value; expected FIELD=VALUE"),
        (["--set", "rows=many"], "--set rows=many; expected FIELD=VALUE with an integer"),
        (["--set", "rows=0"], "rows=0"),
        (["--set", "rowz=4"], "the field rowz"),
        (["--set", "=4"], "the field "),
    ],
)
def test_refused_configurations(words, message):
    with pytest.raises(RefusedError, match=message):
        accelerator_config(parse(*words), "digits")


@pytest.mark.parametrize("text", ["0", "-3", "x", "1.5"])
def test_images_is_a_positive_count(text, capsys):
    with pytest.raises(SystemExit):
        parse("--images", text)
    assert "is not a positive integer" in capsys.readouterr().err


def test_images_from_npy_and_npz(tmp_path):
    np.save(tmp_path / "a.npy", GOOD)
    np.save(tmp_path / "big_endian.npy", GOOD.astype(">f4"))
    np.save(tmp_path / "fortran.npy", np.asfortranarray(GOOD))
    np.savez(tmp_path / "a.npz", image=GOOD, test_image=GOOD[:1], task=np.int64(0))
    np.savez_compressed(tmp_path / "data.npz", calib_image=GOOD[:1], test_image=GOOD)
    for path in sorted(tmp_path.iterdir()):
        images = load_images(path, "image", SHAPE)
        assert images.dtype == np.float32
        assert images.dtype.isnative
        np.testing.assert_array_equal(images, GOOD)


def with_value(value):
    spoiled = GOOD.copy()
    spoiled[1, 0, 2, 3] = value
    return spoiled


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (GOOD.astype(np.float64), "is of type float64; expected float32"),
        ((GOOD * 255).astype(np.uint8), "is of type uint8; expected float32, normalized"),
        (GOOD[0], r"has shape \(1, 8, 8\); expected \(N, 1, 8, 8\); add the first axis"),
        (GOOD.reshape(3, 8, 8, 1), "resize the images"),
        (GOOD[:, :, :7], r"has shape \(3, 1, 7, 8\)"),
        (np.float32(1), r"has shape \(\)"),
        (GOOD[:0], "holds no image"),
        (with_value(np.nan), "not finite"),
        (with_value(-np.inf), "not finite"),
    ],
)
def test_refused_images(tmp_path, array, message):
    np.save(tmp_path / "x.npy", array)
    np.savez(tmp_path / "x.npz", image=array)
    for name in ("x.npy", "x.npz"):
        with pytest.raises(RefusedError, match=message):
            load_images(tmp_path / name, "image", SHAPE)


def test_the_array_in_question_is_named(tmp_path):
    np.savez(tmp_path / "x.npz", pictures=GOOD, task=np.int64(0))
    with pytest.raises(
        RefusedError, match="holds the arrays pictures, task; expected one named image or test_image"
    ):
        load_images(tmp_path / "x.npz", "image", SHAPE)
    np.savez(tmp_path / "empty.npz")
    with pytest.raises(RefusedError, match=r"holds the arrays \(none\)"):
        load_images(tmp_path / "empty.npz", "image", SHAPE)


def whole(save):
    buffer = io.BytesIO()
    save(buffer)
    return buffer.getvalue()


NPY = whole(lambda file: np.save(file, GOOD))
NPZ = whole(lambda file: np.savez_compressed(file, image=GOOD))
LYING_HEADER = NPY.replace(b"(3, 1, 8, 8)", b"(3<<50,1,8,)")
HUGE = NPY.replace(b"'shape': (3, 1, 8, 8), }    ", b"'shape': (99999999999999,), }")


def zip_of(name, data):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"not an array",
        NPY[:5],
        NPY[:40],
        NPY[:-1],
        LYING_HEADER,
        HUGE,
        NPZ[:-30],
        NPZ[:60] + bytes(40) + NPZ[100:],
        zip_of("image.npy", b"short"),
        zip_of("image.npy", HUGE),
        zip_of("image.npy", NPY[:-7]),
        b"\x80\x04K\x01.",  # a pickle
    ],
)
def test_damaged_files(tmp_path, contents):
    path = tmp_path / "x.npz"
    path.write_bytes(contents)
    with pytest.raises(RefusedError, match=r"x\.npz"):
        load_images(path, "image", SHAPE)


def test_pickles_are_never_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    np.save(tmp_path / "x.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "x.npz", image=np.array([Trap()], dtype=object))
    for name in ("x.npy", "x.npz"):
        with pytest.raises(RefusedError, match="expected an .npy or .npz file of numbers"):
            load_arrays(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(RefusedError, match=r"absent\.npy cannot be read \(No such file or directory\)"):
        load_arrays(tmp_path / "absent.npy")
    with pytest.raises(RefusedError, match=r"cannot be read \(Is a directory\)"):
        load_arrays(tmp_path)


def test_tasks():
    names = ["digit", "stroke", "0"]
    assert parse_task(None, names) == [0, 1, 2]
    assert parse_task("stroke", names) == [1]
    assert parse_task("1", names) == [1]
    assert parse_task("0", names) == [2]  # a name comes before an index
    for text in ("3", "-1", "Digit", "", "²"):
        with pytest.raises(RefusedError, match="no task .*digit, stroke, 0, or an index from 0 to 2"):
            parse_task(text, names)
