"""ImageNet's two official tars in small: pictures whose colour is their label."""

from __future__ import annotations

import importlib.util
import io
import tarfile
from pathlib import Path

from PIL import Image

LABELS = (0, 91, 182, 273, 364, 455, 546, 637, 728, 819, 910, 999)
PER_CLASS, VALIDATION = 3, 25
COUNTS = (f"--num_train={len(LABELS) * PER_CLASS}", f"--num_validation={VALIDATION}")


def tfds_file(name: str) -> list[str]:
    """Words of a file of TFDS's own imagenet2012 data set; TFDS is not imported."""
    spec = importlib.util.find_spec("tensorflow_datasets")
    folder = Path(spec.origin).parent / "datasets" / "imagenet2012"
    return (folder / name).read_text().split()


def picture(label: int) -> bytes:
    """A JPEG whose colour tells its label."""
    out = io.BytesIO()
    colour = (label // 32 * 8, label % 32 * 8, 0)
    Image.new("RGB", (16, 16), colour).save(out, "JPEG", quality=95, subsampling=0)
    return out.getvalue()


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def write_tars(folder: Path) -> Path:
    """The official layout: tars of classes in a tar, and validation images by number.

    TFDS labels the i-th validation image with line i of its own list.
    """
    synsets, validation = tfds_file("labels.txt"), tfds_file("validation_labels.txt")
    with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as outer:
        for label in LABELS:
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as tar:
                for number in range(PER_CLASS):
                    add(tar, f"{synsets[label]}_{number}.JPEG", picture(label))
            add(outer, f"{synsets[label]}.tar", inner.getvalue())
    with tarfile.open(folder / "ILSVRC2012_img_val.tar", "w") as tar:
        for number, synset in enumerate(validation[:VALIDATION], start=1):
            image = picture(synsets.index(synset))
            add(tar, f"ILSVRC2012_val_{number:08d}.JPEG", image)
    return folder
