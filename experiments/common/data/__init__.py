"""Where data come from and how they are prepared: MNIST, CIFAR, a text, ImageNet."""
