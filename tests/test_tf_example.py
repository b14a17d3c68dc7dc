"""The TF-free reader of tf.Example and TFRecord, against bytes made by hand."""

from __future__ import annotations

import struct

import pytest
from tfds_files import entry, example, feature, frame, message, varint

from nfnets.data.tf_example import (
    MalformedRecord,
    bytes_value,
    feature_spans,
    int_value,
)
from nfnets.data.tfrecord import crc32c, masked_crc32c, walk_frames

# features { feature { key: "label" value { int64_list { value: 5 } } }
#            feature { key: "image" value { bytes_list { value: "AB" } } } }
BY_HAND = bytes.fromhex(
    "0a23"  # Example.features, 35 bytes
    "0a0e" "0a05" "6c6162656c" "1205" "1a03" "0a01" "05"  # label: packed [5]
    "0a11" "0a05" "696d616765" "1206" "0a04" "0a02" "4142" "1801"  # image, unknown 3
)  # fmt: skip


def label_of(record: bytes) -> int:
    return int_value(record, feature_spans(record, 0, len(record)), "label")


def image_of(record: bytes) -> bytes:
    return bytes_value(record, feature_spans(record, 0, len(record)), "image")


def test_reads_bytes_made_by_hand():
    assert label_of(BY_HAND) == 5
    assert image_of(BY_HAND) == b"AB"


@pytest.mark.parametrize("label", [0, 1, 127, 128, 999, 2**31, 2**63 - 1, -1, -(2**63)])
@pytest.mark.parametrize("before", [True, False])
def test_label_before_and_after_the_image(label: int, before: bool):
    parts = {"label": label, "image": b"\xff\xd8" * 300}
    names = ["label", "image"] if before else ["image", "label"]
    record = example({name: parts[name] for name in names})
    assert label_of(record) == label
    assert image_of(record) == b"\xff\xd8" * 300


def test_a_record_inside_a_larger_buffer():
    record = example({"label": 3})
    data = b"\x99" * 7 + record + b"\x99" * 5
    spans = feature_spans(data, 7, 7 + len(record))
    assert int_value(data, spans, "label") == 3


def test_unknown_fields_are_passed_over():
    extra = varint(9 << 3) + varint(300)  # a number
    extra += varint(10 << 3 | 1) + bytes(8) + varint(11 << 3 | 5) + bytes(4)
    extra += message(12, b"anything")
    inner = extra + message(3, extra + message(1, varint(4))) + extra
    fields = extra + message(1, b"label") + message(2, inner)
    features = extra + message(1, fields + extra) + extra
    record = extra + message(1, features) + extra
    assert label_of(record) == 4


def test_value_before_key_and_numbers_that_are_not_packed():
    value = message(3, varint(1 << 3) + varint(42))
    record = message(1, message(1, message(2, value) + message(1, b"label")))
    assert label_of(record) == 42


def test_the_last_of_two_counts():
    features = entry("label", feature(1)) + entry("label", feature(2))
    assert label_of(message(1, features)) == 2
    assert label_of(message(1, entry("label", feature(1))) + example({"label": 3})) == 3


@pytest.mark.parametrize("cut", range(1, len(BY_HAND)))
def test_every_cut_is_noticed(cut: int):
    with pytest.raises(MalformedRecord):
        (label_of(BY_HAND[:cut]), image_of(BY_HAND[:cut]))


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"", "no feature 'label' .there are: none"),
        (example({"image": b"x"}), "no feature 'label' .there are: image"),
        (example({"label": b"3"}), "bytes list of wire type 2, expected a int64 list"),
        (example({"label": 3.0}), "float list .*expected a int64"),
        (message(1, entry("label", b"")), "'label' has 0 values"),
        (message(1, entry("label", message(3, b""))), "'label' has 0 values"),
        (
            message(1, entry("label", message(3, message(1, b"\1\2")))),
            "'label' has 2 values",
        ),
        (varint(1 << 3) + varint(7), "features has wire type 0"),
        (message(1, varint(1 << 3) + varint(7)), "feature has wire type 0"),
        (message(1, message(1, varint(1 << 3) + varint(7))), "map entry has wire type"),
        (message(1, entry("label", varint(3 << 3) + b"\1")), "of wire type 0"),
        (
            message(1, entry("label", message(3, varint(1 << 3 | 5) + bytes(4)))),
            "integer has wire type 5",
        ),
        (varint(1 << 3 | 3) + b"\0", "unknown wire type 3"),
        (varint(1 << 3 | 7) + b"\0", "unknown wire type 7"),
        (varint(0) + b"\1", "field number 0"),
        (b"\xff" * 10 + b"\1", "exceeds 64 bits"),
        (b"\xff" * 9 + b"\x7f", "exceeds 64 bits"),
        (b"\xff" * 3, "is cut off"),
        (message(1, b"x" * 9)[:-1], "cut off at byte 0"),
        (message(1, message(1, message(1, b"\xff\xfe"))), "name is not UTF-8"),
    ],
)
def test_malformed_records_are_refused(record: bytes, reason: str):
    with pytest.raises(MalformedRecord, match=reason):
        label_of(record)


def test_one_image_is_expected():
    two = message(1, entry("image", message(1, message(1, b"a") + message(1, b"b"))))
    with pytest.raises(MalformedRecord, match="'image' has 2 values"):
        image_of(two)
    with pytest.raises(MalformedRecord, match="is a int64 list"):
        image_of(example({"image": 1}))


def test_crc32c_is_castagnolis():
    """RFC 3720, B.4, and the usual check value."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    # TensorFlow: ((crc >> 15) | (crc << 17)) + 0xa282ead8
    rotated = (0x8A9136AA >> 15 | 0x8A9136AA << 17) & 0xFFFFFFFF
    assert masked_crc32c(bytes(32)) == (rotated + 0xA282EAD8) % 2**32


def test_frames_are_found():
    data = frame(b"abc") + frame(b"") + frame(b"x" * 1000)
    found = [data[start : start + length] for start, length in walk_frames(data)]
    assert found == [b"abc", b"", b"x" * 1000]
    assert list(walk_frames(b"")) == []


def test_damaged_frames_are_named_by_their_offset():
    first, second = frame(b"abc"), frame(b"defg")
    for cut in range(1, len(second)):
        with pytest.raises(MalformedRecord, match=f"cut off .* at byte {len(first)}$"):
            list(walk_frames(first + second[:cut]))
    longer = struct.pack("<Q", 5) + second[8:]
    with pytest.raises(MalformedRecord, match=f"checksum .* at byte {len(first)}$"):
        list(walk_frames(first + longer))
