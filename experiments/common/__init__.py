"""What every experiment shares: data, run folder, checkpoints, tables, progress and pictures.

All densities and accuracies are fractions (0 to 1); only what is printed or drawn is in percent.
"""

from experiments.common.augment import (
    pad_crop_flip,
    shift_flip,
    standardise,
    standardise_channels,
)
from experiments.common.bottleneck import BottleneckNet
from experiments.common.checkpoint import CorruptCheckpoint
from experiments.common.cifar import cifar10, cifar100, colour_digits
from experiments.common.compare import (
    Contestant,
    Point,
    Results,
    compare,
    percent,
    plot_league,
    plot_ranks,
    plot_tradeoff,
)
from experiments.common.convolution import compiler_options, convolution, max_pool
from experiments.common.curves import Curve, plot_rounds
from experiments.common.data import digits, mnist
from experiments.common.imagenet import imagenet
from experiments.common.lenet import LeNet5, LeNet300, SmallConvNet, torch_init
from experiments.common.plots import plot_epochs, plot_first_layer, plot_kernels, plot_layers
from experiments.common.recurrence import run_lstm
from experiments.common.resnet import ResNet
from experiments.common.run import Diverged, Run, check_finite, open_run
from experiments.common.seeds import Seeds, SeedTraining, build, networks, per_seed
from experiments.common.show import Epochs, counted, mean_std, table
from experiments.common.sources import DataError, Images, first_samples
from experiments.common.study import (
    Published,
    StudySettings,
    TrainSettings,
    learning_rate,
    start,
    study,
)
from experiments.common.sweep import (
    Inputs,
    Sweep,
    in_turn,
    over_devices,
    side_by_side,
    to_float,
    turns_on_cpu,
)
from experiments.common.text import Text, shakespeare, stretches
from experiments.common.transformer import Transformer, next_character_loss
from experiments.common.vgg import VGG16
from experiments.common.wide_resnet import WideResNet

__all__ = [
    "VGG16",
    "BottleneckNet",
    "Contestant",
    "CorruptCheckpoint",
    "Curve",
    "DataError",
    "Diverged",
    "Epochs",
    "Images",
    "Inputs",
    "LeNet5",
    "LeNet300",
    "Point",
    "Published",
    "ResNet",
    "Results",
    "Run",
    "SeedTraining",
    "Seeds",
    "SmallConvNet",
    "StudySettings",
    "Sweep",
    "Text",
    "TrainSettings",
    "Transformer",
    "WideResNet",
    "build",
    "check_finite",
    "cifar10",
    "cifar100",
    "colour_digits",
    "compare",
    "compiler_options",
    "convolution",
    "counted",
    "digits",
    "first_samples",
    "imagenet",
    "in_turn",
    "learning_rate",
    "max_pool",
    "mean_std",
    "mnist",
    "networks",
    "next_character_loss",
    "open_run",
    "over_devices",
    "pad_crop_flip",
    "per_seed",
    "percent",
    "plot_epochs",
    "plot_first_layer",
    "plot_kernels",
    "plot_layers",
    "plot_league",
    "plot_ranks",
    "plot_rounds",
    "plot_tradeoff",
    "run_lstm",
    "shakespeare",
    "shift_flip",
    "side_by_side",
    "standardise",
    "standardise_channels",
    "start",
    "stretches",
    "study",
    "table",
    "to_float",
    "torch_init",
    "turns_on_cpu",
]
