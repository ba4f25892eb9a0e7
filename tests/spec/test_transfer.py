"""What a host sends and reads: image integers, output vectors."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hwattn.spec.program import ImagePort, OutputPort
from hwattn.spec.registers import Region
from hwattn.spec.transfer import image_block, output_integers, output_values, output_words


def test_image_rounds_half_up_and_saturates() -> None:
    port = ImagePort("image", 8, (1, 1, 5), 0.5)
    image = np.array([[[0.25, -0.25, 0.75, 1000, -1000]]], np.float32)
    assert port.quantize(image).reshape(-1).tolist() == [1, 0, 2, 127, -128]
    block = image_block(port, image)
    assert (block.region, block.first, len(block.units)) == (Region.ACT, 2, 2)
    assert block.units.astype("<u4").view(np.int8).tolist() == [1, 0, 2, 127, -128, 0, 0, 0]


@given(st.integers(1, 4), st.integers(1, 19), st.sampled_from([4, 8, 16]), st.integers(0, 2**31))
def test_output_layout(rows: int, columns: int, lanes: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(-(2**15), 2**15, (rows, columns), np.int16)
    groups = -(-columns // lanes)
    padded = np.zeros((rows, groups * lanes), np.int16)
    padded[:, :columns] = values
    split = padded.reshape(rows, groups, 1, lanes)
    stored = np.concatenate([split & 255, (split >> 8) & 255], axis=2).astype(np.uint8).reshape(rows, -1)
    port = OutputPort("y", 0, 10, 2 * groups + 1, rows, columns, 0.25, (rows, columns))
    first, words = output_words(port, lanes)
    memory = np.zeros((first + words, lanes), np.uint8)
    for row in range(rows):
        start = first + row * port.stride
        memory[start : start + 2 * groups] = stored[row].reshape(-1, lanes)
    assert (output_integers(port, memory[first:]) == values).all()
    assert (output_values(port, values) == values * 0.25).all()
