"""Training: the optimizer with the events of sparse training, density control, large batches."""

from jsparse.optim.density import TargetDensity as TargetDensity
from jsparse.optim.density import threshold_parts as threshold_parts
from jsparse.optim.large_batch import batch_schedule as batch_schedule
from jsparse.optim.large_batch import lamb as lamb
from jsparse.optim.large_batch import lars as lars
from jsparse.optim.large_batch import route as route
from jsparse.optim.optimizer import Control as Control
from jsparse.optim.optimizer import Optimizer as Optimizer
