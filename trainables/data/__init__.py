"""What datasets return, and tools to read, split, download and generate data.

Every dataset returns one of three values, in memory as plain NumPy arrays or text:

- `images.Images`: labelled images for classification (tasks `cnn` and `vit`);
- `slices.Slices`: image slices with masks for segmentation (task `unet`);
- `questions.Questions`: questions with candidate answers for language models (task `lora`).

Data that cannot be used raises `errors.DataError`.
"""
