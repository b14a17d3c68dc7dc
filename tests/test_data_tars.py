"""Tar files: the same records as the folder they were made of, and clear refusals."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nfnets.data.decode import DamagedImage
from nfnets.data.sources import Source, open_source
from nfnets.data.tar_index import index_tar
from nfnets.errors import UserError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three classes with a long name, a subfolder and files that do not count."""
    root = tmp_path / "tree"
    for split, count in (("train", 5), ("test", 2)):
        for number, name in enumerate(("cat", "dog", "n" * 120)):
            folder = root / split / name / ("more" if number == 1 else "")
            folder.mkdir(parents=True)
            for i in range(count):
                colour = (number, i, 9 if split == "test" else 0)
                Image.new("RGB", (6, 4), colour).save(folder / f"{9 - i}.png")
            (folder / "._0.png").write_bytes(b"hidden")
            (folder / "notes.txt").write_text("x")
    return root


def pack(path: Path, folder: Path, arcname: str = "", **options) -> Path:
    """A tar of what is in a folder, in an order that is not the names'."""
    with tarfile.open(path, "w", **options) as archive:
        for file in sorted(folder.rglob("*"), reverse=True):
            name = f"{arcname}{file.relative_to(folder)}"
            archive.add(file, name, recursive=False)
    return path


def refused(message: str, path: Path | str, **options) -> None:
    with pytest.raises(UserError, match=message) as caught:
        open_source(f"tar:{path}", "train", **options)
    assert "\n" not in str(caught.value)


def assert_same(ours: Source, theirs: Source) -> None:
    assert ours.class_names == theirs.class_names
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    for index in range(len(theirs)):
        np.testing.assert_array_equal(ours.read(index), theirs.read(index))
        assert ours.encoded(index) == theirs.encoded(index)
        # "x.tar: train/cat/a.png" and "/tmp/tree/train/cat/a.png"
        inside = ours.describe(index).partition(": ")[2]
        assert "/".join(inside.split("/")[-2:]) in theirs.describe(index)


@pytest.mark.parametrize("arcname", ["", "./", "root/", "/absolute/../root/"])
@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_tar_is_the_folder_it_was_made_of(tree: Path, arcname: str, kind: int):
    path = pack(tree.parent / "x.tar", tree, arcname, format=kind)
    for split in ("train", "test"):
        folder = open_source(f"folder:{tree}", split)
        source = open_source(f"tar:{path}", split)
        assert_same(source, folder)
        assert source.name == f"tar:{path}/{split}"


@pytest.mark.parametrize("name", ["test", "val", "validation"])
def test_two_tars_are_one_data_set(tree: Path, name: str):
    folder = tree.parent / "tars"
    folder.mkdir()
    pack(folder / "train.tar", tree / "train", "train/")
    pack(folder / f"{name}.tar", tree / "test")
    for split in ("train", "test"):
        assert_same(
            open_source(f"tar:{folder}", split), open_source(f"folder:{tree}", split)
        )


def test_a_tar_of_class_tars(tree: Path):
    """As ImageNet's training images come."""
    folder = tree.parent / "tars"
    classes = tree.parent / "classes"
    for name in (folder, classes):
        name.mkdir()
    for path in (tree / "train").iterdir():
        pack(classes / f"{path.name}.tar", path)
    pack(folder / "train.tar", classes)
    pack(folder / "test.tar", tree / "test")
    assert_same(
        open_source(f"tar:{folder}", "train"), open_source(f"folder:{tree}", "train")
    )


def test_without_a_test_split_the_same_images_are_held_out_as_of_a_folder(tree: Path):
    path = pack(tree.parent / "x.tar", tree / "train", "pictures/")
    for split in ("train", "test"):
        source = open_source(f"tar:{path}", split)
        assert_same(source, open_source(f"folder:{tree / 'train'}", split))
        assert "no test split: 3 of 15 images" in source.note


def test_class_map(tree: Path):
    path = pack(tree.parent / "x.tar", tree)
    names = tree.parent / "map.txt"
    names.write_text(f"dog 0\ncat 7\n{'n' * 120} 2\n")
    source = open_source(f"tar:{path}", "train", class_map=str(names))
    assert source.labels.tolist() == [7] * 5 + [0] * 5 + [2] * 5
    names.write_text("cat\n")
    refused("train/dog is not in the class map", path, class_map=str(names))


def test_links_do_not_count_and_of_a_name_the_last_does(tmp_path: Path):
    path = tmp_path / "x.tar"
    picture = io.BytesIO()
    Image.new("RGB", (2, 2)).save(picture, "PNG")
    with tarfile.open(path, "w") as archive:
        for name, data in (("a/1.png", b"old"), ("a/1.png", picture.getvalue())):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE):
            member = tarfile.TarInfo(f"a/{kind!r}.png")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    index = index_tar(str(path))
    assert index.names == ["a/1.png"]
    assert index.sizes.tolist() == [len(picture.getvalue())]


def test_compressed_tars_say_how_to_unpack_them(tree: Path):
    plain = pack(tree.parent / "x.tar", tree).read_bytes()
    path = tree.parent / "train.tar.gz"
    path.write_bytes(gzip.compress(plain))
    refused(f"is compressed.*once: gunzip -k {path}", path)
    refused(f"is compressed.*once: gunzip -k {path}", tree.parent)
    (tree.parent / "y.tar.xz").write_bytes(b"\xfd7zXZ\0")
    refused("unxz -k", tree.parent / "y.tar.xz")


def test_damaged_tars_are_named(tree: Path):
    path = pack(tree.parent / "x.tar", tree, format=tarfile.GNU_FORMAT)
    data = path.read_bytes()
    path = tree.parent / "y.tar"
    end = len(data.rstrip(b"\0")) // 512 * 512
    # At a member's border, inside one, at its start, and after the last.
    for keep in (512 * 9, 512 * 9 + 100, 700, end + 512):
        path.write_bytes(data[:keep])
        refused("is no whole tar file.*copy it again", path)
    # tarfile alone takes a damaged header for the end.
    header = data.index(b"train/cat/7.png")
    path.write_bytes(data[:header] + b"\xff" * 100 + data[header + 100 :])
    refused(r"no header at byte \d+, after \d+ members", path)
    path.write_bytes(b"")
    refused("y.tar is no whole tar file", path)
    path.write_bytes(b"text " * 1000)
    refused("y.tar is no whole tar file", path)
    refused("none.tar cannot be read: No such file", tree.parent / "none.tar")
    refused("local disks only", "gs://bucket/x.tar")


def test_a_tar_that_shrinks_gives_damaged_images(tree: Path):
    path = pack(tree.parent / "x.tar", tree)
    source = open_source(f"tar:{path}", "train")
    path.write_bytes(b"")
    with pytest.raises(DamagedImage, match=r"x\.tar: train/cat/5\.png: the tar ends"):
        source.read(0)


def test_layouts_that_are_not_clear_are_refused(tree: Path):
    path = tree.parent / "x.tar"
    refused("9.png is in no class folder", pack(path, tree / "train" / "cat"))
    refused("no folder train, but test", pack(path, tree / "test", "test/"))
    (tree / "val").mkdir()
    (tree / "test" / "cat").rename(tree / "val" / "cat")
    refused("has test and val, so which", pack(path, tree))
    refused("holds no image files", pack(path, tree / "none"))
    refused("has no train.tar; expected", tree)


def test_many_members_take_little_memory(tmp_path: Path):
    """An index of a million images must fit beside a network."""
    import tracemalloc

    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for i in range(3000):
            archive.addfile(tarfile.TarInfo(f"n{i % 10:08}/n{i:08}_{i}.JPEG"))
            archive.members.clear()
    tracemalloc.start()
    index = index_tar(str(path))
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(index.names) == 3000
    assert held / 3000 < 200
    assert peak / 3000 < 500
