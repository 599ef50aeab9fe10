from tests.trainables.data._folders import (  # noqa: F401
    cifar10_folder,
    cifar100_folder,
    commonsense_folder,
    encode,
    image_folder,
    lgg_folder,
    pixels,
    svhn_folder,
    tiny_imagenet_folder,
    write_parquet,
)
