"""The papers' image encoder."""

import pytest
import torch

from hf_icl.models import ResNetEncoder


def test_parameter_count_by_hand():
    def block(before, channels, project):
        narrow = channels // 4
        maps = before * narrow + 9 * narrow**2 + narrow * channels + project * before * channels
        norms = 2 * (2 * narrow + channels) + project * 2 * channels
        return maps + norms

    groups = ((64, 16), (16, 32), (32, 32), (32, 64))
    expected = 49 * 64 + 2 * 64 + sum(block(a, b, True) + block(b, b, False) for a, b in groups)
    assert sum(parameter.numel() for parameter in ResNetEncoder(1, 64).parameters()) == expected == 22_176


@pytest.mark.parametrize("size", (105, 28, 8))
def test_any_usual_size_gives_one_vector(size):
    encoder, seen = ResNetEncoder(1, 64), []
    encoder.blocks.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[-1]))
    images = (torch.rand(5, 1, size, size) > 0.9).float()
    vectors = encoder(images)
    assert vectors.shape == (5, 64) and seen == [{105: 4, 28: 1, 8: 1}[size]]
    assert vectors.std(dim=0).mean() > 0.01  # different drawings, different vectors


def test_no_image_sees_another():
    encoder = ResNetEncoder(1, 16).train()
    images = torch.rand(6, 1, 28, 28, requires_grad=True)
    vectors = encoder(images)
    (gradient,) = torch.autograd.grad(vectors[2].sum(), images, retain_graph=True)
    used = gradient.abs().amax(dim=(1, 2, 3)) > 0
    assert used.tolist() == [False, False, True, False, False, False]
    torch.testing.assert_close(encoder(images[2:3])[0], vectors[2], atol=1e-5, rtol=1e-4)
