"""Training: an optimizer that runs sparse-training events, density control, large batches."""

from jsparse.optim._average import average as average
from jsparse.optim._density import TargetDensity as TargetDensity
from jsparse.optim._density import threshold_parts as threshold_parts
from jsparse.optim._large_batch import batch_schedule as batch_schedule
from jsparse.optim._large_batch import lamb as lamb
from jsparse.optim._large_batch import lars as lars
from jsparse.optim._large_batch import route as route
from jsparse.optim._multiplier import Multiplier as Multiplier
from jsparse.optim._optimizer import Control as Control
from jsparse.optim._optimizer import Optimizer as Optimizer
from jsparse.optim._proximal import proximal as proximal
from jsparse.optim._task import task_gradients as task_gradients
