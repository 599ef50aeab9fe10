from torch import nn

from trainables.architectures._base import check_counts
from trainables.architectures._encoder_weights import load_encoder

__all__ = ["unet"]


def unet(
    num_classes: int = 1,
    in_channels: int = 3,
    *,
    encoder: str = "resnet50",
    encoder_weights: str | None = None,
    decoder_width: int = 16,
) -> nn.Module:
    """UNet with a classification network as its encoder.

    It is that of segmentation-models-pytorch (smp). The skip connections come from the five stages of the encoder. Each
    of the five decoder blocks doubles the size (nearest neighbour), appends the skip connection, and applies two 3x3
    convolutions with BatchNorm and ReLU. A last 3x3 convolution computes the logits.

    It maps images (N, in_channels, H, W) to logits (N, num_classes, H, W), with H and W of at least 32.

    Args:
        num_classes: Number of logits per pixel.
        in_channels: Channels of the images.
        encoder: resnet50 (32,521,105 parameters in all), resnet18, mobilenet_v2, or another of smp's names.
        encoder_weights: None for random weights; imagenet or another of smp's names for weights of the Hugging Face
            hub, downloaded once; or a .safetensors or .pth file with the encoder's state dict, smp's or torchvision's.
        decoder_width: Channels of the last decoder block. Those before it have 16, 8, 4 and 2 times as many.

    Raises:
        ValueError: If a count is below 1, the encoder is unknown, or its weights are missing or do not fit.

    Reference: Ronneberger, Fischer & Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI
    2015.
    """
    check_counts("unet", num_classes=num_classes, in_channels=in_channels, decoder_width=decoder_width)
    import segmentation_models_pytorch as smp  # lazy: takes 13 s to import

    if encoder not in smp.encoders.encoders:
        raise ValueError(f"unet: encoder must be one of {', '.join(smp.encoders.encoders)}, got {encoder!r}")
    model = smp.Unet(
        encoder,
        encoder_weights=None,
        in_channels=3 if encoder_weights else in_channels,
        classes=num_classes,
        decoder_channels=[factor * decoder_width for factor in (16, 8, 4, 2, 1)],
    )
    if encoder_weights:
        load_encoder("unet", model, encoder, encoder_weights, in_channels)
    return model
