"""Window attention and linear layers as Triton kernels."""
