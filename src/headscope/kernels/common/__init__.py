"""What kernels of several operations share: which tensors they serve, inputs, outputs, softmax tiles, Gluon's names."""
