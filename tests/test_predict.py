"""Photographs to arrays, crops, and what predict says."""

import json

import numpy as np
import peers
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from inception_np import Mode, create_model, save
from inception_np.__main__ import main
from inception_np.data.preprocess import FILTERS, IMAGENET_MEAN, IMAGENET_STD, Preprocess, open_image, prepare
from inception_np.models import Network
from inception_np.training.predict import predict_images, preprocess_for, top


def picture(height, width, seed=0):
    """Smooth colours with noise, so that every filter and every place gives other numbers."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    planes = [128 + 90 * np.sin(rows / (3 + c) + columns / (7 - c)) for c in range(3)]
    return Image.fromarray(
        np.clip(np.stack(planes, -1) + rng.normal(0, 10, (height, width, 3)), 0, 255).astype(np.uint8)
    )


RAW = {"mean": (0, 0, 0), "std": (1, 1, 1)}  # the pixels themselves


def crops(image, how, number):
    return np.stack(list(prepare(image, how, number)))


# ------------------------------------------------------------------------------------------ crops


def test_the_centre_crop_covers_seven_eighths_of_the_shorter_side():
    image = picture(64, 96)
    how = Preprocess((28, 28), **RAW)
    assert how.side == 32
    by_hand = image.resize((48, 32), Image.Resampling.BILINEAR).crop((10, 2, 38, 30))
    np.testing.assert_array_equal(crops(image, how, 1)[0], np.asarray(by_hand, np.float32))


def test_pixels_become_mean_zero_and_deviation_one_in_the_networks_order():
    image = picture(40, 40)
    how = Preprocess((32, 32), mean=(1, 2, 3), std=(4, 5, 6))
    plain = crops(image, Preprocess((32, 32), **RAW), 1)[0]
    found = crops(image, how, 1)[0]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, (plain - [1, 2, 3]) / [4, 5, 6], rtol=1e-6)
    blue_first = Preprocess((32, 32), mean=(1, 2, 3), std=(4, 5, 6), bgr=True)
    np.testing.assert_allclose(crops(image, blue_first, 1)[0], (plain[..., ::-1] - [1, 2, 3]) / [4, 5, 6], rtol=1e-6)


def test_ten_crops_are_four_corners_and_the_centre_and_their_mirror_images():
    image = picture(60, 50)
    how = Preprocess((20, 24), resize=30, **RAW)
    scaled = np.asarray(image.resize((30, 36), Image.Resampling.BILINEAR), np.float32)
    flipped = scaled[:, ::-1]
    five = [(0, 0), (0, 6), (16, 0), (16, 6), (8, 3)]
    wanted = [a[top : top + 20, left : left + 24] for a in (scaled, flipped) for top, left in five]
    np.testing.assert_array_equal(crops(image, how, 10), wanted)


@pytest.mark.parametrize(("height", "width"), [(80, 130), (130, 80), (90, 90)])
def test_144_crops_are_googlenets(height, width):
    image, how = picture(height, width), Preprocess((56, 56), **RAW)
    found = crops(image, how, 144)
    assert found.shape == (144, 56, 56, 3)
    wanted = []
    for side in (64, 72, 80, 88):  # 256, 288, 320, 352 for an input of 224
        short = min(height, width)
        size = (side * width // short, side * height // short)
        scaled = image.resize(size, Image.Resampling.BILINEAR)
        for part in range(3):
            left, top = round((size[0] - side) * part / 2), round((size[1] - side) * part / 2)
            square = scaled.crop((left, top, left + side, top + side))
            a, far, mid = np.asarray(square, np.float32), side - 56, round((side - 56) / 2)
            six = [a[y : y + 56, x : x + 56] for y, x in ((0, 0), (0, far), (far, 0), (far, far), (mid, mid))]
            six.append(np.asarray(square.resize((56, 56), Image.Resampling.BILINEAR), np.float32))
            wanted += six + [crop[:, ::-1] for crop in six]
    np.testing.assert_array_equal(found, wanted)


@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    extra=st.integers(0, 9),
    number=st.sampled_from([1, 10, 144]),
    interpolation=st.sampled_from(FILTERS),
)
def test_every_picture_gives_the_asked_number_of_whole_crops(height, width, size, extra, number, interpolation):
    if number == 144:
        size = (size[0], size[0])
    how = Preprocess(size, resize=max(size) + extra, interpolation=interpolation, **RAW)
    white = Image.new("RGB", (width, height), (255, 255, 255))
    found = crops(white, how, number)
    assert found.shape == (number, *size, 3)
    assert (found == 255).all()  # no crop hangs over the edge, where Pillow puts black


@pytest.mark.torch
@pytest.mark.parametrize(("height", "width"), [(400, 533), (533, 400), (375, 501)])
def test_crops_equal_torchvisions(height, width):
    pytest.importorskip("torch")
    try:
        transforms = peers.torchvision().transforms
    except ImportError as error:
        pytest.skip(str(error))
    image = picture(height, width)
    imagenet = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    for name, filter in (("bilinear", 2), ("bicubic", 3)):
        how = Preprocess((299, 299), resize=342, interpolation=name, **imagenet)
        resize = transforms.Resize(342, interpolation=filter)
        finish = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
        one = finish(transforms.CenterCrop(299)(resize(image))).permute(1, 2, 0).numpy()
        np.testing.assert_allclose(crops(image, how, 1)[0], one, atol=2e-6)
        ten = [finish(c).permute(1, 2, 0).numpy() for c in transforms.TenCrop(299)(resize(image))]
        np.testing.assert_allclose(crops(image, how, 10), ten, atol=2e-6)


def test_transform_input_is_the_same_as_pixels_between_minus_one_and_one():
    """torchvision undoes ImageNet's normalisation inside the model; our weights are stored with what comes out."""
    pixels = np.random.default_rng(0).uniform(0, 255, (5, 3))
    mean, std = np.array(IMAGENET_MEAN) / 255, np.array(IMAGENET_STD) / 255
    fed = (pixels / 255 - mean) / std
    np.testing.assert_allclose(fed * (std / 0.5) + (mean - 0.5) / 0.5, (pixels - 127.5) / 127.5, atol=1e-12)


# ------------------------------------------------------------------------------- preprocessing as a value


def test_preprocessing_survives_json():
    how = Preprocess((299, 288), resize=341, interpolation="bicubic", mean=(104, 117, 128), std=(1, 1, 1), bgr=True)
    assert Preprocess.from_dict(json.loads(json.dumps(how.to_dict()))) == how


@pytest.mark.parametrize(
    "values",
    [
        {"size": (0, 3)},
        {"size": (3, 3, 3)},
        {"size": (32, 32), "resize": 31},
        {"size": (32, 32), "interpolation": "area"},
        {"size": (32, 32), "std": (1, 0, 1)},
        {"size": (32, 32), "mean": (1, 2)},
        {"size": (32, 32), "mean": (1, 2), "std": (1, 2)},
        {"size": (32, 32), "mean": (float("nan"), 0, 0)},
        {"size": (32, 32), "crop": 0.5},
        {"resize": 40},
        {"size": "large"},
        {"size": (32, 32), "mean": 3},
        [],
    ],
)
def test_nonsense_is_no_preprocessing(values):
    with pytest.raises(ValueError, match="Preprocess: ") as caught:
        Preprocess.from_dict(values)
    assert "\n" not in str(caught.value)


# --------------------------------------------------------------------------------------- pictures


def test_pictures_are_read_upright_and_in_colour(tmp_path):
    image = picture(20, 30)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees to show
    image.save(tmp_path / "turned.png", exif=exif)
    upright = np.asarray(open_image(tmp_path / "turned.png"))
    np.testing.assert_array_equal(upright, np.rot90(np.asarray(image), 3))
    for mode in ("L", "P", "RGBA", "CMYK", "1"):
        ending = "tif" if mode == "CMYK" else "png"
        image.convert(mode).save(tmp_path / f"a.{ending}")
        assert open_image(tmp_path / f"a.{ending}").mode == "RGB"
    assert open_image(tmp_path / "turned.png", channels=1).mode == "L"


def test_files_that_are_no_pictures_are_named(tmp_path):
    picture(50, 50).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:900])
    (tmp_path / "text.jpg").write_text("hello")
    for name in ("missing.png", "cut.png", "text.jpg", "."):
        with pytest.raises(ValueError) as caught:
            open_image(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: ")
        assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------- predictions


@pytest.fixture(scope="module")
def model() -> Network:
    return create_model("inception_v1_cifar", width=1 / 8, aux=False, seed=3)


def softmax(logits):
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("number", [1, 10, 144])
def test_probabilities_are_averaged_over_the_crops(model, tmp_path, number):
    paths = []
    for seed in (0, 1):
        paths.append(tmp_path / f"{seed}.png")
        picture(50, 70, seed).save(paths[-1])
    how = Preprocess((32, 32), mean=(120, 121, 122), std=(9, 9, 9))  # far from the mean, so that the crops disagree
    found = predict_images(model, paths, preprocess=how, crops=number, batch_size=7)
    for path, prediction in zip(paths, found, strict=True):
        logits = model.forward(crops(open_image(path), how, number), Mode())[0]
        assert prediction.path == str(path)
        np.testing.assert_allclose(prediction.probabilities, softmax(logits.astype(float)).mean(0), rtol=2e-5)
        assert prediction.probabilities.sum() == pytest.approx(1, abs=1e-12)
        if number > 1:  # and it is the probabilities that are averaged
            assert np.abs(prediction.probabilities - softmax(logits.mean(0, keepdims=True))[0]).max() > 1e-4


def test_preprocessing_is_the_checkpoints_or_the_usual(model):
    assert preprocess_for(model) == Preprocess((32, 32))
    how = Preprocess((30, 32), resize=32, mean=(1, 2, 3))
    assert preprocess_for(model, {"preprocess": how.to_dict()}) == how
    with pytest.raises(ValueError, match="got 1 channels, wanted inception_v1_cifar's 3"):
        preprocess_for(model, {"preprocess": Preprocess((32, 32), mean=(1,), std=(1,)).to_dict()})


def test_the_likeliest_come_first_with_names_where_known():
    probabilities = np.array([0.1, 0.5, 0.1, 0.3])
    assert top(probabilities, ["a", "b", "c", "d"], 3) == [("b", 0.5), ("d", 0.3), ("a", 0.1)]
    assert top(probabilities, None, 9)[0] == ("class 1", 0.5)
    assert top(probabilities, ["too", "few"], 1) == [("class 1", 0.5)]


def test_another_number_of_crops_is_refused(model, tmp_path):
    picture(40, 40).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="got crops=5, wanted one of 1, 10, 144"):
        predict_images(model, [tmp_path / "a.png"], crops=5)
    with pytest.raises(ValueError, match="144 crops, wanted a square one"):
        predict_images(model, [tmp_path / "a.png"], crops=144, preprocess=Preprocess((32, 40)))


def test_predict_prints_the_top_five(model, tmp_path, capsys):
    names = [f"thing {i}" for i in range(10)]
    how = Preprocess((32, 32), resize=32)
    save(model, tmp_path / "m.safetensors", about={"classes": names, "preprocess": how.to_dict()})
    picture(40, 60).save(tmp_path / "a.png")
    argv = ["predict", str(tmp_path / "m.safetensors"), str(tmp_path / "a.png")]
    assert main([*argv, "--crops", "10", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    wanted = top(predict_images(model, [tmp_path / "a.png"], preprocess=how, crops=10)[0].probabilities, names)
    assert [(p["class"], p["probability"]) for p in printed[0]["predictions"]] == wanted
    assert main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and lines[1].lstrip()[0].isdigit()

    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    assert main([*argv, str(tmp_path / "broken.jpg")]) == 1
    out = capsys.readouterr()
    assert "broken.jpg: " in out.err and out.err.count("\n") == 1 and not out.out
