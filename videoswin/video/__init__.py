"""Read video files into uint8 clips and views; independent of any model."""
