"""Shared by the kernels of several operations: tensors that they serve, inputs and outputs, softmax tiles, Gluon."""
