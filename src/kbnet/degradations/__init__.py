"""How photographs get worse: pure, seeded functions of (image, generator), each with its source."""

from kbnet.degradations.noise import gaussian_noise

__all__ = ["gaussian_noise"]
