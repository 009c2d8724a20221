"""Weights that matter: new networks have scales near zero, and norms that are the identity."""

import torch


def enliven(network, noise):
    """Make every branch show in the output; `noise` is the standard deviation that norms and biases get."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("scale"):
                parameter.uniform_(0.3, 0.7)
            elif "norm" in name or name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) * noise)
    return network.eval()
