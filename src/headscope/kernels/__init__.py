"""GPU kernels, one folder an operation, each tested against plain torch.

Kernels know tensors and numbers alone. An operation's folder holds its entry point, its Triton kernels, its versions
for Hopper GPUs (`*_hopper.py`) and, where no torch code elsewhere says the same, its `reference.py`. Nothing outside
imports a kernel module before `common.device.serve` said that it can run.
"""
