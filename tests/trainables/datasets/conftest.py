from tests.trainables.data._images import (  # noqa: F401
    cifar10_folder,
    cifar100_folder,
    encode,
    image_folder,
    pixels,
    svhn_folder,
    tiny_imagenet_folder,
    write_parquet,
)
