"""Datasets, found in a data folder, downloaded, or replaced by those of scikit-learn."""

from experiments.datasets.augment import pad_crop_flip as pad_crop_flip
from experiments.datasets.augment import shift_flip as shift_flip
from experiments.datasets.augment import standardize as standardize
from experiments.datasets.augment import standardize_channels as standardize_channels
from experiments.datasets.cifar import cifar10 as cifar10
from experiments.datasets.cifar import cifar100 as cifar100
from experiments.datasets.cifar import color_digits as color_digits
from experiments.datasets.idx import digits as digits
from experiments.datasets.idx import mnist as mnist
from experiments.datasets.sources import DataError as DataError
from experiments.datasets.sources import Images as Images
from experiments.datasets.sources import first_samples as first_samples
from experiments.datasets.sources import first_tests as first_tests
from experiments.datasets.text import Text as Text
from experiments.datasets.text import shakespeare as shakespeare
from experiments.datasets.text import stretches as stretches
